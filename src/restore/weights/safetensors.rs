//! safetensors: the crate of that name checks that the tensors lie in the file side by side, without gaps.

use candle_core::DType;
use safetensors::{Dtype, SafeTensors};

use super::{Entry, Stored};

/// Name and place of each tensor.
pub(super) fn table(bytes: &[u8]) -> Result<Vec<(String, Entry)>, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| format!("not sound safetensors: {error}"))?;
    let entry = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let entry = Entry {
            shape: view.shape().to_vec(),
            stored: stored(view.dtype()),
            bytes: start..start + view.data().len(),
            strides: None,
            interleaved_heads: None,
        };
        (name, entry)
    };
    Ok(tensors.tensors().into_iter().map(entry).collect())
}

fn stored(dtype: Dtype) -> Stored {
    Stored::Plain(match dtype {
        Dtype::U8 => DType::U8,
        Dtype::U32 => DType::U32,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        other => return Stored::Other(format!("{other:?}").to_lowercase()),
    })
}
