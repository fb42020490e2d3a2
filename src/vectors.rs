//! Kernels compiled twice, the faster chosen when they run.
//!
//! A program for every x86-64 processor may use 128-bit vectors only; nearly all in use have 256-bit ones (AVX2). A function
//! in [`vectorised!`] is compiled for both, and the processor is asked once. Both come from one source of IEEE additions,
//! multiplications, divisions and square roots and of integers; Rust neither reorders nor fuses them, so the bits are the
//! same. Elsewhere (NEON on 64-bit ARM is always there) the plain function is all there is.
//!
//! `LM4LV_VECTORS=portable` in the environment makes every processor take the plain one, to compare.

/// Whether kernels may use AVX2.
#[cfg(target_arch = "x86_64")]
pub(crate) fn avx2() -> bool {
    static AVX2: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        std::env::var_os("LM4LV_VECTORS").is_none_or(|how| how != "portable")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
    });
    *AVX2
}

/// Defines functions that are compiled twice (see the module). What they call must be `#[inline(always)]` to be in both.
///
/// Where compilers do not see that bytes only change places or that an instruction does it all, `=> avx2 { … }` behind the
/// body is compiled in its place for processors with AVX2, written with their (safe) intrinsics; it must give the same bits.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident $(<const $n:ident: $of:ty>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block $(=> avx2 $fast:block)?)+) => {$(
        $(#[$meta])*
        $vis fn $name $(<const $n: $of>)? ($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn portable $(<const $n: $of>)? ($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2")]
                fn with_avx2 $(<const $n: $of>)? ($($arg: $ty),*) $(-> $out)? {
                    $crate::vectors::first_of!($($fast)? { portable $(::<$n>)? ($($arg),*) })
                }

                if $crate::vectors::avx2() {
                    #[expect(unsafe_code, reason = "the processor has what `with_avx2` was compiled for: it was asked")]
                    return unsafe { with_avx2 $(::<$n>)? ($($arg),*) };
                }
            }
            portable $(::<$n>)? ($($arg),*)
        }
    )+};
}

macro_rules! first_of {
    ($first:block $($other:block)?) => {
        $first
    };
}

pub(crate) use {first_of, vectorised};

/// Rows and columns of a square of `SIDE`×`SIDE` change places (each side may hold several values, `N` = 256 · that):
/// four times the first half of all values is interleaved with the second. Compilers make good code of that alone.
#[inline(always)]
pub(crate) fn transpose<T: Copy, const N: usize>(square: &mut [T; N], spare: &mut [T; N]) {
    interleave(square, spare);
    interleave(spare, square);
    interleave(square, spare);
    interleave(spare, square);
}

/// The side of what [`transpose`] turns.
pub(crate) const SIDE: usize = 16;

#[inline(always)]
fn interleave<T: Copy, const N: usize>(from: &[T; N], to: &mut [T; N]) {
    let (first, second) = from.split_at(N / 2);
    for ((pair, a), b) in to.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second) {
        *pair = [*a, *b];
    }
}

/// What [`shuffle`] needs to know.
#[cfg(target_arch = "x86_64")]
pub(crate) type Shuffle = [[[u8; 16]; 3]; 3];

/// The shuffle that puts byte `from[i]` at place `i`: for each 16 bytes to make and each 16 bytes given, which byte goes
/// where, 128 for none.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn shuffle_of(from: [u8; 48]) -> Shuffle {
    let mut masks = [[[128; 16]; 3]; 3];
    let mut to = 0;
    while to < from.len() {
        let byte = from[to] as usize;
        masks[to / 16][byte / 16][to % 16] = (byte % 16) as u8;
        to += 1;
    }
    masks
}

/// Bytes change places.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(crate) fn shuffle(bytes: [u8; 48], how: &Shuffle) -> [u8; 48] {
    use std::arch::x86_64::{__m128i, _mm_or_si128, _mm_shuffle_epi8};
    let bytes: [__m128i; 3] = bytemuck::cast(bytes);
    bytemuck::cast(how.map(|masks| {
        let [a, b, c] = bytemuck::cast::<_, [__m128i; 3]>(masks);
        let [a, b, c] = [(0, a), (1, b), (2, c)].map(|(i, mask)| _mm_shuffle_epi8(bytes[i], mask));
        _mm_or_si128(_mm_or_si128(a, b), c)
    }))
}
