//! A Parquet file in an object store, read by ranges, and what its errors mean.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ArrowReaderOptions;
use ::parquet::arrow::async_reader::AsyncFileReader;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectStore};

use super::footer::{TAIL, footer_length};
use crate::error::{Error, Result};
use crate::store::unavailable;

/// Ranges that are closer than this are fetched as one.
const COALESCE: u64 = 1 << 20;

/// What the last request of a footer is expected to hold.
const FOOTER_HINT: u64 = 64 << 10;

/// An object read by ranges, of one version where the store has ETags.
#[derive(Debug, Clone)]
pub(super) struct Ranged {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    size: u64,
    if_match: Option<String>,
}

impl Ranged {
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: ObjectPath, size: u64, e_tag: Option<&str>) -> Self {
        let if_match = match e_tag {
            // A weak tag matches nothing.
            Some(weak) if weak.starts_with("W/") => None,
            // As Azure's lists have it.
            Some(bare) if !bare.starts_with('"') && bare.starts_with("0x") => Some(format!("\"{bare}\"")),
            other => other.map(str::to_owned),
        };
        Self { store, path, size, if_match }
    }

    async fn fetch(&self, range: Range<u64>) -> object_store::Result<Bytes> {
        let options =
            GetOptions { range: Some(GetRange::Bounded(range)), if_match: self.if_match.clone(), ..Default::default() };
        self.store.get_opts(&self.path, options).await?.bytes().await
    }

    /// The footer with the tail.
    pub(super) async fn footer(&self, name: &str) -> Result<Bytes> {
        let read = |from: u64| async move {
            match self.size {
                0 => Ok(Bytes::new()),
                size => self.fetch(from..size).await.map_err(|error| store_error(name, &error)),
            }
        };
        // Most footers fit the first request.
        let end = read(self.size.saturating_sub(FOOTER_HINT)).await?;
        let tail = &end[end.len() - end.len().min(TAIL as usize)..];
        let length = footer_length(name, tail, self.size)?;
        match usize::try_from(length).ok().and_then(|length| end.len().checked_sub(length)) {
            Some(start) => Ok(end.slice(start..)),
            None => read(self.size - length).await,
        }
    }
}

impl AsyncFileReader for Ranged {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ::parquet::errors::Result<Bytes>> {
        let fetch = self.fetch(range);
        async move { fetch.await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ::parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let this = &*self;
            let fetched = object_store::coalesce_ranges(&ranges, |range| this.fetch(range), COALESCE).await;
            fetched.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ::parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            let metadata = reader.with_prefetch_hint(Some(FOOTER_HINT as usize)).load_and_finish(self, size).await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

/// Rows from `row` on do not decode.
pub(super) fn unreadable(name: &str, row: u64, reason: &dyn std::fmt::Display) -> Error {
    Error::DataLoss(format!(
        "{name}: rows from {row} on cannot be read: {reason}: leaving them out would lose them; repair the file and start a \
         new sink.dir"
    ))
}

/// What an error on the way to row `row` means for the run.
pub(super) fn read_error(name: &str, row: u64, error: ParquetError) -> Error {
    if let ParquetError::External(source) = &error
        && let Some(error) = source.downcast_ref::<object_store::Error>()
    {
        return store_error(name, error);
    }
    unreadable(name, row, &error)
}

fn store_error(name: &str, error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. } => Error::DataLoss(format!(
            "{name}: the file changed or has gone since the plan was made: put it back as it was, or start a new sink.dir"
        )),
        other => unavailable(name.to_owned(), other),
    }
}
