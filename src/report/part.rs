//! The parts of a dataset: their order, and random access to their bytes for Parquet's reader.
//!
//! Unlike `sink::read` it asks nothing of the footer: a copy that another tool wrote again, without our key-values, is read
//! as well.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::store::Folder;

/// One part of a dataset: a Parquet file below `data/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Path below the dataset's folder, with `/`.
    pub name: String,
    /// The partition whose chain it belongs to.
    pub partition: Partition,
    /// The offset that its name says: where the chain ended when it was written.
    pub from: u64,
    /// Bytes.
    pub size: u64,
}

impl Part {
    /// What parts are sorted by: partitions of files by number (a sixth digit must not break the order), all others by name;
    /// then the place in the chain.
    pub(super) fn order(&self) -> (u64, u64, &str, u64) {
        let name = self.partition.as_str();
        let numbers = name.rsplit_once('-').and_then(|(file, range)| Some((file.parse().ok()?, range.parse().ok()?)));
        let (file, range) = numbers.unwrap_or((u64::MAX, u64::MAX));
        (file, range, name, self.from)
    }
}

/// The bytes of one part.
pub(crate) struct PartReader {
    folder: Folder,
    name: String,
    size: u64,
}

impl PartReader {
    /// Part `name` below `folder`. Its size is asked anew: the listing may be older than the file is now.
    pub(crate) async fn open(folder: &Folder, name: &str) -> Result<Self> {
        let size = folder.size(name).await?;
        let size =
            size.ok_or_else(|| Error::DataLoss(format!("{}: vanished while it was read", folder.place(name))))?;
        Ok(Self { folder: folder.clone(), name: name.to_owned(), size })
    }
}

impl AsyncFileReader for PartReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let wanted = range.end.saturating_sub(range.start);
            let read = self.folder.range(&self.name, range).await;
            match read.map_err(|e| ParquetError::External(Box::new(e)))? {
                Some(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
                _ => Err(ParquetError::General("changed or vanished while it was read".to_owned())),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// Says what is wrong with part `name`: the disk or the store, or the part itself.
pub(crate) fn part_error(folder: &Folder, name: &str, error: ParquetError) -> Error {
    let why = match error {
        ParquetError::External(source) => match source.downcast::<Error>() {
            Ok(error) => return *error,
            Err(other) => other.to_string(),
        },
        other => other.to_string(),
    };
    Error::DataLoss(format!("{}: not a readable part: {why}; `lm4lv verify` names every fault", folder.place(name)))
}
