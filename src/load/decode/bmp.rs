//! BMP, by the `image` crate. Compressed pixels (RLE) must be as long as the header says; that decoder would fill up
//! what is missing.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::{ColorType, ImageDecoder, ImageError};

use super::{Header, Numbers, Pixels, Raw, corrupt, leading, unsupported};
use crate::image::Size;
use crate::sample::Failure;

/// Bytes of the oldest header, the only one with 16-bit sides.
const CORE: u32 = 12;

/// Whether what follows `BM` can be a bitmap: the two letters alone begin many a text.
pub(super) fn plausible(bytes: &[u8]) -> bool {
    let numbers = Numbers { bytes, little: true };
    // A header of one of the known lengths, or a file too short to tell.
    numbers.u32(14).is_none_or(|length| matches!(length, CORE | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

/// Size and memory.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    let numbers = Numbers { bytes, little: true };
    let sides = || {
        if numbers.u32(14)? == CORE {
            Some((numbers.u16(18)?.into(), numbers.u16(20)?.into()))
        } else {
            // A negative height says that rows go from the top; a negative width says nothing.
            Some((numbers.u32(18)?.min(i32::MAX as u32), (numbers.u32(22)? as i32).unsigned_abs()))
        }
    };
    let (width, height) = sides().ok_or_else(|| corrupt("truncated: there is no bitmap header"))?;
    Ok(Header { size: Size::new(width, height), bytes_per_pixel: 7 })
}

/// Decodes a whole file.
pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Failure> {
    let numbers = Numbers { bytes, little: true };
    let compressed = numbers.u32(14) != Some(CORE) && matches!(numbers.u32(30), Some(1 | 2));
    if compressed {
        let end = numbers.u32(10).zip(numbers.u32(34)).and_then(|(at, length)| at.checked_add(length));
        if end.is_none_or(|end| end as usize > bytes.len()) {
            return Err(corrupt("truncated: the file ends inside its compressed pixels"));
        }
    }
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let size = Size::new(width, height);
    if header(bytes)?.size != size {
        return Err(corrupt("the header's size is not clear"));
    }
    let colour = decoder.color_type();
    let mut data = vec![0; size.pixels() * usize::from(colour.bytes_per_pixel())];
    decoder.read_image(&mut data).map_err(failed)?;
    let (pixels, faithful) = match colour {
        ColorType::Rgb8 => (data, true),
        ColorType::Rgba8 => (leading::<4, 3>(&data), false),
        other => return Err(unsupported(format!("BMP of kind {other:?}"))),
    };
    Ok(Raw { size, pixels: Pixels::Rgb(pixels), orientation: 1, icc: None, faithful })
}

fn failed(error: ImageError) -> Failure {
    match error {
        ImageError::Unsupported(what) => unsupported(format!("BMP: {what}")),
        other => corrupt(format!("BMP: {other}")),
    }
}
