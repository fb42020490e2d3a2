//! SSIM under a uniform 7×7 window with sample (co)variances, as scikit-image's `structural_similarity` does by default.
//!
//! All sums are whole numbers and exact: of p = a + b, m = a − b and their squares, down seven rows by adding the row that
//! comes and taking off the one that goes, then across. Only the last formula is in f32, after every cancellation.

use super::{C1, C2, Pair, Sum};
use crate::vectors::vectorised;

/// The window's width.
const WINDOW: usize = 7;
/// Pixels in a window.
const AREA: i32 = (WINDOW * WINDOW) as i32;
/// Values whose similarity is computed at once.
const STRIP: usize = 192;
/// The same with what windows reach beyond it.
const WIDE: usize = STRIP + 3 * (WINDOW - 1);

/// Over RGB, windows inside the image. `None` if there is no room for one.
pub(super) fn rgb(pair: &Pair<'_>) -> Option<f64> {
    let margin = 3 * (WINDOW - 1);
    let values = (pair.width * 3).checked_sub(margin).filter(|&n| n > 0)?;
    let rows = pair.height.checked_sub(WINDOW - 1).filter(|&n| n > 0)?;
    let mut sum = Sum::default();
    let mut similar = [0.0; STRIP];
    for from in (0..values).step_by(STRIP) {
        let strip = STRIP.min(values - from);
        let row = |y| pair.row(y).map(|row| &row[from..from + strip + margin]);
        let mut columns = [[0; WIDE]; 4];
        for y in 0..pair.height {
            add::<1>(&mut columns, row(y));
            if y + 1 < WINDOW {
                continue;
            }
            similarity(&columns, &mut similar[..strip]);
            sum.add(&similar[..strip]);
            add::<-1>(&mut columns, row(y + 1 - WINDOW));
        }
    }
    Some(sum.total() / (values * rows) as f64)
}

vectorised! {
    /// Adds `SIGN` times p, m, p² and m² of one row to the columns' sums.
    fn add<const SIGN: i32>(columns: &mut [[i32; WIDE]; 4], rows: [&[u8]; 2]) {
        let [a, b] = rows;
        let [plus, minus, plus_squared, minus_squared] = columns.each_mut().map(|column| &mut column[..a.len()]);
        let b = &b[..a.len()];
        for i in 0..a.len() {
            let [a, b] = [i16::from(a[i]), i16::from(b[i])];
            let [p, m] = [i32::from(a + b), i32::from(a - b)];
            plus[i] += SIGN * p;
            minus[i] += SIGN * m;
            plus_squared[i] += SIGN * (p * p);
            minus_squared[i] += SIGN * (m * m);
        }
    }

    /// SSIM of the windows that begin at each value. No term passes 2^30: p is at most 510, so 49² · 510² is the largest.
    fn similarity(columns: &[[i32; WIDE]; 4], out: &mut [f32]) {
        const MEAN: f32 = 1.0 / (AREA * AREA) as f32;
        const VARIANCE: f32 = 1.0 / (AREA * (AREA - 1)) as f32;
        let [plus, minus, plus_squared, minus_squared] = columns;
        for i in 0..out.len() {
            let across = |column: &[i32; WIDE]| (0..WINDOW).map(|k| column[i + 3 * k]).sum::<i32>();
            let [p, m] = [across(plus).pow(2), across(minus).pow(2)];
            let p_variance = AREA * across(plus_squared) - p;
            let m_variance = AREA * across(minus_squared) - m;
            let mean = |sum: i32| sum as f32 * MEAN + C1;
            let variance = |sum: i32| sum as f32 * VARIANCE + C2;
            out[i] = mean(p - m) * variance(p_variance - m_variance) / (mean(p + m) * variance(p_variance + m_variance));
        }
    }
}
