//! The integer DCT and quantisation of libjpeg's `islow` method (Loeffler, Ligtenberg and Moschytz, 1989), on
//! [`LANES`] blocks side by side.
//!
//! A group of blocks lies as 64 arrays, one for each place in a block, a lane for each block: every step is then the same
//! few 16-bit operations on whole arrays, which the compiler makes into vector code, and rows and columns need no
//! transposition between them. All products are of two 16-bit numbers (libjpeg's sums of inputs before a multiplication
//! are multiplied out), as vector units like them.

/// Blocks that are transformed side by side.
pub(super) const LANES: usize = 16;

/// 64 places, row by row, each with its value in every block.
pub(super) type Blocks = [[i16; LANES]; 64];

/// Spreads one row of pixels of up to [`LANES`] blocks over the eight places of that row, centred at 0.
#[inline(always)]
pub(super) fn load(row: &[u8], places: &mut [[i16; LANES]; 8]) {
    for (lane, eight) in row.as_chunks::<8>().0.iter().enumerate().take(LANES) {
        for (place, pixel) in places.iter_mut().zip(eight) {
            place[lane] = i16::from(*pixel) - 128;
        }
    }
}

/// The way back; values are pixels already.
#[inline(always)]
pub(super) fn store(places: &[[i16; LANES]; 8], row: &mut [u8]) {
    for (lane, eight) in row.as_chunks_mut::<8>().0.iter_mut().enumerate().take(LANES) {
        for (place, pixel) in places.iter().zip(eight) {
            *pixel = place[lane] as u8;
        }
    }
}

// Cosines as fractions of 2^13, as libjpeg names them.
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

/// A product of 16-bit numbers.
#[inline(always)]
fn times(value: i16, factor: i32) -> i32 {
    i32::from(value) * i32::from(factor as i16)
}

/// Divides by 2^`bits`, to nearest, and holds the result in 16 bits.
#[inline(always)]
fn descale(value: i32, bits: u32) -> i16 {
    ((value + (1 << (bits - 1))) >> bits).clamp(-32768, 32767) as i16
}

/// The odd half that both directions share: four inputs → four sums, as fractions of 2^13.
#[inline(always)]
fn odd(a: i16, b: i16, c: i16, d: i16) -> [i32; 4] {
    let (z3, z4) = (a.wrapping_add(c), b.wrapping_add(d));
    let z3_out = times(z3, F_1_175 - F_1_961) + times(z4, F_1_175);
    let z4_out = times(z3, F_1_175) + times(z4, F_1_175 - F_0_390);
    [
        times(a, F_0_298 - F_0_899) + times(d, -F_0_899) + z3_out,
        times(b, F_2_053 - F_2_562) + times(c, -F_2_562) + z4_out,
        times(c, F_3_072 - F_2_562) + times(b, -F_2_562) + z3_out,
        times(d, F_1_501 - F_0_899) + times(a, -F_0_899) + z4_out,
    ]
}

/// One forward pass over eight values. The first pass leaves two fraction bits, the second (`BITS` = 15) takes them away.
#[inline(always)]
fn forward_eight<const BITS: u32>(d: [i16; 8]) -> [i16; 8] {
    let [t0, t1, t2, t3] = std::array::from_fn(|i| d[i].wrapping_add(d[7 - i]));
    let [t7, t6, t5, t4] = std::array::from_fn(|i| d[i].wrapping_sub(d[7 - i]));
    let (t10, t13) = (t0.wrapping_add(t3), t0.wrapping_sub(t3));
    let (t11, t12) = (t1.wrapping_add(t2), t1.wrapping_sub(t2));
    let (sum, difference) = (t10.wrapping_add(t11), t10.wrapping_sub(t11));
    let (d0, d4) = if BITS == 11 {
        (sum << 2, difference << 2)
    } else {
        (descale(i32::from(t10) + i32::from(t11), 2), descale(i32::from(t10) - i32::from(t11), 2))
    };
    let d2 = times(t13, F_0_541 + F_0_765) + times(t12, F_0_541);
    let d6 = times(t13, F_0_541) + times(t12, F_0_541 - F_1_847);
    let [d7, d5, d3, d1] = odd(t4, t5, t6, t7).map(|v| descale(v, BITS));
    [d0, d1, descale(d2, BITS), d3, d4, d5, descale(d6, BITS), d7]
}

/// One inverse pass over eight values, to be descaled.
#[inline(always)]
fn inverse_eight(d: [i16; 8]) -> [i32; 8] {
    let t2 = times(d[2], F_0_541) + times(d[6], F_0_541 - F_1_847);
    let t3 = times(d[2], F_0_541 + F_0_765) + times(d[6], F_0_541);
    let t0 = (i32::from(d[0]) + i32::from(d[4])) << 13;
    let t1 = (i32::from(d[0]) - i32::from(d[4])) << 13;
    let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];
    let [o3, o2, o1, o0] = odd(d[7], d[5], d[3], d[1]);
    let odd = [o0, o1, o2, o3];
    std::array::from_fn(|i| if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] })
}

/// Does `f` for every lane of the eight places `first`, `first + step`, ….
#[inline(always)]
fn each_lane(blocks: &mut Blocks, first: usize, step: usize, f: impl Fn([i16; 8]) -> [i16; 8]) {
    let mut places: [[i16; LANES]; 8] = std::array::from_fn(|i| blocks[first + i * step]);
    for lane in 0..LANES {
        let out = f(std::array::from_fn(|i| places[i][lane]));
        for (place, value) in places.iter_mut().zip(out) {
            place[lane] = value;
        }
    }
    for (i, place) in places.into_iter().enumerate() {
        blocks[first + i * step] = place;
    }
}

/// Pixels less 128 → coefficients times 8.
#[inline(always)]
pub(super) fn forward(blocks: &mut Blocks) {
    for row in 0..8 {
        each_lane(blocks, row * 8, 1, forward_eight::<11>);
    }
    for column in 0..8 {
        each_lane(blocks, column, 8, forward_eight::<15>);
    }
}

/// Coefficients → pixels, 0 to 255.
#[inline(always)]
pub(super) fn inverse(blocks: &mut Blocks) {
    for column in 0..8 {
        each_lane(blocks, column, 8, |d| inverse_eight(d).map(|v| descale(v, 11)));
    }
    for row in 0..8 {
        each_lane(blocks, row * 8, 1, |d| inverse_eight(d).map(|v| (descale(v, 18).saturating_add(128)).clamp(0, 255)));
    }
}

/// Division by a coefficient's step, to nearest, and multiplication by it.
///
/// The division is by reciprocal: with d = 8 · step and 2^s < d ≤ 2^(s+1), ⌊n / d⌋ = ⌊n · ⌈2^(16+s) / d⌉ / 2^(16+s)⌋ for
/// every n < 2^15, and |coefficient| · 8 + d / 2 stays below 2^14.
pub(super) struct Quantiser {
    step: i16,
    half: u16,
    reciprocal: u16,
    shift: u32,
}

impl Quantiser {
    /// For a step from 1.
    pub(super) fn new(step: u8) -> Self {
        let d = u32::from(step.max(1)) * 8;
        let shift = (d - 1).ilog2();
        let reciprocal = (1u32 << (16 + shift)).div_ceil(d) as u16;
        Self { step: i16::from(step), half: (d / 2) as u16, reciprocal, shift }
    }

    /// Coefficients times 8 → quantised coefficients.
    #[inline(always)]
    pub(super) fn quantise(&self, lanes: &mut [i16; LANES]) {
        for value in lanes {
            let sign = *value >> 15;
            let n = ((*value ^ sign).wrapping_sub(sign) as u16).wrapping_add(self.half);
            let level = ((u32::from(n) * u32::from(self.reciprocal)) >> 16) as u16 >> self.shift;
            *value = (level as i16 ^ sign).wrapping_sub(sign);
        }
    }

    /// The way back, but for the rounding.
    #[inline(always)]
    pub(super) fn dequantise(&self, lanes: &mut [i16; LANES]) {
        for value in lanes {
            *value = value.wrapping_mul(self.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_by_reciprocal_is_exact() {
        for step in 1..=255u8 {
            let quantiser = Quantiser::new(step);
            let d = i32::from(step) * 8;
            for n in -9000..=9000i32 {
                let mut lanes = [n as i16; LANES];
                quantiser.quantise(&mut lanes);
                assert_eq!(i32::from(lanes[0]), (n.abs() + d / 2) / d * n.signum(), "{n} / {d}");
            }
        }
    }
}
