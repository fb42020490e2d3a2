//! Rain streaks, as PromptGIP's `add_rain` makes them: n uniform in [0, 256) for each pixel, drops s = n where
//! n ≥ 256 − value / 100, streaks r = (s ∗ D) ∗ K stretched to [0, 1], y = x + gain · r.
//!
//! D is a 3×3 bump (8 in the middle, 0.1 beside), K a diagonal of `length` pixels, turned by theta, shrunk by
//! 1 − length / 100 (both about its middle, bilinear) and widened by a Gaussian of `width` pixels. Drops are rare, so each
//! is stamped with D ∗ K, together with its mirror images beyond the border (`reflect101`), instead of convolving all.

use serde::{Deserialize, Serialize};

use crate::image::Pixels;
use crate::stream::Stream;
use crate::vectors::vectorised;

use super::Degradation;
use super::filter::reflect101;
use super::maths;
use super::spec::{Kind, Param, Spec};

const RUN: usize = 4096;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rain {
    value: f64,
    length: u32,
    theta: f64,
    width: u32,
    blend: Blend,
    gain: f64,
    layers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Blend {
    Add,
    Alpha,
}

impl Degradation for Rain {
    const SPEC: Spec = Spec {
        name: "rain",
        version: 1,
        doc: "Adds bright slanted streaks.",
        geometry: false,
        params: &[
            Param::required("value", Kind::Real(1.0, 500.0), "drops per 25600 pixels", "How dense the drops are."),
            Param::new(
                "length",
                Kind::Whole(10, 60),
                "pixels",
                "[30, 40]",
                "Length of the streaks (L), before they are shrunk.",
            ),
            Param::new(
                "theta",
                Kind::Real(-90.0, 90.0),
                "degrees",
                "[-45, 45]",
                "Slant from the vertical, counter-clockwise.",
            ),
            Param::new(
                "width",
                Kind::Odd(1, 11),
                "pixels",
                r#"{"choice": [3, 5, 7, 9, 11]}"#,
                "Side of the Gaussian that widens the streaks.",
            ),
            Param::new(
                "blend",
                Kind::Word(&["add", "alpha"]),
                "",
                r#""add""#,
                "add: y = x + gain r; alpha: y = (1 - r) x + gain r.",
            ),
            Param::new("gain", Kind::Real(0.0, 2.0), "", "1", "Brightness of the brightest streak, in whites."),
            Param::new("layers", Kind::Whole(1, 4), "", "1", "Layers of streaks, one over the other."),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, noise: &mut Stream) -> Result<(), String> {
        let image = image.planes();
        let (w, h) = (image.size().width as usize, image.size().height as usize);
        let streak = Streak::new(self.length as usize, self.theta, self.width as usize);
        let gain = self.gain as f32;
        for _ in 0..self.layers {
            let rain = self.layer(w, h, &streak, noise);
            for channel in 0..3 {
                match self.blend {
                    Blend::Add => add(image.plane_mut(channel), gain, &rain),
                    Blend::Alpha => cover(image.plane_mut(channel), gain, &rain),
                }
            }
        }
        Ok(())
    }
}

impl Rain {
    /// One layer of streaks, `[H, W]`, stretched to `[0, 1]`; all 0 where every pixel is alike.
    fn layer(&self, w: usize, h: usize, streak: &Streak, noise: &mut Stream) -> Vec<f32> {
        let mut rain = vec![0.0f32; w * h];
        // n ≥ 256 − value / 100, as words of 32 bits.
        let threshold = ((256.0 - self.value / 100.0) * 16_777_216.0) as u32;
        let mut words = [0u32; RUN];
        for from in (0..w * h).step_by(RUN) {
            let words = &mut words[..RUN.min(w * h - from)];
            noise.fill_u32(words);
            for (i, word) in words.iter().enumerate().filter(|(_, word)| **word >= threshold) {
                let n = *word as f32 / 16_777_216.0;
                streak.stamp(n, (from + i) % w, (from + i) / w, w, h, &mut rain);
            }
        }
        let (min, max) = ends(&rain);
        let scale = if max > min { 1.0 / (max - min) } else { 0.0 };
        stretch(&mut rain, min, scale);
        rain
    }
}

vectorised! {
    fn add(values: &mut [f32], gain: f32, rain: &[f32]) {
        for (value, r) in values.iter_mut().zip(rain) {
            *value += gain * r;
        }
    }

    fn cover(values: &mut [f32], gain: f32, rain: &[f32]) {
        for (value, r) in values.iter_mut().zip(rain) {
            *value = *value * (1.0 - r) + gain * r;
        }
    }

    fn stretch(values: &mut [f32], min: f32, scale: f32) {
        for value in values {
            *value = (*value - min) * scale;
        }
    }

    /// The least and the greatest of `values`, found for sixteen of them side by side.
    fn ends(values: &[f32]) -> (f32, f32) {
        let (mut least, mut greatest) = ([f32::MAX; 16], [f32::MIN; 16]);
        let less = |a: f32, b: f32| if b < a { b } else { a };
        let greater = |a: f32, b: f32| if b > a { b } else { a };
        let (runs, rest) = values.as_chunks::<16>();
        for run in runs {
            for i in 0..16 {
                least[i] = less(least[i], run[i]);
                greatest[i] = greater(greatest[i], run[i]);
            }
        }
        let rest = rest.iter().copied();
        (rest.clone().chain(least).fold(f32::MAX, less), rest.chain(greatest).fold(f32::MIN, greater))
    }
}

/// D ∗ K, what one drop looks like.
struct Streak {
    side: usize,
    /// Row by row.
    weights: Vec<f32>,
}

impl Streak {
    fn new(length: usize, theta: f64, width: usize) -> Self {
        let kernel = widened(&diagonal(length, theta), length, width);
        // A correlation's stamp is the kernel turned by a half turn.
        let side = length + 2;
        let mut weights = vec![0.0; side * side];
        for (i, weight) in kernel.iter().rev().enumerate() {
            let (y, x) = (i / length + 1, i % length + 1);
            weights[y * side + x] += 8.0 * weight;
            for at in [(y - 1) * side + x, (y + 1) * side + x, y * side + x - 1, y * side + x + 1] {
                weights[at] += 0.1 * weight;
            }
        }
        Self { side, weights: weights.iter().map(|w| *w as f32).collect() }
    }

    /// Adds `n` times the streak of a drop at column `x`, row `y`, and of its mirror images.
    fn stamp(&self, n: f32, x: usize, y: usize, w: usize, h: usize, rain: &mut [f32]) {
        // The kernel's own middle is at length / 2; turned by a half turn, at (length − 1) / 2; D adds one.
        let before = (self.side - 3) / 2 + 1;
        let after = self.side - 1 - before;
        for top in mirrors(y, h, before, after) {
            for left in mirrors(x, w, before, after) {
                // The stamp's own first row and column that lie inside.
                let (skip_y, skip_x) = ((-top).max(0) as usize, (-left).max(0) as usize);
                let (y0, x0) = (top.max(0) as usize, left.max(0) as usize);
                let (rows, columns) = (self.side.saturating_sub(skip_y), self.side.saturating_sub(skip_x));
                let columns = columns.min(w.saturating_sub(x0));
                for row in 0..rows.min(h.saturating_sub(y0)) {
                    let from = (skip_y + row) * self.side + skip_x;
                    let to = (y0 + row) * w + x0;
                    for (value, weight) in rain[to..to + columns].iter_mut().zip(&self.weights[from..from + columns]) {
                        *value += n * weight;
                    }
                }
            }
        }
    }
}

/// Where the stamps of a drop at `p` begin on an axis of `n` pixels: of the drop, and of its mirror images whose stamps
/// (`before` pixels before them, `after` behind) reach inside.
fn mirrors(p: usize, n: usize, before: usize, after: usize) -> impl Iterator<Item = isize> {
    let (p, before, after) = (p as isize, before as isize, after as isize);
    let period = 2 * (n as isize - 1).max(1);
    // A mirror image at q shines in if q + after ≥ 0 and q − before < n. All are p or −p, plus periods.
    let reach = (n as isize + before + after) / period + 1;
    // An axis of one pixel mirrors to itself at every distance; a pixel on the border is its own mirror image.
    let mirrored = match () {
        () if n == 1 => Some(p + 1),
        () if (2 * p) % period == 0 => None,
        () => Some(-p),
    };
    (-reach..=reach)
        .flat_map(move |k| [Some(p), mirrored].into_iter().flatten().map(move |q| q + k * period))
        .filter(move |q| q + after >= 0 && q - before < n as isize)
        .map(move |q| q - before)
}

/// A diagonal of ones, turned by `theta` − 45 degrees counter-clockwise and shrunk, sampled bilinearly.
fn diagonal(length: usize, theta: f64) -> Vec<f64> {
    let (sin, cos) = maths::sin_cos_degrees(theta - 45.0);
    let scale = 1.0 - length as f64 / 100.0;
    let middle = length as f64 / 2.0;
    let one = |x: f64, y: f64| if x == y && x >= 0.0 && x < length as f64 { 1.0 } else { 0.0 };
    let mut kernel = Vec::with_capacity(length * length);
    for i in 0..length {
        for j in 0..length {
            let (dx, dy) = ((j as f64 - middle) / scale, (i as f64 - middle) / scale);
            let (x, y) = (cos * dx - sin * dy + middle, sin * dx + cos * dy + middle);
            let (x0, y0) = (x.floor(), y.floor());
            let (fx, fy) = (x - x0, y - y0);
            let upper = one(x0, y0) * (1.0 - fx) + one(x0 + 1.0, y0) * fx;
            let lower = one(x0, y0 + 1.0) * (1.0 - fx) + one(x0 + 1.0, y0 + 1.0) * fx;
            kernel.push(upper * (1.0 - fy) + lower * fy);
        }
    }
    kernel
}

/// `kernel` after a Gaussian of `width` pixels whose standard deviation follows from the width as in OpenCV.
fn widened(kernel: &[f64], side: usize, width: usize) -> Vec<f64> {
    let radius = width / 2;
    // OpenCV has these by heart; beyond seven pixels it computes.
    let weights: Vec<f64> = match width {
        1 => vec![1.0],
        3 => vec![0.5, 0.25],
        5 => vec![0.375, 0.25, 0.0625],
        7 => vec![0.28125, 0.21875, 0.109375, 0.03125],
        _ => {
            let sigma = 0.3 * (radius as f64 - 1.0) + 0.8;
            let raw: Vec<f64> = (0..=radius).map(|i| maths::exp(-0.5 * (i * i) as f64 / (sigma * sigma))).collect();
            let sum = raw[0] + 2.0 * raw[1..].iter().sum::<f64>();
            raw.iter().map(|w| w / sum).collect()
        }
    };
    let pass = |from: &[f64], at: &dyn Fn(usize, isize) -> usize| -> Vec<f64> {
        (0..side * side)
            .map(|i| {
                let around = weights.iter().enumerate().skip(1);
                let sides = around.map(|(d, w)| w * (from[at(i, d as isize)] + from[at(i, -(d as isize))]));
                weights[0] * from[i] + sides.sum::<f64>()
            })
            .collect()
    };
    let across = pass(kernel, &|i, d| i / side * side + reflect101((i % side) as isize + d, side));
    pass(&across, &|i, d| reflect101((i / side) as isize + d, side) * side + i % side)
}
