//! TIFF, by the `tiff` crate: the first page; grey, RGB, CMYK and YCbCr (JPEG) of 8 or 16 bits, grey and palette also of
//! 1, 2 and 4; with or without alpha; strips, tiles, planes. All else (floats, Lab, 32 bits) is `unsupported`.
//!
//! Before anything is decoded, values must lie inside the file and be no more than a tag can need, since that decoder takes
//! 32 bytes for each; the tags that rule allocations are checked against the image's own size, strips and tiles must lie
//! inside the file, and JPEG strips must be of the size that they are put into. That decoder refuses palettes, so it is told
//! that the indices are grey, in a copy of the file with one tag changed; and it does not know files whose bytes begin with the
//! lowest bit (fax programs write them), so it gets a copy with those turned round.
//!
//! (long because the first page's tags and its JPEG strips are walked here, too)

use std::io::Cursor;
use std::ops::Range;

use tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::{Header, MAX_ICC, Numbers, Pixels, Raw, corrupt, segments, triples, unsupported};
use crate::image::Size;
use crate::image::jpeg::ycc_to_rgb;
use crate::sample::Failure;

const PALETTE: u16 = 3;
const GREY: u16 = 1;
const JPEG: u16 = 7;
/// Of `FillOrder`: the first pixel is in a byte's lowest bit.
const LOWEST_FIRST: u16 = 2;
/// Of `PlanarConfiguration`: one channel after the other.
const PLANES: u16 = 2;
/// Of `ExtraSamples`: alpha that the colours are multiplied with.
const ASSOCIATED: u16 = 1;

/// Most samples of a pixel, alpha and what else is extra included.
const MAX_SAMPLES: u16 = 8;

/// Most strips or tiles: a hundred million pixels in tiles of 16 × 16, three planes of them, are a few more than a million.
const MAX_CHUNKS: u64 = 2 << 20;

/// Most bytes of tables before each JPEG strip: four for quantisation and eight for Huffman codes take less than 3 KiB.
const MAX_JPEG_TABLES: usize = 16 << 10;

/// Most values of any other tag: a palette of 16 bits has 3 · 65,536.
const MAX_VALUES: u64 = 3 << 16;

/// Later pages that are looked for; the chain of a hostile file may have no end.
const MAX_PAGES: usize = 256;

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

/// A tag of the first page.
#[derive(PartialEq)]
struct Entry<'a> {
    tag: u16,
    /// What its values are.
    kind: u16,
    /// How many values it has.
    count: u64,
    /// Where the value stands, or its offset if it is longer than that field.
    field: usize,
    /// `None` if it does not lie inside the file.
    value: Option<&'a [u8]>,
}

/// The tags of the first page; `None` if there is no page.
fn entries(bytes: &[u8]) -> Option<impl Iterator<Item = Entry<'_>>> {
    let numbers = Numbers { bytes, little: bytes.first()? == &b'I' };
    let big = numbers.u16(2)? == 43;
    let word = move |at: usize| match big {
        true => numbers.array(at).map(u64::from_le_bytes),
        false => numbers.u32(at).map(u64::from),
    };
    let page = usize::try_from(word(if big { 8 } else { 4 })?).ok()?;
    let count = if big { word(page)? } else { numbers.u16(page)?.into() };
    let (width, length) = if big { (8, 20) } else { (4, 12) };
    let first = page.checked_add(if big { 8 } else { 2 })?;
    let entry = move |i: usize| {
        let at = first + i * length;
        let (kind, field) = (numbers.u16(at + 2)?, at + 4 + width);
        let size = match kind {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            _ => 1,
        };
        let count = word(at + 4)?;
        let value = || {
            let length = usize::try_from(count.checked_mul(size)?).ok()?;
            let start = if length <= width { field } else { usize::try_from(word(field)?).ok()? };
            numbers.slice(start, length)
        };
        Some(Entry { tag: numbers.u16(at)?, kind, count, field, value: value() })
    };
    // No more than the file has room for.
    let count = usize::try_from(count).ok()?.min(bytes.len() / length);
    Some((0..count).map_while(entry))
}

/// Refuses tags that the decoder reads with more values than they can need.
fn check_tags(bytes: &[u8]) -> Result<(), Failure> {
    let big = bytes.get(2..4).is_some_and(|version| version.contains(&43));
    for entry in entries(bytes).ok_or_else(|| corrupt("truncated: there is no page"))? {
        let Entry { tag, kind, count, value, .. } = entry;
        // The decoder skips too little of such a tag, and would read the rest of it as the next one.
        if big && !matches!(kind, 1..=13 | 16..=18) {
            return Err(unsupported(format!("BigTIFF with a tag of kind {kind}")));
        }
        let chunks = [Tag::StripOffsets, Tag::StripByteCounts, Tag::TileOffsets, Tag::TileByteCounts];
        let most = match Tag::from_u16_exhaustive(tag) {
            tag if chunks.contains(&tag) => MAX_CHUNKS,
            Tag::ImageWidth | Tag::ImageLength | Tag::BitsPerSample | Tag::Compression => MAX_VALUES,
            Tag::PhotometricInterpretation | Tag::SamplesPerPixel | Tag::RowsPerStrip | Tag::Orientation => MAX_VALUES,
            Tag::PlanarConfiguration | Tag::Predictor | Tag::ColorMap | Tag::TileWidth | Tag::TileLength => MAX_VALUES,
            Tag::ExtraSamples | Tag::SampleFormat | Tag::JPEGTables | Tag::ChromaSubsampling => MAX_VALUES,
            _ => continue,
        };
        if value.is_none() || count > most {
            return Err(corrupt(format!(
                "tag {tag} has {count} values, more than it can have or than are in the file"
            )));
        }
    }
    Ok(())
}

/// The decoder of the first page, allowed as much memory as its pixels can take.
fn open(bytes: &[u8]) -> Result<(Reader<'_>, Size), Failure> {
    check_tags(bytes)?;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(failed)?;
    let (width, height) = decoder.dimensions().map_err(failed)?;
    let size = Size::new(width, height);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = size.pixels().saturating_mul(2 * usize::from(MAX_SAMPLES)).saturating_add(1 << 20);
    // Strips are compressed pieces of the file, which `check` holds against the file's length.
    limits.intermediate_buffer_size = usize::MAX;
    limits.ifd_value_size = MAX_ICC;
    Ok((decoder.with_limits(limits), size))
}

fn tag(decoder: &mut Reader<'_>, tag: Tag) -> Result<Option<u16>, Failure> {
    decoder.find_tag_unsigned::<u16>(tag).map_err(failed)
}

/// Size and memory: samples of 16 bits, planes put together, and RGB.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    let (mut decoder, size) = open(bytes)?;
    let samples = u64::from(tag(&mut decoder, Tag::SamplesPerPixel)?.unwrap_or(1).min(MAX_SAMPLES));
    // At least what `open` allows for the tags of other pages.
    Ok(Header { size, bytes_per_pixel: (4 * samples + 3).max(2 * u64::from(MAX_SAMPLES)) })
}

/// Decodes the first page.
pub(super) fn decode(bytes: &[u8]) -> Result<Raw, Failure> {
    match turned(bytes)? {
        Some(copy) => first_page(&copy),
        None => first_page(bytes),
    }
}

/// A copy of a file whose bytes begin with the lowest bit, with those of its strips or tiles turned round.
fn turned(bytes: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let (mut decoder, _) = open(bytes)?;
    let lowest_first = tag(&mut decoder, Tag::FillOrder)? == Some(LOWEST_FIRST);
    if !lowest_first || tag(&mut decoder, Tag::Compression)? == Some(JPEG) {
        return Ok(None);
    }
    let mut copy = bytes.to_vec();
    for chunk in chunks(&mut decoder, bytes)? {
        copy[chunk].iter_mut().for_each(|byte| *byte = byte.reverse_bits());
    }
    // Else the copy might be larger than what was allowed for it.
    let same_tags = entries(bytes).zip(entries(&copy)).is_some_and(|(tags, copied)| tags.eq(copied));
    same_tags.then_some(Some(copy)).ok_or_else(|| corrupt("its strips overlap its tags"))
}

/// Decodes a page whose bytes begin with the highest bit.
fn first_page(bytes: &[u8]) -> Result<Raw, Failure> {
    let (mut decoder, size) = open(bytes)?;
    check(&mut decoder, bytes, size)?;
    let orientation = tag(&mut decoder, Tag::Orientation)?.and_then(|o| u8::try_from(o).ok()).unwrap_or(1);
    let is_icc = |entry: &Entry<'_>| entry.tag == Tag::IccProfile.to_u16();
    let icc = entries(bytes).and_then(|mut entries| entries.find(is_icc)).and_then(|entry| entry.value);
    let icc = icc.filter(|profile| !profile.is_empty() && profile.len() <= MAX_ICC).map(<[u8]>::to_vec);
    let pages = decoder.more_images();
    if pages {
        later_pages(open(bytes)?.0, bytes)?;
    }
    if tag(&mut decoder, Tag::PhotometricInterpretation)? == Some(PALETTE) {
        let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(failed)?;
        let grey = as_grey(bytes).ok_or_else(|| corrupt("the palette's tag is not where it should be"))?;
        let (mut decoder, _) = open(&grey)?;
        let indices = read(&mut decoder)?.samples(size, 1, false)?;
        let entries = map.len() / 3;
        // Red, green and blue stand one after the other, 16 bits each. Beyond the table is black.
        let channel = |index: u8, c: usize| map.get(c * entries + usize::from(index)).map_or(0, |v| (v >> 8) as u8);
        let rgb = triples(&indices, |index| match usize::from(index) < entries {
            true => [0, 1, 2].map(|c| channel(index, c)),
            false => [0; 3],
        });
        return Ok(Raw { size, pixels: Pixels::Rgb(rgb), orientation, icc, faithful: !pages });
    }
    let data = read(&mut decoder)?;
    let (channels, kept) = match data.colour {
        ColorType::Gray(1 | 2 | 4 | 8 | 16) => (1, 1),
        ColorType::GrayA(8 | 16) | ColorType::Multiband { bit_depth: 8 | 16, num_samples: 2 } => (2, 1),
        ColorType::RGB(8 | 16) | ColorType::YCbCr(8) => (3, 3),
        ColorType::RGBA(8 | 16) => (4, 3),
        ColorType::CMYK(8 | 16) => (4, 4),
        ColorType::CMYKA(8 | 16) => (5, 4),
        other => return Err(unsupported(format!("TIFF of kind {other:?}"))),
    };
    let faithful = channels == kept && data.colour.bit_depth() <= 8 && !pages;
    let ycbcr = matches!(data.colour, ColorType::YCbCr(_));
    let mut pixels = data.samples(size, channels, true)?;
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(failed)?;
    if channels == kept + 1 && extra.as_deref().and_then(<[u16]>::first) == Some(&ASSOCIATED) {
        divide(&mut pixels, channels);
    }
    if kept < channels {
        pixels = pixels.chunks_exact(channels).flat_map(|pixel| pixel[..kept].iter().copied()).collect();
    }
    if ycbcr {
        for pixel in pixels.as_chunks_mut().0 {
            let [y, cb, cr] = *pixel;
            *pixel = ycc_to_rgb(y, cb, cr);
        }
    }
    let pixels = match kept {
        1 => Pixels::Grey(pixels),
        3 => Pixels::Rgb(pixels),
        _ => Pixels::Cmyk(pixels),
    };
    Ok(Raw { size, pixels, orientation, icc, faithful })
}

/// Colours as they were before they were multiplied with the alpha behind them, rounded down as Pillow does it; where nothing is
/// seen they stay.
fn divide(pixels: &mut [u8], channels: usize) {
    for pixel in pixels.chunks_exact_mut(channels) {
        let (&mut alpha, colours) = pixel.split_last_mut().unwrap_or((&mut 0, &mut []));
        if alpha > 0 {
            colours.iter_mut().for_each(|level| *level = (u16::from(*level) * 255 / u16::from(alpha)).min(255) as u8);
        }
    }
}

/// Holds the tags that rule allocations against the image's size and the file's.
fn check(decoder: &mut Reader<'_>, bytes: &[u8], size: Size) -> Result<(), Failure> {
    let samples = tag(decoder, Tag::SamplesPerPixel)?.unwrap_or(1);
    if samples == 0 || samples > MAX_SAMPLES {
        return Err(unsupported(format!("TIFF with {samples} samples a pixel")));
    }
    let (width, height) = decoder.chunk_dimensions();
    let tiled = decoder.get_chunk_type() == ChunkType::Tile;
    // Tiles are multiples of 16 and may stand out a little, or a lot where the image is small.
    let fits = |tile: u32, side: u32| u64::from(tile) <= (u64::from(side) + 16).max(4096);
    if tiled && !(fits(width, size.width) && fits(height, size.height)) {
        return Err(corrupt(format!("tiles of {width} × {height} for {} × {} pixels", size.width, size.height)));
    }
    let planes = tag(decoder, Tag::PlanarConfiguration)? == Some(PLANES) && samples > 1;
    if planes && tiled && !(size.width.is_multiple_of(width) && size.height.is_multiple_of(height)) {
        return Err(unsupported("TIFF with planes in tiles that stand out over its edges"));
    }
    let chunks = chunks(decoder, bytes)?;
    if tag(decoder, Tag::Compression)? != Some(JPEG) {
        return Ok(());
    }
    // The decoder puts these before each strip, which would then say nothing.
    let mut tables = entries(bytes).into_iter().flatten().filter(|entry| entry.tag == Tag::JPEGTables.to_u16());
    if tables.any(|tables| tables.value.is_none_or(|it| it.len() > MAX_JPEG_TABLES || may_frame(it, it.len()))) {
        return Err(corrupt("its JPEG tables are no tables"));
    }
    for chunk in chunks {
        let inner = jpeg_size(&bytes[chunk])?;
        let place = if tiled { height } else { height.min(size.height) };
        if inner.width > width.saturating_add(16) || inner.height > place.saturating_add(16) {
            return Err(corrupt("a JPEG strip is larger than the place that it is for"));
        }
    }
    Ok(())
}

/// Whether the decoder may take something that begins before `end` for a frame header, however it goes through these bytes.
/// Coarse quantisation tables hold such a marker's two bytes, but not the length that its components need.
fn may_frame(bytes: &[u8], end: usize) -> bool {
    (0..end).any(|at| match bytes[at..] {
        [0xff, 0xc0..=0xc2, high, low, precision, _, _, _, _, components, ..] => {
            precision == 8 && u16::from_be_bytes([high, low]) == 8 + 3 * u16::from(components)
        }
        // What follows is not known here.
        [0xff, 0xc0..=0xc2, ..] => true,
        _ => false,
    })
}

/// The size of a JPEG stream that reaches its end marker, and in which no reader finds another frame header before its own.
fn jpeg_size(bytes: &[u8]) -> Result<Size, Failure> {
    // What stands before the first marker may be the end of one in the tables.
    if !bytes.starts_with(&[0xff, segments::SOI, 0xff]) {
        return Err(corrupt("a JPEG stream that does not begin as one"));
    }
    let mut walker = segments::Walker::new(bytes);
    let mut size = None;
    loop {
        let segment = walker.next()?;
        if let Some(frame) = segments::frame(&segment)? {
            let before = walker.at - segment.body.len() - 4;
            if size.is_some() || may_frame(bytes, before) {
                return Err(corrupt("two frame headers"));
            }
            size = Some(frame.size);
        }
        match segment.marker {
            segments::SOS => drop(walker.scan()?),
            segments::EOI => return size.ok_or_else(|| corrupt("there is no frame header")),
            _ => {}
        }
    }
}

/// Where the compressed strips or tiles of the decoder's page are.
fn chunks(decoder: &mut Reader<'_>, bytes: &[u8]) -> Result<Vec<Range<usize>>, Failure> {
    let (offsets, counts) = match decoder.get_chunk_type() {
        ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
        ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
    };
    let mut list = |tag| decoder.find_tag_unsigned_vec::<u64>(tag).map_err(failed);
    let (offsets, counts) = (list(offsets)?.unwrap_or_default(), list(counts)?.unwrap_or_default());
    let chunk = |(offset, count): (&u64, &u64)| {
        let (at, length) = (usize::try_from(*offset).ok()?, usize::try_from(*count).ok()?);
        let chunk = at..at.checked_add(length)?;
        bytes.get(chunk.clone()).map(|_| chunk)
    };
    let chunks: Option<Vec<_>> = offsets.iter().zip(&counts).map(chunk).collect();
    let chunks = chunks.ok_or_else(|| corrupt("truncated: the file ends inside its pixels"))?;
    // A strip used twice would let a small file cost strips times bytes.
    let total = chunks.iter().fold(0, |total: usize, chunk| total.saturating_add(chunk.len()));
    if total > bytes.len() {
        return Err(corrupt("its strips overlap"));
    }
    Ok(chunks)
}

/// Fails if a later page is cut off. What is in those pages does not matter here.
fn later_pages(mut decoder: Reader<'_>, bytes: &[u8]) -> Result<(), Failure> {
    for _ in 0..MAX_PAGES {
        if !decoder.more_images() {
            break;
        }
        match decoder.next_image() {
            Ok(()) => drop(chunks(&mut decoder, bytes)?),
            Err(TiffError::IoError(_)) => return Err(corrupt("truncated: the file ends before its last page")),
            Err(_) => break,
        }
    }
    Ok(())
}

/// Samples as they were read: rows padded to bytes, planes one after the other.
struct Samples {
    colour: ColorType,
    data: DecodingResult,
    planes: usize,
}

fn read(decoder: &mut Reader<'_>) -> Result<Samples, Failure> {
    let colour = decoder.colortype().map_err(failed)?;
    let mut data = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut data).map_err(failed)?;
    if data.as_buffer(0).byte_len() < layout.complete_len {
        return Err(corrupt("not all planes could be read"));
    }
    Ok(Samples { colour, data, planes: layout.planes })
}

impl Samples {
    /// 8-bit samples, `channels` for each pixel, interleaved. 16 bits give their high byte; fewer than 8 are stretched to
    /// 0–255, or left as they are if `stretch` is false.
    fn samples(self, size: Size, channels: usize, stretch: bool) -> Result<Vec<u8>, Failure> {
        let bits = usize::from(self.colour.bit_depth());
        let mut samples = match self.data {
            DecodingResult::U8(data) if bits == 8 => data,
            DecodingResult::U8(data) if bits < 8 && channels == 1 => {
                let (top, width) = ((1u16 << bits) - 1, size.width as usize);
                let scale = if stretch { (255 / top) as u8 } else { 1 };
                let value = |row: &[u8], x: usize| {
                    let shift = 8 - bits - x * bits % 8;
                    (u16::from(row[x * bits / 8]) >> shift & top) as u8 * scale
                };
                let rows = data.chunks_exact((width * bits).div_ceil(8));
                rows.flat_map(|row| (0..width).map(move |x| value(row, x))).collect()
            }
            DecodingResult::U16(data) if bits == 16 => data.into_iter().map(|v| (v >> 8) as u8).collect(),
            _ => return Err(unsupported(format!("TIFF with {bits} bits of kind {:?}", self.colour))),
        };
        if self.planes > 1 {
            if self.planes < channels || samples.len() != self.planes * size.pixels() {
                return Err(unsupported(format!("TIFF with {} planes of kind {:?}", self.planes, self.colour)));
            }
            let planes = &samples;
            samples =
                (0..size.pixels()).flat_map(|i| (0..channels).map(move |c| planes[c * size.pixels() + i])).collect();
        }
        if samples.len() != size.pixels() * channels {
            return Err(corrupt("the pixels are not as many as the header says"));
        }
        Ok(samples)
    }
}

/// A copy of the file whose first page calls itself grey.
fn as_grey(bytes: &[u8]) -> Option<Vec<u8>> {
    let at = entries(bytes)?.find(|entry| entry.tag == Tag::PhotometricInterpretation.to_u16())?.field;
    let grey = if bytes.first()? == &b'I' { GREY.to_le_bytes() } else { GREY.to_be_bytes() };
    let mut copy = bytes.to_vec();
    copy.get_mut(at..at + 2)?.copy_from_slice(&grey);
    Some(copy)
}

fn failed(error: TiffError) -> Failure {
    match error {
        TiffError::UnsupportedError(what) => unsupported(format!("TIFF: {what}")),
        TiffError::LimitsExceeded => corrupt("TIFF: a tag asks for more memory than the image can need"),
        other => corrupt(format!("TIFF: {other}")),
    }
}
