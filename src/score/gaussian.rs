//! SSIM under a Gaussian window of 11×11, σ 1.5 (Wang et al. 2004; BasicSR, LM4LV and torchmetrics).
//!
//! Four filtered maps: of p = a + b and m = a − b, and of their squares. From them both variances, the covariance and both
//! means follow (a·b = (p² − m²)/4 and so on), where the textbook filters five. RGB stays interleaved: the neighbour in
//! the same channel is three values on. An image is done in tiles, so that the fourteen rows of four maps that are in use
//! stay in a cache, and so that p and m can be taken relative to their means in the tile: a variance is the small
//! difference of two large numbers, and this keeps f32 within 1e-6 of f64 where 128 for all as the centre reached 7e-6 (a
//! photograph and the same brightened until it saturates).

use super::{C1, C2, LUMA, LUMA_UNIT, Pair, Sum};
use crate::vectors::vectorised;

/// The window's width.
const WINDOW: usize = 11;
/// Pixels beyond the centre at each side.
const REACH: usize = WINDOW / 2;
/// exp(−k²/2σ²) for k = 0 … 5, over its sum.
const WEIGHTS: [f32; REACH + 1] =
    [0.266_011_71, 0.213_005_54, 0.109_360_69, 0.036_000_773, 0.007_598_758, 0.001_028_380_1];
/// Windows in a tile, downwards.
const TALL: usize = 64;
/// Rows of windows that are computed together, one map after the other, so that its rows in use stay in the nearest cache.
const GROUP: usize = 4;
/// Rows in use for them.
const RING: usize = WINDOW - 1 + GROUP;
/// Of every so many rows of a tile one is looked at for its mean.
const SAMPLED: usize = 16;
/// Values in a tile from left to right, its margins not counted.
const STRIP: usize = 384;
/// Values computed at once. What lies beyond a tile's last whole set is computed too, from anything, and not used.
const LANES: usize = 16;
/// The same with margins, in RGB.
const WIDE: usize = (STRIP + 3 * 2 * REACH).next_multiple_of(LANES);

/// One row of the four maps.
type Maps = [[f32; WIDE]; 4];

/// Begins where a cache line does: a load that lies in two of them takes twice as long.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lined<T>(T);

/// What p and m are taken relative to, for each channel; laid out as a row is.
type Centre = [[f32; WIDE]; 2];

/// Fills the maps of one row from the bytes of its pixels in both images.
type Load = fn([&[u8]; 2], &Centre, [&mut [f32]; 4]);

/// Over RGB, windows inside the image. `None` if there is no room for one.
pub(super) fn rgb(pair: &Pair<'_>) -> Option<f64> {
    mean::<3>(pair, load_rgb)
}

/// Of the luma, windows inside the image. `None` if there is no room for one.
pub(super) fn luma(pair: &Pair<'_>) -> Option<f64> {
    mean::<1>(pair, load_luma)
}

/// Over RGB, a window around each pixel, the image mirrored at its outermost pixels. `None` if a side has no room for that.
pub(super) fn rgb_reflected(pair: &Pair<'_>) -> Option<f64> {
    if pair.width.min(pair.height) <= REACH {
        return None;
    }
    let mirror = |i: usize, n: usize| i.abs_diff(REACH).min((2 * (n - 1) + REACH).saturating_sub(i));
    let [width, height] = [pair.width + 2 * REACH, pair.height + 2 * REACH];
    let [a, b] = [0, 1].map(|which| {
        let mut padded = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            let row = pair.row(mirror(y, pair.height))[which];
            let pixels = row.as_chunks::<3>().0;
            (0..REACH).for_each(|x| padded.extend(pixels[mirror(x, pair.width)]));
            padded.extend(row);
            (REACH + pair.width..width).for_each(|x| padded.extend(pixels[mirror(x, pair.width)]));
        }
        padded
    });
    rgb(&Pair { images: [&a, &b], stride: width * 3, width, height })
}

/// The mean over all windows, of `STEP` interleaved channels that `load` makes from the bytes of a row's pixels.
fn mean<const STEP: usize>(pair: &Pair<'_>, load: Load) -> Option<f64> {
    let margin = STEP * 2 * REACH;
    let values = (pair.width * STEP).checked_sub(margin).filter(|&n| n > 0)?;
    let rows = pair.height.checked_sub(2 * REACH).filter(|&n| n > 0)?;
    let mut ring = vec![Lined([[0.0; WIDE]; 4]); RING];
    let Lined(columns) = &mut Lined([[0.0; WIDE]; GROUP]);
    let Lined(maps) = &mut Lined([[[0.0; STRIP]; GROUP]; 4]);
    let mut sum = Sum::default();
    for top in (0..rows).step_by(TALL) {
        let bottom = rows.min(top + TALL);
        for from in (0..values).step_by(STRIP) {
            let strip = STRIP.min(values - from);
            let wide = strip + margin;
            let bytes = from / STEP * 3..(from + wide) / STEP * 3;
            let sums = |y, centre: &Centre, maps: &mut Maps| {
                load(pair.row(y).map(|row| &row[bytes.clone()]), centre, maps.each_mut().map(|map| &mut map[..wide]));
            };
            let centre = centre::<STEP>((top..bottom + 2 * REACH).step_by(SAMPLED), sums, wide);
            let mut next = top;
            for first in (top..bottom).step_by(GROUP) {
                let group = GROUP.min(bottom - first);
                while next < first + group + 2 * REACH {
                    sums(next, &centre, &mut ring[next % RING].0);
                    next += 1;
                }
                for (map, outs) in maps.iter_mut().enumerate() {
                    weigh_down(std::array::from_fn(|k| &ring[(first + k) % RING].0[map]), columns, wide);
                    for (out, column) in outs.iter_mut().zip(columns.iter()) {
                        weigh_across::<STEP>(column, out, strip);
                    }
                }
                let [plus, minus, plus_squared, minus_squared] = &mut *maps;
                let others = minus.iter().zip(plus_squared.iter().zip(minus_squared.iter()));
                for (plus, (minus, (plus_squared, minus_squared))) in plus.iter_mut().zip(others).take(group) {
                    similarity(&mut plus[..strip], minus, plus_squared, minus_squared, &centre);
                    sum.add(&plus[..strip]);
                }
            }
        }
    }
    Some(sum.total() / (values * rows) as f64)
}

/// Whole numbers less than 1 from the means of p and m in a tile, judged by some of its rows, for each channel; laid out as
/// a row is.
fn centre<const STEP: usize>(
    rows: impl ExactSizeIterator<Item = usize>,
    sums: impl Fn(usize, &Centre, &mut Maps),
    wide: usize,
) -> Centre {
    let pixels = (rows.len() * wide / STEP) as f32;
    let zero = [[0.0; WIDE]; 2];
    let mut maps: Maps = [[0.0; WIDE]; 4];
    let mut totals = [[0.0; STEP]; 2];
    for y in rows {
        sums(y, &zero, &mut maps);
        for (map, totals) in maps.iter().zip(&mut totals) {
            for pixel in map[..wide].as_chunks::<STEP>().0 {
                for (total, value) in totals.iter_mut().zip(pixel) {
                    *total += value;
                }
            }
        }
    }
    totals.map(|totals| std::array::from_fn(|i| (totals[i % STEP] / pixels) as i32 as f32))
}

vectorised! {
    /// The maps of RGB less 128.
    fn load_rgb(rows: [&[u8]; 2], centre: &Centre, maps: [&mut [f32]; 4]) {
        let n = maps[0].len();
        let [a, b] = rows.map(|row| &row[..n]);
        spread(n, |i| [f32::from(a[i]) - 128.0, f32::from(b[i]) - 128.0], centre, maps);
    }

    /// The maps of the luma less 128, without the 16 that MATLAB adds.
    fn load_luma(rows: [&[u8]; 2], centre: &Centre, maps: [&mut [f32]; 4]) {
        const CENTRE: f32 = (128 - 16) as f32 * LUMA_UNIT as f32;
        const LEVEL: f32 = (1.0 / LUMA_UNIT) as f32;
        let [red, green, blue] = LUMA.map(|weight| weight as f32);
        let luma = |rgb: &[u8; 3]| {
            let [r, g, b] = [f32::from(rgb[0]), f32::from(rgb[1]), f32::from(rgb[2])];
            // Whole numbers below 2^24 up to here, so exact.
            (r * red - CENTRE + g * green + b * blue) * LEVEL
        };
        let n = maps[0].len();
        let [a, b] = rows.map(|row| &row.as_chunks().0[..n]);
        spread(n, |i| [luma(&a[i]), luma(&b[i])], centre, maps);
    }

    /// `outs[y][i]` = the weighted sum of the eleven values `rows[y..][i]`; each row is read once for all.
    fn weigh_down(rows: [&[f32; WIDE]; RING], outs: &mut [[f32; WIDE]; GROUP], wide: usize) {
        for at in 0..wide.div_ceil(LANES) {
            let mut sets = [[0.0; LANES]; RING];
            for (set, row) in sets.iter_mut().zip(rows) {
                *set = row.as_chunks().0[at];
            }
            let mut sums = [[0.0; LANES]; GROUP];
            for (y, sum) in sums.iter_mut().enumerate() {
                *sum = weigh(&sets, y);
            }
            for (out, sum) in outs.iter_mut().zip(sums) {
                out.as_chunks_mut().0[at] = sum;
            }
        }
    }

    /// `out[i]` = the weighted sum of the eleven values `row[i]`, `row[i + STEP]` and so on.
    fn weigh_across<const STEP: usize>(row: &[f32; WIDE], out: &mut [f32; STRIP], strip: usize) {
        for at in (0..strip).step_by(LANES) {
            let mut sets = [[0.0; LANES]; WINDOW];
            for (k, set) in sets.iter_mut().enumerate() {
                set.copy_from_slice(&row[at + k * STEP..][..LANES]);
            }
            out.as_chunks_mut().0[at / LANES] = weigh(&sets, 0);
        }
    }

    /// SSIM of each window from its four means, written over the first.
    fn similarity(
        plus: &mut [f32],
        minus: &[f32; STRIP],
        plus_squared: &[f32; STRIP],
        minus_squared: &[f32; STRIP],
        centre: &Centre,
    ) {
        let strip = plus.len();
        let (minus, plus_squared, minus_squared) = (&minus[..strip], &plus_squared[..strip], &minus_squared[..strip]);
        let (plus_centre, minus_centre) = (&centre[0][..strip], &centre[1][..strip]);
        for i in 0..strip {
            let [p, m] = [plus[i], minus[i]];
            let [p_variance, m_variance] = [plus_squared[i] - p * p, minus_squared[i] - m * m];
            // The values were loaded less 128, so their sum lacks 256.
            let [p, m] = [p + plus_centre[i] + 256.0, m + minus_centre[i]];
            let [p, m] = [p * p, m * m];
            plus[i] = (p - m + C1) * (p_variance - m_variance + C2) / ((p + m + C1) * (p_variance + m_variance + C2));
        }
    }
}

/// Fills the first `n` values of the maps of p and m, relative to the centre, and of their squares; `pair` gives a and b.
#[inline(always)]
fn spread(n: usize, pair: impl Fn(usize) -> [f32; 2], centre: &Centre, maps: [&mut [f32]; 4]) {
    let [plus, minus, plus_squared, minus_squared] = maps.map(|map| &mut map[..n]);
    let [plus_centre, minus_centre] = centre.each_ref().map(|centre| &centre[..n]);
    for i in 0..n {
        let [a, b] = pair(i);
        let [p, m] = [a + b - plus_centre[i], a - b - minus_centre[i]];
        plus[i] = p;
        minus[i] = m;
        plus_squared[i] = p * p;
        minus_squared[i] = m * m;
    }
}

/// The weighted sum of the eleven sets from `first` on.
#[inline(always)]
fn weigh(sets: &[[f32; LANES]], first: usize) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (lane, sum) in sums.iter_mut().enumerate() {
        let value = |k: usize| sets[first + k][lane];
        *sum = value(REACH) * WEIGHTS[0];
        *sum += (value(4) + value(6)) * WEIGHTS[1];
        *sum += (value(3) + value(7)) * WEIGHTS[2];
        *sum += (value(2) + value(8)) * WEIGHTS[3];
        *sum += (value(1) + value(9)) * WEIGHTS[4];
        *sum += (value(0) + value(10)) * WEIGHTS[5];
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_gaussian() {
        let bell = |k: usize| (-((k * k) as f64) / (2.0 * 1.5 * 1.5)).exp();
        let sum = bell(0) + 2.0 * (1..=REACH).map(bell).sum::<f64>();
        for (k, &weight) in WEIGHTS.iter().enumerate() {
            assert_eq!(weight, (bell(k) / sum) as f32, "{k}");
        }
    }

    /// The textbook's five sums in f64, no separation, no centring.
    fn direct(a: &[u8], b: &[u8], width: usize, height: usize) -> f64 {
        let bell = |k: usize| (-(k.abs_diff(REACH).pow(2) as f64) / 4.5).exp();
        let norm: f64 = (0..WINDOW).map(bell).sum::<f64>().powi(2);
        let mut total = 0.0;
        for y in 0..=height - WINDOW {
            for x in 0..=width - WINDOW {
                for c in 0..3 {
                    let mut sums = [0.0; 5];
                    for j in 0..WINDOW {
                        for i in 0..WINDOW {
                            let at = ((y + j) * width + x + i) * 3 + c;
                            let [a, b, w] = [f64::from(a[at]), f64::from(b[at]), bell(i) * bell(j) / norm];
                            for (sum, v) in sums.iter_mut().zip([a, b, a * a, b * b, a * b]) {
                                *sum += w * v;
                            }
                        }
                    }
                    let [a, b, aa, bb, ab] = sums;
                    let [c1, c2] = [6.5025, 58.5225];
                    total += (2.0 * a * b + c1) * (2.0 * (ab - a * b) + c2)
                        / ((a * a + b * b + c1) * (aa - a * a + bb - b * b + c2));
                }
            }
        }
        total / ((height - WINDOW + 1) * (width - WINDOW + 1) * 3) as f64
    }

    #[test]
    fn f32_is_near_enough_also_for_flat_and_saturated_images() {
        let [width, height] = [100, 17];
        let fill = |f: &dyn Fn(usize) -> u8| (0..width * height * 3).map(f).collect::<Vec<u8>>();
        let images = [
            fill(&|_| 0),
            fill(&|_| 1),
            fill(&|_| 255),
            fill(&|i| 254 + (i % 2) as u8),
            fill(&|i| if i % 7 < 3 { 0 } else { 255 }),
            fill(&|i| ((i * 2_654_435_761) >> 11) as u8),
            fill(&|i| (i / 3 % width * 255 / width) as u8),
        ];
        for a in &images {
            for b in &images {
                let found = rgb(&Pair { images: [a, b], stride: width * 3, width, height }).unwrap();
                let expected = direct(a, b, width, height);
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }
}
