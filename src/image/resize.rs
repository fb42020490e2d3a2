//! Resampling to another size, to the byte what Pillow's `Image.resize` gives for 8-bit RGB.
//!
//! A horizontal and a vertical pass, the first rounded to 8 bits; a pass whose size does not change is left out. The
//! horizontal pass comes first unless much more is lost in height than in width: that is the order of Pillow 13, where
//! earlier versions never began vertically (and give, for such sizes, values one level apart here and there). Each output
//! value is a sum over a window, with weights normalised in f64 and rounded to 22 fractional bits. That is Pillow's
//! arithmetic, and it is integer: the same bytes on every CPU. The only transcendental function, Lanczos' sine, is computed
//! here from the four basic operations. It may differ from a C library's in the last bits, 1e-15 or so; a weight is
//! a multiple of 2e-7, so it would have to lie within 1e-15 of the middle between two for that to show.
//!
//! The horizontal pass works on 16 rows at once, transposed, so that both passes are one kernel.
//!
//! (long because both passes are written out in the shapes that compilers vectorise)

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Image, Size};
use crate::vectors::{SIDE, transpose, vectorised};

/// The window that a new pixel is averaged with. Widths are in source pixels when enlarging; shrinking stretches them by
/// the scale, which is the antialiasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Keys' cubic with a = −0.5, 2 pixels to each side: sharp, mild ringing.
    #[default]
    Bicubic,
    /// A triangle, 1 pixel to each side: soft, never rings.
    Bilinear,
    /// A sinc windowed by a sinc, 3 pixels to each side: sharpest, rings at edges.
    Lanczos,
    /// The plain mean, half a pixel to each side; nearest neighbour when enlarging.
    Box,
}

impl Filter {
    /// How far the window reaches to each side, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
            Self::Lanczos => 3.0,
            Self::Box => 0.5,
        }
    }

    /// The weight at distance `x` pixels.
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let d = x.abs();
        match self {
            Self::Bicubic if d < 1.0 => ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0,
            Self::Bicubic if d < 2.0 => (((d - 5.0) * d + 8.0) * d - 4.0) * A,
            Self::Bilinear if d < 1.0 => 1.0 - d,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            // Half open, so that a pixel on the border of two windows counts once.
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            _ => 0.0,
        }
    }
}

/// sin(πx) / πx for |x| ≤ 3.
fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { sin_pi(x) / (x * std::f64::consts::PI) }
}

/// sin(πx) by the Taylor series to the 21st power, on the half period around the nearest whole number (remainder 1e-18).
fn sin_pi(x: f64) -> f64 {
    let whole = x.round();
    let angle = (x - whole) * std::f64::consts::PI;
    let square = angle * angle;
    let series = (1..=10).rev().fold(1.0, |sum, k| {
        let k = f64::from(k);
        1.0 - square / ((2.0 * k) * (2.0 * k + 1.0)) * sum
    });
    if whole % 2.0 == 0.0 { angle * series } else { -angle * series }
}

/// Fractional bits of a weight: 32, less 8 for the pixel, less 2 for sign and overshoot.
const PRECISION: u32 = 22;
/// Rows that lie side by side in the horizontal pass.
const LANES: usize = SIDE;
/// Values that the vertical pass computes at once.
const WIDE: usize = 64;
/// Bytes that the rows between the two passes may take before the image is done in vertical strips: they stay in a
/// core's cache, and extreme sizes (1×60,000 to 60,000×60,001) need no more memory than this or one column.
const BETWEEN: usize = 512 << 10;

/// Which source pixels make an output pixel, for all of one axis.
struct Windows {
    /// For each output pixel the first source pixel, and where its weights start and end in `weights`.
    spans: Vec<(usize, usize, usize)>,
    /// In units of 2^−22.
    weights: Vec<i32>,
}

impl Windows {
    fn new(source: u32, target: u32, filter: Filter) -> Self {
        let scale = f64::from(source) / f64::from(target);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let shrink = 1.0 / stretch;
        let mut spans = Vec::with_capacity(target as usize);
        let mut weights = Vec::new();
        let mut window = Vec::new();
        for i in 0..target {
            let centre = (f64::from(i) + 0.5) * scale;
            // `as` cuts towards zero and stops at 0, which is what is wanted.
            let first = (centre - support + 0.5) as u32;
            let end = ((centre + support + 0.5) as u32).min(source);
            window.clear();
            window.extend((first..end).map(|x| filter.weight((f64::from(x) - centre + 0.5) * shrink)));
            let sum: f64 = window.iter().sum();
            let from = weights.len();
            for &w in &window {
                let w = if sum == 0.0 { w } else { w / sum };
                let fixed = (w * f64::from(1 << PRECISION) + if w < 0.0 { -0.5 } else { 0.5 }) as i32;
                weights.push(fixed);
            }
            spans.push((first as usize, from, weights.len()));
        }
        Self { spans, weights }
    }

    /// The first source pixel of output pixel `i`, and the weights from there on.
    fn at(&self, i: usize) -> (usize, &[i32]) {
        let (first, from, to) = self.spans[i];
        (first, &self.weights[from..to])
    }
}

/// The sum of `pixels · weights` for N values side by side, rounded and clipped.
#[inline(always)]
fn weigh<'a, const N: usize>(taps: impl Iterator<Item = (&'a [u8; N], i32)>) -> [u8; N] {
    let mut sum = [1i32 << (PRECISION - 1); N];
    for (pixels, weight) in taps {
        for lane in 0..N {
            sum[lane] = sum[lane].wrapping_add(i32::from(pixels[lane]).wrapping_mul(weight));
        }
    }
    let mut levels = [0; N];
    for (level, sum) in levels.iter_mut().zip(sum) {
        *level = (sum >> PRECISION).clamp(0, 255) as u8;
    }
    levels
}

/// Lays up to 16 rows, `stride` bytes apart, on their side: `columns[x][y]` becomes byte `x` of row `y`.
#[inline(always)]
fn stand(rows: &[u8], stride: usize, columns: &mut [[u8; LANES]]) {
    let width = columns.len();
    let (squares, rest) = columns.as_chunks_mut::<SIDE>();
    let [mut square, mut spare] = [[0; SIDE * SIDE]; 2];
    for (i, columns) in squares.iter_mut().enumerate() {
        for (line, row) in square.as_chunks_mut().0.iter_mut().zip(rows.chunks(stride)) {
            *line = row[..width].as_chunks::<SIDE>().0[i];
        }
        transpose(&mut square, &mut spare);
        columns.copy_from_slice(square.as_chunks().0);
    }
    let done = width - rest.len();
    for (y, row) in rows.chunks(stride).enumerate() {
        for (column, &byte) in rest.iter_mut().zip(&row[done..width]) {
            column[y] = byte;
        }
    }
}

/// The way back: byte `x` of row `y` becomes `columns[x][y]`, for as many rows as there are.
#[inline(always)]
fn lay(columns: &[[u8; LANES]], rows: &mut [u8], stride: usize) {
    let width = columns.len();
    let (squares, rest) = columns.as_chunks::<SIDE>();
    let [mut square, mut spare] = [[0; SIDE * SIDE]; 2];
    for (i, columns) in squares.iter().enumerate() {
        square.copy_from_slice(columns.as_flattened());
        transpose(&mut square, &mut spare);
        for (line, row) in square.as_chunks().0.iter().zip(rows.chunks_mut(stride)) {
            row[..width].as_chunks_mut::<SIDE>().0[i] = *line;
        }
    }
    for (y, row) in rows.chunks_mut(stride).enumerate() {
        for (byte, column) in row[width - rest.len()..width].iter_mut().zip(rest) {
            *byte = column[y];
        }
    }
}

vectorised! {
    /// Resamples `rows` (each `width` bytes) to the output columns `columns`; row `y` goes to `out[y · out_stride..]`.
    fn horizontal(rows: &[u8], width: usize, windows: &Windows, columns: Range<usize>, out: &mut [u8], out_stride: usize) {
        let reach = |x| {
            let (first, weights) = windows.at(x);
            (first, first + weights.len())
        };
        let start = columns.clone().map(|x| reach(x).0).min().unwrap_or(0);
        let end = columns.clone().map(|x| reach(x).1).max().unwrap_or(0);
        let mut before = vec![[0u8; LANES]; (end - start) * 3];
        let mut after = vec![[0u8; LANES]; columns.len() * 3];
        for (rows, out) in rows.chunks(width * LANES).zip(out.chunks_mut(out_stride * LANES)) {
            stand(&rows[start * 3..], width, &mut before);
            for (x, pixel) in columns.clone().zip(after.as_chunks_mut::<3>().0) {
                let (first, weights) = windows.at(x);
                let pixels = &before[(first - start) * 3..];
                if weights.len() == 1 {
                    pixel.copy_from_slice(&pixels[..3]);
                    continue;
                }
                for (c, lanes) in pixel.iter_mut().enumerate() {
                    *lanes = weigh(pixels.iter().skip(c).step_by(3).zip(weights.iter().copied()));
                }
            }
            lay(&after, out, out_stride);
        }
    }

    /// Resamples the columns of `rows` (each `width` bytes) to output rows that begin `out_stride` bytes apart.
    fn vertical(rows: &[u8], width: usize, windows: &Windows, out: &mut [u8], out_stride: usize) {
        for (y, out) in out.chunks_mut(out_stride).enumerate() {
            let (first, weights) = windows.at(y);
            if weights.len() == 1 {
                out[..width].copy_from_slice(&rows[first * width..(first + 1) * width]);
                continue;
            }
            let window = || rows.chunks(width).skip(first).zip(weights.iter().copied());
            let (blocks, rest) = out[..width].as_chunks_mut::<WIDE>();
            for (i, block) in blocks.iter_mut().enumerate() {
                *block = weigh(window().map(|(row, weight)| (&row.as_chunks().0[i], weight)));
            }
            let done = width - rest.len();
            let mut tail = vec![[0u8; WIDE]; if rest.is_empty() { 0 } else { weights.len() }];
            for (lanes, (row, _)) in tail.iter_mut().zip(window()) {
                lanes[..rest.len()].copy_from_slice(&row[done..]);
            }
            rest.copy_from_slice(&weigh(tail.iter().zip(weights.iter().copied()))[..rest.len()]);
        }
    }
}

/// `image` in another size, byte for byte as Pillow's `image.resize(size, filter)` for mode RGB. A side of 0 counts as 1.
///
/// Takes 3 bytes for each new pixel and little more: it is for the caller to bound the size.
pub fn resize(image: &Image, size: Size, filter: Filter) -> Image {
    let size = Size::new(size.width.max(1), size.height.max(1));
    let source = image.as_bytes();
    let [width, new_width] = [image.width(), size.width].map(|side| side as usize);
    let [height, new_height] = [image.height(), size.height].map(|side| side as usize);
    let columns = || Windows::new(image.width(), size.width, filter);
    let rows = || Windows::new(image.height(), size.height, filter);
    if image.size() == size {
        return image.clone();
    }
    let mut out = vec![0; size.pixels() * 3];
    if height == new_height {
        horizontal(source, width * 3, &columns(), 0..new_width, &mut out, new_width * 3);
    } else if width == new_width {
        vertical(source, width * 3, &rows(), &mut out, new_width * 3);
    } else if vertical_first(image.size(), size) {
        let mut between = vec![0; width * 3 * new_height];
        vertical(source, width * 3, &rows(), &mut between, width * 3);
        horizontal(&between, width * 3, &columns(), 0..new_width, &mut out, new_width * 3);
    } else {
        let [columns, rows] = [columns(), rows()];
        let strip = (BETWEEN / (height * 3)).max(1);
        let mut between = Vec::new();
        for from in (0..new_width).step_by(strip) {
            let to = (from + strip).min(new_width);
            let strip_width = (to - from) * 3;
            between.resize(height * strip_width, 0);
            horizontal(source, width * 3, &columns, from..to, &mut between, strip_width);
            vertical(&between, strip_width, &rows, &mut out[from * 3..], new_width * 3);
        }
    }
    Image { size, data: out }
}

/// Pillow's choice of order since version 13: vertically first if the height shrinks by more than twice what the width does.
fn vertical_first(from: Size, to: Size) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let [width, height] = [lost(from.width, to.width), lost(from.height, to.height)];
    height > 0 && height > 2 * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_agrees_with_libm() {
        for i in -3000..=3000 {
            let x = f64::from(i) / 1000.0;
            assert!((sin_pi(x) - (x * std::f64::consts::PI).sin()).abs() < 2e-15, "{x}");
        }
    }

    #[test]
    fn a_flat_image_stays_flat_in_any_size() {
        let flat = Image::from_fn(Size::new(7, 5), |_, _| [0, 128, 255]);
        for filter in [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos, Filter::Box] {
            for (width, height) in [(1, 1), (7, 1), (1, 5), (3, 50), (100, 2), (0, 0), (16, 16)] {
                let out = resize(&flat, Size::new(width, height), filter);
                assert_eq!(out, Image::from_fn(Size::new(width.max(1), height.max(1)), |_, _| [0, 128, 255]));
            }
        }
    }

    #[test]
    fn extreme_aspects_need_little_memory() {
        // Between the passes the second would be 4,000 × 4,000 pixels.
        let tall = Image::from_fn(Size::new(1, 4_000), |_, y| [(y / 20) as u8; 3]);
        for height in [1, 4_001] {
            let wide = resize(&tall, Size::new(4_000, height), Filter::Box);
            assert_eq!(wide.size(), Size::new(4_000, height));
            assert_eq!(wide.pixel(0, height - 1), wide.pixel(3_999, height - 1));
        }
    }

    #[test]
    fn strips_do_not_show() {
        let image = Image::from_fn(Size::new(300, 9000), |x, y| [x as u8, (y % 256) as u8, (x * y % 251) as u8]);
        let across = resize(&image, Size::new(47, 9000), Filter::Bicubic);
        let both = resize(&image, Size::new(47, 8700), Filter::Bicubic);
        assert_eq!(both, resize(&across, Size::new(47, 8700), Filter::Bicubic));
    }
}
