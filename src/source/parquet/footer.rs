//! A Parquet file's footer: where it is, what it says, and what is wrong with it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use ::parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::error::{Error, Result};

/// A footer that is longer is none.
const MAX_FOOTER: u64 = 1 << 30;

/// So many bytes of a local file's beginning tell it from others.
const START: u64 = 1 << 20;

/// The last bytes of a file: length of the footer and `PAR1`.
pub(super) const TAIL: u64 = 8;

/// Not a Parquet file, or not one that can be read.
pub(super) fn no_parquet(name: &str, reason: impl std::fmt::Display) -> Error {
    Error::Config(format!("{name} cannot be read as Parquet: {reason}"))
}

/// The footer of a local file of `size` bytes, with the tail.
pub(super) fn local_footer(file: &mut File, path: &Path, size: u64) -> Result<Bytes> {
    let mut read = |from: u64, length: u64| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from)).map_err(|error| Error::disk(path, error))?;
        file.take(length).read_to_end(&mut bytes).map_err(|error| Error::disk(path, error))?;
        Ok::<_, Error>(Bytes::from(bytes))
    };
    let name = path.display().to_string();
    let tail = read(size.saturating_sub(TAIL), TAIL)?;
    let length = footer_length(&name, &tail, size)?;
    read(size - length, length)
}

/// What tells a local file from another of its size: its footer and how it begins. The same rows in another order can have the same
/// footer, where they are few.
pub(super) fn local_version(file: &mut File, path: &Path, footer: &[u8]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(footer);
    let mut start = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(START).read_to_end(&mut start));
    read.map_err(|error| Error::disk(path, error))?;
    hasher.update(&start);
    Ok(format!("start+footer:{}", hasher.finalize().to_hex()))
}

/// The length of the footer with the tail, out of the tail.
pub(super) fn footer_length(name: &str, tail: &[u8], size: u64) -> Result<u64> {
    let tail: &[u8; TAIL as usize] =
        tail.try_into().map_err(|_| no_parquet(name, format_args!("it has {size} bytes only")))?;
    let tail = FooterTail::try_new(tail).map_err(|error| no_parquet(name, error))?;
    if tail.is_encrypted_footer() {
        return Err(no_parquet(name, "it is encrypted"));
    }
    let length = tail.metadata_length() as u64 + TAIL;
    if length > size.min(MAX_FOOTER) {
        return Err(no_parquet(name, format_args!("its footer of {length} bytes cannot be")));
    }
    Ok(length)
}

/// The metadata, and the schema as arrow sees it.
pub(super) fn parse_footer(name: &str, footer: &[u8]) -> Result<(Arc<ParquetMetaData>, SchemaRef)> {
    let metadata = ParquetMetaDataReader::decode_metadata(&footer[..footer.len() - TAIL as usize]);
    let metadata = Arc::new(metadata.map_err(|error| no_parquet(name, error))?);
    let arrow = ArrowReaderMetadata::try_new(metadata.clone(), ArrowReaderOptions::new());
    let arrow = arrow.map_err(|error| no_parquet(name, error))?;
    Ok((metadata, arrow.schema().clone()))
}

/// The first row of each row group, and the number of all rows.
pub(super) fn row_starts(name: &str, metadata: &ParquetMetaData) -> Result<Vec<u64>> {
    let mut starts = vec![0u64];
    for group in metadata.row_groups() {
        let rows = u64::try_from(group.num_rows()).ok();
        let end = rows.zip(starts.last()).and_then(|(rows, start)| start.checked_add(rows));
        starts.push(end.ok_or_else(|| no_parquet(name, "its row counts make no sense"))?);
    }
    Ok(starts)
}

/// What changes when a file is written to: its bytes and when.
pub(super) type Stamp = (u64, Option<SystemTime>);

/// The stamp of an open file.
pub(super) fn stamp(file: &File, path: &Path) -> Result<Stamp> {
    let metadata = file.metadata().map_err(|error| Error::disk(path, error))?;
    Ok((metadata.len(), metadata.modified().ok()))
}
