//! WebDataset shards: tar files in which the members of one sample stand beside each other under one key.
//!
//! `<key>.input.png`, `<key>.target.png`, `<key>.json`: read as `sample["input.png"]` and so on. The tars are the same bytes
//! whenever they are made (no times, no owners). Every shard but the last has the same number of rows, so which rows a
//! shard holds follows from its number and an interrupted export knows which shards are done.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::names::Names;
use super::{Exported, Partial, is_there, metadata};
use crate::error::{Error, Result};
use crate::report::rows::{Columns, Dataset, Row};

/// A shard being written.
struct Shard {
    tar: tar::Builder<Partial>,
    path: PathBuf,
    number: u64,
}

/// Exports all rows of `dataset`, `per_shard` of them in each shard. With `grown`, the dataset has more rows than at the
/// last call: the last shard there may be a short one and is made again.
pub(super) async fn export(
    dataset: &Dataset,
    out: &Path,
    per_shard: u64,
    mut names: Names,
    grown: bool,
) -> Result<Exported> {
    let path_of = |number: u64| out.join(format!("shard-{number:06}.tar"));
    let again = (0..).take_while(|number| is_there(&path_of(*number))).last().filter(|_| grown);
    let is_done = |number: u64| Some(number) != again && is_there(&path_of(number));
    let mut done = Exported::default();
    let mut open: Option<Shard> = None;
    for part in 0..dataset.parts().len() {
        // Without images first: rows of finished shards need not be read.
        let mut wanted = Vec::new();
        let mut rows = dataset.part_rows(part..part + 1, Columns::Facts);
        while let Some(row) = rows.next().await? {
            if row.failure.is_some() {
                done.failed += 1;
                continue;
            }
            let name = names.give(&row);
            if row.images.is_empty() {
                done.without_images += 1;
                continue;
            }
            let number = done.rows / per_shard;
            if done.rows % per_shard == 0 && is_done(number) {
                done.kept += 1;
            }
            done.rows += 1;
            // A shard that this call has begun goes on even if another process finished the same one meanwhile.
            if open.as_ref().is_some_and(|shard| shard.number == number) || !is_done(number) {
                wanted.push((row.at, number, name));
            }
        }
        let mut wanted = wanted.into_iter().peekable();
        let mut rows = dataset.part_rows(part..part + 1, Columns::All);
        while wanted.peek().is_some()
            && let Some(row) = rows.next().await?
        {
            let Some((_, number, name)) = wanted.next_if(|(at, _, _)| *at == row.at) else { continue };
            if open.as_ref().is_some_and(|shard| shard.number != number)
                && let Some(full) = open.take()
            {
                full.finish()?;
                done.written += 1;
            }
            let shard = match &mut open {
                Some(shard) => shard,
                None => open.insert(Shard::create(path_of(number), number)?),
            };
            shard.add(&name, &row)?;
        }
    }
    if let Some(last) = open {
        last.finish()?;
        done.written += 1;
    }
    done.renamed = names.renamed;
    Ok(done)
}

impl Shard {
    fn create(path: PathBuf, number: u64) -> Result<Self> {
        Ok(Self { tar: tar::Builder::new(Partial::create(&path)?), path, number })
    }

    fn add(&mut self, key: &str, row: &Row) -> Result<()> {
        for (column, picture) in &row.images {
            self.member(&format!("{key}.{column}.{}", super::folder::extension(picture)), &picture.bytes)?;
        }
        let json = Value::Object(metadata(row)).to_string();
        self.member(&format!("{key}.json"), json.as_bytes())
    }

    fn member(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.tar.append_data(&mut header, name, bytes).map_err(|e| Error::disk(&self.path, e))
    }

    fn finish(self) -> Result<()> {
        self.tar.into_inner().map_err(|e| Error::disk(&self.path, e))?.finish()
    }
}
