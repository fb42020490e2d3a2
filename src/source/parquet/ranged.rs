//! A Parquet file in an object store, read by ranges, and what its errors mean.

use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::parquet::arrow::async_reader::MetadataFetch;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectStore};

use super::footer::{TAIL, footer_length};
use crate::error::{Error, Result};
use crate::store::unavailable;

/// Bytes that are fetched of a place where reading begins, and of one where it went on for long.
const FIRST: u64 = 1 << 20;
const MOST: u64 = 16 << 20;
/// Bytes of one request, and requests at once: a store gives each some 50 to 100 MB/s.
const PIECE: u64 = 4 << 20;
const TOGETHER: usize = 4;
/// Bytes of all blocks, unless one page is larger.
const HELD: u64 = 64 << 20;

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

    /// What the footer says, and where pages are if the file has an index of them.
    pub(super) async fn metadata(&mut self) -> ::parquet::errors::Result<Arc<ParquetMetaData>> {
        let size = self.size;
        let reader = ParquetMetaDataReader::new().with_offset_index_policy(PageIndexPolicy::Optional);
        Ok(Arc::new(reader.with_prefetch_hint(Some(FOOTER_HINT as usize)).load_and_finish(self, size).await?))
    }
}

impl MetadataFetch for &mut Ranged {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, ::parquet::errors::Result<Bytes>> {
        let fetch = Ranged::fetch(self, range);
        async move { fetch.await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }
}

/// What is read of an object from front to back, in one or more places at once: a row group, with a place for each of its
/// columns. For threads that may wait, within a runtime.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    ranged: Ranged,
    runtime: tokio::runtime::Handle,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The one used last is the last.
    blocks: Vec<Block>,
    /// Why a read failed, for which Parquet's errors have no room.
    fault: Option<object_store::Error>,
}

/// What is there of a place.
#[derive(Debug)]
struct Block {
    start: u64,
    bytes: Bytes,
    /// How many were fetched last.
    fetched: u64,
}

impl Ahead {
    /// For use from within a runtime.
    pub(super) fn new(ranged: Ranged) -> Self {
        Self { ranged, runtime: tokio::runtime::Handle::current(), shared: Arc::default() }
    }

    /// Why the last read failed, if it was the store.
    pub(super) fn fault(&self) -> Option<object_store::Error> {
        self.shared().fault.take()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes from `start` on, at least `length` of them unless the object ends; fetched ahead, more each time that a
    /// block is read to its end.
    fn bytes_from(&self, start: u64, length: u64) -> std::io::Result<Bytes> {
        let mut shared = self.shared();
        let near = |block: &Block| (block.start..=block.start + block.bytes.len() as u64).contains(&start);
        let (rest, ahead) = match shared.blocks.iter().position(near) {
            Some(found) => {
                let block = shared.blocks.remove(found);
                // Within the block, so within memory.
                let rest = block.bytes.slice((start - block.start) as usize..);
                if rest.len() as u64 >= length {
                    shared.blocks.push(block);
                    return Ok(rest);
                }
                (rest, (2 * block.fetched).clamp(FIRST, MOST))
            }
            None => (Bytes::new(), FIRST),
        };
        match self.fetch(&mut shared.blocks, start, &rest, length, ahead) {
            Ok(block) => {
                let bytes = block.bytes.clone();
                shared.blocks.push(block);
                Ok(bytes)
            }
            Err(error) => {
                let said = std::io::Error::other(error.to_string());
                shared.fault = Some(error);
                Err(said)
            }
        }
    }

    /// A block from `start` on that begins with what is `there`, has `length` and as many new bytes as `ahead`, and ends
    /// with the object.
    fn fetch(
        &self,
        blocks: &mut Vec<Block>,
        start: u64,
        there: &[u8],
        length: u64,
        ahead: u64,
    ) -> object_store::Result<Block> {
        let from = start + there.len() as u64;
        let to = (start + length).max(from + ahead).min(self.ranged.size);
        // Before the new ones come: together they must not be more than was meant.
        let mut held = to.saturating_sub(start);
        let keep = blocks.iter().rev().take_while(|block| {
            held += block.bytes.len() as u64;
            held <= HELD
        });
        let forget = blocks.len() - keep.count();
        blocks.drain(..forget);
        let pieces = (from..to).step_by(PIECE as usize).map(|at| self.ranged.fetch(at..(at + PIECE).min(to)));
        let mut pieces = futures::stream::iter(pieces).buffered(TOGETHER);
        let bytes = self.runtime.block_on(async {
            let mut bytes = BytesMut::with_capacity(to.saturating_sub(start) as usize);
            bytes.extend_from_slice(there);
            while let Some(piece) = pieces.try_next().await? {
                bytes.extend_from_slice(&piece);
            }
            Ok::<_, object_store::Error>(bytes.freeze())
        })?;
        Ok(Block { start, bytes, fetched: to.saturating_sub(from) })
    }

    /// Lets go of a block that was read to its end.
    fn done(&self, end: u64) {
        if let Some(Block { start, bytes, .. }) = self.shared().blocks.last_mut()
            && *start + bytes.len() as u64 == end
        {
            (*start, *bytes) = (end, Bytes::new());
        }
    }
}

impl Length for Ahead {
    fn len(&self) -> u64 {
        self.ranged.size
    }
}

impl ChunkReader for Ahead {
    type T = Stretch;

    fn get_read(&self, start: u64) -> ::parquet::errors::Result<Stretch> {
        Ok(Stretch { ahead: self.clone(), at: start, bytes: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ::parquet::errors::Result<Bytes> {
        let mut bytes = self.bytes_from(start, length as u64)?;
        match bytes.len() < length {
            true => Err(ParquetError::EOF(format!("{length} bytes from {start} on reach behind the file's end"))),
            false => {
                self.done(start + length as u64);
                Ok(bytes.split_to(length))
            }
        }
    }
}

/// Bytes from some place on.
pub(super) struct Stretch {
    ahead: Ahead,
    at: u64,
    bytes: Bytes,
}

impl Read for Stretch {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() {
            self.bytes = self.ahead.bytes_from(self.at, 1)?;
        }
        let read = self.bytes.len().min(into.len());
        self.bytes.copy_to_slice(&mut into[..read]);
        self.at += read as u64;
        Ok(read)
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

/// What an error of the store means for the run.
pub(super) fn store_error(name: &str, error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. } => Error::DataLoss(format!(
            "{name}: the file changed or has gone since the plan was made: put it back as it was, or start a new sink.dir"
        )),
        other => unavailable(name.to_owned(), other),
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn reads_ahead_in_several_places_and_holds_no_more_than_it_may() {
        const SIZE: u64 = 96 << 20;
        const PLACES: [u64; 3] = [0, (SIZE / 3) + 7, SIZE - (30 << 20)];
        let store = Arc::new(InMemory::new());
        let byte = |at: u64| (at % 251) as u8;
        let object: Vec<u8> = (0..SIZE).map(byte).collect();
        store.put(&"a".into(), object.into()).await.unwrap();
        let ahead = Ahead::new(Ranged::new(store.clone(), "a".into(), SIZE, None));
        let reader = ahead.clone();
        let read = move || {
            for page in 0..40 {
                for place in PLACES {
                    let at = place + page * 700_001;
                    let bytes = reader.get_bytes(at, 700_001).unwrap();
                    assert!((at..).zip(&bytes).all(|(at, read)| *read == byte(at)), "at {at}");
                    let held: u64 = reader.shared().blocks.iter().map(|block| block.bytes.len() as u64).sum();
                    assert!(held <= HELD, "{held} bytes at {at}");
                }
            }
            // One that is larger than all blocks may be, and the object's end.
            let large = reader.get_bytes(0, 70 << 20).unwrap();
            assert!(large.len() == 70 << 20 && reader.shared().blocks.iter().all(|block| block.bytes.is_empty()));
            let mut end = Vec::new();
            reader.get_read(SIZE - (2 << 20)).unwrap().read_to_end(&mut end).unwrap();
            assert_eq!(end.len(), 2 << 20);
            assert!(matches!(reader.get_bytes(SIZE - 3, 4), Err(ParquetError::EOF(_))));
        };
        tokio::task::spawn_blocking(read).await.unwrap();
        store.delete(&"a".into()).await.unwrap();
        let reader = ahead.clone();
        tokio::task::spawn_blocking(move || reader.get_bytes(50 << 20, 9).unwrap_err()).await.unwrap();
        assert!(matches!(ahead.fault(), Some(object_store::Error::NotFound { .. })));
    }
}
