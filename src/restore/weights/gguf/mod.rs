//! GGUF (github.com/ggml-org/ggml, docs/gguf.md): the header, the table of tensors, and a LLaMA's configuration out of them.
//!
//! The reader is our own: every count, length and offset is held against the bytes that there are before anything is made of it.
//! Tensors get Hugging Face's names, and the rows of queries and keys, which such files have in the order of an interleaved rotary
//! embedding, are marked to be put back.

mod cut;
mod keys;
mod names;

use std::collections::HashSet;
use std::ops::Range;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

pub(in crate::restore) use cut::cut_gguf;
pub(in crate::restore) use keys::Pair;
use keys::Reader;

use super::{Entry, Stored};
use crate::restore::llama::LlamaConfig;

/// More of either is no language model: LLaMA-2-70B has 723 tensors.
const MOST_TENSORS: u64 = 100_000;
const MOST_KEYS: u64 = 100_000;

/// A tensor as the file has it.
#[derive(Debug, Clone)]
pub(in crate::restore) struct Blocks {
    /// The file's own name.
    pub(in crate::restore) name: String,
    /// The file's order: the fastest dimension first.
    pub(in crate::restore) dims: Vec<u64>,
    pub(in crate::restore) kind: u32,
    pub(in crate::restore) bytes: Range<usize>,
}

/// What a file says beside its tensors, and its tensors as they lie there.
#[derive(Debug)]
pub(in crate::restore) struct Gguf {
    pub(in crate::restore) version: u32,
    pub(in crate::restore) alignment: usize,
    pub(in crate::restore) pairs: Vec<Pair>,
    pub(in crate::restore) tensors: Vec<Blocks>,
    /// What `llama` needs of the pairs, or why it cannot.
    llama: Result<LlamaConfig, String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub(in crate::restore) bos: Option<u32>,
}

impl Gguf {
    /// Reads the header. Each tensor lies inside the file, and no two overlap.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, Vec<(String, Entry)>), String> {
        let mut reader = Reader { bytes, at: 4 };
        let version = reader.u32()?;
        match version {
            2 | 3 => {}
            _ if version.swap_bytes() <= 3 => return Err("a GGUF file for big-endian machines".into()),
            _ => return Err(format!("GGUF version {version}: only 2 and 3 are read")),
        }
        let (tensors, pairs) = (reader.u64()?, reader.u64()?);
        if tensors > MOST_TENSORS || pairs > MOST_KEYS {
            return Err(format!("a header that claims {tensors} tensors and {pairs} keys"));
        }
        let pairs = (0..pairs).map(|_| reader.pair()).collect::<Result<Vec<_>, _>>()?;
        let find = |key: &str| pairs.iter().find(|pair| pair.key == key);
        let number = |key: &str| find(key).map(|pair| pair.whole(bytes)).transpose();
        let alignment = number("general.alignment")?.unwrap_or(32);
        if alignment == 0 || alignment > 1 << 20 || alignment % 8 != 0 {
            return Err(format!("general.alignment {alignment} is not a small multiple of 8"));
        }
        let alignment = alignment as usize;
        if let Some(count) = number("split.count")?.filter(|count| *count > 1) {
            return Err(format!("one of {count} files of a model: `llama-gguf-split --merge` makes one of them"));
        }
        let heads = |key: &str| number(key).ok().flatten().filter(|heads| (1..=1 << 16).contains(heads));
        let queries = heads("llama.attention.head_count");
        let keys = heads("llama.attention.head_count_kv").or(queries);
        let bos = number("tokenizer.ggml.bos_token_id").ok().flatten().and_then(|id| id.try_into().ok());

        let mut tensors = (0..tensors).map(|_| reader.tensor()).collect::<Result<Vec<_>, _>>()?;
        let data = reader.at.next_multiple_of(alignment);
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for tensor in &mut tensors {
            tensor.place(data, alignment, bytes.len()).map_err(|why| format!("tensor {}: {why}", tensor.name))?;
            let fault = |why: String| format!("tensor {}: {why}", tensor.name);
            let (name, heads) = match names::hugging_face(&tensor.name) {
                (name, Some("attn_q")) => (name, queries),
                (name, Some("attn_k")) => (name, keys),
                (name, _) => (name, None),
            };
            let shape: Vec<usize> = tensor.dims.iter().rev().map(|dim| *dim as usize).collect();
            if let Some(heads) = heads
                && !shape[0].is_multiple_of(2 * heads as usize)
            {
                return Err(fault(format!("shape {shape:?} is not that of {heads} heads")));
            }
            if !seen.insert(name.clone()) {
                return Err(fault("there are two of that name".into()));
            }
            entries.push((
                name,
                Entry {
                    shape,
                    stored: kind(tensor.kind).0,
                    bytes: tensor.bytes.clone(),
                    strides: None,
                    interleaved_heads: heads.map(|heads| heads as usize),
                },
            ));
        }
        let mut order: Vec<_> = tensors.iter().collect();
        order.sort_by_key(|tensor| tensor.bytes.start);
        if let Some(pair) = order.windows(2).find(|pair| pair[0].bytes.end > pair[1].bytes.start) {
            return Err(format!("tensor {}: overlaps with {}", pair[1].name, pair[0].name));
        }
        let llama = names::llama(bytes, &pairs, &tensors);
        Ok((Self { version, alignment, pairs, tensors, llama, bos }, entries))
    }

    /// The configuration of the LLaMA that the file holds, or why it is none.
    pub(in crate::restore) fn llama(&self) -> Result<LlamaConfig, String> {
        self.llama.clone()
    }
}

/// How a type of GGML is stored: with its values and bytes a block.
fn kind(kind: u32) -> (Stored, Option<(usize, usize)>) {
    let plain = |dtype: DType| (Stored::Plain(dtype), Some((1, dtype.size_in_bytes())));
    let blocks = |dtype: GgmlDType| (Stored::Blocks(dtype), Some((dtype.block_size(), dtype.type_size())));
    match kind {
        0 => plain(DType::F32),
        1 => plain(DType::F16),
        30 => plain(DType::BF16),
        28 => plain(DType::F64),
        2 => blocks(GgmlDType::Q4_0),
        3 => blocks(GgmlDType::Q4_1),
        6 => blocks(GgmlDType::Q5_0),
        7 => blocks(GgmlDType::Q5_1),
        8 => blocks(GgmlDType::Q8_0),
        10 => blocks(GgmlDType::Q2K),
        11 => blocks(GgmlDType::Q3K),
        12 => blocks(GgmlDType::Q4K),
        13 => blocks(GgmlDType::Q5K),
        14 => blocks(GgmlDType::Q6K),
        other => (Stored::Other(format!("ggml type {other}")), None),
    }
}

impl Blocks {
    /// Finds the bytes, from the offset that stands in their start.
    fn place(&mut self, data: usize, alignment: usize, length: usize) -> Result<(), String> {
        let offset = self.bytes.start;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("offset {offset} is not a multiple of {alignment}"));
        }
        let values = self.dims.iter().try_fold(1u64, |all, dim| all.checked_mul(*dim));
        let values = values.and_then(|values| usize::try_from(values).ok()).filter(|values| *values > 0);
        let values = values.ok_or_else(|| format!("dimensions {:?}", self.dims))?;
        let start = data.checked_add(offset).filter(|start| *start <= length);
        let start = start.ok_or_else(|| format!("begins at byte {offset} of the data, behind the file's end"))?;
        let Some((per_block, size)) = kind(self.kind).1 else {
            // Of a type that is not known, not even the size is.
            self.bytes = start..start;
            return Ok(());
        };
        if !self.dims[0].is_multiple_of(per_block as u64) {
            return Err(format!("rows of {} values are not made of blocks of {per_block}", self.dims[0]));
        }
        let size = (values / per_block).checked_mul(size);
        let end = size.and_then(|size| start.checked_add(size)).filter(|end| *end <= length);
        let end =
            end.ok_or_else(|| format!("ends behind the file's end: dimensions {:?} at byte {start}", self.dims))?;
        self.bytes = start..end;
        Ok(())
    }
}
