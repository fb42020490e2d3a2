//! Named tensors of one part of a model, from files of any format: safetensors, GGUF, and what PyTorch's `torch.save` writes.
//!
//! Each format has a reader that goes through a file's bytes once and makes a table: a name, a shape, and where in the file the values
//! lie and as what. Nothing is decoded, and nothing allocated by what a file claims, until a tensor is asked for; then all is known to
//! lie inside the file. Formats are told apart by content.
//!
//! (long because what a table may be asked, and every complaint about it, is here)

mod decode;
mod files;
mod gguf;
mod pickle;
mod safetensors;
mod torch;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

pub(super) use files::{json, mapped};
pub(super) use gguf::{Gguf, cut_gguf};

use crate::error::{Error, Result};

/// A name with the shape that a model needs under it.
pub(super) type Expected = (String, Vec<usize>);

/// What a tensor's values are stored as.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    /// Little-endian numbers.
    Plain(DType),
    /// Blocks that hold some numbers each with a common scale.
    Blocks(GgmlDType),
    /// Something that no part of a model is made of: listed, never read.
    Other(String),
}

impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(dtype) => f.write_str(dtype.as_str()),
            Self::Blocks(dtype) => f.write_str(&format!("{dtype:?}").to_lowercase()),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Where a tensor lies in its file. The reader that made it has checked that all of it does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    shape: Vec<usize>,
    stored: Stored,
    bytes: Range<usize>,
    /// Values from one index to the next in each dimension; `None`: row after row, without gaps.
    strides: Option<Vec<usize>>,
    /// The rows of this many attention heads, each with its halves interleaved.
    interleaved_heads: Option<usize>,
}

/// A tensor of a file, for people.
#[derive(Debug, Clone)]
pub struct Info<'a> {
    /// As the model's code asks for it.
    pub name: &'a str,
    /// Rows first.
    pub shape: &'a [usize],
    /// Such as `bf16` or `q4_1`.
    pub dtype: String,
    /// Bytes in the file.
    pub bytes: u64,
    /// The file.
    pub file: &'a Path,
}

/// A file that is open.
#[derive(Debug)]
struct File {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Part {
    /// What was opened: a file or a folder.
    path: PathBuf,
    /// What says which files a folder's tensors are in.
    index: Option<PathBuf>,
    files: Vec<File>,
    /// Name → index of the file, place in it.
    tensors: BTreeMap<String, (usize, Entry)>,
    /// What a GGUF file says of its model.
    gguf: Option<Gguf>,
}

/// The tensors of one part of a model. Cloning is free.
#[derive(Debug, Clone)]
pub struct Weights(Arc<Part>);

impl Weights {
    /// Opens a Hugging Face folder (`model.safetensors`, or `pytorch_model.bin`, or the index of one in several files) or one file
    /// (safetensors, GGUF, or what `torch.save` made of a dictionary of tensors). `Error::Config` names the file, and what is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let (index, files) = files::of_part(path)?;
        let mut part = Part { path: path.to_owned(), index, ..Part::default() };
        for path in files {
            let bytes = mapped(&path)?;
            part.add(path, bytes)?;
        }
        Ok(Self(Arc::new(part)))
    }

    /// The same from a file's content; `name` stands for the file in errors.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self> {
        let mut part = Part { path: name.into(), ..Part::default() };
        part.add(name.into(), bytes)?;
        Ok(Self(Arc::new(part)))
    }

    /// All tensors, by name.
    pub fn infos(&self) -> impl Iterator<Item = Info<'_>> {
        self.0.tensors.iter().map(|(name, (file, entry))| Info {
            name,
            shape: &entry.shape,
            dtype: entry.stored.to_string(),
            bytes: entry.bytes.len() as u64,
            file: &self.0.files[*file].path,
        })
    }

    /// The files that the tensors lie in, and the index of those if there is one.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.files.iter().map(|file| &file.path).chain(&self.0.index).map(PathBuf::as_path)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }

    /// What a GGUF file says of its model; `None` for other formats.
    pub(super) fn gguf(&self) -> Option<&Gguf> {
        self.0.gguf.as_ref()
    }

    /// Whether all of it is safetensors.
    pub(super) fn is_safetensors(&self) -> bool {
        self.0.files.iter().all(|file| files::format(&file.bytes) == Ok(files::Format::Safetensors))
    }

    /// The tensor `name` of the type that it is stored as; blocks as f32.
    pub(super) fn as_stored(&self, name: &str) -> Result<Tensor> {
        let (file, entry) = self.find(name)?;
        let dtype = if let Stored::Plain(dtype) = entry.stored { dtype } else { DType::F32 };
        self.decoded(name, file, entry, dtype, &Device::Cpu)
    }

    /// For a model's `new(…, vb)`.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// The tensor `name`, which must have this shape. `Error::Config` names the tensor and the file.
    pub fn tensor(&self, name: &str, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let (shape, (file, entry)) = (shape.into(), self.find(name)?);
        if entry.shape != shape.dims() {
            return Err(self.wrong_shape(name, shape.dims()));
        }
        self.decoded(name, file, entry, dtype, device)
    }

    /// Rows of the matrix `name`, `[rows, width]`, in that order: `[n, width]`. Only these are decoded.
    pub fn rows(&self, name: &str, rows: &[u32], width: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let (file, entry) = self.find(name)?;
        let count = match entry.shape[..] {
            [count, found] if found == width => count,
            _ => return Err(self.wrong_shape(name, &[rows.len(), width])),
        };
        if let Some(row) = rows.iter().find(|row| **row as usize >= count) {
            let why = format!("row {row} is asked for, there are {count}");
            return Err(self.fault(name, file, &why));
        }
        let plain = entry.strides.is_none() && entry.interleaved_heads.is_none();
        let row = |row: &u32| {
            if !plain {
                let all = self.decoded(name, file, entry, dtype, &Device::Cpu)?;
                return all.narrow(0, *row as usize, 1).map_err(|error| self.fault(name, file, &error.to_string()));
            }
            let length = entry.bytes.len() / count;
            let start = entry.bytes.start + *row as usize * length;
            let entry = Entry { shape: vec![1, width], bytes: start..start + length, ..entry.clone() };
            self.decoded(name, file, &entry, dtype, &Device::Cpu)
        };
        let rows = rows.iter().map(row).collect::<Result<Vec<_>>>()?;
        let all = if rows.is_empty() { Tensor::zeros((0, width), dtype, &Device::Cpu) } else { Tensor::cat(&rows, 0) };
        all.and_then(|all| all.to_device(device)).map_err(|error| self.fault(name, file, &error.to_string()))
    }

    /// The vector `name` of whole numbers that are not negative, such as token ids.
    pub fn numbers(&self, name: &str) -> Result<Vec<u32>> {
        let (file, entry) = self.find(name)?;
        let whole = matches!(entry.stored, Stored::Plain(DType::I64 | DType::I32 | DType::U32));
        if entry.shape.len() != 1 || !whole {
            let why = format!("has shape {:?} and type {}, not a vector of whole numbers", entry.shape, entry.stored);
            return Err(self.fault(name, file, &why));
        }
        let all = self.decoded(name, file, entry, DType::I64, &Device::Cpu)?;
        let all = all.to_vec1::<i64>().map_err(|error| self.fault(name, file, &error.to_string()))?;
        let number = |n: i64| u32::try_from(n).map_err(|_| self.fault(name, file, &format!("{n} is not a token id")));
        all.into_iter().map(number).collect()
    }

    /// That all of `expected` is there with these shapes, and nothing else but names that `spare` knows. `Error::Config` lists what is
    /// missing, of another shape, or unknown.
    pub(super) fn check(&self, expected: &[Expected], spare: impl Fn(&str) -> bool) -> Result<()> {
        let missing: Vec<_> =
            expected.iter().filter(|(name, _)| !self.contains(name)).map(|(name, _)| name.as_str()).collect();
        if let Some(first) = missing.first() {
            let others = match missing.len() {
                1 => String::new(),
                n => format!("; {} more are missing: {}", n - 1, listed(&missing[1..])),
            };
            return Err(Error::Config(format!("{}{others}", self.missing(first))));
        }
        let wrong = expected.iter().find(|(name, shape)| self.find(name).is_ok_and(|(_, entry)| entry.shape != *shape));
        if let Some((name, shape)) = wrong {
            return Err(self.wrong_shape(name, shape));
        }
        let known: std::collections::HashSet<_> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let is_unknown = |name: &&str| !known.contains(name) && !spare(name);
        let unknown: Vec<_> = self.0.tensors.keys().map(String::as_str).filter(is_unknown).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let why = "the model would not use them, so it would not be what they were trained for";
        Err(Error::Config(format!("{}: unknown tensors {} ({why})", self.0.path.display(), listed(&unknown))))
    }

    fn find(&self, name: &str) -> Result<(&File, &Entry)> {
        let found = self.0.tensors.get(name).ok_or_else(|| Error::Config(self.missing(name)))?;
        Ok((&self.0.files[found.0], &found.1))
    }

    fn decoded(&self, name: &str, file: &File, entry: &Entry, dtype: DType, device: &Device) -> Result<Tensor> {
        decode::tensor(&file.bytes, entry, dtype, device).map_err(|why| self.fault(name, file, &why))
    }

    fn fault(&self, name: &str, file: &File, why: &str) -> Error {
        Error::Config(format!("{}: tensor {name}: {why}", file.path.display()))
    }

    fn wrong_shape(&self, name: &str, expected: &[usize]) -> Error {
        match self.find(name) {
            Ok((file, entry)) => {
                let why = format!("has shape {:?}, but the model's configuration asks for {expected:?}", entry.shape);
                self.fault(name, file, &why)
            }
            Err(error) => error,
        }
    }

    fn missing(&self, name: &str) -> String {
        let tail = |name: &str| name.rsplitn(3, '.').take(2).map(str::to_owned).collect::<Vec<_>>();
        let names = || self.0.tensors.keys().map(String::as_str);
        let near: Vec<_> = names().filter(|other| tail(other) == tail(name)).collect();
        let near = if near.is_empty() { names().collect() } else { near };
        let near = if near.is_empty() { "no tensors".into() } else { listed(&near) };
        format!("{}: tensor {name} is missing (there are {near})", self.0.path.display())
    }
}

/// The first of `names`, and how many more there are.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

impl SimpleBackend for Weights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.tensor(name, shape, dtype, device).map_err(said)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let (file, entry) = self.find(name).map_err(said)?;
        self.decoded(name, file, entry, dtype, device).map_err(said)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.contains(name)
    }
}

fn said(error: Error) -> candle_core::Error {
    candle_core::Error::Msg(error.to_string())
}

impl Part {
    /// Adds the tensors of a file. A name that there is already is an error.
    fn add(&mut self, path: PathBuf, bytes: Bytes) -> Result<()> {
        let fault = |why: String| Error::Config(format!("{}: {why}", path.display()));
        let tensors = match files::format(&bytes).map_err(fault)? {
            files::Format::Safetensors => safetensors::table(&bytes),
            files::Format::Torch => torch::table(&bytes),
            files::Format::Gguf => Gguf::read(&bytes).map(|(gguf, tensors)| {
                self.gguf = Some(gguf);
                tensors
            }),
        };
        for (name, entry) in tensors.map_err(fault)? {
            if self.tensors.contains_key(&name) {
                return Err(fault(format!("tensor {name} is there twice")));
            }
            self.tensors.insert(name, (self.files.len(), entry));
        }
        self.files.push(File { path, bytes });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
