//! One Parquet file, local or in an object store: its footer, its row groups, its batches.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use ::parquet::file::reader::ChunkReader;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::columns::{Bound, Columns};
use super::footer::{Stamp, local_footer, local_version, no_parquet, parse_footer, row_starts, stamp};
use super::ranged::{Ahead, Ranged, read_error, store_error, unreadable};
use crate::error::{Error, Result};
use crate::plan::Input;
use crate::source::blocking;
use crate::source::files::{Found, Handle};

/// A file that was looked at.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    /// As the plan names it.
    pub(crate) name: Arc<str>,
    handle: Handle,
    /// Bytes.
    pub(crate) size: u64,
    e_tag: Option<String>,
    version: String,
    pub(crate) rows: u64,
}

/// A file being read.
pub(super) struct OpenFile {
    name: Arc<str>,
    reader: Reader,
    metadata: ArrowReaderMetadata,
    /// The first row of each row group, and the number of all rows.
    starts: Vec<u64>,
    pub(super) bound: Bound,
}

enum Reader {
    /// As it was before it was looked at.
    Local(File, Stamp),
    Remote(Ranged),
}

/// The batches of one row group.
pub(super) struct Batches {
    /// Away while a batch is read, and gone if nobody waited for its end.
    reader: Option<ParquetRecordBatchReader>,
    /// Where it reads from, if that is a store.
    ahead: Option<Ahead>,
}

impl ParquetFile {
    /// Looks at a file: its version, rows and schema. Where it is `planned` and remote, and size and ETag are as planned, the
    /// footer is only read if the schema is `wanted`.
    pub(crate) async fn look(
        name: String,
        found: Found,
        planned: Option<&Input>,
        wanted: bool,
    ) -> Result<(Self, Option<SchemaRef>)> {
        let name: Arc<str> = name.into();
        let e_tag = found.e_tag.clone();
        // The same whether it comes from a list or a GET, which differ in the quotes (Azure).
        let version = e_tag.as_ref().map(|tag| tag.trim_matches('"').to_owned());
        if let (Some(planned), Some(version), false) = (planned, &version, wanted)
            && planned.size == Some(found.size)
            && planned.version.as_ref() == Some(version)
        {
            let file = Self {
                name,
                handle: found.handle,
                size: found.size,
                e_tag,
                version: version.clone(),
                rows: planned.rows,
            };
            return Ok((file, None));
        }
        let looked = async {
            let (hash, footer) = match &found.handle {
                Handle::Local(path) => blocking(|| {
                    let mut file = open_local(path)?;
                    let footer = local_footer(&mut file, path, found.size)?;
                    Ok::<_, Error>((local_version(&mut file, path, &footer)?, footer))
                })?,
                Handle::Remote { store, path } => {
                    let ranged = Ranged::new(store.clone(), path.clone(), found.size, e_tag.as_deref());
                    let footer = ranged.footer(&name).await?;
                    (format!("footer:{}", blake3::hash(&footer).to_hex()), footer)
                }
            };
            let (metadata, schema) = parse_footer(&name, &footer)?;
            let starts = row_starts(&name, &metadata)?;
            Ok((hash, starts.last().copied().unwrap_or(0), schema))
        };
        let (hash, rows, schema) = match looked.await {
            Ok(looked) => looked,
            // What was a Parquet file when it was planned has changed since.
            Err(Error::Config(reason)) if planned.is_some() => {
                return Err(Error::DataLoss(format!(
                    "{reason}: the file changed since the plan was made: put it back as it was, or start a new sink.dir"
                )));
            }
            Err(error) => return Err(error),
        };
        let version = version.unwrap_or(hash);
        Ok((Self { name, handle: found.handle, size: found.size, e_tag, version, rows }, Some(schema)))
    }

    /// The file as a plan names it.
    pub(crate) fn as_input(&self, rows_per_partition: u64) -> Input {
        Input {
            path: self.name.to_string(),
            listing: None,
            size: Some(self.size),
            version: Some(self.version.clone()),
            rows: self.rows,
            rows_per_partition,
        }
    }
}

fn open_local(path: &Path) -> Result<File> {
    // Opening a pipe waits for its writer.
    let metadata = std::fs::metadata(path).map_err(|error| Error::disk(path, error))?;
    if !metadata.is_file() {
        return Err(no_parquet(&path.display().to_string(), "it is no file"));
    }
    File::open(path).map_err(|error| Error::disk(path, error))
}

impl OpenFile {
    /// Opens `file`; `Error::DataLoss` unless it is what the plan has.
    pub(super) async fn open(file: &ParquetFile, planned: &Input, columns: &Columns) -> Result<Self> {
        let name = file.name.clone();
        let changed = |reason: &dyn std::fmt::Display| {
            Error::DataLoss(format!(
                "{name}: the file changed since the plan was made ({reason}): put it back as it was, or start a new sink.dir"
            ))
        };
        let (reader, metadata) = match &file.handle {
            Handle::Local(path) => blocking(|| {
                let mut opened = open_local(path).map_err(|error| match error {
                    Error::Disk { source, .. } if source.kind() == std::io::ErrorKind::NotFound => changed(&source),
                    other => other,
                })?;
                let stamp = stamp(&opened, path)?;
                let (size, _) = stamp;
                if planned.size != Some(size) {
                    return Err(changed(&format_args!("it has {size} bytes")));
                }
                let footer = local_footer(&mut opened, path, size).map_err(|error| changed(&error))?;
                if planned.version != Some(local_version(&mut opened, path, &footer)?) {
                    return Err(changed(&"its content is another"));
                }
                let (metadata, _) = parse_footer(&name, &footer)?;
                let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new());
                Ok((Reader::Local(opened, stamp), metadata.map_err(|error| no_parquet(&name, error))?))
            })?,
            Handle::Remote { store, path } => {
                let mut ranged = Ranged::new(store.clone(), path.clone(), file.size, file.e_tag.as_deref());
                let metadata = ranged.metadata().await.map_err(|error| read_error(&name, 0, error))?;
                let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new());
                (Reader::Remote(ranged), metadata.map_err(|error| no_parquet(&name, error))?)
            }
        };
        let starts = row_starts(&name, metadata.metadata())?;
        if starts.last() != Some(&planned.rows) {
            return Err(changed(&"its row count is another"));
        }
        let bound = columns.bind(metadata.schema(), metadata.parquet_schema(), &name)?;
        Ok(Self { name, reader, metadata, starts, bound })
    }

    /// The number and rows of the row group that holds `row`.
    pub(super) fn group_of(&self, row: u64) -> Result<(usize, Range<u64>)> {
        let after = self.starts.partition_point(|&start| start <= row);
        match (after.checked_sub(1), self.starts.get(after)) {
            (Some(group), Some(&end)) => Ok((group, self.starts[group]..end)),
            _ => Err(Error::Bug(format!("{} has no row {row}", self.name))),
        }
    }

    /// Decoded bytes of a row in the columns of `mask`, on the average of row group `group`.
    pub(super) fn row_bytes(&self, group: usize, mask: &ProjectionMask) -> u64 {
        let group = self.metadata.metadata().row_group(group);
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes: i64 = columns.map(|(_, column)| column.uncompressed_size().max(0)).sum();
        u64::try_from(bytes).unwrap_or(0) / u64::try_from(group.num_rows()).unwrap_or(1).max(1)
    }

    /// Reads `rows` (of the file) of row group `group`, `at_once` in a batch.
    pub(super) async fn batches(
        &self,
        group: usize,
        mask: &ProjectionMask,
        rows: &VecDeque<Range<u64>>,
        at_once: u64,
    ) -> Result<Batches> {
        let start = self.starts[group];
        let total = usize::try_from(self.starts[group + 1] - start).unwrap_or(usize::MAX);
        let local = |row: u64| usize::try_from(row - start).unwrap_or(usize::MAX);
        let ranges = rows.iter().map(|range| local(range.start)..local(range.end));
        let selection = RowSelection::from_consecutive_ranges(ranges, total);
        let at_once = usize::try_from(at_once).unwrap_or(usize::MAX);
        let plan = (self.metadata.clone(), group, mask.clone(), selection, at_once);
        let (reader, ahead) = match &self.reader {
            Reader::Local(file, _) => {
                let file = file.try_clone().map_err(|error| Error::disk(&*self.name, error))?;
                (waiting(move || open_group(file, plan)).await?, None)
            }
            Reader::Remote(ranged) => {
                let ahead = Ahead::new(ranged.clone());
                let from = ahead.clone();
                (waiting(move || open_group(from, plan)).await?, Some(ahead))
            }
        };
        let reader = reader.map_err(|error| self.failed(start, ahead.as_ref(), &error))?;
        Ok(Batches { reader: Some(reader), ahead })
    }

    /// `Error::DataLoss` if a local file was written to since it was opened: what was read may be of either content. (Ranges of an
    /// object are asked for by its ETag.)
    fn unchanged(&self) -> Result<()> {
        match &self.reader {
            Reader::Local(file, then) if stamp(file, Path::new(&*self.name))? != *then => {
                Err(Error::DataLoss(format!(
                    "{}: the file changed while it was read: put it back as it was, or start a new sink.dir; to replace a file, write \
                 another and rename it",
                    self.name
                )))
            }
            _ => Ok(()),
        }
    }

    /// Reading from `row` on failed.
    fn failed(&self, row: u64, ahead: Option<&Ahead>, error: &dyn std::fmt::Display) -> Error {
        match ahead.and_then(Ahead::fault) {
            Some(error) => store_error(&self.name, &error),
            None => self.unreadable(row, error),
        }
    }

    /// Rows from `row` on do not decode.
    pub(super) fn unreadable(&self, row: u64, reason: &dyn std::fmt::Display) -> Error {
        unreadable(&self.name, row, reason)
    }
}

/// What to read: of a file, a row group, columns, rows, so many at once.
type Plan = (ArrowReaderMetadata, usize, ProjectionMask, RowSelection, usize);

fn open_group<T: ChunkReader + 'static>(
    from: T,
    (metadata, group, mask, selection, at_once): Plan,
) -> ::parquet::errors::Result<ParquetRecordBatchReader> {
    ParquetRecordBatchReaderBuilder::new_with_metadata(from, metadata)
        .with_row_groups(vec![group])
        .with_projection(mask)
        .with_row_selection(selection)
        .with_batch_size(at_once)
        .build()
}

impl Batches {
    /// The next batch; `row` is for messages.
    pub(super) async fn next(&mut self, file: &OpenFile, row: u64) -> Result<Option<RecordBatch>> {
        let mut reader =
            self.reader.take().ok_or_else(|| Error::Bug(format!("{} is being read already", file.name)))?;
        let (reader, batch) = waiting(move || {
            let batch = reader.next();
            (reader, batch)
        })
        .await?;
        self.reader = Some(reader);
        blocking(|| file.unchanged())?;
        batch.transpose().map_err(|error| file.failed(row, self.ahead.as_ref(), &error))
    }
}

/// Runs `work`, which may wait for a disk or a store, on a thread of its own.
async fn waiting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|gone| Error::Bug(format!("reading Parquet: {gone}")))
}
