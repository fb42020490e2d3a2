//! Rotation about the image's middle. Multiples of 90 degrees move pixels and change none; width and height change places.
//! Other angles resample: nearest, bilinear, or bicubic (a = −½), pixels at half-integer places, `fill` outside.
//!
//! (long because each kind of sampling has its own loop over rows, on levels or on planes)

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::orient::Turn;
use crate::image::{Image, Pixels, Planes, Size};
use crate::stream::Stream;
use crate::vectors::vectorised;

use super::Degradation;
use super::maths;
use super::spec::{Kind, Param, Spec};

/// A long thin image turned with `expand` can need thousands of times its pixels; more than both this many and four times
/// as many are refused.
const MOST_PIXELS: f64 = 8_388_608.0;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    angle: f64,
    filter: Filter,
    expand: bool,
    fill: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
}

impl Degradation for Rotate {
    const SPEC: Spec = Spec {
        name: "rotate",
        version: 1,
        doc: "Turns the image clockwise, exactly at multiples of 90 degrees.",
        geometry: true,
        params: &[
            Param::new("angle", Kind::Real(-360.0, 360.0), "degrees", "90", "Angle, clockwise."),
            Param::new(
                "filter",
                Kind::Word(&["nearest", "bilinear", "bicubic"]),
                "",
                r#""bilinear""#,
                "How pixels between pixels are made, at angles that need it.",
            ),
            Param::new(
                "expand",
                Kind::Flag,
                "",
                "false",
                "Whether the image grows to hold all of the turned one, at angles that are no multiple of 90.",
            ),
            Param::new(
                "fill",
                Kind::Real(0.0, 255.0),
                "grey levels of 255",
                "0",
                "The value outside the turned image.",
            ),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, _: &mut Stream) -> Result<(), String> {
        let quarters = self.angle / 90.0;
        if quarters.fract() != 0.0 {
            *image = self.resampled(image)?;
            return Ok(());
        }
        match quarters.rem_euclid(4.0) as u32 {
            1 => image.turn(Turn::Rotate90),
            2 => image.turn(Turn::Rotate180),
            3 => image.turn(Turn::Rotate270),
            _ => {}
        }
        Ok(())
    }
}

impl Rotate {
    fn resampled(&self, image: &Pixels) -> Result<Pixels, String> {
        let (sin, cos) = maths::sin_cos_degrees(self.angle);
        let size = image.size();
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        let (mut wide, mut high) = (w, h);
        if self.expand {
            // A hair less, so that rounding adds no column.
            wide = (w * cos.abs() + h * sin.abs() - 1e-6).ceil().max(1.0);
            high = (w * sin.abs() + h * cos.abs() - 1e-6).ceil().max(1.0);
            if wide * high > MOST_PIXELS.max(4.0 * w * h) {
                return Err(format!(
                    "{w}x{h} pixels turned by {} degrees need {wide}x{high}: set expand to false, or crop in load",
                    self.angle
                ));
            }
        }
        let to = Size::new(wide as u32, high as u32);
        let turned = Turned { sin, cos, from: size, to, fill: (self.fill / 255.0) as f32 };
        let planes = match (self.filter, image) {
            // Levels stay levels: as fractions and back, rounded or cut, each is the same again.
            (Filter::Nearest, Pixels::Levels(image))
                if self.fill.fract() == 0.0 && u32::try_from(size.pixels()).is_ok() =>
            {
                return turned.nearest(image, self.fill as u8).map(|image| Pixels::Levels(Arc::new(image)));
            }
            (Filter::Nearest, _) => turned.sample::<1>(image),
            (Filter::Bilinear, _) => turned.sample::<2>(image),
            (Filter::Bicubic, _) => turned.sample::<4>(image),
        };
        planes.map(Pixels::Fractions)
    }
}

/// Pixels that are made together.
const RUN: usize = 64;

/// For each pixel of a run and one axis: the first neighbour, and the weights of all.
struct Neighbours {
    first: [i32; RUN],
    weights: [[f32; RUN]; 4],
}

impl Neighbours {
    const NONE: Self = Self { first: [0; RUN], weights: [[0.0; RUN]; 4] };
}

/// How an image is turned.
struct Turned {
    sin: f64,
    cos: f64,
    from: Size,
    to: Size,
    fill: f32,
}

impl Turned {
    /// Makes each pixel of N×N neighbours: 1 the nearest, 2 bilinear, 4 bicubic. Neighbours outside count as `fill`.
    fn sample<const N: usize>(&self, image: &Pixels) -> Result<Planes, String> {
        let (w, h) = (self.from.width as usize, self.from.height as usize);
        let bordered = Bordered::new(image, N, self.fill);
        let pixels = self.to.pixels();
        let mut data = vec![0.0; pixels * 3];
        let (red, rest) = data.split_at_mut(pixels);
        let (green, blue) = rest.split_at_mut(pixels);
        let (mut across, mut down) = (Neighbours::NONE, Neighbours::NONE);
        let mut places = [[0.0; RUN]; 2];
        let mut mixed = [[0.0; 4]; RUN];
        for y in 0..self.to.height {
            let dy = f64::from(y) + 0.5 - f64::from(self.to.height) / 2.0;
            for from in (0..self.to.width).step_by(RUN) {
                let dx = f64::from(from) + 0.5 - f64::from(self.to.width) / 2.0;
                along(dx, [self.cos, self.sin * dy, w as f64 / 2.0], &mut places[0]);
                along(dx, [-self.sin, self.cos * dy, h as f64 / 2.0], &mut places[1]);
                find::<N>(&places[0], w, &mut across);
                find::<N>(&places[1], h, &mut down);
                mix::<N>(&bordered, &across, &down, &mut mixed);
                let at = y as usize * self.to.width as usize + from as usize;
                let run = at..at + RUN.min((self.to.width - from) as usize);
                let planes = red[run.clone()].iter_mut().zip(&mut green[run.clone()]).zip(&mut blue[run]);
                for (((r, g), b), pixel) in planes.zip(&mixed) {
                    [*r, *g, *b, _] = *pixel;
                }
            }
        }
        Planes::from_data(self.to, data).ok_or_else(|| WRONG_SIZE.into())
    }

    /// What [`Self::sample`] makes of the nearest pixels, in levels.
    fn nearest(&self, image: &Image, fill: u8) -> Result<Image, String> {
        let [w, h] = [self.from.width, self.from.height];
        let bytes = image.as_bytes();
        let mut data = vec![fill; self.to.pixels() * 3];
        let rows = data.chunks_exact_mut(self.to.width as usize * 3);
        let steps = [self.cos, -self.sin]
            .map(|slope| std::array::from_fn(|i| (slope * i as f64 * f64::from(UNIT)).round() as i32) as [i32; RUN]);
        let [mut columns, mut lines] = [[0; RUN]; 2];
        let mut places = [0; RUN];
        for (y, row) in rows.enumerate() {
            let dy = y as f64 + 0.5 - f64::from(self.to.height) / 2.0;
            for (run, from) in row.chunks_mut(RUN * 3).zip((0..).step_by(RUN)) {
                let dx = f64::from(from) + 0.5 - f64::from(self.to.width) / 2.0;
                let count = run.len() / 3;
                let across = [self.cos, self.sin * dy, f64::from(w) / 2.0];
                let down = [-self.sin, self.cos * dy, f64::from(h) / 2.0];
                if is_beside(dx, across, count, w) || is_beside(dx, down, count, h) {
                    continue;
                }
                step(dx, across, &steps[0], &mut columns);
                step(dx, down, &steps[1], &mut lines);
                index(&columns, &lines, w, &mut places);
                // A negative one is too great, seen as unsigned.
                let inside = |i: &usize| (columns[*i] as u32) < w && (lines[*i] as u32) < h;
                // Both grow or shrink along the run: between two that are inside, all are.
                if let (Some(first), Some(last)) = ((0..count).find(inside), (0..count).rfind(inside)) {
                    gather(bytes, &places[first..=last], &mut run[first * 3..=last * 3 + 2]);
                }
            }
        }
        Image::from_rgb(self.to, data).ok_or_else(|| WRONG_SIZE.into())
    }
}

/// Whether a run of `count` lies wholly on one side of an image of `n` pixels on this axis (see [`along`]), by a pixel at least.
fn is_beside(dx: f64, [slope, rest, middle]: [f64; 3], count: usize, n: u32) -> bool {
    let first = slope * dx + rest + middle;
    let last = first + slope * (count - 1) as f64;
    first.max(last) < -1.0 || first.min(last) > f64::from(n) + 1.0
}

/// Copies the pixels at `places` of an image to `run`: four bytes at a time, of which the next pixel overwrites the last.
#[inline(always)]
fn gather(bytes: &[u8], places: &[u32], run: &mut [u8]) {
    for (i, place) in places.iter().enumerate() {
        let from = *place as usize * 3;
        match (bytes[from..].first_chunk::<4>(), run[i * 3..].first_chunk_mut::<4>()) {
            (Some(four), Some(to)) => *to = *four,
            // The last of the image, or of the run.
            _ => run[i * 3..][..3].copy_from_slice(&bytes[from..from + 3]),
        }
    }
}

const WRONG_SIZE: &str = "the turned image has a wrong size";

/// What 1 is in the whole numbers by which [`step`] goes along a run, and what these may be wrong by.
const UNIT: i32 = 1 << 24;
const DOUBT: i32 = 4;

/// The nearest pixels of a run on one axis (see [`along`]), by whole numbers: `steps` is how far from the first each of them
/// lies, in units of 2^-24. Where that is too near to the border of two pixels to tell, all are found as elsewhere.
fn step(dx: f64, line: [f64; 3], steps: &[i32; RUN], nearest: &mut [i32; RUN]) {
    let [slope, rest, middle] = line;
    let first = slope * dx + rest + middle - 0.5;
    let below = floor(first + 0.5);
    let beyond = ((first + 0.5 - below) * f64::from(UNIT)) as i32;
    if !step_all(whole(below), beyond, steps, nearest) {
        let mut places = [0.0; RUN];
        along(dx, line, &mut places);
        for (nearest, place) in nearest.iter_mut().zip(places) {
            *nearest = whole(floor(place + 0.5));
        }
    }
}

/// Interleaved pixels (the fourth value is nothing) within a border of `fill`.
struct Bordered {
    pixels: Vec<[f32; 4]>,
    /// Pixels of border on each side.
    border: usize,
    width: usize,
    height: usize,
    fill: f32,
}

impl Bordered {
    fn new(image: &Pixels, border: usize, fill: f32) -> Self {
        let (w, h) = (image.size().width as usize, image.size().height as usize);
        let (width, height) = (w + 2 * border, h + 2 * border);
        // Appended, not written over `fill`: that would take as long again.
        let mut pixels = Vec::with_capacity(width * height);
        for y in 0..h {
            // The border above, or what is left of the row above, then this row's on the left.
            pixels.resize((y + border) * width + border, [fill; 4]);
            match image {
                Pixels::Levels(image) => widen(&image.pixels()[y * w..(y + 1) * w], &mut pixels),
                Pixels::Fractions(planes) => {
                    let [r, g, b] = [0, 1, 2].map(|channel| &planes.plane(channel)[y * w..(y + 1) * w]);
                    pixels.extend(r.iter().zip(g).zip(b).map(|((r, g), b)| [*r, *g, *b, 0.0]));
                }
            }
        }
        pixels.resize(width * height, [fill; 4]);
        Self { pixels, border, width, height, fill }
    }
}

vectorised! {
    /// Levels as fractions.
    fn widen(levels: &[[u8; 3]], pixels: &mut Vec<[f32; 4]>) {
        pixels.extend(
            levels.iter().map(|[r, g, b]| [f32::from(*r) / 255.0, f32::from(*g) / 255.0, f32::from(*b) / 255.0, 0.0]),
        );
    }

    /// `below` and as many whole units as there are in `beyond` plus each of `steps`; false where that is in doubt.
    fn step_all(below: i32, beyond: i32, steps: &[i32; RUN], nearest: &mut [i32; RUN]) -> bool {
        let mut doubt = 0;
        for (nearest, step) in nearest.iter_mut().zip(steps) {
            let place = beyond + step;
            *nearest = below + place.div_euclid(UNIT);
            doubt |= i32::from((place + DOUBT) & (UNIT - 1) < 2 * DOUBT);
        }
        doubt == 0
    }

    /// Which pixels of an image of `width` and fewer than 2^32 pixels those are, counted row by row; of those outside nothing is said.
    fn index(columns: &[i32; RUN], lines: &[i32; RUN], width: u32, places: &mut [u32; RUN]) {
        for ((place, column), line) in places.iter_mut().zip(columns).zip(lines) {
            *place = (*line as u32).wrapping_mul(width).wrapping_add(*column as u32);
        }
    }

    /// The places of a run on one axis: `slope` times the distance from the middle, which is `dx` and grows by 1, plus `rest`
    /// and `middle`, less half a pixel.
    fn along(dx: f64, line: [f64; 3], places: &mut [f64; RUN]) {
        let [slope, rest, middle] = line;
        for (i, place) in places.iter_mut().enumerate() {
            *place = slope * (dx + i as f64) + rest + middle - 0.5;
        }
    }

    /// The neighbours of `places` on an axis of `n` pixels within a border of `N`. Where all of them lie outside, the
    /// first one is the first of the border, or the first behind the image.
    fn find<const N: usize>(places: &[f64; RUN], n: usize, out: &mut Neighbours) {
        // The least and the greatest place that tells something.
        let (least, greatest) = (-(N as f64), n as f64 + 1.0);
        let to_nearest = if N == 1 { 0.5 } else { 0.0 };
        let before = if N == 4 { 1.0 } else { 0.0 };
        let mut fractions = [0.0; RUN];
        for ((place, first), t) in places.iter().zip(&mut out.first).zip(&mut fractions) {
            let place = held(*place, least, greatest);
            let below = floor(place + to_nearest);
            *first = whole(held(below + N as f64 - before, 0.0, n as f64 + N as f64));
            *t = place - below;
        }
        let [a, b, c, d] = &mut out.weights;
        match N {
            1 => a.fill(1.0),
            2 => {
                for ((a, b), t) in a.iter_mut().zip(b).zip(&fractions) {
                    (*a, *b) = ((1.0 - t) as f32, *t as f32);
                }
            }
            _ => {
                for ((a, b), t) in a.iter_mut().zip(b).zip(&fractions) {
                    (*a, *b) = (maths::far(1.0 + t) as f32, maths::near(*t) as f32);
                }
                for ((c, d), t) in c.iter_mut().zip(d).zip(&fractions) {
                    (*c, *d) = (maths::near(1.0 - t) as f32, maths::far(2.0 - t) as f32);
                }
            }
        }
    }

    /// Each pixel of a run from its N×N neighbours; `fill` where none of them lies inside.
    fn mix<const N: usize>(image: &Bordered, across: &Neighbours, down: &Neighbours, out: &mut [[f32; 4]; RUN]) {
        let Bordered { pixels, border, width, height, fill } = image;
        let inside = |first: usize, side: usize| first > 0 && first < side - border;
        for (i, out) in out.iter_mut().enumerate() {
            let (left, top) = (across.first[i] as usize, down.first[i] as usize);
            let mut sum = [0.0; 4];
            if inside(left, *width) && inside(top, *height) {
                for j in 0..N {
                    let row = &pixels[(top + j) * width + left..][..N];
                    for (weights, values) in across.weights.iter().zip(row) {
                        let weight = down.weights[j][i] * weights[i];
                        for (sum, value) in sum.iter_mut().zip(values) {
                            *sum += weight * value;
                        }
                    }
                }
            } else {
                sum = [*fill; 4];
            }
            *out = sum;
        }
    }
}

/// Adding it to a number far smaller rounds that to a whole one, whose bits are then the sum's lowest. (Vector units have no
/// instruction for Rust's `as i32`, which saturates.)
const WHOLE: f64 = 6_755_399_441_055_744.0;

/// `x` between two others.
#[inline(always)]
fn held(x: f64, least: f64, greatest: f64) -> f64 {
    let x = if x < least { least } else { x };
    if x > greatest { greatest } else { x }
}

#[inline(always)]
fn floor(x: f64) -> f64 {
    let nearest = (x + WHOLE) - WHOLE;
    if nearest > x { nearest - 1.0 } else { nearest }
}

/// A whole number as an integer.
#[inline(always)]
fn whole(x: f64) -> i32 {
    (x + WHOLE).to_bits() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_levels_are_the_nearest_fractions() {
        for (w, h) in [(1, 1), (3, 200), (130, 67)] {
            let image = Image::from_fn(Size::new(w, h), |x, y| [x as u8, y as u8, (x * 3 + y * 5) as u8]);
            for angle in [0.25, 30.0, 45.0, 60.0, 89.9, 135.0, 211.0, 300.0, -17.0] {
                for expand in [false, true] {
                    let turn = Rotate { angle, filter: Filter::Nearest, expand, fill: 77.0 };
                    let [levels, fractions] =
                        [Pixels::Levels(Arc::new(image.clone())), Pixels::Fractions(Planes::from_image(&image))]
                            .map(|pixels| turn.resampled(&pixels).unwrap());
                    assert!(matches!(levels, Pixels::Levels(_)) && matches!(fractions, Pixels::Fractions(_)));
                    let how = crate::image::Rounding::Trunc;
                    assert!(levels.into_image(how) == fractions.into_image(how), "{w}x{h} by {angle}, {expand}");
                }
            }
        }
    }
}
