//! A tensor from its place in a file.

use std::borrow::Cow;

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, DType, Device, Tensor};
use rayon::prelude::*;

use super::{Entry, Stored};

/// Values that are decoded at once: a whole number of blocks of any type.
const CHUNK: usize = 1 << 16;

/// Decodes `entry`, whose place in `bytes` its reader has checked, to `dtype` on `device`.
pub(super) fn tensor(bytes: &[u8], entry: &Entry, dtype: DType, device: &Device) -> Result<Tensor, String> {
    let Some(bytes) = bytes.get(entry.bytes.clone()) else {
        return Err(format!("bytes {:?} are not all there", entry.bytes));
    };
    let tensor = match &entry.stored {
        Stored::Other(what) => return Err(format!("its type {what} is not one that a model's weights have")),
        Stored::Plain(stored) => {
            let bytes = match &entry.strides {
                Some(strides) => Cow::Owned(row_after_row(bytes, &entry.shape, strides, stored.size_in_bytes())),
                None => Cow::Borrowed(bytes),
            };
            if !finite(&bytes, *stored) {
                return Err(NOT_FINITE.into());
            }
            Tensor::from_raw_buffer(&bytes, *stored, &entry.shape, device)
        }
        Stored::Blocks(blocks) => {
            let values = dequantised(bytes, *blocks).map_err(|error| error.to_string())?;
            if !values.par_iter().with_min_len(CHUNK).all(|value| value.is_finite()) {
                return Err(NOT_FINITE.into());
            }
            Tensor::from_vec(values, &entry.shape[..], device)
        }
    };
    let all = tensor.and_then(|tensor| match entry.interleaved_heads {
        Some(heads) => apart(&tensor, heads),
        None => Ok(tensor),
    });
    all.and_then(|tensor| tensor.to_dtype(dtype)).map_err(|error| error.to_string())
}

/// Every pixel would be lost by one of them.
const NOT_FINITE: &str =
    "it holds values that are not finite (NaN or infinity): the file is broken, or its training failed";

/// Whether no value has all bits of its exponent set.
fn finite(bytes: &[u8], dtype: DType) -> bool {
    let all = |size: usize, finite: fn(&[u8]) -> bool| {
        bytes.par_chunks(CHUNK * size).all(|chunk| chunk.chunks_exact(size).all(finite))
    };
    match dtype {
        DType::F16 => all(2, |b| u16::from_le_bytes([b[0], b[1]]) & 0x7c00 != 0x7c00),
        DType::BF16 => all(2, |b| u16::from_le_bytes([b[0], b[1]]) & 0x7f80 != 0x7f80),
        DType::F32 => all(4, |b| u16::from_le_bytes([b[2], b[3]]) & 0x7f80 != 0x7f80),
        DType::F64 => all(8, |b| u16::from_le_bytes([b[6], b[7]]) & 0x7ff0 != 0x7ff0),
        _ => true,
    }
}

/// The values of a view with strides, one after the other.
fn row_after_row(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count = shape.iter().product::<usize>();
    let mut made = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    for _ in 0..count {
        let at = index.iter().zip(strides).map(|(index, stride)| index * stride).sum::<usize>();
        made.extend_from_slice(&bytes[at * size..][..size]);
        for (index, length) in index.iter_mut().zip(shape).rev() {
            *index += 1;
            if *index < *length {
                break;
            }
            *index = 0;
        }
    }
    made
}

/// The numbers in blocks of GGML.
fn dequantised(bytes: &[u8], dtype: GgmlDType) -> candle_core::Result<Vec<f32>> {
    let (length, size) = (dtype.block_size(), dtype.type_size());
    let mut values = vec![0.0; bytes.len() / size * length];
    let chunks = values.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK / length * size));
    chunks.try_for_each(|(values, bytes)| {
        // A file's blocks may begin at any byte, those of the decoder may not.
        let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
        let aligned = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut aligned)[..bytes.len()];
        aligned.copy_from_slice(bytes);
        match dtype.from_data(Cow::Borrowed(aligned)).dequantize(values.len())? {
            CpuStorage::F32(decoded) => values.copy_from_slice(&decoded),
            _ => candle_core::bail!("{dtype:?} was not decoded to f32"),
        }
        Ok(())
    })?;
    Ok(values)
}

/// Rows as Hugging Face's rotary embedding has them, each head's halves one behind the other, from rows where they alternate.
fn apart(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let shape = tensor.shape().clone();
    let inside = tensor.elem_count() / shape.dims()[0].max(1);
    let half = shape.dims()[0] / heads / 2;
    tensor.reshape((heads, half, 2, inside))?.transpose(1, 2)?.contiguous()?.reshape(shape)
}
