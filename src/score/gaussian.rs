//! SSIM under a Gaussian window of 11×11, σ 1.5 (Wang et al. 2004; BasicSR, LM4LV and torchmetrics).
//!
//! Four filtered maps: of p = a + b and m = a − b, and of their squares. From them both variances, the covariance and both
//! means follow (a·b = (p² − m²)/4 and so on), where the textbook filters five. RGB stays interleaved: the neighbour in
//! the same channel is three values on. An image is done in tiles, so that the eleven rows of four maps that are in use
//! stay in a cache, and so that p and m can be taken relative to their means in the tile: a variance is the small
//! difference of two large numbers, and this keeps f32 within 1e-6 of f64 where 128 for all as the centre reached 7e-6 (a
//! photograph and the same brightened until it saturates).

use super::{C1, C2, LUMA, LUMA_UNIT, Pair, Sum};

/// The window's width.
const WINDOW: usize = 11;
/// Pixels beyond the centre at each side.
const REACH: usize = WINDOW / 2;
/// exp(−k²/2σ²) for k = 0 … 5, over its sum.
const WEIGHTS: [f32; REACH + 1] =
    [0.266_011_71, 0.213_005_54, 0.109_360_69, 0.036_000_773, 0.007_598_758, 0.001_028_380_1];
/// Windows in a tile, downwards.
const TALL: usize = 64;
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

/// Over RGB, windows inside the image. `None` if there is no room for one.
pub(super) fn rgb(pair: &Pair<'_>) -> Option<f64> {
    mean::<3>(pair, |row, values| {
        for (value, &byte) in values.iter_mut().zip(row) {
            *value = f32::from(byte) - 128.0;
        }
    })
}

/// Of the luma, windows inside the image. `None` if there is no room for one.
pub(super) fn luma(pair: &Pair<'_>) -> Option<f64> {
    const CENTRE: f32 = (128 - 16) as f32 * LUMA_UNIT as f32;
    const LEVEL: f32 = (1.0 / LUMA_UNIT) as f32;
    let [red, green, blue] = LUMA.map(|weight| weight as f32);
    mean::<1>(pair, |row, values| {
        for (value, rgb) in values.iter_mut().zip(row.as_chunks::<3>().0) {
            let [r, g, b] = rgb.map(f32::from);
            // Whole numbers below 2^24 up to here, so exact.
            *value = (r * red - CENTRE + g * green + b * blue) * LEVEL;
        }
    })
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
fn mean<const STEP: usize>(pair: &Pair<'_>, load: impl Fn(&[u8], &mut [f32])) -> Option<f64> {
    let margin = STEP * 2 * REACH;
    let values = (pair.width * STEP).checked_sub(margin).filter(|&n| n > 0)?;
    let rows = pair.height.checked_sub(2 * REACH).filter(|&n| n > 0)?;
    let mut ring = vec![[[0.0; WIDE]; 4]; WINDOW];
    let mut columns: Maps = [[0.0; WIDE]; 4];
    let mut maps = [[0.0; STRIP]; 4];
    let mut sum = Sum::default();
    for top in (0..rows).step_by(TALL) {
        let bottom = rows.min(top + TALL) + 2 * REACH;
        for from in (0..values).step_by(STRIP) {
            let strip = STRIP.min(values - from);
            let wide = strip + margin;
            let bytes = from / STEP * 3..(from + wide) / STEP * 3;
            let sums = |y, maps: &mut Maps| {
                let [a, b] = pair.row(y).map(|row| &row[bytes.clone()]);
                sums(a, b, &load, maps, wide);
            };
            let centre = centre::<STEP>((top..bottom).step_by(SAMPLED), sums, wide);
            for y in top..bottom {
                sums(y, &mut ring[y % WINDOW]);
                spread(&mut ring[y % WINDOW], &centre, wide);
                if y - top + 1 < WINDOW {
                    continue;
                }
                for (map, out) in columns.iter_mut().enumerate() {
                    let window = std::array::from_fn(|k| &ring[(y + 1 + k) % WINDOW][map][..]);
                    weigh(window, &mut out[..wide.next_multiple_of(LANES)]);
                }
                for (column, out) in columns.iter().zip(&mut maps) {
                    let window = std::array::from_fn(|k| &column[k * STEP..]);
                    weigh(window, &mut out[..strip.next_multiple_of(LANES)]);
                }
                similarity(&mut maps, &centre, strip);
                sum.add(&maps[0][..strip]);
            }
        }
    }
    Some(sum.total() / (values * rows) as f64)
}

/// Fills the first two maps of one row with p and m.
#[inline(always)]
fn sums(a: &[u8], b: &[u8], load: &impl Fn(&[u8], &mut [f32]), maps: &mut Maps, wide: usize) {
    let [plus, minus, ..] = maps.each_mut().map(|map| &mut map[..wide]);
    load(a, plus);
    load(b, minus);
    for (a, b) in plus.iter_mut().zip(minus) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}

/// Whole numbers less than 1 from the means of p and m in a tile, judged by some of its rows, for each channel; laid out as
/// a row is.
fn centre<const STEP: usize>(
    rows: impl ExactSizeIterator<Item = usize>,
    sums: impl Fn(usize, &mut Maps),
    wide: usize,
) -> [[f32; WIDE]; 2] {
    let pixels = (rows.len() * wide / STEP) as f32;
    let mut maps: Maps = [[0.0; WIDE]; 4];
    let mut totals = [[0.0; STEP]; 2];
    for y in rows {
        sums(y, &mut maps);
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

/// Takes the centre from p and m, and fills the maps of their squares.
#[inline(never)]
fn spread(maps: &mut Maps, centre: &[[f32; WIDE]; 2], wide: usize) {
    let [plus, minus, plus_squared, minus_squared] = maps.each_mut().map(|map| &mut map[..wide]);
    let [plus_centre, minus_centre] = centre.each_ref().map(|centre| &centre[..wide]);
    for i in 0..wide {
        let [p, m] = [plus[i] - plus_centre[i], minus[i] - minus_centre[i]];
        plus[i] = p;
        minus[i] = m;
        plus_squared[i] = p * p;
        minus_squared[i] = m * m;
    }
}

/// `out[i]` = the weighted sum of the eleven values `window[..][i]`. Lengths are multiples of [`LANES`].
#[inline(never)]
fn weigh(window: [&[f32]; WINDOW], out: &mut [f32]) {
    let out = out.as_chunks_mut::<LANES>().0;
    let window = window.map(|values| &values.as_chunks::<LANES>().0[..out.len()]);
    for (i, out) in out.iter_mut().enumerate() {
        let mut sum = window[REACH][i].map(|centre| centre * WEIGHTS[0]);
        for k in 1..=REACH {
            let [before, after] = [&window[REACH - k][i], &window[REACH + k][i]];
            for lane in 0..LANES {
                sum[lane] += (before[lane] + after[lane]) * WEIGHTS[k];
            }
        }
        *out = sum;
    }
}

/// SSIM of each window, written over the first map.
#[inline(never)]
fn similarity(maps: &mut [[f32; STRIP]; 4], centre: &[[f32; WIDE]; 2], strip: usize) {
    let [plus, minus, plus_squared, minus_squared] = maps.each_mut().map(|map| &mut map[..strip]);
    let [plus_centre, minus_centre] = centre.each_ref().map(|centre| &centre[..strip]);
    for i in 0..strip {
        let [p, m] = [plus[i], minus[i]];
        let [p_variance, m_variance] = [plus_squared[i] - p * p, minus_squared[i] - m * m];
        // The values were loaded less 128, so their sum lacks 256.
        let [p, m] = [p + plus_centre[i] + 256.0, m + minus_centre[i]];
        let [p, m] = [p * p, m * m];
        plus[i] = (p - m + C1) * (p_variance - m_variance + C2) / ((p + m + C1) * (p_variance + m_variance + C2));
    }
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
