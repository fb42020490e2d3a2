//! Which files a part of a model lies in, and how they are opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// JSON beside weights is not longer than this: an index of a large model has some 100 kB.
const LONGEST_JSON: u64 = 16 << 20;

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Safetensors,
    Gguf,
    /// The zip files that `torch.save` has written since PyTorch 1.6.
    Torch,
}

/// Finds the format in a file's first bytes, or says what they are instead.
pub(super) fn format(bytes: &[u8]) -> Result<Format, String> {
    match bytes {
        [b'G', b'G', b'U', b'F', ..] => return Ok(Format::Gguf),
        [b'P', b'K', 3, 4, ..] => return Ok(Format::Torch),
        [0x80, 1..=5, ..] => {
            return Err(
                "a pickle as PyTorch wrote them before 1.6, which is not read; load it there with weights_only=True \
                        and save it again, or save it as safetensors"
                    .into(),
            );
        }
        [] => return Err("the file is empty".into()),
        _ => {}
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Err("a pointer of Git LFS, not the file itself: `git lfs pull` fetches it".into());
    }
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("cut short, or not a file of tensors")?;
    match rest.first() {
        Some(b'{') if u64::from_le_bytes(*length) <= rest.len() as u64 => Ok(Format::Safetensors),
        Some(b'{') => {
            let length = u64::from_le_bytes(*length);
            Err(format!(
                "cut short, or not safetensors: the header would have {length} bytes, {} are there",
                rest.len()
            ))
        }
        _ => Err("neither safetensors nor GGUF nor a zip file of PyTorch".into()),
    }
}

/// Index of a model in several files.
#[derive(Deserialize)]
struct Index {
    /// Tensor → file beside the index.
    weight_map: BTreeMap<String, String>,
}

/// The files of a part: `path` itself, or those that Hugging Face's libraries would read in that folder, and the index that names them.
pub(super) fn of_part(path: &Path) -> Result<(Option<PathBuf>, Vec<PathBuf>)> {
    let kind = fs::metadata(path).map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
    if !kind.is_dir() {
        return Ok((None, vec![path.to_owned()]));
    }
    let names =
        ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
    let Some(found) = names.iter().map(|name| path.join(name)).find(|file| file.symlink_metadata().is_ok()) else {
        return Err(Error::Config(format!("{}: there is none of {}", path.display(), names.join(", "))));
    };
    if found.extension().is_none_or(|extension| extension != "json") {
        return Ok((None, vec![found]));
    }
    let index: Index = json(&found)?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    let file = |name: String| {
        let mut parts = Path::new(&name).components();
        match (parts.next(), parts.next()) {
            (Some(std::path::Component::Normal(_)), None) => Ok(path.join(name)),
            _ => Err(Error::Config(format!("{}: file `{name}` is not beside the index", found.display()))),
        }
    };
    let files = files.into_iter().map(file).collect::<Result<_>>()?;
    Ok((Some(found), files))
}

/// Opens a file for reading: its length, too. Pipes and devices are refused, which could block for ever.
fn open(path: &Path) -> Result<(fs::File, u64)> {
    let fault = |error: std::io::Error| Error::Config(format!("{}: {error}", path.display()));
    if !fs::metadata(path).map_err(fault)?.is_file() {
        return Err(Error::Config(format!("{}: not a file", path.display())));
    }
    let file = fs::File::open(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    Ok((file, length))
}

/// A file's bytes, read by the system when they are looked at.
pub(in crate::restore) fn mapped(path: &Path) -> Result<Bytes> {
    let (file, length) = open(path)?;
    if length == 0 {
        return Ok(Bytes::new());
    }
    #[expect(unsafe_code, reason = "weights are larger than memory may be, and mapping a file is unsafe")]
    // SAFETY: as with every program that maps weights: nobody may cut the file short meanwhile. Nothing but numbers is read from it
    // after the checks, so that other bytes in it would be other numbers.
    let map = unsafe { memmap2::Mmap::map(&file) };
    Ok(Bytes::from_owner(map.map_err(|error| Error::Config(format!("{}: {error}", path.display())))?))
}

/// A JSON file that stands beside weights. `Error::Config` names the file, line and column.
pub(in crate::restore) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let (_, length) = open(path)?;
    if length > LONGEST_JSON {
        return Err(Error::Config(format!("{}: {length} bytes are too many for such a file", path.display())));
    }
    let text = fs::read(path).map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
    serde_json::from_slice(&text).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}
