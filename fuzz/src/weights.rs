//! Any bytes are tensors that lie in the file, or a complaint that names the file; in memory that goes with its length.

use std::io::Write;

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use lm4lv::Error;
use lm4lv::restore::weights::{Info, Weights};

use super::memory;

/// Memory besides what grows with the file: tables, and complaints.
const OVERHEAD: u64 = 1 << 20;
/// The densest type of GGML holds 256 values in 50 bytes, which become f32; some copies of them are made.
const TIMES: u64 = 128;
/// Tensors that are decoded: names may share their bytes.
const TENSORS: usize = 24;

/// Reads a file of weights: `P` and a pickle for a file of PyTorch around it, `S` and a header with what follows for a safetensors file of
/// that header, or any other byte and the file itself.
pub fn weights(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let file = match kind {
        b'P' => torch(rest),
        b'S' => safetensors(rest),
        _ => rest.to_vec(),
    };
    let length = file.len();
    let opened = within(length, || Weights::from_bytes("FILE", Bytes::from(file)));
    let weights = match opened {
        Ok(weights) => weights,
        Err(error) => return complaint(&error, "", length),
    };
    for info in weights.infos().take(TENSORS) {
        assert!(info.bytes <= length as u64 && weights.contains(info.name), "{info:?}");
        let read = within(length, || weights.tensor(info.name, info.shape, DType::F32, &Device::Cpu));
        let other: Vec<usize> = info.shape.iter().copied().chain([7]).collect();
        complaint(&weights.tensor(info.name, &other[..], DType::F32, &Device::Cpu).unwrap_err(), info.name, length);
        match weights.numbers(info.name) {
            Ok(numbers) => assert_eq!([numbers.len()], info.shape),
            Err(error) => complaint(&error, info.name, length),
        }
        match &read {
            Ok(tensor) => sound(tensor, &info),
            Err(error) => complaint(error, info.name, length),
        }
        first_row(&weights, &info, read.ok(), length);
    }
}

/// A tensor that was read has the shape that was said, and numbers in it.
fn sound(tensor: &Tensor, info: &Info<'_>) {
    assert_eq!(tensor.dims(), info.shape);
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(values.len(), info.shape.iter().product::<usize>());
    // (An f64 may be larger than any f32.)
    assert!(info.dtype == "f64" || values.iter().all(|value| value.is_finite()), "{info:?}");
}

/// A row by itself is that of the whole.
fn first_row(weights: &Weights, info: &Info<'_>, whole: Option<Tensor>, length: usize) {
    let [count, width] = *info.shape else { return };
    let row = within(length, || weights.rows(info.name, &[0], width, DType::F32, &Device::Cpu));
    match (row, whole) {
        (Ok(row), Some(whole)) => {
            let [row, whole] = [row, whole.narrow(0, 0, 1).unwrap()].map(|t| t.flatten_all().unwrap());
            assert_eq!(row.to_vec1::<f32>().unwrap(), whole.to_vec1::<f32>().unwrap(), "{info:?}");
        }
        (Err(error), whole) => {
            assert!(whole.is_none() || count == 0, "{info:?}: {error}");
            complaint(&error, info.name, length);
        }
        (Ok(_), None) => {}
    }
}

/// What `work` gives, which may take no more memory than goes with a file of that length.
fn within<T>(length: usize, work: impl FnOnce() -> T) -> T {
    let (made, peak) = memory::peak(work);
    assert!(peak <= OVERHEAD + TIMES * length as u64, "{peak} bytes for {length}");
    made
}

/// An error is about the file, and no novel.
#[track_caller]
fn complaint(error: &Error, name: &str, length: usize) {
    let Error::Config(text) = error else { panic!("{error:?}") };
    assert!(text.starts_with("FILE: ") && text.contains(name), "{text}");
    assert!(text.len() < 1000 + 8 * length && !text.ends_with('.'), "{text}");
}

/// What `torch.save` writes around a pickle, with two storages.
fn torch(pickle: &[u8]) -> Vec<u8> {
    let numbers: Vec<u8> = (0..16).flat_map(|n| (n as f32 / 4.0).to_le_bytes()).collect();
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("a/data.pkl", pickle), ("a/data/0", &numbers), ("a/data/1", &numbers[..4])] {
        writer.start_file(name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A header, up to the last brace, with its true length before it.
fn safetensors(data: &[u8]) -> Vec<u8> {
    let header = data.iter().rposition(|byte| *byte == b'}').map_or(data.len(), |last| last + 1);
    [&(header as u64).to_le_bytes(), data].concat()
}
