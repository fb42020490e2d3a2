//! Writes a GGUF file without some of its keys and tensors. What stays, stays to the byte.

use std::io::{Result, Write};

use crate::restore::weights::Weights;

/// How many tokens the model knows.
const WORDS: &str = "llama.vocab_size";

/// Writes the GGUF file that `weights` has, without the tensors and keys (of the file's own names) that are to be left out.
pub(in crate::restore) fn cut_gguf(
    weights: &Weights,
    tensor_left_out: impl Fn(&str) -> bool,
    key_left_out: impl Fn(&str) -> bool,
    out: &mut dyn Write,
) -> Result<()> {
    let (Some(gguf), Some(file)) = (&weights.0.gguf, weights.0.files.first()) else {
        return Err(std::io::Error::other("not a GGUF file"));
    };
    let pairs: Vec<_> = gguf.pairs.iter().filter(|pair| !key_left_out(&pair.key)).collect();
    // Without the table of embeddings nothing else would say how many there are.
    let words = (!pairs.iter().any(|pair| pair.key == WORDS)).then(|| gguf.llama().map_or(0, |llama| llama.vocab_size));
    let tensors: Vec<_> = gguf.tensors.iter().filter(|tensor| !tensor_left_out(&tensor.name)).collect();
    let mut head = b"GGUF".to_vec();
    head.extend(gguf.version.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(((pairs.len() + usize::from(words.is_some())) as u64).to_le_bytes());
    for pair in pairs {
        head.extend_from_slice(&file.bytes[pair.all.clone()]);
    }
    if let Some(words) = words {
        head.extend((WORDS.len() as u64).to_le_bytes());
        head.extend(WORDS.as_bytes());
        // Type 4: u32.
        head.extend(4u32.to_le_bytes());
        head.extend((words as u32).to_le_bytes());
    }
    let mut offset = 0;
    for tensor in &tensors {
        head.extend((tensor.name.len() as u64).to_le_bytes());
        head.extend(tensor.name.as_bytes());
        head.extend((tensor.dims.len() as u32).to_le_bytes());
        head.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
        head.extend(tensor.kind.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(gguf.alignment);
    }
    let zeros = vec![0; gguf.alignment];
    let mut padded = |bytes: &[u8]| {
        out.write_all(bytes)?;
        out.write_all(&zeros[..bytes.len().next_multiple_of(gguf.alignment) - bytes.len()])
    };
    padded(&head)?;
    tensors.iter().try_for_each(|tensor| padded(&file.bytes[tensor.bytes.clone()]))
}
