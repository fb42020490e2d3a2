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
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident $(<const $n:ident: $of:ty>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block)+) => {$(
        $(#[$meta])*
        $vis fn $name $(<const $n: $of>)? ($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn portable $(<const $n: $of>)? ($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2")]
                fn with_avx2 $(<const $n: $of>)? ($($arg: $ty),*) $(-> $out)? {
                    portable $(::<$n>)? ($($arg),*)
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

pub(crate) use vectorised;
