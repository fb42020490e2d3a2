//! Masks: y = fill on the mask, x elsewhere. The mask is drawn from the operation's own stream.
//!
//! `grid` as PromptGIP's `inpainting` and MAE (square cells), `boxes` as CoarseDropout, `lines` and `polyline` as
//! PromptGIP's thick lines, `brush` like the free-form strokes of inpainting papers, `center` for outpainting's opposite.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::Pixels;
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

/// Pixels that are looked at together.
const RUN: usize = 32;

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
        let (w, h) = (image.size().width as usize, image.size().height as usize);
        let mut canvas = Canvas { covered: vec![false; w * h], w, h };
        let fill = match *self {
            Self::Grid { cell, ratio, fill } => {
                canvas.grid(cell as usize, ratio, noise);
                fill
            }
            Self::Center { ratio, fill } => {
                let side = ratio.sqrt();
                canvas.cover((0.5 - side / 2.0, 0.5 - side / 2.0), (side, side));
                fill
            }
            Self::Boxes { count, size_min, size_max, fill } => {
                for _ in 0..count {
                    let size = (noise.uniform(size_min, size_max), noise.uniform(size_min, size_max));
                    let corner = (noise.unit() * (1.0 - size.0), noise.unit() * (1.0 - size.1));
                    canvas.cover(corner, size);
                }
                fill
            }
            Self::Lines { count, thickness, fill } => {
                for _ in 0..count {
                    let (from, to) = (canvas.any_point(noise), canvas.any_point(noise));
                    canvas.stroke(from, to, thickness / 2.0);
                }
                fill
            }
            Self::Polyline { count, vertices, thickness, fill } => {
                for _ in 0..count {
                    let mut from = canvas.any_point(noise);
                    for _ in 1..vertices {
                        let to = canvas.any_point(noise);
                        canvas.stroke(from, to, thickness / 2.0);
                        from = to;
                    }
                }
                fill
            }
            Self::Brush { count, vertices, thickness, fill } => {
                for _ in 0..count {
                    canvas.brush(vertices, thickness / 2.0, noise);
                }
                fill
            }
        };
        canvas.put(fill, image, noise);
        Ok(())
    }
}

/// Which pixels are covered, `[H, W]`.
struct Canvas {
    covered: Vec<bool>,
    w: usize,
    h: usize,
}

impl Canvas {
    fn grid(&mut self, cell: usize, ratio: f64, noise: &mut Stream) {
        let threshold = (ratio * 4_294_967_296.0) as u64;
        let mut words = vec![0u32; self.w.div_ceil(cell)];
        for strip in self.covered.chunks_mut(cell * self.w) {
            noise.fill_u32(&mut words);
            let (first, others) = strip.split_at_mut(self.w);
            for (cells, word) in first.chunks_mut(cell).zip(&words) {
                cells.fill(u64::from(*word) < threshold);
            }
            others.chunks_exact_mut(self.w).for_each(|row| row.copy_from_slice(first));
        }
    }

    /// Covers a box given in shares of the image's sides.
    fn cover(&mut self, corner: (f64, f64), size: (f64, f64)) {
        let span = |from: f64, length: f64, n: usize| {
            let place = |share: f64| ((share * n as f64 + 0.5).floor().max(0.0) as usize).min(n);
            place(from)..place(from + length)
        };
        let (rows, columns) = (span(corner.1, size.1, self.h), span(corner.0, size.0, self.w));
        for row in self.covered.chunks_exact_mut(self.w).take(rows.end).skip(rows.start) {
            row[columns.clone()].fill(true);
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
        let top = (a.1.min(b.1) - radius - 0.5).ceil().max(0.0) as usize;
        let bottom = (a.1.max(b.1) + radius - 0.5).floor();
        for y in top..self.h {
            let middle = y as f64 + 0.5;
            if y as f64 > bottom {
                break;
            }
            let (mut left, mut right) = (f64::MAX, f64::MIN);
            let mut reach = |from: f64, to: f64| (left, right) = (left.min(from), right.max(to));
            for (x, centre) in [a, b] {
                let rest = radius * radius - (middle - centre) * (middle - centre);
                if rest >= 0.0 {
                    reach(x - rest.sqrt(), x + rest.sqrt());
                }
            }
            for (p, q) in corners.into_iter().zip(corners.into_iter().cycle().skip(1)) {
                if (p.1.min(q.1)..=p.1.max(q.1)).contains(&middle) && p.1 != q.1 {
                    let x = p.0 + (q.0 - p.0) * ((middle - p.1) / (q.1 - p.1));
                    reach(x, x);
                }
            }
            let from = (left - 0.5).ceil().max(0.0) as usize;
            let to = (right + 0.5).floor().clamp(0.0, self.w as f64) as usize;
            if from < to {
                self.covered[y * self.w + from..y * self.w + to].fill(true);
            }
        }
    }

    fn put(&self, fill: Fill, image: &mut Pixels, noise: &mut Stream) {
        match (fill, &mut *image) {
            (Fill::Level(level), Pixels::Levels(image)) if level.fract() == 0.0 => {
                self.fill(Arc::make_mut(image).pixels_mut(), [level as u8; 3]);
            }
            (Fill::Level(level), _) => {
                for channel in 0..3 {
                    self.fill(image.planes().plane_mut(channel), (level / 255.0) as f32);
                }
            }
            (Fill::Word(FillWord::Mean), _) => {
                for channel in 0..3 {
                    let plane = image.planes().plane_mut(channel);
                    let sum: f64 = plane.iter().map(|v| f64::from(*v)).sum();
                    let mean = (sum / plane.len() as f64) as f32;
                    self.fill(plane, mean);
                }
            }
            (Fill::Word(FillWord::Noise), _) => {
                let mut words = vec![0u32; self.w];
                for channel in 0..3 {
                    let plane = image.planes().plane_mut(channel);
                    for (row, covered) in plane.chunks_exact_mut(self.w).zip(self.covered.chunks_exact(self.w)) {
                        noise.fill_u32(&mut words);
                        for ((value, covered), word) in row.iter_mut().zip(covered).zip(&words) {
                            *value = if *covered { (word >> 8) as f32 / 16_777_216.0 } else { *value };
                        }
                    }
                }
            }
        }
    }

    /// Puts `fill` wherever a pixel is covered.
    fn fill<T: Copy>(&self, pixels: &mut [T], fill: T) {
        let (runs, rest) = pixels.as_chunks_mut::<RUN>();
        let (covered_runs, covered_rest) = self.covered.as_chunks::<RUN>();
        for (run, covered) in runs.iter_mut().zip(covered_runs) {
            // Most runs are covered not at all.
            if *covered != [false; RUN] {
                put(run, covered, fill);
            }
        }
        put(rest, covered_rest, fill);
    }
}

fn put<T: Copy>(pixels: &mut [T], covered: &[bool], fill: T) {
    for (pixel, covered) in pixels.iter_mut().zip(covered) {
        *pixel = if *covered { fill } else { *pixel };
    }
}
