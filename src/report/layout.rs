//! Where the tiles of a contact sheet stand, and their drawing.

use super::canvas::{Canvas, Colour, Fonts, GREY, INK, PAPER, RED, SUBTITLE, Style, TITLE, Weight};
use crate::image::resize::{Filter, resize};
use crate::image::{Image, Size};

/// Pixels of a tile's longer side.
const TILE: u32 = 256;
/// A record without any picture.
pub(super) const BLANK_SIZE: Size = Size { width: TILE, height: TILE * 2 / 3 };
/// Pixels around the whole.
const MARGIN: u32 = 36;
/// Pixels between the tiles of a record, and between records on one line.
const GAP: u32 = 12;
const RECORD_GAP: u32 = 40;
/// Pixels from a tile to the baselines of its two lines of text, and from the second to the next line of tiles.
const CAPTION: [u32; 2] = [20, 38];
const LINE_GAP: u32 = 28;
/// Pixels from the margin to the baselines of the heading, and from the last of them to the tiles.
const HEADING: [u32; 2] = [24, 50];
const HEADING_GAP: u32 = 28;

const EDGE: Colour = [0xe2, 0xe2, 0xde];
const BLANK: Colour = [0xf0, 0xf0, 0xec];
const NAME: Style = Style { weight: Weight::SemiBold, px: 13.5, colour: INK };
const DETAIL: Style = Style { weight: Weight::Regular, px: 13.0, colour: GREY };
const FAILED: Style = Style { weight: Weight::SemiBold, px: 13.5, colour: RED };

/// One picture and what stands under it.
#[derive(Debug)]
pub(super) struct Tile {
    /// What it shows.
    pub(super) face: Face,
    /// The first line under it.
    pub(super) name: String,
    /// True if `name` is a path, of which the end is kept where it is too long.
    pub(super) path: bool,
    /// The second line under it.
    pub(super) detail: String,
    /// Its size where it has no picture.
    pub(super) blank_size: Size,
}

/// What a tile shows.
#[derive(Debug)]
pub(super) enum Face {
    /// Already at its size on the sheet.
    Picture(Image),
    /// Why there is no picture.
    Blank(String),
}

impl Tile {
    fn size(&self) -> Size {
        match &self.face {
            Face::Picture(image) => image.size(),
            Face::Blank(_) => self.blank_size,
        }
    }
}

/// Brings the longer side to [`TILE`] pixels: down with Lanczos, up by whole factors with the pixels left as they are (a
/// smooth enlargement would look like a blur that is not in the data).
pub(super) fn fitted(image: Image) -> Image {
    let size = image.size();
    let longer = size.width.max(size.height);
    if longer > TILE {
        let side = |side: u32| ((f64::from(side) * f64::from(TILE) / f64::from(longer)).round() as u32).max(1);
        return resize(&image, Size::new(side(size.width), side(size.height)), Filter::Lanczos);
    }
    let factor = TILE / longer;
    match factor {
        0 | 1 => image,
        _ => Image::from_fn(Size::new(size.width * factor, size.height * factor), |x, y| {
            image.pixel(x / factor, y / factor)
        }),
    }
}

/// Where a record stands on the sheet.
struct Layout {
    /// Tiles in the widest record.
    tiles: u32,
    /// Records on a line.
    across: usize,
}

impl Layout {
    /// Puts so many records on a line that the sheet is about as wide as high and its last line well filled.
    fn of(records: &[Vec<Tile>]) -> Self {
        let tiles = records.iter().map(Vec::len).max().unwrap_or(1).max(1) as u32;
        let cost = |across: usize| {
            let lines = records.len().div_ceil(across).max(1);
            let width = f64::from(Self { tiles, across }.width());
            let tall = records.iter().flatten().map(|tile| tile.size().height).max().unwrap_or(TILE);
            let height = lines as f64 * f64::from(tall + CAPTION[1] + LINE_GAP) + 120.0;
            let empty = (lines * across - records.len()) as f64 / across as f64;
            (width / height / 1.3).ln().abs() + 0.7 * empty
        };
        let most = (9 / tiles as usize).clamp(1, records.len().max(1));
        let across = (1..=most).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(1);
        Self { tiles, across }
    }

    fn record_width(&self) -> u32 {
        self.tiles * TILE + (self.tiles - 1) * GAP
    }

    fn width(&self) -> u32 {
        let across = self.across as u32;
        across * self.record_width() + (across - 1) * RECORD_GAP
    }
}

/// The whole sheet; `records` are the tiles of each record from left to right.
pub(super) fn draw(fonts: &Fonts, title: &str, subtitle: &str, records: Vec<Vec<Tile>>) -> Image {
    let layout = Layout::of(&records);
    let heights: Vec<u32> = records
        .chunks(layout.across)
        .map(|line| line.iter().flatten().map(|tile| tile.size().height).max().unwrap_or(0))
        .collect();
    let top = MARGIN + HEADING[1] + HEADING_GAP;
    let tiles: u32 = heights.iter().map(|height| height + CAPTION[1] + LINE_GAP).sum();
    // A single small record must not cut off the heading.
    let heading = fonts.width(title, TITLE).max(fonts.width(subtitle, SUBTITLE)).min(1600.0).ceil() as u32;
    let width = layout.width().max(heading);
    let mut canvas = Canvas::new(Size::new(width + 2 * MARGIN, (top + tiles + MARGIN).saturating_sub(LINE_GAP)), PAPER);
    let left = MARGIN as f32;
    let line = |canvas: &mut Canvas, baseline: u32, text: &str, style: Style| {
        canvas.text(fonts, left, (MARGIN + baseline) as f32, &fonts.fit(text, style, width as f32), style);
    };
    line(&mut canvas, HEADING[0], title, TITLE);
    line(&mut canvas, HEADING[1], subtitle, SUBTITLE);
    let mut y = top;
    for (line, height) in records.chunks(layout.across).zip(heights) {
        for (i, record) in line.iter().enumerate() {
            let mut x = MARGIN + i as u32 * (layout.record_width() + RECORD_GAP);
            for tile in record {
                draw_tile(&mut canvas, fonts, tile, x, y, height);
                x += TILE + GAP;
            }
        }
        y += height + CAPTION[1] + LINE_GAP;
    }
    canvas.into_image()
}

/// Draws `tile` at the left of its cell, standing on the line's common ground.
fn draw_tile(canvas: &mut Canvas, fonts: &Fonts, tile: &Tile, x: u32, y: u32, height: u32) {
    let size = tile.size();
    let top = y + height - size.height;
    match &tile.face {
        Face::Picture(image) => {
            canvas.frame(x, top, size, EDGE);
            canvas.paste(x, top, image);
        }
        Face::Blank(why) => {
            canvas.frame(x, top, size, EDGE);
            canvas.fill(x, top, size, BLANK);
            let text = fonts.fit(why, FAILED, size.width as f32 - 24.0);
            let middle = x as f32 + (size.width as f32 - fonts.width(&text, FAILED)) / 2.0;
            canvas.text(fonts, middle, (top + size.height / 2) as f32 + 5.0, &text, FAILED);
        }
    }
    let width = TILE as f32;
    let name = if tile.path { fonts.fit_end(&tile.name, NAME, width) } else { fonts.fit(&tile.name, NAME, width) };
    let [first, second] = CAPTION.map(|down| (y + height + down) as f32);
    canvas.text(fonts, x as f32, first, &name, NAME);
    canvas.text(fonts, x as f32, second, &fonts.fit(&tile.detail, DETAIL, width), DETAIL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_images_grow_by_whole_factors_only() {
        let of = |w, h| fitted(Image::from_fn(Size::new(w, h), |x, y| [x as u8, y as u8, 0])).size();
        assert_eq!(of(32, 20), Size::new(256, 160));
        assert_eq!(of(200, 100), Size::new(200, 100));
        assert_eq!(of(1, 1), Size::new(256, 256));
        assert_eq!(of(512, 384), Size::new(256, 192));
        assert_eq!(of(3000, 2), Size::new(256, 1));
    }
}
