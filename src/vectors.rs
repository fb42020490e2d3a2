//! Kernels compiled three times, the fastest chosen when they run.
//!
//! A program for every x86-64 processor may use 128-bit vectors only; nearly all in use have 256-bit ones (AVX2), many in servers
//! 512-bit ones (AVX-512). A function in [`vectorised!`] is compiled for each, and the processor is asked once. All come from one
//! source of IEEE additions, multiplications, divisions and square roots and of integers; Rust neither reorders nor fuses them, so
//! the bits are the same (bodies of their own are compared by tests). Elsewhere (NEON on 64-bit ARM is always there) the plain
//! function is all there is.
//!
//! `LM4LV_VECTORS=portable`, or `avx2`, in the environment makes every processor take those at most, to compare.

/// The vectors that a kernel may use.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Vectors {
    /// 128 bits.
    Portable,
    /// 256 bits.
    Avx2,
    /// 512 bits.
    Avx512,
}

/// The widest vectors that this processor has and the environment allows.
#[cfg(target_arch = "x86_64")]
pub(crate) fn vectors() -> Vectors {
    static VECTORS: std::sync::LazyLock<Vectors> = std::sync::LazyLock::new(|| {
        let most = match std::env::var("LM4LV_VECTORS").as_deref() {
            Ok("portable") => Vectors::Portable,
            Ok("avx2") => Vectors::Avx2,
            _ => Vectors::Avx512,
        };
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let has = if avx2 && avx512 {
            Vectors::Avx512
        } else if avx2 {
            Vectors::Avx2
        } else {
            Vectors::Portable
        };
        has.min(most)
    });
    *VECTORS
}

/// Defines functions that are compiled three times (see the module). What they call must be `#[inline(always)]` to be in each.
///
/// Where compilers do not see that bytes only change places or that an instruction does it all, `=> avx2 { … }` behind the
/// body is compiled in its place for processors with AVX2 and more, written with their (safe) intrinsics; it must give the same bits.
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
                #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512dq,avx512vl")]
                fn with_avx512 $(<const $n: $of>)? ($($arg: $ty),*) $(-> $out)? {
                    $crate::vectors::first_of!($($fast)? { portable $(::<$n>)? ($($arg),*) })
                }

                match $crate::vectors::vectors() {
                    #[expect(unsafe_code, reason = "the processor has what it was compiled for: it was asked")]
                    $crate::vectors::Vectors::Avx512 => return unsafe { with_avx512 $(::<$n>)? ($($arg),*) },
                    #[expect(unsafe_code, reason = "the processor has what it was compiled for: it was asked")]
                    $crate::vectors::Vectors::Avx2 => return unsafe { with_avx2 $(::<$n>)? ($($arg),*) },
                    $crate::vectors::Vectors::Portable => {}
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
    // No `map`: it is compiled for every processor, and so stays a call.
    bytemuck::cast([picked(bytes, &how[0]), picked(bytes, &how[1]), picked(bytes, &how[2])])
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn picked(bytes: [u8; 48], masks: &[[u8; 16]; 3]) -> std::arch::x86_64::__m128i {
    use std::arch::x86_64::{__m128i, _mm_or_si128, _mm_shuffle_epi8};
    let [a, b, c]: [__m128i; 3] = bytemuck::cast(bytes);
    let [to_a, to_b, to_c]: [__m128i; 3] = bytemuck::cast(*masks);
    let ab = _mm_or_si128(_mm_shuffle_epi8(a, to_a), _mm_shuffle_epi8(b, to_b));
    _mm_or_si128(ab, _mm_shuffle_epi8(c, to_c))
}
