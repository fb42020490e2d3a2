//! The frozen list of a folder's images: `.lm4lv/listing-<hash>.jsonl.zst`, one JSON object a line, sorted by path.
//!
//! The hash is BLAKE3 of the uncompressed lines, so two processes that saw the same files write the same name whatever
//! their version of zstd. Lists stay compressed in memory (some 15 bytes a file) and are read as a stream.

use std::io::{BufRead, BufReader, Cursor, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Folder;

/// Longer lines are no paths: a bound on what a damaged file can make us hold.
const MAX_LINE: u64 = 1 << 20;

/// An image of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    /// Below the folder, with `/`.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Modification time, nanoseconds since 1970 (0 where the store has none).
    pub(crate) mtime_ns: i64,
}

/// Name and bytes of the list of `images`.
pub(crate) fn freeze<'a>(images: impl Iterator<Item = &'a Image>) -> Result<(String, Bytes)> {
    let bug = |error: &dyn std::fmt::Display| Error::Bug(format!("the folder's list: {error}"));
    let mut hash = blake3::Hasher::new();
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).map_err(|error| bug(&error))?;
    for image in images {
        let mut line = serde_json::to_vec(image).map_err(|error| bug(&error))?;
        line.push(b'\n');
        hash.update(&line);
        zstd.write_all(&line).map_err(|error| bug(&error))?;
    }
    let bytes = zstd.finish().map_err(|error| bug(&error))?;
    Ok((format!("listing-{}.jsonl.zst", hash.finalize().to_hex()), bytes.into()))
}

/// Reads list `name` of the dataset in `folder`; `Error::DataLoss` unless it is the one that was written, with `rows` lines.
pub(crate) async fn load(folder: &Folder, name: &str, rows: u64) -> Result<Bytes> {
    let object = format!(".lm4lv/{name}");
    let damaged = |reason: &dyn std::fmt::Display| {
        let place = folder.place(&object);
        Error::DataLoss(format!("{place}: {reason}: restore it from a copy, nothing can go on without it"))
    };
    let hash = name.strip_prefix("listing-").and_then(|name| name.strip_suffix(".jsonl.zst"));
    let hash = hash.and_then(|hash| blake3::Hash::from_hex(hash).ok());
    let hash = hash.ok_or_else(|| damaged(&"the plan names a list that none can have"))?;
    let bytes = folder.get(&object).await?.ok_or_else(|| damaged(&"the folder's frozen list is missing"))?;
    let mut lines = Lines::new(bytes.clone()).map_err(|error| damaged(&error))?;
    let mut hasher = blake3::Hasher::new();
    let mut found = 0;
    super::blocking(|| {
        while let Some(line) = lines.line()? {
            hasher.update(line);
            found += 1;
        }
        Ok::<_, Error>(())
    })
    .map_err(|error| damaged(&error))?;
    if hasher.finalize() != hash || found != rows {
        return Err(damaged(&"the folder's frozen list is not the one that the plan was made with"));
    }
    Ok(bytes)
}

/// Reads a list, line by line.
pub(crate) struct Lines {
    reader: BufReader<zstd::Decoder<'static, BufReader<Cursor<Bytes>>>>,
    line: Vec<u8>,
}

impl Lines {
    /// Reads the compressed list `bytes`.
    pub(crate) fn new(bytes: Bytes) -> Result<Self> {
        let decoder = zstd::Decoder::new(Cursor::new(bytes)).map_err(|error| broken(&error))?;
        Ok(Self { reader: BufReader::new(decoder), line: Vec::new() })
    }

    /// Skips `n` lines.
    pub(crate) fn skip_lines(&mut self, n: u64) -> Result<()> {
        for _ in 0..n {
            self.line()?;
        }
        Ok(())
    }

    /// The next line, with its end.
    fn line(&mut self) -> Result<Option<&[u8]>> {
        use std::io::Read;
        self.line.clear();
        let mut reader = (&mut self.reader).take(MAX_LINE);
        let read = reader.read_until(b'\n', &mut self.line).map_err(|error| broken(&error))?;
        if read > 0 && !self.line.ends_with(b"\n") {
            return Err(broken(&"a line without an end"));
        }
        Ok((read > 0).then_some(&self.line))
    }
}

impl Iterator for Lines {
    type Item = Result<Image>;

    fn next(&mut self) -> Option<Result<Image>> {
        match self.line() {
            Ok(None) => None,
            Ok(Some(line)) => Some(serde_json::from_slice(line).map_err(|error| broken(&error))),
            Err(error) => Some(Err(error)),
        }
    }
}

fn broken(reason: &dyn std::fmt::Display) -> Error {
    Error::DataLoss(format!("the folder's frozen list cannot be read: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_line_by_line() {
        let images: Vec<_> =
            (0..5).map(|i| Image { path: format!("a\n\"{i}é"), size: i, mtime_ns: -(i as i64) }).collect();
        let (name, bytes) = freeze(images.iter()).unwrap();
        assert_eq!(name.len(), "listing-.jsonl.zst".len() + 64);
        let read: Vec<_> = Lines::new(bytes.clone()).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, images);
        let mut lines = Lines::new(bytes.clone()).unwrap();
        lines.skip_lines(3).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), images[3]);
        assert!(Lines::new(bytes.slice(..bytes.len() - 4)).unwrap().any(|line| line.is_err()));
    }
}
