//! Masks: y = fill on the mask, x elsewhere. The mask is drawn from the operation's own stream.
//!
//! `grid` as PromptGIP's `inpainting` and MAE (square cells), `boxes` as CoarseDropout, `lines` and `polyline` as
//! PromptGIP's thick lines, `brush` like the free-form strokes of inpainting papers, `center` for outpainting's opposite.
//!
//! (long because boxes, lines and cells each have their way on levels)

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::{Pixels, Planes, Size};
use crate::stream::Stream;

use super::Degradation;
use super::maths;
use super::spec::{Kind, Param, Spec};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Mask {
    Grid { cell: u32, ratio: f64, fill: Fill },
    Boxes { count: u32, size_min: f64, size_max: f64, fill: Fill },
    Lines { count: u32, thickness: f64, fill: Fill },
    Polyline { count: u32, vertices: u32, thickness: f64, fill: Fill },
    Brush { count: u32, vertices: u32, thickness: f64, fill: Fill },
    Center { ratio: f64, fill: Fill },
}

/// A grey level of 255, or a word.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Fill {
    Level(f64),
    Word(FillWord),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FillWord {
    Mean,
    Noise,
}

const COUNTED: &[&str] = &["boxes", "lines", "polyline", "brush"];
const STROKES: &[&str] = &["lines", "polyline", "brush"];

impl Degradation for Mask {
    const SPEC: Spec = Spec {
        name: "mask",
        version: 1,
        doc: "Covers parts of the image.",
        geometry: false,
        params: &[
            Param::new(
                "shape",
                Kind::Word(&["grid", "boxes", "lines", "polyline", "brush", "center"]),
                "",
                r#""grid""#,
                "Square cells, boxes, straight lines, bent lines, brush strokes, or one box in the middle.",
            ),
            Param::new("cell", Kind::Whole(1, 1024), "pixels", "4", "Side of a cell.").when("shape", &["grid"]),
            Param::required(
                "ratio",
                Kind::Real(0.0, 1.0),
                "",
                "Chance of each cell; for center, the share of the image.",
            )
            .when("shape", &["grid", "center"]),
            Param::new("count", Kind::Whole(0, 1000), "", "[5, 10]", "Number of boxes, lines or strokes.")
                .when("shape", COUNTED),
            Param::new("size_min", Kind::Real(0.0, 1.0), "of the image's side", "0.05", "Shortest side of a box.")
                .when("shape", &["boxes"]),
            Param::new("size_max", Kind::Real(0.0, 1.0), "of the image's side", "0.25", "Longest side of a box.")
                .when("shape", &["boxes"]),
            Param::new("vertices", Kind::Whole(2, 100), "", "[4, 12]", "Points of each bent line or stroke.")
                .when("shape", &["polyline", "brush"]),
            Param::new("thickness", Kind::Real(1.0, 500.0), "pixels", "[5, 10]", "Width of lines and strokes.")
                .when("shape", STROKES),
            Param::new(
                "fill",
                Kind::RealOrWord(0.0, 255.0, &["mean", "noise"]),
                "grey levels of 255",
                "0",
                "The value put there: a level, the image's mean colour, or uniform noise.",
            ),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, noise: &mut Stream) -> Result<(), String> {
        let size = image.size();
        let (w, pixels) = (size.width as usize, size.pixels());
        match (self.fill(), &mut *image) {
            (Fill::Level(level), Pixels::Levels(image)) if level.fract() == 0.0 => {
                let bytes = Arc::make_mut(image).as_bytes_mut();
                self.draw(size, noise, &mut |span| bytes[3 * span.start..3 * span.end].fill(level as u8));
            }
            (Fill::Level(level), image) => {
                let fill = [(level / 255.0) as f32; 3];
                self.draw(size, noise, &mut planes_filled(image.planes(), fill));
            }
            (Fill::Word(FillWord::Mean), image) => {
                let planes = image.planes();
                let mean = [0, 1, 2].map(|channel| {
                    let sum: f64 = planes.plane(channel).iter().map(|v| f64::from(*v)).sum();
                    (sum / pixels as f64) as f32
                });
                self.draw(size, noise, &mut planes_filled(planes, mean));
            }
            (Fill::Word(FillWord::Noise), image) => {
                let mut covered = vec![false; pixels];
                self.draw(size, noise, &mut |span| covered[span].fill(true));
                let mut words = vec![0u32; w];
                for channel in 0..3 {
                    let plane = image.planes().plane_mut(channel);
                    for (row, covered) in plane.chunks_exact_mut(w).zip(covered.chunks_exact(w)) {
                        noise.fill_u32(&mut words);
                        for ((value, covered), word) in row.iter_mut().zip(covered).zip(&words) {
                            *value = if *covered { (word >> 8) as f32 / 16_777_216.0 } else { *value };
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Puts a colour over pixels that follow one another.
fn planes_filled(planes: &mut Planes, colour: [f32; 3]) -> impl FnMut(Range<usize>) {
    move |span| {
        for (channel, value) in colour.into_iter().enumerate() {
            planes.plane_mut(channel)[span.clone()].fill(value);
        }
    }
}

impl Mask {
    fn fill(&self) -> Fill {
        match *self {
            Self::Grid { fill, .. }
            | Self::Boxes { fill, .. }
            | Self::Lines { fill, .. }
            | Self::Polyline { fill, .. }
            | Self::Brush { fill, .. }
            | Self::Center { fill, .. } => fill,
        }
    }

    /// Hands every covered pixel to `cover`, some more than once, as ranges of them (row by row, `[H, W]`).
    fn draw(&self, size: Size, noise: &mut Stream, cover: &mut dyn FnMut(Range<usize>)) {
        let mut canvas = Canvas { cover, w: size.width as usize, h: size.height as usize };
        match *self {
            Self::Grid { cell, ratio, .. } => canvas.grid(cell as usize, ratio, noise),
            Self::Center { ratio, .. } => {
                let side = ratio.sqrt();
                canvas.cover((0.5 - side / 2.0, 0.5 - side / 2.0), (side, side));
            }
            Self::Boxes { count, size_min, size_max, .. } => {
                for _ in 0..count {
                    let size = (noise.uniform(size_min, size_max), noise.uniform(size_min, size_max));
                    let corner = (noise.unit() * (1.0 - size.0), noise.unit() * (1.0 - size.1));
                    canvas.cover(corner, size);
                }
            }
            Self::Lines { count, thickness, .. } => {
                for _ in 0..count {
                    let (from, to) = (canvas.any_point(noise), canvas.any_point(noise));
                    canvas.stroke(from, to, thickness / 2.0);
                }
            }
            Self::Polyline { count, vertices, thickness, .. } => {
                for _ in 0..count {
                    let mut from = canvas.any_point(noise);
                    for _ in 1..vertices {
                        let to = canvas.any_point(noise);
                        canvas.stroke(from, to, thickness / 2.0);
                        from = to;
                    }
                }
            }
            Self::Brush { count, vertices, thickness, .. } => {
                for _ in 0..count {
                    canvas.brush(vertices, thickness / 2.0, noise);
                }
            }
        }
    }
}

/// What shapes are drawn on.
struct Canvas<'a> {
    cover: &'a mut dyn FnMut(Range<usize>),
    w: usize,
    h: usize,
}

impl Canvas<'_> {
    fn grid(&mut self, cell: usize, ratio: f64, noise: &mut Stream) {
        let threshold = (ratio * 4_294_967_296.0) as u64;
        let mut words = vec![0u32; self.w.div_ceil(cell)];
        for top in (0..self.h).step_by(cell) {
            noise.fill_u32(&mut words);
            let rows = top..(top + cell).min(self.h);
            // Covered cells side by side are covered at once.
            let mut next = 0;
            while let Some(free) = words[next..].iter().position(|word| u64::from(*word) < threshold) {
                let from = next + free;
                let rest = &words[from..];
                next = from + rest.iter().position(|word| u64::from(*word) >= threshold).unwrap_or(rest.len());
                for y in rows.clone() {
                    (self.cover)(y * self.w + from * cell..y * self.w + (next * cell).min(self.w));
                }
            }
        }
    }

    /// Covers a box given in shares of the image's sides.
    fn cover(&mut self, corner: (f64, f64), size: (f64, f64)) {
        let span = |from: f64, length: f64, n: usize| {
            let place = |share: f64| ((share * n as f64 + 0.5).floor().max(0.0) as usize).min(n);
            place(from)..place(from + length)
        };
        let (rows, columns) = (span(corner.1, size.1, self.h), span(corner.0, size.0, self.w));
        for y in rows {
            (self.cover)(y * self.w + columns.start..y * self.w + columns.end);
        }
    }

    fn any_point(&self, noise: &mut Stream) -> (f64, f64) {
        (noise.unit() * self.w as f64, noise.unit() * self.h as f64)
    }

    /// A walk whose steps turn by up to 60 degrees and are 5 to 25 % of the shorter side long.
    fn brush(&mut self, vertices: u32, radius: f64, noise: &mut Stream) {
        let side = self.w.min(self.h) as f64;
        let mut from = self.any_point(noise);
        let mut direction = noise.uniform(0.0, 360.0);
        for _ in 1..vertices {
            direction += noise.uniform(-60.0, 60.0);
            let (sin, cos) = maths::sin_cos_degrees(direction);
            let length = noise.uniform(0.05, 0.25) * side;
            let to =
                ((from.0 + cos * length).clamp(0.0, self.w as f64), (from.1 + sin * length).clamp(0.0, self.h as f64));
            self.stroke(from, to, radius);
            from = to;
        }
    }

    /// Covers every pixel whose middle is within `radius` of the segment: row by row the hull of two discs and the
    /// rectangle between them.
    fn stroke(&mut self, a: (f64, f64), b: (f64, f64), radius: f64) {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let length = (dx * dx + dy * dy).sqrt();
        let (nx, ny) = if length > 0.0 { (-dy / length * radius, dx / length * radius) } else { (0.0, 0.0) };
        let corners = [(a.0 + nx, a.1 + ny), (b.0 + nx, b.1 + ny), (b.0 - nx, b.1 - ny), (a.0 - nx, a.1 - ny)];
        let sides = [0, 1, 2, 3].map(|i| (corners[i], corners[(i + 1) % 4]));
        let top = (a.1.min(b.1) - radius - 0.5).ceil().max(0.0) as usize;
        let bottom = (a.1.max(b.1) + radius - 0.5).floor();
        for y in top..self.h {
            let middle = y as f64 + 0.5;
            if y as f64 > bottom {
                break;
            }
            let (mut left, mut right) = (f64::MAX, f64::MIN);
            let mut reach = |from: f64, to: f64| {
                left = if from < left { from } else { left };
                right = if to > right { to } else { right };
            };
            for (x, centre) in [a, b] {
                let rest = radius * radius - (middle - centre) * (middle - centre);
                if rest >= 0.0 {
                    reach(x - rest.sqrt(), x + rest.sqrt());
                }
            }
            for (p, q) in sides {
                let (above, below) = if p.1 < q.1 { (p.1, q.1) } else { (q.1, p.1) };
                if above <= middle && middle <= below && p.1 != q.1 {
                    let x = p.0 + (q.0 - p.0) * ((middle - p.1) / (q.1 - p.1));
                    reach(x, x);
                }
            }
            if left <= right {
                let from = up(left - 0.5).max(0) as usize;
                let to = (down(right + 0.5).max(0) as usize).min(self.w);
                if from < to {
                    (self.cover)(y * self.w + from..y * self.w + to);
                }
            }
        }
    }
}

/// The least whole number that is not below `x`, which is far from the limits. (Elsewhere than in the newest processors
/// `f64::ceil` is a function of the C library.)
#[inline(always)]
fn up(x: f64) -> i64 {
    let whole = x as i64;
    whole + i64::from(x > whole as f64)
}

/// The greatest whole number that is not above `x`.
#[inline(always)]
fn down(x: f64) -> i64 {
    let whole = x as i64;
    whole - i64::from(x < whole as f64)
}
