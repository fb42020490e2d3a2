//! Choices made of a fuzzer's bytes, so that small changes of the bytes are small changes of the case.

use lm4lv::image::{Image, Size};

/// What is left of the bytes; behind their end come zeros.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// 0 to `n` − 1.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        if n <= 256 { u32::from(self.byte()) % n } else { self.u32() % n }
    }

    /// One of `all`.
    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// From `min` to `max`, both of which are likely.
    pub(super) fn real(&mut self, min: f64, max: f64) -> f64 {
        min + (max - min) * f64::from(self.u16()) / 65_535.0
    }

    /// 1 to `most`, small ones as likely as large ones.
    pub(super) fn side(&mut self, most: u32) -> u32 {
        let bits = self.below(33 - most.leading_zeros());
        (u32::from(self.u16()) % (1 << bits) + 1).min(most)
    }

    /// A picture's size, up to 4,096 × 3 or 3 × 4,096. Mostly small ones, for speed, behind the end of the bytes too: faults are at borders.
    pub(super) fn size(&mut self) -> Size {
        let (longest, pixels) = if self.below(128) == 77 { (4096, 12_288) } else { (64, 256) };
        let width = self.side(longest);
        let size = Size::new(width, self.side(longest).min(pixels / width).max(1));
        if self.flag() { size } else { Size::new(size.height, size.width) }
    }

    /// Levels without an end, by one of a few patterns: flat, noise, ramps, blocks.
    pub(super) fn picture(&mut self, size: Size) -> Image {
        let (kind, mut state) = (self.below(4), self.u32());
        let flat = state.to_le_bytes();
        Image::from_fn(size, |x, y| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match kind {
                0 => [flat[0], flat[1], flat[2]],
                1 => [(state >> 24) as u8, (state >> 16) as u8, (state >> 8) as u8],
                2 => [(x * 7) as u8, (y * 5) as u8, (x + y) as u8],
                _ => [if (x / 3 + y / 5) % 2 == 0 { 0 } else { 255 }; 3],
            }
        })
    }
}
