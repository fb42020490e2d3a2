//! Convolution of planes, borders mirrored without the edge pixel (`reflect101`: `d c b | a b c d | c b a`).
//!
//! Sums run over the taps in a fixed order with plain multiplications and additions, sixteen or more pixels side by side:
//! the compiler makes vector code of it, and every CPU gives the same bits.

use std::ops::Range;
use std::slice::ChunksExactMut;

use crate::image::{Planes, Size};
use crate::vectors::vectorised;

/// Pixels that are summed side by side.
const LANES: usize = 64;

/// Values in a cache line.
const LINE: usize = 16;

/// A tap this much weaker than the strongest changes no f32 sum of pixels.
const NEGLIGIBLE: f64 = 1.0 / 16_777_216.0;

/// The place inside `0..n` that place `i` outside mirrors; any distance is allowed, and `n` = 1 mirrors to 0.
pub(crate) fn reflect101(i: isize, n: usize) -> usize {
    if (0..n as isize).contains(&i) {
        return i as usize;
    }
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as isize - 1);
    let i = i.rem_euclid(period);
    i.min(period - i) as usize
}

/// Half of a symmetric kernel: the centre, then outwards, without the negligible end.
pub(crate) struct Taps(Vec<f32>);

impl Taps {
    /// From weights for distances 0, 1, 2, …
    pub(crate) fn new(weights: &[f64]) -> Self {
        let strongest = weights.iter().fold(0.0f64, |a, b| a.max(*b));
        let kept = weights.iter().rposition(|w| *w > strongest * NEGLIGIBLE).map_or(1, |last| last + 1);
        Self(weights.iter().take(kept).map(|w| *w as f32).collect())
    }

    fn radius(&self) -> usize {
        self.0.len() - 1
    }
}

/// The first values, times `weight`.
#[inline(always)]
fn scaled(values: &[f32], weight: f32) -> [f32; LANES] {
    let mut sum = [0.0; LANES];
    for (sum, value) in sum.iter_mut().zip(&values[..LANES]) {
        *sum = weight * value;
    }
    sum
}

/// `row`, with `radius` mirrored values on either side, into `padded`.
fn pad(row: &[f32], radius: usize, padded: &mut [f32]) {
    let w = row.len();
    padded[radius..radius + w].copy_from_slice(row);
    for i in 1..=radius {
        padded[radius - i] = row[reflect101(-(i as isize), w)];
        padded[radius + w - 1 + i] = row[reflect101((w - 1 + i) as isize, w)];
    }
}

/// Filters `row`: its middle where it lies, its ends in `padded`; a short row, or one with a wide window, wholly there.
fn filter_across(row: &[f32], taps: &[f32], padded: &mut [f32], out: &mut [f32]) {
    let (w, radius) = (row.len(), taps.len() - 1);
    let middle = LANES..w.saturating_sub(LANES);
    if middle.len() < LANES || radius > LANES / 2 {
        pad(row, radius, padded);
        return filter_row(padded, taps, out);
    }
    filter_row(&row[LANES - radius..w - LANES + radius], taps, &mut out[middle]);
    let reach = LANES + radius;
    let (first, last) = padded[..2 * (reach + radius)].split_at_mut(reach + radius);
    first[radius..].copy_from_slice(&row[..reach]);
    last[..reach].copy_from_slice(&row[w - reach..]);
    for i in 1..=radius {
        first[radius - i] = row[i];
        last[reach - 1 + i] = row[w - 1 - i];
    }
    filter_row(first, taps, &mut out[..LANES]);
    filter_row(last, taps, &mut out[w - LANES..]);
}

/// Convolves each plane with `across` along rows, then with `down` along columns, in place.
pub(crate) fn separable(image: &mut Planes, across: &Taps, down: &Taps) {
    let Size { width, height } = image.size();
    let (w, h) = (width as usize, height as usize);
    // Rows filtered across, in a ring: row y stands in slot y mod slots. An output row needs `radius` rows on both sides.
    let radius = down.radius();
    let slots = (2 * radius + 1).min(h);
    // Each row begins where a cache line does: a load that lies in two of them takes twice as long.
    let stride = w.next_multiple_of(LINE);
    let mut ring = vec![0.0f32; slots * stride + LINE];
    let begin = ring.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let ring = &mut ring[begin..];
    let mut padded = vec![0.0f32; w + 2 * across.radius()];
    // Where the ring has row y − radius.
    let places = (0..h + 2 * radius).map(|y| reflect101(y as isize - radius as isize, h) % slots * stride);
    let places: Vec<usize> = places.collect();
    for channel in 0..3 {
        let plane = image.plane_mut(channel);
        let mut next = 0;
        for y in 0..h {
            while next < h && next <= y + radius {
                let slot = next % slots * stride;
                filter_across(&plane[next * w..(next + 1) * w], &across.0, &mut padded, &mut ring[slot..slot + w]);
                next += 1;
            }
            let row = |y: usize| &ring[places[y]..][..w];
            let rows = (1..=radius).map(|i| (row(y + radius - i), row(y + radius + i), down.0[i]));
            let rows: Vec<(&[f32], &[f32], f32)> = rows.collect();
            combine_rows(row(y + radius), down.0[0], &rows, &mut plane[y * w..(y + 1) * w]);
        }
    }
}

vectorised! {
    /// `out[x] = Σ taps[i] · (padded[x + radius − i] + padded[x + radius + i])`, the centre once.
    fn filter_row(padded: &[f32], taps: &[f32], out: &mut [f32]) {
        let radius = taps.len() - 1;
        for x in runs(out.len()) {
            let mut sum = scaled(&padded[x + radius..], taps[0]);
            for (i, tap) in taps.iter().enumerate().skip(1) {
                let left = &padded[x + radius - i..][..LANES];
                let right = &padded[x + radius + i..][..LANES];
                for j in 0..LANES {
                    sum[j] += tap * (left[j] + right[j]);
                }
            }
            out[x..x + LANES].copy_from_slice(&sum);
        }
        for x in short(out.len()) {
            let mut sum = taps[0] * padded[x + radius];
            for (i, tap) in taps.iter().enumerate().skip(1) {
                sum += tap * (padded[x + radius - i] + padded[x + radius + i]);
            }
            out[x] = sum;
        }
    }

    /// `out = weight · centre + Σ w · (above + below)` over whole rows.
    fn combine_rows(centre: &[f32], weight: f32, rows: &[(&[f32], &[f32], f32)], out: &mut [f32]) {
        for x in runs(out.len()) {
            let mut sum = scaled(&centre[x..], weight);
            for (above, below, tap) in rows {
                let (above, below) = (&above[x..][..LANES], &below[x..][..LANES]);
                for j in 0..LANES {
                    sum[j] += tap * (above[j] + below[j]);
                }
            }
            out[x..x + LANES].copy_from_slice(&sum);
        }
        for x in short(out.len()) {
            let mut sum = weight * centre[x];
            for (above, below, tap) in rows {
                sum += tap * (above[x] + below[x]);
            }
            out[x] = sum;
        }
    }
}

/// Where the runs of a row begin; the last one repeats what the one before it made, if the row does not end with a run.
#[inline(always)]
fn runs(width: usize) -> impl Iterator<Item = usize> {
    let count = if width < LANES { 0 } else { width.div_ceil(LANES) };
    (0..count).map(move |run| (run * LANES).min(width - LANES))
}

/// The places of a row that is shorter than a run.
#[inline(always)]
fn short(width: usize) -> Range<usize> {
    0..if width < LANES { width } else { 0 }
}

/// Convolves each plane with a `k`×`k` kernel (k odd, row by row) that a half turn does not change, in place.
pub(crate) fn symmetric(image: &mut Planes, kernel: &[f64], k: usize) {
    let Size { width, height } = image.size();
    let (w, h, radius) = (width as usize, height as usize, k / 2);
    let strongest = kernel.iter().fold(0.0f64, |a, b| a.max(*b));
    // Half of the taps, centre first; each stands for itself and its opposite.
    let centre = kernel[k * k / 2] as f32;
    let taps: Vec<(usize, usize, f32)> = (k * k / 2 + 1..k * k)
        .filter(|i| kernel[*i] > strongest * NEGLIGIBLE)
        .map(|i| (i / k, i % k, kernel[i] as f32))
        .collect();
    let stride = w + 2 * radius;
    let mut padded = vec![0.0f32; stride * (h + 2 * radius)];
    for channel in 0..3 {
        let plane = image.plane_mut(channel);
        for (y, row) in padded.chunks_exact_mut(stride).enumerate() {
            let from = reflect101(y as isize - radius as isize, h) * w;
            pad(&plane[from..from + w], radius, row);
        }
        weigh_pairs(&padded, stride, k, centre, &taps, plane.chunks_exact_mut(w));
    }
}

vectorised! {
    /// Each value of `rows` from the `k`×`k` values of `padded` whose corner stands at its place: `centre` times the middle
    /// one, and each tap (row, column, weight) times that one and its opposite.
    fn weigh_pairs(
        padded: &[f32],
        stride: usize,
        k: usize,
        centre: f32,
        taps: &[(usize, usize, f32)],
        rows: ChunksExactMut<'_, f32>,
    ) {
        for (y, out) in rows.enumerate() {
            let at = |dy: usize, dx: usize| (y + dy) * stride + dx;
            for x in runs(out.len()) {
                let mut sum = scaled(&padded[at(k / 2, k / 2) + x..], centre);
                for (dy, dx, tap) in taps {
                    let a = &padded[at(*dy, *dx) + x..][..LANES];
                    let b = &padded[at(k - 1 - dy, k - 1 - dx) + x..][..LANES];
                    for j in 0..LANES {
                        sum[j] += tap * (a[j] + b[j]);
                    }
                }
                out[x..x + LANES].copy_from_slice(&sum);
            }
            for x in short(out.len()) {
                let mut sum = centre * padded[at(k / 2, k / 2) + x];
                for (dy, dx, tap) in taps {
                    sum += tap * (padded[at(*dy, *dx) + x] + padded[at(k - 1 - dy, k - 1 - dx) + x]);
                }
                out[x] = sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_at_any_distance() {
        let row: Vec<usize> = (-7..10).map(|i| reflect101(i, 4)).collect();
        assert_eq!(row, [1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3]);
        assert_eq!((reflect101(-9, 1), reflect101(5, 1), reflect101(2, 2), reflect101(-1, 2)), (0, 0, 0, 1));
    }

    /// Plain sums over mirrored places, f64.
    fn naive(plane: &[f32], w: usize, h: usize, kernel: &[f64], k: usize) -> Vec<f64> {
        let r = (k / 2) as isize;
        let mut out = Vec::new();
        for y in 0..h as isize {
            for x in 0..w as isize {
                let mut sum = 0.0;
                for dy in -r..=r {
                    for dx in -r..=r {
                        let weight = kernel[((dy + r) * k as isize + dx + r) as usize];
                        sum += weight * f64::from(plane[reflect101(y + dy, h) * w + reflect101(x + dx, w)]);
                    }
                }
                out.push(sum);
            }
        }
        out
    }

    /// The middle from where it lies, or all from a padded copy: the same bits.
    #[test]
    fn rows_are_filtered_alike_wherever_they_lie() {
        let mut stream = crate::stream::Stream::new(1, "filter", 0, "", "", 0);
        for radius in [0, 1, 7, 32, 33] {
            let taps: Vec<f32> = (0..=radius).map(|i| 1.0 / (i + 1) as f32).collect();
            for w in [191, 192, 193, 300] {
                let row: Vec<f32> = (0..w).map(|_| stream.unit() as f32).collect();
                let mut padded = vec![0.0; w + 2 * radius];
                let [mut lying, mut copied] = [vec![0.0; w], vec![0.0; w]];
                filter_across(&row, &taps, &mut padded, &mut lying);
                pad(&row, radius, &mut padded);
                filter_row(&padded, &taps, &mut copied);
                assert!(lying == copied, "{w} wide, radius {radius}");
            }
        }
    }

    #[test]
    fn both_ways_agree_with_plain_sums() {
        let half = [0.4, 0.2, 0.1];
        let k = 5;
        let kernel: Vec<f64> = (0..25usize).map(|i| half[(i / 5).abs_diff(2)] * half[(i % 5).abs_diff(2)]).collect();
        for (w, h) in [(1, 1), (1, 37), (70, 3), (37, 41), (2, 2), (64, 5), (150, 20), (192, 3), (300, 4)] {
            let mut stream = crate::stream::Stream::new(1, "filter", 0, "", "", 0);
            let data: Vec<f32> = (0..w * h * 3).map(|_| stream.unit() as f32).collect();
            let clean = Planes::from_data(Size::new(w as u32, h as u32), data).unwrap();
            let mut rows_and_columns = clean.clone();
            separable(&mut rows_and_columns, &Taps::new(&half), &Taps::new(&half));
            let mut whole = clean.clone();
            symmetric(&mut whole, &kernel, k);
            for channel in 0..3 {
                let expected = naive(clean.plane(channel), w, h, &kernel, k);
                for (i, e) in expected.iter().enumerate() {
                    assert!((f64::from(rows_and_columns.plane(channel)[i]) - e).abs() < 1e-6, "{w}x{h} at {i}");
                    assert!((f64::from(whole.plane(channel)[i]) - e).abs() < 1e-6, "{w}x{h} at {i}");
                }
            }
        }
    }
}
