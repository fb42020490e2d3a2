//! Peak signal-to-noise ratio, `10 · log10(255² / MSE)`, from an exact sum of squared differences.

use super::{LUMA, LUMA_UNIT, Pair};
use crate::vectors::vectorised;

/// What LM4LV's evaluation calls the PSNR of identical images, dB. (Large images that differ in one value pass it.)
pub(super) const LM4LV_IDENTICAL: f64 = 100.0;

/// Values whose squared differences fit into the inner sum.
const CHUNK: usize = 8192;

/// Over all three channels, dB; infinite for identical images.
pub(super) fn rgb(pair: &Pair<'_>) -> f64 {
    let mut total = 0u64;
    for y in 0..pair.height {
        let [a, b] = pair.row(y);
        for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
            total += u64::from(squares(a, b));
        }
    }
    decibel(total as f64 / (3 * pair.width * pair.height) as f64)
}

/// Of the luma, dB; infinite for images of equal luma.
pub(super) fn luma(pair: &Pair<'_>) -> f64 {
    let mut total = 0u128;
    for y in 0..pair.height {
        let [a, b] = pair.row(y);
        for (a, b) in a.chunks(CHUNK * 3).zip(b.chunks(CHUNK * 3)) {
            total += u128::from(luma_squares(a.as_chunks().0, b.as_chunks().0));
        }
    }
    decibel(total as f64 / (LUMA_UNIT * LUMA_UNIT) / (pair.width * pair.height) as f64)
}

vectorised! {
    /// The sum of squared differences of at most [`CHUNK`] values.
    fn squares(a: &[u8], b: &[u8]) -> u32 {
        a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum()
    } => avx2 {
        // Two products and their sum at once.
        use std::arch::x86_64::{
            __m256i, _mm256_add_epi32, _mm256_madd_epi16, _mm256_or_si256, _mm256_setzero_si256, _mm256_subs_epu8,
            _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
        };
        let zero = _mm256_setzero_si256();
        let mut sums = [zero; 2];
        let (blocks, rest) = a.as_chunks::<32>();
        let (others, other_rest) = b.as_chunks::<32>();
        for (a, b) in blocks.iter().zip(others) {
            let [a, b]: [__m256i; 2] = [bytemuck::cast(*a), bytemuck::cast(*b)];
            let apart = _mm256_or_si256(_mm256_subs_epu8(a, b), _mm256_subs_epu8(b, a));
            let halves = [_mm256_unpacklo_epi8(apart, zero), _mm256_unpackhi_epi8(apart, zero)];
            for (sum, half) in sums.iter_mut().zip(halves) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(half, half));
            }
        }
        let sums: [u32; 8] = bytemuck::cast(_mm256_add_epi32(sums[0], sums[1]));
        let rest: u32 = rest.iter().zip(other_rest).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum();
        sums.iter().sum::<u32>() + rest
    }

    /// The sum of squared differences in luma of at most [`CHUNK`] pixels: below 2^25 each, so a square is below 2^50 and
    /// 2^13 of them fit.
    fn luma_squares(a: &[[u8; 3]], b: &[[u8; 3]]) -> u64 {
        a.iter().zip(b).map(|(a, b)| u64::from(luma_difference(*a, *b).unsigned_abs()).pow(2)).sum()
    }
}

#[inline(always)]
fn luma_difference(a: [u8; 3], b: [u8; 3]) -> i32 {
    (0..3).map(|c| LUMA[c] * (i32::from(a[c]) - i32::from(b[c]))).sum()
}

fn decibel(mean_squared_error: f64) -> f64 {
    if mean_squared_error == 0.0 { f64::INFINITY } else { 10.0 * log10(255.0 * 255.0 / mean_squared_error) }
}

/// The logarithm to base 10 of a positive normal number, to about 1e-15. A C library's may differ in the last bit from one
/// machine to another, this one cannot: the exponent, and 2·artanh((m − 1) / (m + 1)) for the mantissa.
fn log10(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits(bits & MANTISSA | 1.0f64.to_bits());
    // From [1, 2) to [1/√2, √2], where the series is short.
    let (mantissa, exponent) =
        if mantissa > std::f64::consts::SQRT_2 { (mantissa / 2.0, exponent + 1) } else { (mantissa, exponent) };
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = (0..=11).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    (f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * ratio * series) / std::f64::consts::LN_10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm() {
        for i in 1..200_000u32 {
            let x = f64::from(i) / 77.0;
            assert!((log10(x) - x.log10()).abs() <= 2e-15 * x.log10().abs().max(1.0), "{x}");
        }
        assert_eq!(log10(1.0), 0.0);
        assert!((log10(1e300) - 300.0).abs() < 1e-12);
    }

    #[test]
    fn luma_is_matlabs() {
        // 65.481, 128.553 and 24.966 over 255, of black against each channel's white.
        for (c, weight) in [65.481, 128.553, 24.966].into_iter().enumerate() {
            let mut white = [0; 3];
            white[c] = 255;
            let levels = f64::from(luma_difference(white, [0; 3])) / LUMA_UNIT;
            assert!((levels - weight).abs() < 1e-12, "{levels}");
        }
    }
}
