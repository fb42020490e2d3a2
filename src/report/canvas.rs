//! A picture to draw on: rectangles, images and lettering, enough for contact sheets.
//!
//! The lettering is Inter (`font/`, made by `scripts/make_font.py`), set glyph after glyph by its advance, anti-aliased, at
//! fractions of a pixel. Its digits all have one width. Characters that the font lacks are drawn as its empty box.

use std::borrow::Cow;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use png::{BitDepth, ColorType, Encoder};

use crate::error::{Error, Result};
use crate::image::{Image, Size};

/// R, G, B, 0–255.
pub(crate) type Colour = [u8; 3];

/// The ground.
pub(crate) const PAPER: Colour = [0xfb, 0xfb, 0xfa];
/// Names and headings.
pub(crate) const INK: Colour = [0x1b, 0x1c, 0x1e];
/// What stands under them.
pub(crate) const GREY: Colour = [0x6c, 0x6e, 0x73];
/// What went wrong.
pub(crate) const RED: Colour = [0xb4, 0x23, 0x18];

/// The two weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// For running text.
    Regular,
    /// For names and headings.
    SemiBold,
}

/// How a line of text looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Its weight.
    pub(crate) weight: Weight,
    /// Pixels of an em.
    pub(crate) px: f32,
    /// Its colour.
    pub(crate) colour: Colour,
}

/// The first line of a picture.
pub(crate) const TITLE: Style = Style { weight: Weight::SemiBold, px: 24.0, colour: INK };
/// Its second line.
pub(crate) const SUBTITLE: Style = Style { weight: Weight::Regular, px: 15.0, colour: GREY };

/// The fonts, parsed.
pub(crate) struct Fonts {
    regular: FontRef<'static>,
    semibold: FontRef<'static>,
}

impl Fonts {
    /// Parses the built-in fonts.
    pub(crate) fn new() -> Result<Self> {
        let parse = |bytes: &'static [u8]| {
            FontRef::try_from_slice(bytes).map_err(|e| Error::Bug(format!("the built-in font cannot be read: {e}")))
        };
        Ok(Self {
            regular: parse(include_bytes!("font/Inter-Regular.otf"))?,
            semibold: parse(include_bytes!("font/Inter-SemiBold.otf"))?,
        })
    }

    fn font(&self, weight: Weight) -> &FontRef<'static> {
        match weight {
            Weight::Regular => &self.regular,
            Weight::SemiBold => &self.semibold,
        }
    }

    /// Pixels from the start to the end of `text`.
    pub(crate) fn width(&self, text: &str, style: Style) -> f32 {
        let font = self.font(style.weight).as_scaled(scale(self.font(style.weight), style.px));
        text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
    }

    /// `text`, or as much of its start as fits into `width` pixels with an ellipsis behind.
    pub(crate) fn fit<'t>(&self, text: &'t str, style: Style, width: f32) -> Cow<'t, str> {
        if self.width(text, style) <= width {
            return text.into();
        }
        let mut kept: Vec<char> = text.chars().collect();
        while kept.pop().is_some() {
            let shorter = kept.iter().collect::<String>().trim_end_matches([' ', '·', ',']).to_owned() + "…";
            if self.width(&shorter, style) <= width {
                return shorter.into();
            }
        }
        "".into()
    }

    /// `text`, or as much of its end as fits with an ellipsis before: for paths, whose end says most.
    pub(crate) fn fit_end<'t>(&self, text: &'t str, style: Style, width: f32) -> Cow<'t, str> {
        if self.width(text, style) <= width {
            return text.into();
        }
        let starts = text.char_indices().map(|(at, _)| at).skip(1);
        let shorter = starts.map(|at| format!("…{}", &text[at..])).find(|text| self.width(text, style) <= width);
        shorter.unwrap_or_default().into()
    }
}

/// The scale at which an em has `px` pixels (ab_glyph counts from the highest ascent to the lowest descent).
fn scale(font: &FontRef<'_>, px: f32) -> PxScale {
    PxScale::from(px * font.height_unscaled() / font.units_per_em().unwrap_or(1000.0))
}

/// The picture.
pub(crate) struct Canvas {
    image: Image,
}

impl Canvas {
    /// All of one colour. Neither side may be 0.
    pub(crate) fn new(size: Size, colour: Colour) -> Self {
        Self { image: Image::from_fn(Size::new(size.width.max(1), size.height.max(1)), |_, _| colour) }
    }

    /// The finished picture.
    pub(crate) fn into_image(self) -> Image {
        self.image
    }

    /// A rectangle; what lies outside the canvas is left out.
    pub(crate) fn fill(&mut self, x: u32, y: u32, size: Size, colour: Colour) {
        let right = x.saturating_add(size.width).min(self.image.width());
        let bottom = y.saturating_add(size.height).min(self.image.height());
        let stride = self.image.width() as usize * 3;
        for row in y..bottom {
            let start = row as usize * stride;
            let line = &mut self.image.as_bytes_mut()[start..start + stride];
            for pixel in line[(x.min(right) as usize * 3)..(right as usize * 3)].chunks_exact_mut(3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }

    /// A line of one pixel around a rectangle, outside it.
    pub(crate) fn frame(&mut self, x: u32, y: u32, size: Size, colour: Colour) {
        let (left, top) = (x.saturating_sub(1), y.saturating_sub(1));
        let wide = Size::new(size.width + 2, 1);
        let tall = Size::new(1, size.height + 2);
        self.fill(left, top, wide, colour);
        self.fill(left, y + size.height, wide, colour);
        self.fill(left, top, tall, colour);
        self.fill(x + size.width, top, tall, colour);
    }

    /// An image whose upper left corner is at `x`, `y`; what lies outside the canvas is left out.
    pub(crate) fn paste(&mut self, x: u32, y: u32, image: &Image) {
        let width = image.width().min(self.image.width().saturating_sub(x)) as usize * 3;
        let height = image.height().min(self.image.height().saturating_sub(y));
        let stride = self.image.width() as usize * 3;
        for row in 0..height {
            let from = row as usize * image.width() as usize * 3;
            let to = (y + row) as usize * stride + x as usize * 3;
            self.image.as_bytes_mut()[to..to + width].copy_from_slice(&image.as_bytes()[from..from + width]);
        }
    }

    /// One line of text that starts at `x` and stands on the line `baseline`.
    pub(crate) fn text(&mut self, fonts: &Fonts, x: f32, baseline: f32, text: &str, style: Style) {
        let font = fonts.font(style.weight);
        let scale = scale(font, style.px);
        let scaled = font.as_scaled(scale);
        let mut pen = x;
        for c in text.chars() {
            let id = scaled.glyph_id(c);
            let glyph = id.with_scale_and_position(scale, point(pen, baseline));
            pen += scaled.h_advance(id);
            let Some(outline) = font.outline_glyph(glyph) else { continue };
            let (left, top) = (outline.px_bounds().min.x, outline.px_bounds().min.y);
            outline.draw(|dx, dy, coverage| self.blend(left + dx as f32, top + dy as f32, style.colour, coverage));
        }
    }

    fn blend(&mut self, x: f32, y: f32, colour: Colour, coverage: f32) {
        if x < 0.0 || y < 0.0 || x >= self.image.width() as f32 || y >= self.image.height() as f32 {
            return;
        }
        let at = (y as usize * self.image.width() as usize + x as usize) * 3;
        let coverage = coverage.clamp(0.0, 1.0);
        for (channel, ink) in self.image.as_bytes_mut()[at..at + 3].iter_mut().zip(colour) {
            let paper = f32::from(*channel);
            *channel = (paper + (f32::from(ink) - paper) * coverage).round() as u8;
        }
    }
}

/// `image` as a PNG file.
pub(crate) fn png(image: &Image) -> Result<Vec<u8>> {
    let wrong = |e: png::EncodingError| Error::Bug(format!("a picture cannot be encoded: {e}"));
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, image.width(), image.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(wrong)?;
    writer.write_image_data(image.as_bytes()).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { weight: Weight::Regular, px: 13.0, colour: [0, 0, 0] };

    #[test]
    fn text_leaves_ink_only_where_it_stands() {
        let fonts = Fonts::new().unwrap();
        let mut canvas = Canvas::new(Size::new(80, 30), [255; 3]);
        canvas.text(&fonts, 10.0, 20.0, "PSNR", STYLE);
        let image = canvas.into_image();
        let dark = |x0: u32, x1: u32| (0..30).any(|y| (x0..x1).any(|x| image.pixel(x, y)[0] < 64));
        let end = 10 + fonts.width("PSNR", STYLE).ceil() as u32;
        assert!(dark(10, end) && !dark(0, 9) && !dark(end + 1, 80));
    }

    #[test]
    fn digits_have_one_width_and_long_text_is_cut() {
        let fonts = Fonts::new().unwrap();
        let widths: Vec<f32> = ('0'..='9').map(|d| fonts.width(&d.to_string(), STYLE)).collect();
        assert!(widths.iter().all(|w| (w - widths[0]).abs() < 1e-3), "{widths:?}");
        assert_eq!(fonts.fit("short", STYLE, 100.0), "short");
        let cut = fonts.fit("a rather long caption that has no room", STYLE, 100.0);
        assert!(cut.ends_with('…') && fonts.width(&cut, STYLE) <= 100.0, "{cut}");
        let cut = fonts.fit_end("some/folders/deep/photograph.jpg", STYLE, 100.0);
        assert!(cut.starts_with('…') && cut.ends_with("graph.jpg"), "{cut}");
        assert_eq!(fonts.fit("x", STYLE, 0.0), "");
    }

    #[test]
    fn drawing_outside_is_cut_off() {
        let fonts = Fonts::new().unwrap();
        let mut canvas = Canvas::new(Size::new(8, 8), [255; 3]);
        canvas.fill(6, 6, Size::new(100, 100), [1; 3]);
        canvas.fill(60, 60, Size::new(1, 1), [1; 3]);
        canvas.paste(7, 7, &Image::from_fn(Size::new(9, 9), |_, _| [2; 3]));
        canvas.paste(70, 70, &Image::from_fn(Size::new(9, 9), |_, _| [2; 3]));
        canvas.frame(0, 0, Size::new(8, 8), [3; 3]);
        canvas.text(&fonts, -20.0, 4.0, "outside and inside and outside again", STYLE);
        assert_eq!(canvas.into_image().pixel(7, 7), [2; 3]);
    }
}
