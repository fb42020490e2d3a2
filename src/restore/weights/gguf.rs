//! GGUF (github.com/ggml-org/ggml, docs/gguf.md): the header, the table of tensors, and a LLaMA's configuration out of them.
//!
//! The reader is our own: every count, length and offset is held against the bytes that there are before anything is made of it.
//! Tensors get Hugging Face's names, and the rows of queries and keys, which such files have in the order of an interleaved rotary
//! embedding, are marked to be put back.

use std::collections::HashSet;
use std::ops::Range;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::{Entry, Stored};
use crate::restore::llama::LlamaConfig;

/// More of either is no language model: LLaMA-2-70B has 723 tensors.
const MOST_TENSORS: u64 = 100_000;
const MOST_KEYS: u64 = 100_000;
/// Arrays of arrays of arrays.
const DEEPEST: usize = 4;

/// A key and its value, where they lie in the file.
#[derive(Debug, Clone)]
pub(in crate::restore) struct Pair {
    pub(in crate::restore) key: String,
    kind: u32,
    value: Range<usize>,
    /// Key, type and value, as they stand in the file.
    pub(in crate::restore) all: Range<usize>,
}

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
            let (name, heads) = match hugging_face(&tensor.name) {
                (name, Some("attn_q")) => (name, queries),
                (name, Some("attn_k")) => (name, keys),
                (name, _) => (name, None),
            };
            let shape: Vec<usize> = tensor.dims.iter().rev().map(|dim| *dim as usize).collect();
            if let Some(heads) = heads
                && shape[0] % (2 * heads as usize) != 0
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
        let llama = llama(bytes, &pairs, &tensors);
        Ok((Self { version, alignment, pairs, tensors, llama, bos }, entries))
    }

    /// The configuration of the LLaMA that the file holds, or why it is none.
    pub(in crate::restore) fn llama(&self) -> Result<LlamaConfig, String> {
        self.llama.clone()
    }
}

/// `llama.*` as the keys of Hugging Face's `config.json`.
fn llama(bytes: &[u8], pairs: &[Pair], tensors: &[Blocks]) -> Result<LlamaConfig, String> {
    let find = |key: &str| pairs.iter().find(|pair| pair.key == key);
    let architecture = find("general.architecture").ok_or("key general.architecture is missing")?.text(bytes)?;
    if architecture != "llama" {
        return Err(format!("general.architecture `{architecture}` is not llama"));
    }
    let may = |key: &str| find(&format!("llama.{key}")).map(|pair| pair.whole(bytes)).transpose();
    let must = |key: &str| may(key)?.ok_or_else(|| format!("key llama.{key} is missing")).map(|n| n as usize);
    let real = |key: &str| find(&format!("llama.{key}")).map(|pair| pair.real(bytes)).transpose();
    let scaling = find("llama.rope.scaling.type").map(|pair| pair.text(bytes)).transpose()?;
    let scaled =
        scaling.is_some_and(|scaling| scaling != "none") || tensors.iter().any(|t| t.name == "rope_freqs.weight");
    let table = tensors.iter().find(|tensor| tensor.name == "token_embd.weight").and_then(|table| table.dims.get(1));
    let config = LlamaConfig {
        hidden_size: must("embedding_length")?,
        intermediate_size: must("feed_forward_length")?,
        num_hidden_layers: must("block_count")?,
        num_attention_heads: must("attention.head_count")?,
        num_key_value_heads: may("attention.head_count_kv")?.map(|n| n as usize),
        head_dim: may("attention.key_length")?.map(|n| n as usize),
        rms_norm_eps: real("attention.layer_norm_rms_epsilon")?
            .ok_or("key llama.attention.layer_norm_rms_epsilon is missing")?,
        rope_theta: real("rope.freq_base")?,
        rope_parameters: None,
        rope_scaling: scaled.then(|| serde_json::json!({ "type": scaling.unwrap_or("factors") })),
        vocab_size: may("vocab_size")?.or(table.copied()).unwrap_or(0) as usize,
        hidden_act: "silu".into(),
    };
    let turned = may("rope.dimension_count")?.map(|n| n as usize);
    let width = config.head_dim.unwrap_or(config.hidden_size / config.num_attention_heads.max(1));
    if turned.is_some_and(|turned| turned != width) {
        return Err(format!("llama.rope.dimension_count is {turned:?}, but a head has {width} values"));
    }
    Ok(config)
}

/// The name in Hugging Face's files, and the matrix's in a block of this one.
fn hugging_face(name: &str) -> (String, Option<&str>) {
    let fixed = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return (fixed.to_owned(), None);
    }
    let block = || {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (matrix, kind) = rest.split_once('.')?;
        let known = match matrix {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_norm" => "post_attention_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        Some((format!("model.layers.{layer}.{known}.{kind}"), Some(matrix)))
    };
    block().unwrap_or_else(|| (name.to_owned(), None))
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

impl Pair {
    /// The value as a whole number that is not negative; of an array, the one that all of it is.
    fn whole(&self, bytes: &[u8]) -> Result<u64, String> {
        let mut reader = Reader { bytes, at: self.value.start };
        let fault = || format!("key {}: not a whole number", self.key);
        if self.kind != 9 {
            return reader.whole(self.kind).ok_or_else(fault);
        }
        let (kind, count) = (reader.u32()?, reader.u64()?);
        let first = reader.whole(kind).ok_or_else(fault)?;
        for _ in 1..count {
            if reader.whole(kind).ok_or_else(fault)? != first {
                return Err(format!("key {}: layers that differ are not supported", self.key));
            }
        }
        Ok(first)
    }

    fn real(&self, bytes: &[u8]) -> Result<f64, String> {
        let mut reader = Reader { bytes, at: self.value.start };
        let value = match self.kind {
            // As a decimal number of f32's precision, which it was when it was written.
            6 => f32::from_bits(reader.u32()?).to_string().parse().ok(),
            12 => Some(f64::from_bits(reader.u64()?)),
            _ => None,
        };
        value.filter(|value: &f64| value.is_finite()).ok_or_else(|| format!("key {}: not a number", self.key))
    }

    fn text<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, String> {
        match self.kind {
            8 => Reader { bytes, at: self.value.start }.text(),
            _ => Err(format!("key {}: not a text", self.key)),
        }
    }
}

/// A place in a file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or_else(|| {
            format!("cut short, or it lies: {count} bytes are to follow byte {} of {}", self.at, self.bytes.len())
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let at = self.at;
        let length = self.u64()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    /// A whole number of one of the file's types.
    fn whole(&mut self, kind: u32) -> Option<u64> {
        match kind {
            0 => self.array().ok().map(|[byte]| byte.into()),
            1 => self.array().ok().and_then(|byte| i8::from_le_bytes(byte).try_into().ok()),
            2 => self.array().ok().map(|bytes| u16::from_le_bytes(bytes).into()),
            3 => self.array().ok().and_then(|bytes| i16::from_le_bytes(bytes).try_into().ok()),
            4 => self.u32().ok().map(u64::from),
            5 => self.array().ok().and_then(|bytes| i32::from_le_bytes(bytes).try_into().ok()),
            10 => self.u64().ok(),
            11 => self.array().ok().and_then(|bytes| i64::from_le_bytes(bytes).try_into().ok()),
            _ => None,
        }
    }

    fn pair(&mut self) -> Result<Pair, String> {
        let start = self.at;
        let key = self.text()?.to_owned();
        let kind = self.u32()?;
        let value = self.at;
        self.skip(kind, 0).map_err(|why| format!("key {key}: {why}"))?;
        Ok(Pair { key, kind, value: value..self.at, all: start..self.at })
    }

    fn skip(&mut self, kind: u32, depth: usize) -> Result<(), String> {
        let size = |kind| match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        match (kind, size(kind)) {
            (_, Some(size)) => self.take(size).map(|_| ()),
            (8, _) => {
                let length = self.u64()?;
                self.take(length).map(|_| ())
            }
            (9, _) if depth < DEEPEST => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match size(kind) {
                    Some(size) => self.take(count.saturating_mul(size)).map(|_| ()),
                    None => (0..count).try_for_each(|_| self.skip(kind, depth + 1)),
                }
            }
            (9, _) => Err("arrays in arrays in arrays".into()),
            (other, _) => Err(format!("type {other} is unknown")),
        }
    }

    /// A tensor, the offset in place of its bytes' start.
    fn tensor(&mut self) -> Result<Blocks, String> {
        let name = self.text()?.to_owned();
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(format!("tensor {name}: {rank} dimensions"));
        }
        let dims = (0..rank).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        let (kind, offset) = (self.u32()?, self.u64()?);
        let offset = usize::try_from(offset).map_err(|_| format!("tensor {name}: offset {offset}"))?;
        Ok(Blocks { name, dims, kind, bytes: offset..offset })
    }
}
