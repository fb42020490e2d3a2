//! A tree of images as a source: the frozen list's lines become records.
//!
//! Key and reference are the path below the folder; `source_file` and `source_row` stay null, since partition and offset
//! say as much. A name that is not UTF-8 is listed with U+FFFD in place of what cannot be said: its row fails (there is no
//! file of that name) and shows it, so nothing is left out silently.

use bytes::Bytes;

use super::listing::Lines;
use super::planned::{Batch, Rows};
use crate::checkpoint::Position;
use crate::error::{Error, Result};
use crate::plan::{Opened, PlannedPartition};
use crate::sample::{Listed, Record, Reference};

/// Records in one event.
const AT_ONCE: u64 = 256;

/// Reads the frozen lists of a plan.
pub(crate) struct FolderRows {
    /// By input.
    listings: Vec<Option<Bytes>>,
}

/// A list being read, and the row that comes next.
#[derive(Default)]
pub(crate) struct Cursor(Option<(usize, u64, Lines)>);

impl FolderRows {
    /// Over the lists that `partitions` need.
    pub(crate) fn new(opened: &Opened, partitions: &[PlannedPartition]) -> Result<Self> {
        let mut listings = vec![None; opened.inputs.len()];
        for partition in partitions {
            let listing = opened.listing(partition.input);
            let listing = listing.ok_or_else(|| Error::Bug(format!("{} has no frozen list", partition.path)))?;
            listings[partition.input].get_or_insert_with(|| listing.clone());
        }
        Ok(Self { listings })
    }
}

impl Rows for FolderRows {
    type Cursor = Cursor;

    async fn read(&self, cursor: &mut Cursor, partition: &PlannedPartition, at: u64) -> Result<Batch> {
        let first = partition.first_row + at;
        let next = partition.rows.min(at + AT_ONCE);
        let lines = super::blocking(|| {
            let (row, mut lines) = match cursor.0.take() {
                Some((input, row, lines)) if input == partition.input && row <= first => (row, lines),
                _ => {
                    let listing = self.listings.get(partition.input).and_then(Option::as_ref);
                    let missing = || Error::Bug(format!("{} has no frozen list", partition.path));
                    (0, Lines::new(listing.ok_or_else(missing)?.clone())?)
                }
            };
            lines.skip_lines(first - row)?;
            let images =
                (&mut lines).take(usize::try_from(next - at).unwrap_or(usize::MAX)).collect::<Result<Vec<_>>>()?;
            cursor.0 = Some((partition.input, first + images.len() as u64, lines));
            Ok::<_, Error>(images)
        })?;
        if lines.len() as u64 != next - at {
            return Err(Error::DataLoss(format!(
                "the frozen list of {} is shorter than the plan says",
                partition.path
            )));
        }
        let records = (at..next).zip(lines).map(|(offset, image)| Record {
            listed: Some(Listed { size: image.size, mtime_ns: image.mtime_ns }),
            ..Record::new(
                image.path.clone(),
                Reference::Uri(as_path(image.path)),
                Position { partition: partition.partition.clone(), offset },
            )
        });
        Ok(Batch { records: records.collect(), next })
    }
}

/// A listed name as a reference: `./http:x.png` is a path, where `http:x.png` would be taken for a URL.
fn as_path(name: String) -> String {
    match name.split('/').next().is_some_and(|first| first.contains(':')) {
        true => format!("./{name}"),
        false => name,
    }
}
