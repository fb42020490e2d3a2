//! The arithmetic of a row (norms, activations, rotations) and of an attention head, in f32 for one thread.

use gemm::{Parallelism, gemm};

use crate::vectors::vectorised;

/// Values that are added or compared side by side.
const LANES: usize = 16;

/// `e^x`, relative error below 2e-7; at least `e^-87`. Cephes' `expf`: range reduction by ln 2 in two parts, a polynomial of the
/// fifth degree.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it to a small number rounds that to a whole one, whose bits are then the sum's lowest.
    const WHOLE: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let whole = x * std::f32::consts::LOG2_E + WHOLE;
    let power = f32::from_bits((whole.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let whole = whole - WHOLE;
    let x = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let y =
        ((((1.987_569_2e-4 * x + 1.398_2e-3) * x + 8.333_452e-3) * x + 4.166_579_6e-2) * x + 0.166_666_65) * x + 0.5;
    (y * x * x + x + 1.0) * power
}

#[inline(always)]
fn sum_by(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += of(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| of(*value)).sum::<f32>()
}

#[inline(always)]
fn greatest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, value| most.max(*value))
}

vectorised! {
    /// `(x − mean) / √(variance + eps) · weight + bias`.
    pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let count = x.len() as f32;
        let mean = sum_by(x, |x| x) / count;
        let variance = sum_by(x, |x| (x - mean) * (x - mean)) / count;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    }

    /// `x / √(mean(x²) + eps) · weight`.
    pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let scale = 1.0 / (sum_by(x, |x| x * x) / x.len() as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }

    /// `gelu(x + bias)` with `gelu(x) = x · Φ(x)`; the error function after Abramowitz and Stegun 7.1.26 (1.5e-7).
    pub(super) fn bias_gelu(x: &[f32], bias: &[f32], out: &mut [f32]) {
        for ((out, x), bias) in out.iter_mut().zip(x).zip(bias) {
            let x = x + bias;
            let t = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
            let k = 1.0 / (1.0 + 0.327_591_1 * t);
            let series = ((((1.061_405_4 * k - 1.453_152) * k + 1.421_413_8) * k - 0.284_496_72) * k + 0.254_829_6) * k;
            let tail = 0.5 * series * exp(-t * t);
            *out = x * if x > 0.0 { 1.0 - tail } else { tail };
        }
    }

    /// `silu(gate) · up` with `silu(x) = x / (1 + e^−x)`.
    pub(super) fn silu_gate(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }

    /// Turns the pairs `(head[i], head[i + width / 2])` by their angles.
    pub(super) fn rotate(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
        let (first, second) = head.split_at_mut(cosines.len());
        for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
    }

    /// Soft-max in place.
    fn softmax(values: &mut [f32]) {
        let most = greatest(values);
        let mut lanes = [0.0; LANES];
        let (blocks, rest) = values.as_chunks_mut::<LANES>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *value = exp(*value - most);
                *lane += *value;
            }
        }
        let mut sum = lanes.iter().sum::<f32>();
        for value in rest {
            *value = exp(*value - most);
            sum += *value;
        }
        let scale = 1.0 / sum;
        for value in values {
            *value *= scale;
        }
    }
}

/// Rows of `x` and of the weights that are multiplied at once: their sums fill the registers.
const TILE: (usize, usize) = (4, 2);

vectorised! {
    /// `out[n][m] = Σ x[m][k] · weights[n][k]` for all rows of `weights`, `[N, inner]`, and the few of `x`, `[M, inner]`: every weight is read
    /// from memory once.
    pub(super) fn few_rows(x: &[f32], weights: &[f32], inner: usize, out: &mut [f32]) {
        let rows = x.len() / inner;
        for (pair, out) in weights.chunks(TILE.1 * inner).zip(out.chunks_mut(TILE.1 * rows)) {
            for first in (0..rows).step_by(TILE.0) {
                let count = TILE.0.min(rows - first);
                let x = &x[first * inner..][..count * inner];
                if count == TILE.0 && pair.len() == TILE.1 * inner {
                    let sums = tile(x, pair, inner);
                    for (n, sums) in sums.iter().enumerate() {
                        out[n * rows + first..][..TILE.0].copy_from_slice(sums);
                    }
                } else {
                    for (n, weights) in pair.chunks_exact(inner).enumerate() {
                        for (m, x) in x.chunks_exact(inner).enumerate() {
                            out[n * rows + first + m] = dot(x, weights);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[inline(always)]
fn tile(x: &[f32], weights: &[f32], inner: usize) -> [[f32; TILE.0]; TILE.1] {
    const WIDTH: usize = 8;
    let whole = inner / WIDTH * WIDTH;
    let x: [&[f32]; TILE.0] = std::array::from_fn(|m| &x[m * inner..][..inner]);
    let weights: [&[f32]; TILE.1] = std::array::from_fn(|n| &weights[n * inner..][..inner]);
    let mut sums = [[[0.0; WIDTH]; TILE.0]; TILE.1];
    for at in (0..whole).step_by(WIDTH) {
        for (n, sums) in sums.iter_mut().enumerate() {
            for (m, sums) in sums.iter_mut().enumerate() {
                for ((sum, x), weight) in sums.iter_mut().zip(&x[m][at..at + WIDTH]).zip(&weights[n][at..at + WIDTH]) {
                    *sum += x * weight;
                }
            }
        }
    }
    std::array::from_fn(|n| {
        std::array::from_fn(|m| {
            let rest = x[m][whole..].iter().zip(&weights[n][whole..]).map(|(a, b)| a * b).sum::<f32>();
            sums[n][m].iter().sum::<f32>() + rest
        })
    })
}

/// `count` rows in `data`, each `stride` values after the last.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    /// Rows `from` to `from + count`.
    fn range(self, from: usize, count: usize) -> Self {
        Self { data: &self.data[from * self.stride..], stride: self.stride, count }
    }

    /// True if `width` values of each row lie in the data.
    fn hold(self, width: usize) -> bool {
        self.count == 0 || (self.count - 1) * self.stride + width <= self.data.len()
    }
}

/// Queries that are attended at once: their scores stay in a core's cache.
const BLOCK: usize = 96;

/// What one head's `queries` find among `keys` and `values`, all `width` values a row: `[queries, width]`. Query `t` sees positions up
/// to `causal_at + t`, or all. `scores` is scratch.
pub(super) fn attend(
    queries: Rows<'_>,
    keys: Rows<'_>,
    values: Rows<'_>,
    width: usize,
    causal_at: Option<usize>,
    scores: &mut Vec<f32>,
) -> Vec<f32> {
    let mut out = vec![0.0; queries.count * width];
    let scale = (width as f32).powf(-0.5);
    for (index, out) in out.chunks_mut(BLOCK * width).enumerate() {
        let (from, count) = (index * BLOCK, out.len() / width);
        let seen = causal_at.map_or(keys.count, |at| (at + from + count).min(keys.count));
        scores.clear();
        scores.resize(count * seen, 0.0);
        multiply(queries.range(from, count), keys.range(0, seen), true, width, scale, scores);
        for (row, scores) in scores.chunks_exact_mut(seen).enumerate() {
            let own = causal_at.map_or(seen, |at| (at + from + row + 1).min(seen));
            softmax(&mut scores[..own]);
            scores[own..].fill(0.0);
        }
        multiply(Rows { data: scores, stride: seen, count }, values.range(0, seen), false, width, 1.0, out);
    }
    out
}

/// `scale · left · rightᵀ` over `width` columns (`transposed`), or `scale · left · right`, where `right` has `width` columns: written
/// to `out`, rows without gaps.
fn multiply(left: Rows<'_>, right: Rows<'_>, transposed: bool, width: usize, scale: f32, out: &mut [f32]) {
    let (across, inner) = if transposed { (right.count, width) } else { (width, right.count) };
    assert!(left.hold(inner) && right.hold(width) && out.len() == left.count * across, "rows lie in their data");
    let stride = right.stride as isize;
    let (right_column, right_row) = if transposed { (stride, 1) } else { (1, stride) };
    #[expect(
        unsafe_code,
        reason = "the product crate takes pointers; all that it reads and writes was checked to be there"
    )]
    // SAFETY: `left` has `left.count` rows of `inner` values, `right` rows of `width`, `out` is `left.count` by `across`.
    unsafe {
        gemm(
            left.count,
            across,
            inner,
            out.as_mut_ptr(),
            1,
            across as isize,
            false,
            left.data.as_ptr(),
            1,
            left.stride as isize,
            right.data.as_ptr(),
            right_column,
            right_row,
            0.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(count: usize, from: f32, to: f32) -> Vec<f32> {
        (0..count).map(|i| from + (to - from) * i as f32 / (count - 1) as f32).collect()
    }

    #[test]
    fn exponentials_and_activations_are_those_of_f64() {
        for x in ramp(20_001, -87.0, 88.0) {
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.5e-7, "exp({x})");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        let x = ramp(4_001, -9.0, 9.0);
        let (mut silu, mut gelu) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        silu_gate(&x, &vec![1.0; x.len()], &mut silu);
        bias_gelu(&x, &vec![0.0; x.len()], &mut gelu);
        let exact: Vec<f32> = candle_core::Tensor::new(x.as_slice(), &candle_core::Device::Cpu)
            .and_then(|x| x.to_dtype(candle_core::DType::F64)?.gelu_erf()?.to_dtype(candle_core::DType::F32)?.to_vec1())
            .unwrap();
        for (((x, silu), gelu), exact) in x.iter().zip(silu).zip(gelu).zip(exact) {
            let x = f64::from(*x);
            assert!((f64::from(silu) - x / (1.0 + (-x).exp())).abs() < 1e-6 * x.abs().max(1.0), "silu({x})");
            assert!((gelu - exact).abs() < 1e-6, "gelu({x}) = {gelu}, not {exact}");
        }
    }

    #[test]
    fn products_with_few_rows_are_those_of_the_definition() {
        for (rows, outside, inner) in [(1, 1, 1), (4, 2, 8), (5, 7, 37), (16, 9, 64), (3, 2, 7)] {
            let x: Vec<f32> = (0..rows * inner).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let weights: Vec<f32> = (0..outside * inner).map(|i| (i * 53 % 97) as f32 / 48.0 - 1.0).collect();
            let mut out = vec![f32::NAN; rows * outside];
            few_rows(&x, &weights, inner, &mut out);
            for m in 0..rows {
                for n in 0..outside {
                    let pairs = x[m * inner..][..inner].iter().zip(&weights[n * inner..][..inner]);
                    let exact = pairs.map(|(a, b)| f64::from(a * b)).sum::<f64>();
                    assert!((f64::from(out[n * rows + m]) - exact).abs() < 1e-5, "{rows} {outside} {inner}");
                }
            }
        }
    }

    #[test]
    fn attention_is_that_of_the_definition() {
        let noise = |seed: usize| move |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        let (width, stride) = (8, 11);
        for (queries, keys, causal_at) in [(1, 1, None), (5, 130, Some(125)), (200, 200, Some(0)), (97, 33, None)] {
            let make = |rows: usize, seed| (0..rows * stride).map(noise(seed)).collect::<Vec<_>>();
            let (q, k, v) = (make(queries, 1), make(keys, 2), make(keys, 3));
            let rows = |data, count| Rows { data, stride, count };
            let out = attend(rows(&q, queries), rows(&k, keys), rows(&v, keys), width, causal_at, &mut Vec::new());
            for t in 0..queries {
                let seen = causal_at.map_or(keys, |at| at + t + 1);
                let dot = |s: usize| (0..width).map(|i| f64::from(q[t * stride + i] * k[s * stride + i])).sum::<f64>();
                let weights: Vec<f64> = (0..seen).map(|s| (dot(s) / (width as f64).sqrt()).exp()).collect();
                for i in 0..width {
                    let sum = (0..seen).map(|s| weights[s] * f64::from(v[s * stride + i])).sum::<f64>();
                    let exact = sum / weights.iter().sum::<f64>();
                    assert!((f64::from(out[t * width + i]) - exact).abs() < 1e-5, "{queries} {keys} {t} {i}");
                }
            }
        }
    }
}
