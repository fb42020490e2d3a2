//! WebP, by `image-webp`; the RIFF chunks are walked here first, since that decoder believes an inner image's size only
//! after it has allocated for it, and takes a file that ends early for a complete one where it can.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{Header, MAX_ICC, Numbers, Pixels, Raw, corrupt, exif, leading, unsupported};
use crate::image::Size;
use crate::sample::{Failure, FailureCode};

/// The largest side of a WebP image; a canvas may say more, but nothing that fills it.
const MAX_SIDE: u32 = 16_384;

/// What the chunks say.
struct Chunks<'a> {
    /// The file without what stands behind its end, where the decoder would look for more chunks.
    whole: &'a [u8],
    canvas: Size,
    /// Of the (first) image inside.
    frame: Size,
    animated: bool,
    alpha: bool,
    icc: Option<&'a [u8]>,
    exif: Option<&'a [u8]>,
}

fn truncated() -> Failure {
    corrupt("truncated: the file is shorter than its RIFF header says")
}

/// The size in a `VP8 ` or `VP8L` bitstream's header, and whether it has alpha.
fn image_size(kind: &[u8], body: &[u8]) -> Option<(Size, bool)> {
    let numbers = Numbers { bytes: body, little: true };
    match kind {
        b"VP8 " => {
            let [w, h] = [numbers.u16(6)?, numbers.u16(8)?].map(|n| u32::from(n & 0x3fff));
            (numbers.slice(3, 3)? == [0x9d, 0x01, 0x2a]).then_some((Size::new(w, h), false))
        }
        b"VP8L" => {
            let bits = numbers.u32(1)?;
            let size = Size::new((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1);
            (*body.first()? == 0x2f).then_some((size, bits >> 28 & 1 == 1))
        }
        _ => None,
    }
}

/// The chunks of a RIFF body: name and content.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), Failure>> {
    let numbers = Numbers { bytes, little: true };
    let mut at = 0;
    std::iter::from_fn(move || {
        // A single byte can be left over by a chunk of odd length without its padding.
        (at + 1 < bytes.len()).then(|| {
            let (Some(kind), Some(length)) = (numbers.slice(at, 4), numbers.u32(at + 4)) else {
                at = bytes.len();
                return Err(truncated());
            };
            let Some(body) = numbers.slice(at + 8, length as usize) else {
                at = bytes.len();
                return Err(truncated());
            };
            at = at.saturating_add(8 + length as usize + length as usize % 2);
            Ok((kind, body))
        })
    })
}

fn walk(bytes: &[u8]) -> Result<Chunks<'_>, Failure> {
    let numbers = Numbers { bytes, little: true };
    // The size counts from behind itself, so "WEBP" is in it.
    let riff = numbers.u32(4).ok_or_else(truncated)? as usize;
    let body = riff.checked_sub(4).and_then(|length| numbers.slice(12, length)).ok_or_else(truncated)?;
    let whole = &bytes[..8 + riff];
    let mut canvas = None;
    let mut found = None;
    let (mut animated, mut alpha, mut icc, mut exif) = (false, false, None, None);
    for chunk in chunks(body) {
        let (kind, body) = chunk?;
        match kind {
            b"VP8X" if canvas.is_none() && found.is_none() => {
                let numbers = Numbers { bytes: body, little: true };
                let sides = numbers.u24(4).zip(numbers.u24(7)).zip(body.first());
                let ((w, h), flags) = sides.ok_or_else(|| corrupt("the extended header is too short"))?;
                (animated, alpha) = (flags & 2 != 0, flags & 16 != 0);
                canvas = Some(Size::new(w + 1, h + 1));
            }
            b"VP8 " | b"VP8L" | b"ANMF" if (kind == b"ANMF") != animated => {
                return Err(corrupt("a still image among frames, or frames beside a still image"));
            }
            b"VP8 " | b"VP8L" if found.is_none() => {
                found = Some(image_size(kind, body).ok_or_else(|| corrupt("the bitstream has no header"))?);
            }
            b"ANMF" if found.is_none() => {
                // The decoder takes the first chunk for the image, and what is behind alpha for a lossy one.
                let mut inner = chunks(body.get(16..).unwrap_or_default()).filter_map(Result::ok);
                let image = match inner.next() {
                    Some((b"ALPH", _)) => inner.next().filter(|(kind, _)| *kind == b"VP8 "),
                    first => first,
                };
                let size = image.and_then(|(kind, body)| image_size(kind, body));
                found = Some(size.ok_or_else(|| corrupt("the first frame has no image"))?);
            }
            b"ICCP" => icc = icc.or(Some(body)),
            b"EXIF" => exif = exif.or(Some(body)),
            _ => {}
        }
    }
    let (frame, frame_alpha) = found.ok_or_else(|| corrupt("there is no image in the file"))?;
    let canvas = canvas.unwrap_or(frame);
    let fits = if animated { frame.width <= canvas.width && frame.height <= canvas.height } else { frame == canvas };
    if !fits {
        return Err(corrupt("the image inside has another size than the header says"));
    }
    Ok(Chunks { whole, canvas, frame, animated, alpha: alpha || frame_alpha, icc, exif })
}

/// Size and memory: planes of the lossy decoder or its RGBA, canvas, result.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    // The first chunk holds the size; a truncated file is found out when it is decoded, unless its very header is cut.
    let numbers = Numbers { bytes, little: true };
    let kind = numbers.slice(12, 4).ok_or_else(truncated)?;
    let body = bytes.get(20..).unwrap_or_default();
    let size = if kind == b"VP8X" {
        let numbers = Numbers { bytes: body, little: true };
        numbers.u24(4).zip(numbers.u24(7)).map(|(w, h)| Size::new(w + 1, h + 1))
    } else {
        image_size(kind, body).map(|(size, _)| size)
    };
    Ok(Header { size: size.ok_or_else(|| corrupt("the bitstream has no header"))?, bytes_per_pixel: 12 })
}

/// Decodes a whole file; of an animation the first frame on its canvas.
pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Failure> {
    let chunks = walk(bytes)?;
    if chunks.canvas.width > MAX_SIDE || chunks.canvas.height > MAX_SIDE {
        return Err(unsupported(format!("WebP canvas with a side above {MAX_SIDE}")));
    }
    let mut decoder = WebPDecoder::new(Cursor::new(chunks.whole)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let size = Size::new(width, height);
    if size != chunks.canvas {
        return Err(corrupt("the size is stated twice and differs"));
    }
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut data = vec![0; size.pixels() * channels];
    decoder.read_image(&mut data).map_err(failed)?;
    let rgb = if channels == 3 { data } else { leading::<4, 3>(&data) };
    let icc = chunks.icc.filter(|profile| profile.len() <= MAX_ICC).map(<[u8]>::to_vec);
    let faithful = !chunks.alpha && !chunks.animated && chunks.frame == size;
    Ok(Raw { size, pixels: Pixels::Rgb(rgb), orientation: chunks.exif.map_or(1, exif::orientation), icc, faithful })
}

fn failed(error: DecodingError) -> Failure {
    let code = match error {
        DecodingError::UnsupportedFeature(_) | DecodingError::VersionNumberInvalid(_) => FailureCode::Unsupported,
        _ => FailureCode::Corrupt,
    };
    super::failure(code, format!("WebP: {error}"))
}
