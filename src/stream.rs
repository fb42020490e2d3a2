//! Random streams: the same bytes for a seed, key, variant, step and operation, whatever the batch, order, machine or CPU.
//!
//! Stream = ChaCha8 seeded by BLAKE3 over (run seed, record key, variant, step path, operation, its version), each field
//! with its length before it. The recipe is not in it, so a sweep over a parameter shares its noise.
//!
//! The samplers are our own, since library distributions say that they may change, and are made of IEEE additions,
//! multiplications, divisions and square roots alone: no `libm`, no fused multiply-add, so every CPU gives the same bits.
//! Golden tests pin them. Normals are made by Box and Muller's transform, 256 at a time, in loops that the compiler turns
//! into vector code.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use crate::vectors::vectorised;

/// Normals are made in blocks of this many, from as many 32-bit words; a shorter rest takes a whole block of words.
const BLOCK: usize = 256;

/// A stream of random numbers for one step of one sample.
#[derive(Debug)]
pub struct Stream {
    rng: ChaCha8Rng,
}

impl Stream {
    /// The stream of operation `op` (at `version`) standing at `step` of the recipe.
    pub fn new(seed: u64, key: &str, variant: u16, step: &str, op: &str, version: u16) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(&seed.to_le_bytes());
        field(key.as_bytes());
        field(&variant.to_le_bytes());
        field(step.as_bytes());
        field(op.as_bytes());
        field(&version.to_le_bytes());
        Self { rng: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()) }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A number in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number between `lo` and `hi`; `lo` where they are equal.
    pub fn uniform(&mut self, lo: f64, hi: f64) -> f64 {
        (lo + (hi - lo) * self.unit()).clamp(lo.min(hi), hi.max(lo))
    }

    /// A whole number in `0..n`, unbiased (Lemire, <https://arxiv.org/abs/1805.10941>); 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// A number with mean 0 and standard deviation 1 (as fine as f32, at most 6.6 from 0).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.next_u32(), self.next_u32());
        f64::from(normal_pair(radius, angle).0)
    }

    /// Fills `out` with words.
    pub fn fill_u32(&mut self, out: &mut [u32]) {
        self.rng.fill_bytes(bytemuck::cast_slice_mut(out));
        for word in out {
            *word = u32::from_le(*word);
        }
    }

    /// Fills `out` with normals of mean 0 and standard deviation 1, at most 6.6 from 0.
    pub fn fill_normals(&mut self, out: &mut [f32]) {
        let mut words = [0u32; BLOCK];
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        for block in blocks {
            self.fill_u32(&mut words);
            normal_block(&words, block);
        }
        if !rest.is_empty() {
            let mut block = [0.0; BLOCK];
            self.fill_u32(&mut words);
            normal_block(&words, &mut block);
            rest.copy_from_slice(&block[..rest.len()]);
        }
    }
}

vectorised! {
    /// The first half of `words` gives the radii, the second the angles; the cosines fill the first half of `out`.
    fn normal_block(words: &[u32; BLOCK], out: &mut [f32; BLOCK]) {
        let (radii, angles) = words.split_at(BLOCK / 2);
        let (first, second) = out.split_at_mut(BLOCK / 2);
        for (((radius, angle), a), b) in radii.iter().zip(angles).zip(first).zip(second) {
            (*a, *b) = normal_pair(*radius, *angle);
        }
    }
}

/// Box and Muller: a point whose distance from 0 is `sqrt(-2 ln u)`, in a direction uniform over the circle. The
/// polynomials for the logarithm, sine and cosine are those of Moshier's Cephes library in single precision (errors below
/// 2⁻²³).
#[inline(always)]
fn normal_pair(radius: u32, angle: u32) -> (f32, f32) {
    // u in (0, 1], 31 bits of it near 0.
    let u = ((radius >> 1) as i32 as f32 + 0.5) * (1.0 / 2_147_483_648.0);
    // u = m · 2^e with m in [sqrt(1/2), sqrt(2)).
    let bits = u.to_bits() as i32;
    let e = (bits - 0x3f35_04f3) >> 23;
    let f = f32::from_bits((bits - (e << 23)) as u32) - 1.0;
    let z = f * f;
    let mut p = 7.037_683_6e-2f32;
    p = p * f - 1.151_461e-1;
    p = p * f + 1.167_699_9e-1;
    p = p * f - 1.242_014_1e-1;
    p = p * f + 1.424_932_3e-1;
    p = p * f - 1.666_805_8e-1;
    p = p * f + 2.000_071_5e-1;
    p = p * f - 2.499_999_4e-1;
    p = p * f + 3.333_333e-1;
    let ln = (f * z * p - 0.5 * z) + f + e as f32 * std::f32::consts::LN_2;
    let r = (-2.0 * ln).max(0.0).sqrt();

    // Two bits choose the quarter of the circle, thirty the place in it: t in [-pi/4, pi/4).
    let t = (angle << 2) as i32 as f32 * (std::f32::consts::FRAC_PI_2 / 4_294_967_296.0);
    let z = t * t;
    let sin = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * t + t;
    let cos = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    let swap = ((angle as i32) >> 31) as u32;
    let sign = (angle << 1) & 0x8000_0000;
    let (s, c) = (sin.to_bits(), cos.to_bits());
    let a = ((c & !swap) | (s & swap)) ^ sign;
    let b = ((s & !swap) | (c & swap)) ^ sign;
    (r * f32::from_bits(a), r * f32::from_bits(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new(7, "a/b.png", 1, "2.one_of.0.0", "gaussian_noise", 1)
    }

    #[test]
    fn golden() {
        let mut s = stream();
        assert_eq!([s.next_u32(), s.next_u32()], GOLDEN_U32);
        let mut s = stream();
        let mut words = [0; 600];
        s.fill_u32(&mut words);
        assert_eq!(words[..2], GOLDEN_U32);
        let mut normals = vec![0.0f32; 100_003];
        stream().fill_normals(&mut normals);
        let mut hasher = blake3::Hasher::new();
        for n in &normals {
            hasher.update(&n.to_bits().to_le_bytes());
        }
        assert_eq!(hasher.finalize().to_hex().as_str(), GOLDEN_NORMALS);
        let mut s = stream();
        let scalars = (s.unit(), s.uniform(-2.0, 3.0), s.below(1000), s.normal());
        assert_eq!(format!("{scalars:?}"), GOLDEN_SCALARS);
    }

    const GOLDEN_U32: [u32; 2] = [655_275_694, 656_500_338];
    const GOLDEN_NORMALS: &str = "0cba22c09752729f0475dec7eb878c26f709345cd7f3ec9379bcc7fe8ee8bf30";
    const GOLDEN_SCALARS: &str = "(0.15285339629104544, -0.25706555834634703, 561, -0.4129779636859894)";

    #[test]
    fn every_field_matters_and_none_runs_into_the_next() {
        let first =
            |seed, key, variant, step, op, version| Stream::new(seed, key, variant, step, op, version).next_u64();
        let all = [
            first(0, "", 0, "", "", 0),
            first(1, "", 0, "", "", 0),
            first(0, "a", 0, "", "", 0),
            first(0, "", 1, "", "", 0),
            first(0, "", 0, "a", "", 0),
            first(0, "", 0, "", "a", 0),
            first(0, "", 0, "", "", 1),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
        assert_ne!(first(0, "", 0, "ab", "c", 0), first(0, "", 0, "a", "bc", 0));
    }

    #[test]
    fn normals_follow_their_law() {
        let mut normals = vec![0.0f32; 1 << 20];
        stream().fill_normals(&mut normals);
        let n = normals.len() as f64;
        let moment = |k: i32| normals.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 4e-3, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 6e-3, "{}", moment(2));
        assert!(moment(3).abs() < 2e-2, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 5e-2, "{}", moment(4));
        for (limit, share) in [(1.0, 0.682_689), (2.0, 0.954_500), (3.0, 0.997_300)] {
            let inside = normals.iter().filter(|v| v.abs() < limit).count() as f64 / n;
            assert!((inside - share).abs() < 2e-3, "{limit}: {inside}");
        }
        let lagged = normals.windows(2).map(|w| f64::from(w[0]) * f64::from(w[1])).sum::<f64>() / n;
        assert!(lagged.abs() < 4e-3, "{lagged}");
    }

    #[test]
    fn normal_pairs_agree_with_libm() {
        let mut s = stream();
        for _ in 0..100_000 {
            let (radius, angle) = (s.next_u32(), s.next_u32());
            let u = (f64::from(radius >> 1) + 0.5) / 2_147_483_648.0;
            let r = (-2.0 * u.ln()).sqrt();
            // Two bits choose the quarter, thirty the angle from -45 to 45 degrees in it.
            let t = (f64::from(angle & 0x3fff_ffff) / 1_073_741_824.0 + 0.5).fract() - 0.5;
            let (sin, cos) = (t * std::f64::consts::FRAC_PI_2).sin_cos();
            let (x, y) = if angle >> 31 == 1 { (sin, cos) } else { (cos, sin) };
            let sign = if angle >> 30 & 1 == 1 { -r } else { r };
            // Near u = 1 the 24 bits of an f32 leave r an error of up to 2.5e-4.
            let tolerance = if r < 0.05 { 2.5e-4 } else { 5e-6 };
            let got = normal_pair(radius, angle);
            assert!((f64::from(got.0) - sign * x).abs() < tolerance, "{radius} {angle}: {got:?}");
            assert!((f64::from(got.1) - sign * y).abs() < tolerance, "{radius} {angle}: {got:?}");
        }
        assert!(normal_pair(0, 0).0.is_finite() && normal_pair(u32::MAX, u32::MAX).0.is_finite());
    }

    #[test]
    fn below_stays_below() {
        let mut s = stream();
        assert_eq!(s.below(0), 0);
        assert_eq!(s.below(1), 0);
        let mut seen = [0; 5];
        for _ in 0..5000 {
            seen[s.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (900..1100).contains(n)), "{seen:?}");
        assert!(s.below(u64::MAX) < u64::MAX);
    }
}
