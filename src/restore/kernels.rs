//! The arithmetic of a row (norms, activations, rotations) and of an attention head, in f32 for one thread.
//!
//! (long because loops that the compiler is to make vectors of share their parts only inside a file)

use std::ops::Range;

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

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

    /// `gelu(x) = x · Φ(x)` in place; the error function after Abramowitz and Stegun 7.1.26 (1.5e-7).
    pub(super) fn gelu(values: &mut [f32]) {
        for value in values {
            let x = *value;
            let t = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
            let k = 1.0 / (1.0 + 0.327_591_1 * t);
            let series = ((((1.061_405_4 * k - 1.453_152) * k + 1.421_413_8) * k - 0.284_496_72) * k + 0.254_829_6) * k;
            let tail = 0.5 * series * exp(-t * t);
            *value = x * if x > 0.0 { 1.0 - tail } else { tail };
        }
    }

    /// `silu(gate) · up` in place of the gate, with `silu(x) = x / (1 + e^−x)`.
    pub(super) fn silu_gate(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
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
        softmax_here(values);
    }
}

#[inline(always)]
fn softmax_here(values: &mut [f32]) {
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

/// Rows of a matrix that are added up at once, so that sums are loaded and stored less often.
const TOGETHER: usize = 4;

/// Columns at once: a cache's line.
const WIDTH: usize = 16;

vectorised! {
    /// Adds `x · weights[.., columns]` to `out`, `[x.count, columns]`, where the few rows of `x` have `weights.count` values: every weight
    /// is read from memory once, in the order in which it lies there.
    pub(super) fn add_few_rows(x: Rows<'_>, weights: Rows<'_>, columns: Range<usize>, out: &mut [f32]) {
        let width = columns.len();
        let whole = weights.count / TOGETHER * TOGETHER;
        for from in (0..whole).step_by(TOGETHER) {
            let rows: [&[f32]; TOGETHER] =
                std::array::from_fn(|k| &weights.data[(from + k) * weights.stride..][columns.clone()]);
            let [blocks, rests] = [0, 1].map(|part| rows.map(|row| {
                let (blocks, rest) = row.as_chunks::<WIDTH>();
                if part == 0 { blocks.as_flattened() } else { rest }
            }));
            for first in (0..width / WIDTH * WIDTH).step_by(WIDTH) {
                let block: [&[f32]; TOGETHER] = blocks.map(|row| &row[first..first + WIDTH]);
                for k in from + TOGETHER..from + 2 * TOGETHER {
                    prefetch(weights.data, k * weights.stride + columns.start + first);
                }
                for m in 0..x.count {
                    let x = &x.data[m * x.stride + from..][..TOGETHER];
                    let out = &mut out[m * width + first..][..WIDTH];
                    let mut sums = [0.0; WIDTH];
                    for (x, block) in x.iter().zip(&block) {
                        for (sum, weight) in sums.iter_mut().zip(*block) {
                            *sum += x * weight;
                        }
                    }
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out += sum;
                    }
                }
            }
            for (k, rest) in rests.iter().enumerate() {
                for (m, out) in out.chunks_exact_mut(width).enumerate() {
                    let out = &mut out[width - rest.len()..];
                    add_scaled(out, rest, x.data[m * x.stride + from + k]);
                }
            }
        }
        for k in whole..weights.count {
            for (m, out) in out.chunks_exact_mut(width).enumerate() {
                add_scaled(out, &weights.data[k * weights.stride..][columns.clone()], x.data[m * x.stride + k]);
            }
        }
    }

    /// What one query finds among the first keys and values, of which `scores` has the room.
    fn attend_one(query: &[f32], keys: Rows<'_>, values: Rows<'_>, scores: &mut [f32], out: &mut [f32]) {
        let width = query.len();
        let scale = (width as f32).powf(-0.5);
        for (score, key) in scores.iter_mut().zip(keys.data.chunks(keys.stride)) {
            *score = scale * dot(query, &key[..width]);
        }
        softmax_here(scores);
        out.fill(0.0);
        for (score, value) in scores.iter().zip(values.data.chunks(values.stride)) {
            add_scaled(out, &value[..width], *score);
        }
    }
}

/// Asks for the cache's line at `at`, if there is one: processors do not guess from one row of a matrix where in the next one will be
/// read.
#[inline(always)]
fn prefetch(values: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = values.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "takes a pointer, though it reads nothing and every x86-64 processor has it")]
        // SAFETY: points to a value, and nothing is read.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, at);
}

#[inline(always)]
fn add_scaled(out: &mut [f32], values: &[f32], by: f32) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += by * value;
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

/// Writes the rows of `width` values as columns.
pub(super) fn transpose(rows: &[f32], width: usize, out: &mut [f32]) {
    /// A square that two caches' lines of it fit the first level.
    const SIDE: usize = 64;
    let count = rows.len() / width;
    out.par_chunks_mut(SIDE * count).enumerate().for_each(|(index, out)| {
        let columns = index * SIDE..index * SIDE + out.len() / count;
        for first in (0..count).step_by(SIDE) {
            for column in columns.clone() {
                let out = &mut out[(column - columns.start) * count..][first..(first + SIDE).min(count)];
                for (out, row) in out.iter_mut().zip(first..) {
                    *out = rows[row * width + column];
                }
            }
        }
    });
}

/// `count` rows in `data`, each `stride` values after the last.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` values without gaps.
    pub(super) fn of(data: &'a [f32], width: usize) -> Self {
        Self { data, stride: width, count: data.len() / width }
    }

    /// Rows `from` to `from + count`.
    pub(super) fn range(self, from: usize, count: usize) -> Self {
        Self { data: &self.data[from * self.stride..], stride: self.stride, count }
    }

    /// True if `width` values of each row lie in the data.
    fn hold(self, width: usize) -> bool {
        self.count == 0 || (self.count - 1) * self.stride + width <= self.data.len()
    }
}

/// Writes what one head's `queries` find among `keys` and `values`, all `width` values a row, to `out`, rows that begin `stride` values
/// apart. Query `t` sees positions up to `causal_at + t`, or all. `scores` is scratch.
pub(super) fn attend(
    queries: Rows<'_>,
    keys: Rows<'_>,
    values: Rows<'_>,
    width: usize,
    causal_at: Option<usize>,
    scores: &mut Vec<f32>,
    (out, stride): (&mut [f32], usize),
) {
    let scale = (width as f32).powf(-0.5);
    let seen = causal_at.map_or(keys.count, |at| (at + queries.count).min(keys.count));
    scores.resize(queries.count * seen, 0.0);
    if queries.count == 1 {
        // Matrix products would take longer to begin than this takes.
        assert!(keys.range(0, seen).hold(width) && values.range(0, seen).hold(width), "rows lie in their data");
        return attend_one(&queries.data[..width], keys, values, scores, &mut out[..width]);
    }
    let found = Product { left: queries, right: keys.range(0, seen), turned: true, width, scale };
    found.write((scores, seen), false, false);
    for (row, scores) in scores.chunks_exact_mut(seen).enumerate() {
        let own = causal_at.map_or(seen, |at| (at + row + 1).min(seen));
        softmax(&mut scores[..own]);
        scores[own..].fill(0.0);
    }
    let weights = Rows { data: scores, stride: seen, count: queries.count };
    Product { left: weights, right: values.range(0, seen), turned: false, width, scale: 1.0 }.write(
        (out, stride),
        false,
        false,
    );
}

/// `scale · left · rightᵀ` over `width` columns (`turned`), or `scale · left · right`, where `right` has `width` columns.
pub(super) struct Product<'a> {
    pub(super) left: Rows<'a>,
    pub(super) right: Rows<'a>,
    pub(super) turned: bool,
    pub(super) width: usize,
    pub(super) scale: f32,
}

impl Product<'_> {
    /// Written, or added if `add`, to rows that begin `stride` values apart; on all threads, or this one.
    pub(super) fn write(&self, (out, stride): (&mut [f32], usize), add: bool, all_threads: bool) {
        let Self { left, right, turned, width, scale } = *self;
        let (across, inner) = if turned { (right.count, width) } else { (width, right.count) };
        let room = left.count == 0 || (left.count - 1) * stride + across <= out.len();
        assert!(left.hold(inner) && right.hold(width) && room && across <= stride, "rows lie in their data");
        let apart = right.stride as isize;
        let (right_column, right_row) = if turned { (apart, 1) } else { (1, apart) };
        #[expect(
            unsafe_code,
            reason = "the product crate takes pointers; all that it reads and writes was checked to be there"
        )]
        // SAFETY: `left` has `left.count` rows of `inner` values, `right` rows of `width`, `out` `left.count` rows of `across`.
        unsafe {
            gemm(
                left.count,
                across,
                inner,
                out.as_mut_ptr(),
                1,
                stride as isize,
                add,
                left.data.as_ptr(),
                1,
                left.stride as isize,
                right.data.as_ptr(),
                right_column,
                right_row,
                1.0,
                scale,
                false,
                false,
                false,
                if all_threads { Parallelism::Rayon(rayon::current_num_threads()) } else { Parallelism::None },
            );
        }
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
        silu.copy_from_slice(&x);
        silu_gate(&mut silu, &vec![1.0; x.len()]);
        gelu.copy_from_slice(&x);
        super::gelu(&mut gelu);
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
        for (rows, outside, inner) in [(1, 1, 1), (4, 2, 8), (5, 7, 37), (16, 9, 64), (3, 40, 23)] {
            let (x_stride, stride) = (inner + 3, outside + 5);
            let x: Vec<f32> = (0..rows * x_stride).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let weights: Vec<f32> = (0..inner * stride).map(|i| (i * 53 % 97) as f32 / 48.0 - 1.0).collect();
            let of = |data, stride, count| Rows { data, stride, count };
            let columns = outside / 3..outside;
            let mut out = vec![0.5; rows * columns.len()];
            add_few_rows(of(&x, x_stride, rows), of(&weights, stride, inner), columns.clone(), &mut out);
            for m in 0..rows {
                for n in columns.clone() {
                    let pairs = (0..inner).map(|k| x[m * x_stride + k] * weights[k * stride + n]);
                    let exact = 0.5 + pairs.map(f64::from).sum::<f64>();
                    let found = f64::from(out[m * columns.len() + n - columns.start]);
                    assert!((found - exact).abs() < 1e-5, "{rows} {outside} {inner}");
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
            let (q, mut out) = (rows(&q, queries), vec![f32::NAN; queries * stride]);
            attend(q, rows(&k, keys), rows(&v, keys), width, causal_at, &mut Vec::new(), (&mut out, stride));
            for t in 0..queries {
                let seen = causal_at.map_or(keys, |at| at + t + 1);
                let dot =
                    |s: usize| (0..width).map(|i| f64::from(q.data[t * stride + i] * k[s * stride + i])).sum::<f64>();
                let weights: Vec<f64> = (0..seen).map(|s| (dot(s) / (width as f64).sqrt()).exp()).collect();
                for i in 0..width {
                    let sum = (0..seen).map(|s| weights[s] * f64::from(v[s * stride + i])).sum::<f64>();
                    let exact = sum / weights.iter().sum::<f64>();
                    assert!((f64::from(out[t * stride + i]) - exact).abs() < 1e-5, "{queries} {keys} {t} {i}");
                }
            }
        }
    }
}
