//! The segments of a JPEG file: what they say, and whether the file reaches its end.

use super::{MAX_ICC, Numbers, corrupt, exif, unsupported};
use crate::image::Size;
use crate::sample::Failure;

pub(super) const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
pub(super) const SOS: u8 = 0xda;
pub(super) const DQT: u8 = 0xdb;
pub(super) const DRI: u8 = 0xdd;
pub(super) const DHT: u8 = 0xc4;
pub(super) const APP0: u8 = 0xe0;
pub(super) const APP1: u8 = 0xe1;
pub(super) const APP2: u8 = 0xe2;
pub(super) const APP14: u8 = 0xee;

/// What the bytes of a scan's components mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Grey,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// A frame header, and what else decides how to read the file.
pub(super) struct Frame {
    pub(super) size: Size,
    pub(super) progressive: bool,
    /// Identifier, sampling factors and quantisation table of each component, as in the file.
    pub(super) components: Vec<[u8; 3]>,
}

/// One segment: its marker, and what stands behind its length.
pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    pub(super) body: &'a [u8],
}

/// Goes through the segments of a file.
pub(super) struct Walker<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Walker<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2 }
    }

    /// The next segment. Garbage before a marker is skipped, as libjpeg does.
    pub(super) fn next(&mut self) -> Result<Segment<'a>, Failure> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let ff = rest.iter().position(|b| *b == 0xff).ok_or_else(truncated)?;
            let fill = rest[ff..].iter().position(|b| *b != 0xff).ok_or_else(truncated)?;
            let marker = rest[ff + fill];
            self.at += ff + fill + 1;
            match marker {
                // A stuffed zero is garbage here; restart markers and TEM have no body.
                0x00 | 0x01 | 0xd0..=0xd7 | SOI => {}
                EOI => return Ok(Segment { marker, body: &[] }),
                _ => {
                    let numbers = Numbers { bytes: self.bytes, little: false };
                    let length = usize::from(numbers.u16(self.at).ok_or_else(truncated)?);
                    if length < 2 {
                        return Err(corrupt("a segment shorter than its own length"));
                    }
                    let body = numbers.slice(self.at + 2, length - 2).ok_or_else(truncated)?;
                    self.at += length;
                    return Ok(Segment { marker, body });
                }
            }
        }
    }

    /// The entropy-coded data that begins here, restart markers included.
    pub(super) fn scan(&mut self) -> Result<&'a [u8], Failure> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut end = 0;
        loop {
            end += rest[end..].iter().position(|b| *b == 0xff).ok_or_else(truncated)?;
            match rest.get(end + 1).ok_or_else(truncated)? {
                0x00 | 0xd0..=0xd7 => end += 2,
                // A fill byte before a marker.
                0xff => end += 1,
                _ => break,
            }
        }
        self.at += end;
        Ok(&rest[..end])
    }
}

pub(super) fn truncated() -> Failure {
    corrupt("truncated: the file ends before its end-of-image marker")
}

/// Reads a start-of-frame segment, or says why it cannot be decoded. `None` for other segments.
pub(super) fn frame(segment: &Segment<'_>) -> Result<Option<Frame>, Failure> {
    let kind = match segment.marker {
        DHT | 0xc8 | 0xcc => return Ok(None),
        0xc0..=0xcf => segment.marker,
        _ => return Ok(None),
    };
    let [precision, h1, h0, w1, w0, count, components @ ..] = segment.body else {
        return Err(corrupt("the frame header is too short"));
    };
    match kind {
        0xc0..=0xc2 => {}
        0xc3 => return Err(unsupported("lossless JPEG")),
        0xc9 | 0xca => return Err(unsupported("JPEG with arithmetic coding")),
        _ => return Err(unsupported("hierarchical or lossless JPEG")),
    }
    if *precision != 8 {
        return Err(unsupported(format!("JPEG with {precision} bits")));
    }
    let size = Size::new(u32::from(u16::from_be_bytes([*w1, *w0])), u32::from(u16::from_be_bytes([*h1, *h0])));
    if size.height == 0 {
        return Err(unsupported("JPEG whose height follows the scan"));
    }
    if !matches!(count, 1 | 3 | 4) {
        return Err(unsupported(format!("JPEG with {count} components")));
    }
    let components = components.as_chunks::<3>().0;
    if components.len() != usize::from(*count) {
        return Err(corrupt("the frame header does not fit its number of components"));
    }
    Ok(Some(Frame { size, progressive: kind == 0xc2, components: components.to_vec() }))
}

/// One scan, and how many of the table bytes came before it.
pub(super) struct Scan<'a> {
    pub(super) tables: usize,
    pub(super) header: Vec<u8>,
    pub(super) data: &'a [u8],
}

/// What is gathered while walking.
#[derive(Default)]
pub(super) struct Parts<'a> {
    pub(super) jfif: bool,
    pub(super) adobe: Option<u8>,
    pub(super) orientation: u8,
    /// Profile pieces by their number.
    pub(super) icc: Vec<(u8, &'a [u8])>,
    pub(super) frame: Option<Frame>,
    /// All table segments so far.
    pub(super) tables: Vec<u8>,
    pub(super) huffman: bool,
    pub(super) scans: Vec<Scan<'a>>,
    /// For each component and coefficient the bits that are still missing; more than 13 before its first scan.
    pub(super) missing: Vec<[u8; 64]>,
}

impl<'a> Parts<'a> {
    pub(super) fn metadata(&mut self, segment: &Segment<'a>) {
        match (segment.marker, segment.body) {
            (APP0, body) => self.jfif |= body.starts_with(b"JFIF\0"),
            (APP1, body) if body.starts_with(b"Exif\0\0") && self.orientation == 0 => {
                self.orientation = exif::orientation(body);
            }
            (APP2, body) => {
                if let Some([number, _, piece @ ..]) = body.strip_prefix(b"ICC_PROFILE\0") {
                    self.icc.push((*number, piece));
                }
            }
            // "Adobe", version, two flags words, transform.
            (APP14, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) => self.adobe = Some(*transform),
            _ => {}
        }
    }

    /// Whether the scans so far bring all that there is.
    pub(super) fn complete(&self) -> bool {
        self.missing.as_flattened().iter().all(|bits| *bits == 0)
    }

    /// The profile, if all its pieces are there.
    pub(super) fn profile(&mut self) -> Option<Vec<u8>> {
        self.icc.sort_by_key(|(number, _)| *number);
        let complete = self.icc.iter().zip(1u8..).all(|((number, _), expected)| *number == expected);
        let length: usize = self.icc.iter().map(|(_, piece)| piece.len()).sum();
        let usable = complete && !self.icc.is_empty() && length <= MAX_ICC;
        usable.then(|| self.icc.iter().flat_map(|(_, piece)| piece.iter().copied()).collect())
    }

    /// libjpeg's rules (jdapimin.c, default_decompress_parms).
    pub(super) fn colour(&self, frame: &Frame) -> Colour {
        let ids: Vec<u8> = frame.components.iter().map(|c| c[0]).collect();
        match (ids.as_slice(), self.adobe) {
            ([_], _) => Colour::Grey,
            ([_, _, _], _) if self.jfif => Colour::YCbCr,
            ([_, _, _], Some(0)) => Colour::Rgb,
            ([b'R', b'G', b'B'], None) => Colour::Rgb,
            ([_, _, _], _) => Colour::YCbCr,
            (_, None | Some(0)) => Colour::Cmyk,
            (_, Some(_)) => Colour::Ycck,
        }
    }
}

pub(super) fn put(stream: &mut Vec<u8>, marker: u8, body: &[u8]) {
    // The length fits: `body` is what stood behind a 16-bit length.
    let length = (body.len() + 2) as u16;
    stream.extend_from_slice(&[0xff, marker]);
    stream.extend_from_slice(&length.to_be_bytes());
    stream.extend_from_slice(body);
}

/// A scan's header with its components renamed to what `start` calls them. Notes in `missing` what the scan brings.
pub(super) fn scan_header(body: &[u8], frame: &Frame, missing: &mut [[u8; 64]]) -> Result<Vec<u8>, Failure> {
    let bad = || corrupt("a scan header does not fit the frame");
    let mut renamed = body.to_vec();
    let count = usize::from(*body.first().ok_or_else(bad)?);
    let [from, to, bits] = *body.get(1 + 2 * count..).ok_or_else(bad)? else { return Err(bad()) };
    // A sequential scan brings all at once, whatever it says.
    let (brought, left) = if frame.progressive { (from..=to, bits & 15) } else { (0..=63, 0) };
    for i in 0..count {
        let id = renamed.get_mut(1 + 2 * i).ok_or_else(bad)?;
        let index = frame.components.iter().position(|c| c[0] == *id).ok_or_else(bad)?;
        *id = index as u8 + 1;
        for coefficient in brought.clone() {
            *missing[index].get_mut(usize::from(coefficient)).ok_or_else(bad)? = left;
        }
    }
    Ok(renamed)
}

/// Scans of a progressive file; encoders write about ten.
const MAX_PROGRESSIVE_SCANS: usize = 100;

/// Walks the file.
pub(super) fn gather(bytes: &[u8]) -> Result<(Parts<'_>, Frame), Failure> {
    let mut parts = Parts::default();
    let mut walker = Walker::new(bytes);
    loop {
        let segment = walker.next()?;
        parts.metadata(&segment);
        if let Some(frame) = frame(&segment)? {
            if parts.frame.is_some() {
                return Err(corrupt("two frame headers"));
            }
            parts.missing = vec![[u8::MAX; 64]; frame.components.len()];
            parts.frame = Some(frame);
            continue;
        }
        match segment.marker {
            DQT | DHT | DRI => {
                parts.huffman |= segment.marker == DHT;
                put(&mut parts.tables, segment.marker, segment.body);
            }
            SOS => {
                let frame = parts.frame.as_ref().ok_or_else(|| corrupt("image data before the frame header"))?;
                // Each scan costs a pass over its planes: repeated ones would buy weeks of work with a small file.
                let most = if frame.progressive { MAX_PROGRESSIVE_SCANS } else { frame.components.len() };
                if parts.scans.len() >= most {
                    return Err(corrupt("more scans than its components can have"));
                }
                let header = scan_header(segment.body, frame, &mut parts.missing)?;
                parts.scans.push(Scan { tables: parts.tables.len(), header, data: walker.scan()? });
                // What follows a complete sequential image (thumbnails, gain maps, a second scan) is not looked at, but
                // the end marker must be there.
                if !frame.progressive && parts.complete() {
                    while walker.next()?.marker != EOI {}
                    break;
                }
            }
            EOI => break,
            _ => {}
        }
    }
    let frame = parts.frame.take().ok_or_else(|| corrupt("there is no frame header"))?;
    if !parts.complete() {
        return Err(corrupt("truncated: scans are missing"));
    }
    Ok((parts, frame))
}
