//! JPEG, by zune-jpeg, from a stream that is taken apart and put together again here.
//!
//! Why not hand zune-jpeg the file: it fills what is missing with grey, and strictness alone does not change that where a
//! file ends early with a proper end marker; it refuses garbage between segments, which libjpeg skips; and it reads
//! colour from component names and Adobe's segment a little differently. So the segments are walked here, which finds
//! size, orientation, profile and colour by libjpeg's rules and whether the file reaches its end, and a minimal stream
//! goes to the decoder: tables, frame, scans. In a sequential file the end marker is replaced by a few zero bytes, after
//! which the strict decoder finds nothing more: a scan that is short runs out of data, which is an error, whereas at a
//! marker it would go on with zeros for ever. A progressive file needs its end marker; there the scans' headers must
//! add up to all bits of all coefficients, so that only the very last scan could be short unnoticed, and lack some detail.
//!
//! A sequential file may have a scan for each component. The decoder loses rows of such a scan where the last ones take but
//! a few bytes, so each is decoded as the grey image that it is, and they are put together here.
//!
//! Against libjpeg-turbo, photographs differ by at most 6 levels and 0.1 to 0.2 in the mean (4:2:0; 0.01 for 4:4:4): the
//! inverse DCT by 1, chroma by the rounding of its interpolation and, in the last column and row, by the padding that is
//! mixed in. The decoder's vector and scalar code give the same pixels.
//!
//! Arithmetic coding, lossless, hierarchical and 12-bit files are `unsupported`. So are files whose height comes after the
//! scan (DNL), those with two components, and sequential ones with several scans of which one has two components.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::planes::Plane;
use super::segments::{APP0, Colour, EOI, Frame, Parts, SOI, SOS, Walker, frame, gather, put};
use super::{Header, Pixels, Raw, corrupt, unsupported};
use crate::image::Size;
use crate::image::jpeg::ycc_to_rgb;
use crate::sample::Failure;

/// Bytes behind a sequential scan: more than the decoder reads ahead (8), so that a whole scan never runs out, and few
/// enough that a short one does.
const PADDING: [u8; 12] = [0; 12];

/// Size and memory: 3 bytes of pixels, and 2 of coefficients for each sample of a progressive file.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    let mut walker = Walker::new(bytes);
    loop {
        let segment = walker.next()?;
        if let Some(frame) = frame(&segment)? {
            let samples = frame.components.len() as u64;
            let bytes_per_pixel = samples.max(3) + if frame.progressive { 2 * samples } else { 0 };
            return Ok(Header { size: frame.size, bytes_per_pixel });
        }
        if matches!(segment.marker, SOS | EOI) {
            return Err(corrupt("there is no frame header before the image data"));
        }
    }
}

/// The beginning of a stream: tables, and a frame header with the components named 1, 2, 3, 4.
fn start(tables: &[u8], huffman: bool, progressive: bool, size: Size, components: &[[u8; 3]]) -> Vec<u8> {
    let mut stream = vec![0xff, SOI];
    if !huffman {
        // Motion JPEG leaves out the standard tables; this is how the decoder knows them.
        put(&mut stream, APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0");
    }
    stream.extend_from_slice(tables);
    let mut header = vec![8];
    // Both sides came out of 16 bits.
    header.extend_from_slice(&(size.height as u16).to_be_bytes());
    header.extend_from_slice(&(size.width as u16).to_be_bytes());
    header.push(components.len() as u8);
    for ([_, sampling, table], name) in components.iter().zip(1..) {
        header.extend_from_slice(&[name, *sampling, *table]);
    }
    put(&mut stream, if progressive { 0xc2 } else { 0xc0 }, &header);
    stream
}

/// The whole image as one stream.
fn stream_of_all(parts: &Parts<'_>, frame: &Frame) -> Vec<u8> {
    let mut tables = parts.scans.first().map_or(0, |scan| scan.tables);
    let mut stream = start(&parts.tables[..tables], parts.huffman, frame.progressive, frame.size, &frame.components);
    for scan in &parts.scans {
        stream.extend_from_slice(&parts.tables[tables..scan.tables]);
        tables = scan.tables;
        put(&mut stream, SOS, &scan.header);
        stream.extend_from_slice(scan.data);
    }
    if frame.progressive {
        stream.extend_from_slice(&[0xff, EOI]);
    } else {
        stream.extend_from_slice(&PADDING);
    }
    stream
}

fn decode_stream(stream: &[u8], out: ColorSpace) -> Result<Vec<u8>, Failure> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(out);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(stream), options);
    decoder.decode().map_err(|e| corrupt(format!("JPEG: {e}")))
}

/// Decodes scan by scan, each one component, and interleaves them.
fn decode_scans(parts: &Parts<'_>, frame: &Frame) -> Result<Vec<u8>, Failure> {
    let factors = |component: &[u8; 3]| (usize::from(component[1] >> 4), usize::from(component[1] & 15));
    let most = frame.components.iter().map(factors).fold((1, 1), |m, f| (m.0.max(f.0), m.1.max(f.1)));
    let channels = frame.components.len();
    let mut pixels = vec![0; frame.size.pixels() * channels];
    for scan in &parts.scans {
        let [1, name, tables, rest @ ..] = scan.header.as_slice() else {
            return Err(unsupported("sequential JPEG with several scans, one of them of several components"));
        };
        let index = usize::from(*name) - 1;
        let component = frame.components[index];
        let (across, down) = factors(&component);
        if across == 0 || down == 0 || most.0 % across != 0 || most.1 % down != 0 {
            return Err(unsupported("JPEG with odd sampling factors"));
        }
        let side = |whole: u32, own: usize, most: usize| (u64::from(whole) * own as u64).div_ceil(most as u64) as u32;
        let size = Size::new(side(frame.size.width, across, most.0), side(frame.size.height, down, most.1));
        let grey = [[1, 0x11, component[2]]];
        let mut stream = start(&parts.tables[..scan.tables], parts.huffman, false, size, &grey);
        put(&mut stream, SOS, &[&[1, 1, *tables][..], rest].concat());
        stream.extend_from_slice(scan.data);
        stream.extend_from_slice(&PADDING);
        let plane = Plane { size, samples: decode_stream(&stream, ColorSpace::Luma)? };
        let plane = plane.enlarged(frame.size, (most.0 / across, most.1 / down));
        for (pixel, sample) in pixels.chunks_exact_mut(channels).zip(plane) {
            pixel[index] = sample;
        }
    }
    Ok(pixels)
}

/// Decodes a whole file.
pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Failure> {
    let (mut parts, frame) = gather(bytes)?;
    let colour = parts.colour(&frame);
    let mut pixels = if frame.progressive || parts.scans.len() == 1 {
        // Components named 1, 2, 3 without Adobe's segment are YCbCr to the decoder; four are CMYK, handed over untouched.
        let out = match colour {
            Colour::Grey => ColorSpace::Luma,
            Colour::YCbCr => ColorSpace::RGB,
            Colour::Rgb => ColorSpace::YCbCr,
            Colour::Cmyk | Colour::Ycck => ColorSpace::CMYK,
        };
        decode_stream(&stream_of_all(&parts, &frame), out)?
    } else {
        let mut pixels = decode_scans(&parts, &frame)?;
        if colour == Colour::YCbCr {
            for pixel in pixels.as_chunks_mut().0 {
                let [y, cb, cr] = *pixel;
                *pixel = ycc_to_rgb(y, cb, cr);
            }
        }
        pixels
    };
    let pixels = match colour {
        Colour::Grey => Pixels::Grey(pixels),
        Colour::YCbCr | Colour::Rgb => Pixels::Rgb(pixels),
        Colour::Cmyk => {
            // Adobe writes inks inverted, and so does everybody else.
            pixels.iter_mut().for_each(|ink| *ink = 255 - *ink);
            Pixels::Cmyk(pixels)
        }
        Colour::Ycck => {
            // YCbCr encodes the inverse of the inks, which were inverted already.
            for pixel in pixels.as_chunks_mut::<4>().0 {
                let [y, cb, cr, k] = *pixel;
                let [r, g, b] = ycc_to_rgb(y, cb, cr);
                *pixel = [r, g, b, 255 - k];
            }
            Pixels::Cmyk(pixels)
        }
    };
    let icc = parts.profile();
    Ok(Raw { size: frame.size, pixels, orientation: parts.orientation, icc, faithful: true })
}
