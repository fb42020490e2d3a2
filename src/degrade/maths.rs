//! Elementary functions, and Keys' cubic, for kernels and drawn parameters, f64, from additions, multiplications and divisions alone.
//!
//! The standard library's come from the platform's `libm`, whose last bit differs from system to system; pixels made with
//! them would too. These are within a few 10⁻¹⁶ of the true value, and the same everywhere.

/// eˣ; 0 below -700, and not beyond e⁷⁰⁰.
pub(crate) fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    let x = x.min(700.0);
    let n = (x * std::f64::consts::LOG2_E).round();
    // ln 2 in two parts, the first with so few bits that n times it is exact.
    let r = (x - n * 0.693_147_180_369_123_8) - n * 1.908_214_929_270_587_7e-10;
    let sum = (1..=14).rev().fold(1.0, |sum, k| sum * r / f64::from(k) + 1.0);
    sum * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// ln x for a positive, normal x.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits() as i64;
    // x = m · 2^e with m in [sqrt(1/2), sqrt(2)).
    let e = (bits - 0x3fe6_a09e_667f_3bcd) >> 52;
    let m = f64::from_bits((bits - (e << 52)) as u64);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = (0..=13).rev().fold(0.0, |sum, k| sum * z + 1.0 / f64::from(2 * k + 1));
    2.0 * s * series + e as f64 * std::f64::consts::LN_2
}

/// (sin x, cos x) for x in radians, |x| below some thousands.
pub(crate) fn sin_cos(x: f64) -> (f64, f64) {
    let n = (x * std::f64::consts::FRAC_2_PI).round();
    // pi / 2 in two parts, as in `exp`.
    let r = (x - n * 1.570_796_326_734_125_6) - n * 6.077_100_506_506_192e-11;
    let z = r * r;
    let sin = r * (1..=9).rev().fold(1.0, |sum, k| 1.0 - sum * z / f64::from(2 * k * (2 * k + 1)));
    let cos = (1..=9).rev().fold(1.0, |sum, k| 1.0 - sum * z / f64::from(2 * k * (2 * k - 1)));
    match (n as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// (sin, cos) of an angle in degrees, exact at multiples of 90.
pub(crate) fn sin_cos_degrees(degrees: f64) -> (f64, f64) {
    let quarter = degrees / 90.0;
    if quarter.fract() == 0.0 {
        return [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)][quarter.rem_euclid(4.0) as usize % 4];
    }
    sin_cos(degrees * (std::f64::consts::PI / 180.0))
}

/// Keys' cubic with a = −½, for distances 0 to 1.
#[inline(always)]
pub(crate) fn near(x: f64) -> f64 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The same for distances 1 to 2.
#[inline(always)]
pub(crate) fn far(x: f64) -> f64 {
    (((x - 5.0) * x + 8.0) * x - 4.0) * A
}

/// Keys' a.
const A: f64 = -0.5;

/// Keys' cubic with a = −½, for distances 0 to 2.
pub(crate) fn cubic(x: f64) -> f64 {
    if x < 1.0 { near(x) } else { far(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_libm() {
        for i in -2000..2000 {
            let x = f64::from(i) * 0.03371;
            assert!((exp(x) / x.exp() - 1.0).abs() < 4e-16 * 4.0, "exp {x}");
            let (sin, cos) = sin_cos(x);
            assert!((sin - x.sin()).abs() < 1e-15 && (cos - x.cos()).abs() < 1e-15, "sin cos {x}");
            let positive = x.exp();
            assert!((ln(positive) - positive.ln()).abs() < 1e-15 * (1.0 + x.abs()), "ln {positive}");
        }
        assert_eq!((exp(-800.0), exp(0.0), ln(1.0)), (0.0, 1.0, 0.0));
        assert_eq!(sin_cos_degrees(-90.0), (-1.0, 0.0));
        assert_eq!(sin_cos_degrees(450.0), (1.0, 0.0));
    }
}
