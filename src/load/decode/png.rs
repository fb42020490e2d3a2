//! PNG, by the `png` crate; the chunks are walked here first, for what may follow the pixels (EXIF, the end).

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};

use super::{Header, MAX_ICC, Numbers, Pixels, Raw, corrupt, exif, leading};
use crate::image::Size;
use crate::sample::Failure;

/// Bytes that the decoder may allocate beside our own buffer: for palettes, profiles and chunks that are kept. A profile
/// that unpacks to more is left out, without harm to the image.
const ANCILLARY: usize = MAX_ICC + (8 << 20);

fn start(bytes: &[u8]) -> Option<(Size, u8, u8)> {
    let numbers = Numbers { bytes, little: false };
    let is_header = numbers.slice(12, 4)? == b"IHDR";
    let size = Size::new(numbers.u32(16)?, numbers.u32(20)?);
    is_header.then_some((size, *bytes.get(24)?, *bytes.get(25)?))
}

/// Size and memory: the decoder's 8-bit channels, and RGB made of them.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    let (size, _, colour) = start(bytes).ok_or_else(|| corrupt("truncated: there is no PNG header"))?;
    let channels = match colour {
        0 => 1,
        4 => 2,
        2 | 3 => 3,
        _ => 4,
    };
    Ok(Header { size, bytes_per_pixel: if channels == 3 { 3 } else { channels + 3 } })
}

/// The EXIF block, if the chunks go on to the end.
fn walk(bytes: &[u8]) -> Result<Option<&[u8]>, Failure> {
    let numbers = Numbers { bytes, little: false };
    let (mut at, mut exif) = (8, None);
    loop {
        let chunk = || Some((numbers.u32(at)? as usize, numbers.slice(at + 4, 4)?));
        let (length, kind) = chunk().ok_or_else(|| corrupt("truncated: the file ends before its IEND chunk"))?;
        // The body and its checksum.
        let body = length.checked_add(4).and_then(|whole| numbers.slice(at + 8, whole));
        let body = body.ok_or_else(|| corrupt("truncated: the file ends inside a chunk"))?;
        match kind {
            b"IEND" => return Ok(exif),
            b"eXIf" => exif = exif.or(Some(&body[..length])),
            _ => {}
        }
        at += 12 + length;
    }
}

/// Decodes a whole file; of an APNG the still image.
pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Failure> {
    let exif = walk(bytes)?;
    let (size, depth, colour) = start(bytes).ok_or_else(|| corrupt("truncated: there is no PNG header"))?;
    // The still image's rows are written to our buffer; one row and its predecessor are the decoder's own.
    let rows = (size.width as usize).saturating_mul(8 * 4);
    let mut decoder =
        png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: ANCILLARY.saturating_add(rows) });
    decoder.set_ignore_text_chunk(true);
    // Palette, low depths and transparency become 8-bit channels; of 16 bits the high byte stays.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(failed)?;
    let length = reader.output_buffer_size().ok_or_else(|| corrupt("the header says too many pixels"))?;
    let mut data = vec![0; length];
    reader.next_frame(&mut data).map_err(failed)?;
    let icc = reader.info().icc_profile.as_ref().filter(|profile| profile.len() <= MAX_ICC).map(|p| p.to_vec());
    let animated = reader.info().animation_control.is_some_and(|a| a.num_frames > 1);
    let (channels, eight) = reader.output_color_type();
    if eight != BitDepth::Eight {
        return Err(corrupt("the decoder gave other than 8 bits"));
    }
    // The rest of the pixels' checksums.
    reader.finish().map_err(failed)?;
    let pixels = match channels {
        ColorType::Grayscale => Pixels::Grey(data),
        ColorType::GrayscaleAlpha => Pixels::Grey(leading::<2, 1>(&data)),
        ColorType::Rgb => Pixels::Rgb(data),
        ColorType::Rgba => Pixels::Rgb(leading::<4, 3>(&data)),
        ColorType::Indexed => return Err(corrupt("the decoder left the palette's indices")),
    };
    let alpha = matches!(channels, ColorType::GrayscaleAlpha | ColorType::Rgba);
    let faithful = depth <= 8 && !alpha && !animated && colour != 4 && colour != 6;
    Ok(Raw { size, pixels, orientation: exif.map_or(1, exif::orientation), icc, faithful })
}

fn failed(error: DecodingError) -> Failure {
    corrupt(format!("PNG: {error}"))
}
