//! Bytes → RGB pixels: what kind of file it is, what it says of itself, and then its pixels.
//!
//! Nothing is believed for its name: the first bytes decide the format. The header is read before anything is allocated,
//! and sizes beyond `load.max_mpx` and `load.max_aspect` are refused there, also where a file states its size twice (a
//! frame inside a canvas). A file that does not reach its own end is a failure, even where other programs would show
//! what there is: half a photograph must not enter a dataset. Bytes behind the end are ignored.
//!
//! What becomes of pixels that are not 8-bit RGB follows Pillow's `Image.open(f).convert("RGB")`, since that is what nearly
//! every training script does:
//!
//! * grey: the value three times; palettes: looked up; 1, 2 and 4 bits: stretched to 0–255;
//! * 16 bits: the high byte (as Pillow for colour; where Pillow clips 16-bit *grey* at 255 instead, nearly always giving
//!   white, the high byte is taken too);
//! * alpha: dropped, so what lies under transparent pixels shows; it is not blended with any colour;
//! * CMYK: `255 − min(255, ink + black)` in Pillow's rounding, JPEG inks inverted as Adobe writes them;
//! * animations: the first frame, on its canvas; TIFF: the first page.
//!
//! EXIF orientation is applied, and the orientation tag of a TIFF.
//!
//! The decoders are memory-safe Rust, but parsers of hostile input have panicked before. So the whole runs inside
//! `catch_unwind` as a last line: a panic becomes a row `corrupt`, not the end of a run of a million files.
//!
//! (long because what is shared by all formats stands here: caps, sniffing, headers, the last line)

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::image::Image;
use crate::image::Size;
use crate::image::orient::Turn;
use crate::load::config::{Icc, LoadConfig};
use crate::sample::{Failure, FailureCode};

mod bmp;
mod colour;
mod exif;
mod gif;
mod jpeg;
mod planes;
mod png;
mod segments;
mod tiff;
mod webp;

/// The longest side that JPEG can say; nothing larger is made.
const MAX_SIDE: u32 = 65_535;

/// Profiles above this are not kept: the largest in use (press profiles) have 3 MiB.
const MAX_ICC: usize = 8 << 20;

/// The formats that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JFIF and its like: baseline, extended and progressive Huffman, 8 bits.
    Jpeg,
    /// Portable Network Graphics.
    Png,
    /// Lossy, lossless, animated.
    WebP,
    /// 87a and 89a.
    Gif,
    /// Windows and OS/2 bitmaps.
    Bmp,
    /// Classic and big TIFF.
    Tiff,
}

impl Format {
    /// The format's usual extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tif",
        }
    }

    /// The format of a file, by its first bytes. `Empty`, or `UnknownFormat` with a guess at what it is.
    pub fn sniff(bytes: &[u8]) -> Result<Self, Failure> {
        match bytes {
            [] => Err(failure(FailureCode::Empty, "the file has no bytes")),
            [0xff, 0xd8, 0xff, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Self::Gif),
            [b'B', b'M', ..] if bmp::plausible(bytes) => Ok(Self::Bmp),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok(Self::Tiff),
            _ => Err(failure(
                FailureCode::UnknownFormat,
                format!("{}: use JPEG, PNG, WebP, GIF, BMP or TIFF", guess(bytes)),
            )),
        }
    }
}

/// What an undecodable file seems to be.
fn guess(bytes: &[u8]) -> &'static str {
    let text: Vec<u8> = bytes.iter().take(256).copied().skip_while(|b| b.is_ascii_whitespace() || *b > 127).collect();
    let text = text.to_ascii_lowercase();
    let brand = bytes.get(8..12).filter(|_| bytes.get(4..8) == Some(b"ftyp"));
    match (brand, bytes) {
        (Some(b"avif" | b"avis"), _) => "an AVIF file",
        (Some(b"heic" | b"heix" | b"mif1" | b"msf1"), _) => "a HEIF file",
        (Some(_), _) => "a video",
        (_, [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..]) => "a JPEG XL file",
        (_, [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..]) => "a JPEG 2000 file",
        (_, [0, 0, 1, 0, ..]) => "an icon",
        (_, [b'8', b'B', b'P', b'S', ..]) => "a Photoshop file",
        (_, [b'%', b'P', b'D', b'F', ..]) => "a PDF file",
        (_, [0x1f, 0x8b, ..]) => "a gzip file",
        (_, [b'P', b'K', 3, 4, ..]) => "a zip file",
        _ if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") => "an HTML page",
        _ if text.starts_with(b"<svg") || text.starts_with(b"<?xml") => "an SVG or XML file",
        _ if text.starts_with(b"version https://git-lfs") => "a Git LFS pointer",
        _ if text.starts_with(b"{") || text.starts_with(b"[") => "JSON, it seems",
        _ => "not an image file that is known here",
    }
}

/// What a file's header says, before any pixel is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// As stored, before any turn.
    pub(crate) size: Size,
    /// Bytes that the decoder needs for each pixel, its result included.
    pub(crate) bytes_per_pixel: u64,
}

/// A decoded file.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) image: Image,
    pub(crate) format: Format,
    /// The profile of `image`, if it is to be kept.
    pub(crate) icc: Option<Vec<u8>>,
    /// True if the image holds all that the file does, unchanged.
    pub(crate) faithful: bool,
}

/// Pixels as a decoder gives them, before turning and colour.
struct Raw {
    size: Size,
    pixels: Pixels,
    /// EXIF's 1 to 8; anything else means upright.
    orientation: u8,
    icc: Option<Vec<u8>>,
    /// False if something that the file holds is not in `pixels` (alpha, low bits, other frames).
    faithful: bool,
}

/// Interleaved 8-bit channels.
enum Pixels {
    Grey(Vec<u8>),
    Rgb(Vec<u8>),
    /// 0 is no ink.
    Cmyk(Vec<u8>),
}

/// What other crates say may be as long as a file makes it, and may end with a full stop; a row's message is short and does
/// not.
fn failure(code: FailureCode, message: impl Into<String>) -> Failure {
    const LONGEST: usize = 300;
    let mut message = message.into();
    message.truncate(message.trim_end_matches('.').len());
    if let Some((end, _)) = message.char_indices().nth(LONGEST) {
        message.truncate(end);
        message.push('…');
    }
    Failure { code, message }
}

fn corrupt(why: impl std::fmt::Display) -> Failure {
    failure(FailureCode::Corrupt, why.to_string())
}

fn unsupported(what: impl std::fmt::Display) -> Failure {
    failure(FailureCode::Unsupported, what.to_string())
}

/// The bounds that a header must keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bounds {
    max_pixels: f64,
    max_aspect: f64,
}

impl Bounds {
    pub(crate) fn new(config: &LoadConfig) -> Self {
        Self { max_pixels: config.max_mpx * 1e6, max_aspect: config.max_aspect }
    }

    /// Bounds that everything keeps.
    pub(crate) fn none() -> Self {
        Self { max_pixels: f64::INFINITY, max_aspect: f64::INFINITY }
    }

    /// Refuses a size that a resize would make: more pixels than allowed for what is read, or longer than formats can say.
    pub(crate) fn check_made(&self, size: Size) -> Result<(), Failure> {
        let pixels = f64::from(size.width) * f64::from(size.height);
        if pixels > self.max_pixels || size.width.max(size.height) > MAX_SIDE {
            let (w, h, most) = (size.width, size.height, self.max_pixels / 1e6);
            let message = format!(
                "load.resize would make it {w} × {h} pixels: load.max_mpx is {most}, a side at most {MAX_SIDE}"
            );
            return Err(failure(FailureCode::TooManyPixels, message));
        }
        Ok(())
    }

    /// Refuses sizes that are too large, too long, or nothing.
    pub(crate) fn check(&self, size: Size) -> Result<(), Failure> {
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        if w == 0.0 || h == 0.0 {
            return Err(corrupt(format!("the header says {w} × {h} pixels")));
        }
        if w * h > self.max_pixels {
            let message = format!("{w} × {h} pixels are more than load.max_mpx = {}", self.max_pixels / 1e6);
            return Err(failure(FailureCode::TooManyPixels, message));
        }
        if w.max(h) / w.min(h) > self.max_aspect {
            let message = format!("{w} × {h} is longer than load.max_aspect = {}", self.max_aspect);
            return Err(failure(FailureCode::BadAspect, message));
        }
        Ok(())
    }
}

/// Reads the header alone.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    catch(|| match Format::sniff(bytes)? {
        Format::Jpeg => jpeg::header(bytes),
        Format::Png => png::header(bytes),
        Format::WebP => webp::header(bytes),
        Format::Gif => gif::header(bytes),
        Format::Bmp => bmp::header(bytes),
        Format::Tiff => tiff::header(bytes),
    })
}

/// Decodes a whole file: upright, RGB, 8 bits.
pub(crate) fn decode(bytes: &[u8], bounds: &Bounds, icc: Icc) -> Result<Decoded, Failure> {
    catch(|| {
        let format = Format::sniff(bytes)?;
        bounds.check(header(bytes)?.size)?;
        let raw = match format {
            Format::Jpeg => jpeg::decode(bytes),
            Format::Png => png::decode(bytes),
            Format::WebP => webp::decode(bytes),
            Format::Gif => gif::decode(bytes, bounds),
            Format::Bmp => bmp::decode(bytes),
            Format::Tiff => tiff::decode(bytes),
        }?;
        let turn = Turn::from_exif(raw.orientation);
        let mut faithful = raw.faithful && turn == Turn::None;
        let (size, had_icc) = (raw.size, raw.icc.is_some());
        let colour::Coloured { rgb, icc, changed } = colour::to_rgb(raw, icc);
        faithful &= !changed && icc.is_some() == had_icc;
        let image =
            Image::from_rgb(size, rgb).ok_or_else(|| corrupt("the pixels are not as many as the header says"))?;
        Ok(Decoded { image: image.turned(turn), format, icc, faithful })
    })
}

/// The first `KEPT` of every `ALL` channels: drops alpha.
fn leading<const ALL: usize, const KEPT: usize>(data: &[u8]) -> Vec<u8> {
    let (pixels, _) = data.as_chunks::<ALL>();
    let mut kept = vec![0; pixels.len() * KEPT];
    for (to, from) in kept.as_chunks_mut::<KEPT>().0.iter_mut().zip(pixels) {
        to.copy_from_slice(&from[..KEPT]);
    }
    kept
}

/// One RGB triple for each byte.
fn triples(data: &[u8], colour: impl Fn(u8) -> [u8; 3]) -> Vec<u8> {
    let mut rgb = vec![0; data.len() * 3];
    for (to, from) in rgb.as_chunks_mut().0.iter_mut().zip(data) {
        *to = colour(*from);
    }
    rgb
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread decodes a file: a panic then becomes a failed row, and no panic hook should tell it as a bug.
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Turns a panic of a decoder into a failure of the file.
fn catch<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let before = DECODING.replace(true);
    // Nothing that `work` could leave half-done outlives it: it only reads the bytes and builds its result.
    let result = catch_unwind(AssertUnwindSafe(work));
    DECODING.set(before);
    result.unwrap_or_else(|_| Err(corrupt("the decoder gave up on it")))
}

/// Reads big- and little-endian numbers out of a byte slice; `None` past its end.
#[derive(Clone, Copy)]
struct Numbers<'a> {
    bytes: &'a [u8],
    little: bool,
}

impl<'a> Numbers<'a> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut array: [u8; N] = self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
        if !self.little {
            array.reverse();
        }
        Some(array)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u24(&self, at: usize) -> Option<u32> {
        let [a, b, c] = self.array::<3>(at)?;
        Some(u32::from_le_bytes([a, b, c, 0]))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn slice(&self, at: usize, length: usize) -> Option<&'a [u8]> {
        self.bytes.get(at..at.checked_add(length)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_of_the_file_and_of_nothing_else() {
        assert!(!is_decoding());
        let failure = catch::<()>(|| {
            // As `decode` reads the header within its own guard.
            catch(|| Ok(())).unwrap();
            assert!(is_decoding());
            panic!("a decoder's")
        });
        assert_eq!(failure.unwrap_err().code, FailureCode::Corrupt);
        assert!(!is_decoding());
    }
}
