//! Down and up again: y = up(down(x)), the size of x.
//!
//! The convention is Pillow's: pixels at half-integer places, filters stretched when shrinking (antialiased), bicubic with
//! a = −½, lanczos with three lobes, weights normalised; `nearest` takes the pixel at ⌊(i + ½) · scale⌋. But values stay
//! f32 between the two ways and between the axes, where Pillow's 8-bit images are rounded.

use serde::{Deserialize, Serialize};

use crate::image::{Pixels, Size};
use crate::stream::Stream;
use crate::vectors::{SIDE, transpose, vectorised};

use super::Degradation;
use super::maths;
use super::spec::{Kind, Param, Spec};

const LANES: usize = 32;
/// Rows that are resampled side by side.
const TALL: usize = SIDE;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resample {
    scale: f64,
    down: Filter,
    up: Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Filter {
    Nearest,
    Box,
    Bilinear,
    Bicubic,
    Lanczos,
}

const FILTER: Kind = Kind::Word(&["nearest", "box", "bilinear", "bicubic", "lanczos"]);

impl Degradation for Resample {
    const SPEC: Spec = Spec {
        name: "resample",
        version: 1,
        doc: "Shrinks the image and enlarges it to its size again (filters as Pillow's, antialiased).",
        geometry: false,
        params: &[
            Param::required("scale", Kind::Real(0.02, 1.0), "", "The small image's side as a share of the image's."),
            Param::new("down", FILTER, "", r#""bicubic""#, "Filter that shrinks."),
            Param::new("up", FILTER, "", r#""bicubic""#, "Filter that enlarges."),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, _: &mut Stream) -> Result<(), String> {
        let Size { width, height } = image.size();
        let (w, h) = (width as usize, height as usize);
        let small = |side: u32| ((f64::from(side) * self.scale + 0.5).floor() as usize).max(1);
        let (sw, sh) = (small(width), small(height));
        let shrink = (Kernel::new(w, sw, self.down), Kernel::new(h, sh, self.down));
        let grow = (Kernel::new(sw, w, self.up), Kernel::new(sh, h, self.up));
        for channel in 0..3 {
            let plane = image.planes().plane_mut(channel);
            // Columns first on the way down and last on the way up: they are the faster, and so have more to do.
            let mut low = vec![0.0; sh * w];
            shrink.1.columns(plane, &mut low, w);
            let little = shrink.0.rows(&low, w);
            let wide = grow.0.rows(&little, sw);
            grow.1.columns(&wide, plane, w);
        }
        Ok(())
    }
}

/// The pixels that make each pixel of a resampled axis, and their weights.
struct Kernel {
    /// For each new pixel: the first old one, and where its weights begin and end.
    spans: Vec<(usize, usize, usize)>,
    weights: Vec<f32>,
}

impl Kernel {
    fn new(from: usize, to: usize, filter: Filter) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let mut kernel = Self { spans: Vec::with_capacity(to), weights: Vec::new() };
        let mut raw = Vec::new();
        for i in 0..to {
            let centre = (i as f64 + 0.5) * scale;
            let start = kernel.weights.len();
            let Some(support) = support(filter) else {
                kernel.weights.push(1.0);
                kernel.spans.push(((centre.floor() as usize).min(from - 1), start, start + 1));
                continue;
            };
            let reach = support * stretch;
            let first = (centre - reach + 0.5).floor().max(0.0) as usize;
            let end = ((centre + reach + 0.5).floor() as usize).min(from);
            raw.clear();
            raw.extend((first..end).map(|j| value(filter, (j as f64 - centre + 0.5) / stretch)));
            let sum: f64 = raw.iter().sum();
            kernel.weights.extend(raw.iter().map(|w| (w / sum) as f32));
            kernel.spans.push((first, start, kernel.weights.len()));
        }
        kernel
    }

    /// Resamples each row of `width` values.
    fn rows(&self, plane: &[f32], width: usize) -> Vec<f32> {
        let mut out = vec![0.0; plane.len() / width * self.spans.len()];
        for (rows, out) in plane.chunks(width * TALL).zip(out.chunks_mut(self.spans.len() * TALL)) {
            sum_columns(rows, width, &self.spans, &self.weights, out);
        }
        out
    }

    /// Resamples each column of rows of `width` values.
    fn columns(&self, plane: &[f32], out: &mut [f32], width: usize) {
        for (out, (first, start, end)) in out.chunks_exact_mut(width).zip(&self.spans) {
            let weights = &self.weights[*start..*end];
            sum_rows(&plane[first * width..(first + weights.len()) * width], weights, out);
        }
    }
}

vectorised! {
    /// Resamples up to [`TALL`] rows of `width` values: laid on their side, so that they are computed side by side.
    fn sum_columns(rows: &[f32], width: usize, spans: &[(usize, usize, usize)], weights: &[f32], out: &mut [f32]) {
        let all = spans.len();
        let mut columns = vec![[0.0; TALL]; width];
        let (squares, rest) = columns.as_chunks_mut::<SIDE>();
        let [mut square, mut spare] = [[0.0; SIDE * SIDE]; 2];
        for (i, columns) in squares.iter_mut().enumerate() {
            for (line, row) in square.as_chunks_mut().0.iter_mut().zip(rows.chunks_exact(width)) {
                *line = row.as_chunks::<SIDE>().0[i];
            }
            transpose(&mut square, &mut spare);
            columns.copy_from_slice(square.as_chunks().0);
        }
        let done = width - rest.len();
        for (y, row) in rows.chunks_exact(width).enumerate() {
            for (column, value) in rest.iter_mut().zip(&row[done..]) {
                column[y] = *value;
            }
        }
        for (run, spans) in spans.chunks(SIDE).enumerate() {
            for (sum, &(first, start, end)) in square.as_chunks_mut().0.iter_mut().zip(spans) {
                let mut sums = [0.0; TALL];
                for (weight, column) in weights[start..end].iter().zip(&columns[first..]) {
                    for (sum, value) in sums.iter_mut().zip(column) {
                        *sum += weight * value;
                    }
                }
                *sum = sums;
            }
            transpose(&mut square, &mut spare);
            for (row, line) in out.chunks_exact_mut(all).zip(square.as_chunks::<SIDE>().0) {
                row[run * SIDE..][..spans.len()].copy_from_slice(&line[..spans.len()]);
            }
        }
    }

    /// `out` = the sum of rows of its length, each times its weight.
    fn sum_rows(rows: &[f32], weights: &[f32], out: &mut [f32]) {
        let width = out.len();
        let (runs, rest) = out.as_chunks_mut::<LANES>();
        let done = runs.len() * LANES;
        for (run, x) in runs.iter_mut().zip((0..).step_by(LANES)) {
            let mut sum = [0.0; LANES];
            for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
                for (sum, value) in sum.iter_mut().zip(&row[x..x + LANES]) {
                    *sum += weight * value;
                }
            }
            *run = sum;
        }
        for (value, x) in rest.iter_mut().zip(done..) {
            *value = weights.iter().zip(rows.chunks_exact(width)).fold(0.0, |sum, (w, row)| sum + w * row[x]);
        }
    }
}

/// How far a filter reaches, old pixels at scale 1; `None` for nearest.
fn support(filter: Filter) -> Option<f64> {
    match filter {
        Filter::Nearest => None,
        Filter::Box => Some(0.5),
        Filter::Bilinear => Some(1.0),
        Filter::Bicubic => Some(2.0),
        Filter::Lanczos => Some(3.0),
    }
}

fn value(filter: Filter, x: f64) -> f64 {
    let distance = x.abs();
    match filter {
        Filter::Nearest => 1.0,
        Filter::Box => f64::from(u8::from(-0.5 < x && x <= 0.5)),
        Filter::Bilinear => (1.0 - distance).max(0.0),
        Filter::Bicubic if distance < 2.0 => maths::cubic(distance),
        Filter::Lanczos if distance < 3.0 => sinc(x) * sinc(x / 3.0),
        Filter::Bicubic | Filter::Lanczos => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { maths::sin_cos(x).0 / x }
}
