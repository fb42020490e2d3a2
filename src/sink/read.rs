//! Reading parts back, from a local folder or a store: the footer, and the columns one wants, a few rows at a time.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, FooterTail, ParquetMetaData, ParquetMetaDataReader};

use super::footer::Footer;
use crate::error::{Error, Result};
use crate::store::Folder;

/// Bytes read from a part's end at first; most footers fit.
const TAIL: u64 = 64 * 1024;

/// A part in a dataset.
#[derive(Debug, Clone)]
pub struct StoredPart {
    folder: Folder,
    name: String,
    size: u64,
    metadata: Arc<ParquetMetaData>,
    footer: Footer,
}

impl StoredPart {
    /// Reads the footer of part `name` below the dataset's folder, `None` if there is no such object. `Error::DataLoss` if it
    /// is not a part that this program can read, `Error::Unavailable` if the store did not answer. One try.
    pub async fn open(folder: &Folder, name: &str) -> Result<Option<Self>> {
        let Some((size, metadata)) = read_metadata(folder, name).await? else { return Ok(None) };
        let footer = Footer::from_metadata(&metadata)
            .map_err(|why| Error::DataLoss(format!("{}: {why}", folder.place(name))))?;
        Ok(Some(Self { folder: folder.clone(), name: name.to_owned(), size, metadata: Arc::new(metadata), footer }))
    }

    /// Its own account of itself.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What Parquet says of the file.
    pub fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }

    /// The columns called `columns` (those it has of them; all if the list is empty), in the file's order, in batches of
    /// `batch_rows` rows at most.
    pub fn rows(&self, columns: &[&str], batch_rows: usize) -> Result<ParquetRecordBatchStream<PartBytes>> {
        let wrong = |e: ParquetError| Error::DataLoss(format!("{}: {e}", self.folder.place(&self.name)));
        let metadata =
            ArrowReaderMetadata::try_new(Arc::clone(&self.metadata), ArrowReaderOptions::new()).map_err(wrong)?;
        let bytes = PartBytes(self.clone());
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(bytes, metadata).with_batch_size(batch_rows);
        let mask = match columns {
            [] => ProjectionMask::all(),
            columns => ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied()),
        };
        builder.with_projection(mask).build().map_err(wrong)
    }
}

/// A part's bytes, for Parquet's reader.
#[derive(Debug)]
pub struct PartBytes(StoredPart);

impl AsyncFileReader for PartBytes {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let StoredPart { folder, name, .. } = &self.0;
        async move {
            let wanted = range.end - range.start;
            match folder.range(name, range).await.map_err(|e| ParquetError::External(Box::new(e)))? {
                Some(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
                _ => {
                    Err(ParquetError::General(format!("{}: changed or vanished while it was read", folder.place(name))))
                }
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let metadata = Arc::clone(&self.0.metadata);
        async move { Ok(metadata) }.boxed()
    }
}

/// Size and Parquet footer of `name`, `None` if there is no such object; one try.
async fn read_metadata(folder: &Folder, name: &str) -> Result<Option<(u64, ParquetMetaData)>> {
    let Some(size) = folder.size(name).await? else { return Ok(None) };
    let broken = |why: &dyn std::fmt::Display| {
        Error::DataLoss(format!("{}: not a readable Parquet file: {why}", folder.place(name)))
    };
    if size < 8 {
        return Err(broken(&"too short"));
    }
    let Some(mut tail) = folder.range(name, size.saturating_sub(TAIL)..size).await? else { return Ok(None) };
    let last: &[u8; 8] = tail.last_chunk().ok_or_else(|| broken(&"it changed while it was read"))?;
    let wanted = FooterTail::try_new(last).map_err(|e| broken(&e))?.metadata_length() as u64 + 8;
    if wanted > size {
        return Err(broken(&"its footer is longer than the file"));
    }
    if wanted > tail.len() as u64 {
        match folder.range(name, size - wanted..size).await? {
            Some(longer) if longer.len() as u64 == wanted => tail = longer,
            Some(_) => return Err(broken(&"it changed while it was read")),
            None => return Ok(None),
        }
    }
    let begin = tail.len() - wanted as usize;
    let metadata = ParquetMetaDataReader::decode_metadata(&tail[begin..tail.len() - 8]).map_err(|e| broken(&e))?;
    // Parquet's reader would panic at a negative place, and a store that is asked for bytes that are not there gives an
    // answer that looks like no answer.
    let inside = |column: &ColumnChunkMetaData| {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let end = start.checked_add(column.compressed_size());
        start >= 0 && column.compressed_size() >= 0 && end.is_some_and(|end| end as u64 <= size)
    };
    if !metadata.row_groups().iter().flat_map(|group| group.columns()).all(inside) {
        return Err(broken(&"its columns do not lie inside the file"));
    }
    Ok(Some((size, metadata)))
}
