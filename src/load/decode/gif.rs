//! GIF, by the `gif` crate: the first frame, laid on its canvas as Pillow does.
//!
//! What the frame leaves bare gets the colour of its transparent index, or of index 0. A frame that reaches beyond the
//! screen makes the canvas larger. The blocks are walked here first, to find both and to see that the file reaches its end.

use gif::{ColorOutput, DecodeOptions, MemoryLimit};

use super::{Bounds, Header, Numbers, Pixels, Raw, corrupt, triples};
use crate::image::Size;
use crate::sample::Failure;

/// What the blocks say.
struct Blocks {
    /// Screen and first frame together.
    canvas: Size,
    /// Upper left corner and size of the first frame.
    at: (u32, u32),
    frame: Size,
    frames: usize,
    /// The first frame's transparent index.
    transparent: Option<u8>,
}

fn truncated() -> Failure {
    corrupt("truncated: the file ends before its trailer")
}

fn screen(bytes: &[u8]) -> Option<Size> {
    let numbers = Numbers { bytes, little: true };
    Some(Size::new(numbers.u16(6)?.into(), numbers.u16(8)?.into()))
}

/// Skips sub-blocks, each with its length before it, up to the empty one.
fn skip_sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length => at += 1 + usize::from(length),
        }
    }
}

/// Bytes of the colour table that `flags` announce.
fn table(flags: u8) -> usize {
    if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 }
}

/// Goes on until the trailer, or until the first frame if `whole` is false.
fn walk(bytes: &[u8], whole: bool) -> Option<Result<Blocks, Failure>> {
    let numbers = Numbers { bytes, little: true };
    let screen = screen(bytes)?;
    let mut at = 13 + table(*bytes.get(10)?);
    let mut transparent = None;
    let mut blocks: Option<Blocks> = None;
    loop {
        match *bytes.get(at)? {
            // Some writers leave stray terminators between blocks.
            0 => at += 1,
            0x21 => {
                // Graphic control: length 4, flags, delay, index.
                if *bytes.get(at + 1)? == 0xf9 && blocks.is_none() && *bytes.get(at + 2)? == 4 {
                    transparent = (*bytes.get(at + 3)? & 1 == 1).then_some(*bytes.get(at + 6)?);
                }
                at = skip_sub_blocks(bytes, at + 2)?;
            }
            0x2c => {
                let [x, y, w, h] = [1, 3, 5, 7].map(|i| numbers.u16(at + i).map(u32::from));
                let (x, y, frame) = (x?, y?, Size::new(w?, h?));
                let data = at + 10 + table(*bytes.get(at + 9)?) + 1;
                let first = blocks.get_or_insert(Blocks {
                    canvas: Size::new(screen.width.max(x + frame.width), screen.height.max(y + frame.height)),
                    at: (x, y),
                    frame,
                    frames: 0,
                    transparent,
                });
                first.frames += 1;
                if !whole {
                    return blocks.map(Ok);
                }
                at = skip_sub_blocks(bytes, data)?;
            }
            0x3b => return Some(blocks.ok_or_else(|| corrupt("there is no frame in the file"))),
            other => return Some(Err(corrupt(format!("no GIF block begins with {other:#04x}")))),
        }
    }
}

/// Size and memory: indices, canvas, RGB.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Failure> {
    let size = match walk(bytes, false) {
        Some(blocks) => blocks?.canvas,
        None => screen(bytes).ok_or_else(truncated)?,
    };
    Ok(Header { size, bytes_per_pixel: 5 })
}

/// Decodes the first frame.
pub(super) fn decode(bytes: &[u8], bounds: &Bounds) -> Result<Raw, Failure> {
    let blocks = walk(bytes, true).ok_or_else(truncated)??;
    bounds.check(blocks.canvas)?;
    if blocks.frame.pixels() == 0 {
        return Err(corrupt("the first frame has no pixels"));
    }
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.allow_unknown_blocks(true);
    let limit = (blocks.frame.pixels() as u64).saturating_add(16 << 20);
    options.set_memory_limit(std::num::NonZeroU64::new(limit).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let failed = |e: gif::DecodingError| corrupt(format!("GIF: {e}"));
    let mut decoder = options.read_info(bytes).map_err(failed)?;
    let frame = decoder.next_frame_info().map_err(failed)?.ok_or_else(|| corrupt("there is no frame in the file"))?;
    if (u32::from(frame.width), u32::from(frame.height)) != (blocks.frame.width, blocks.frame.height) {
        return Err(corrupt("the first frame's size is not clear"));
    }
    let mut indices = vec![0; blocks.frame.pixels()];
    decoder.read_into_buffer(&mut indices).map_err(failed)?;
    let palette = decoder.palette().map_err(failed)?.as_chunks::<3>().0;
    // An index beyond the table is black, as a palette filled up to 256 entries has it.
    let colour = |index: u8| palette.get(usize::from(index)).copied().unwrap_or_default();
    let rgb = if blocks.frame == blocks.canvas {
        triples(&indices, colour)
    } else {
        let mut rgb = colour(blocks.transparent.unwrap_or(0)).repeat(blocks.canvas.pixels());
        let stride = blocks.canvas.width as usize * 3;
        let rows = indices.chunks_exact(blocks.frame.width as usize);
        for (row, line) in rows.zip(rgb.chunks_exact_mut(stride).skip(blocks.at.1 as usize)) {
            let line = &mut line[blocks.at.0 as usize * 3..];
            for (pixel, index) in line.as_chunks_mut::<3>().0.iter_mut().zip(row) {
                *pixel = colour(*index);
            }
        }
        rgb
    };
    let faithful = blocks.frames == 1 && blocks.transparent.is_none() && blocks.frame == blocks.canvas;
    Ok(Raw { size: blocks.canvas, pixels: Pixels::Rgb(rgb), orientation: 1, icc: None, faithful })
}
