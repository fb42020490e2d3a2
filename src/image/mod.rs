//! Pixels: [`Image`] between stages, [`Planes`] or either ([`Pixels`]) inside a recipe.
//!
//! (long because both forms of an image and the ways between them are in it)

pub mod jpeg;
pub mod orient;
pub mod resize;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::vectors::vectorised;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Size {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl Size {
    /// `width` × `height`.
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Number of pixels.
    pub fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }
}

/// `[H, W, 3]` u8, RGB interleaved, rows from the top, no padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    size: Size,
    data: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{})", self.size.width, self.size.height)
    }
}

impl Image {
    /// Wraps `[H, W, 3]` bytes; `None` unless there are exactly `3 · W · H` of them and at least one pixel.
    pub fn from_rgb(size: Size, data: Vec<u8>) -> Option<Self> {
        (size.pixels() > 0 && data.len() == size.pixels() * 3).then_some(Self { size, data })
    }

    /// An image whose pixel at column `x`, row `y` is `f(x, y)`.
    ///
    /// # Panics
    /// If the size has no pixel.
    pub fn from_fn(size: Size, mut f: impl FnMut(u32, u32) -> [u8; 3]) -> Self {
        assert!(size.pixels() > 0, "an image has at least one pixel");
        let mut data = Vec::with_capacity(size.pixels() * 3);
        for y in 0..size.height {
            for x in 0..size.width {
                data.extend_from_slice(&f(x, y));
            }
        }
        Self { size, data }
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Pixels across.
    pub fn width(&self) -> u32 {
        self.size.width
    }

    /// Pixels down.
    pub fn height(&self) -> u32 {
        self.size.height
    }

    /// The `[H, W, 3]` bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data
    }

    /// The `[H, W, 3]` bytes, to edit.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The `[H, W, 3]` bytes, by value.
    pub fn into_bytes(self) -> Vec<u8> {
        self.data
    }

    /// The pixels, row by row.
    pub fn pixels(&self) -> &[[u8; 3]] {
        self.data.as_chunks().0
    }

    /// The pixels, row by row, to edit.
    pub fn pixels_mut(&mut self) -> &mut [[u8; 3]] {
        self.data.as_chunks_mut().0
    }

    /// The three channels' values at column `x`, row `y`.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = (y as usize * self.size.width as usize + x as usize) * 3;
        [self.data[at], self.data[at + 1], self.data[at + 2]]
    }

    /// The part of `size` whose upper left corner is at column `x`, row `y`; `None` if it does not lie inside.
    pub fn crop(&self, x: u32, y: u32, size: Size) -> Option<Self> {
        let inside = x.checked_add(size.width)? <= self.width() && y.checked_add(size.height)? <= self.height();
        if !inside || size.pixels() == 0 {
            return None;
        }
        let mut data = Vec::with_capacity(size.pixels() * 3);
        for row in y..y + size.height {
            let at = (row as usize * self.size.width as usize + x as usize) * 3;
            data.extend_from_slice(&self.data[at..at + size.width as usize * 3]);
        }
        Some(Self { size, data })
    }
}

/// `[3, H, W]` f32, planes R, G, B, nominally in `[0, 1]` (a step may leave the range; quantisation clips).
#[derive(Debug, Clone, PartialEq)]
pub struct Planes {
    size: Size,
    data: Vec<f32>,
}

impl Planes {
    /// Wraps `[3, H, W]` values; `None` unless there are exactly `3 · W · H` of them and at least one pixel.
    pub fn from_data(size: Size, data: Vec<f32>) -> Option<Self> {
        (size.pixels() > 0 && data.len() == size.pixels() * 3).then_some(Self { size, data })
    }

    /// `image / 255`.
    pub fn from_image(image: &Image) -> Self {
        // Appended, not filled with zeros first: that would take as long again.
        let mut data = Vec::with_capacity(image.size.pixels() * 3);
        fractions(image.pixels(), &mut data);
        Self { size: image.size, data }
    }

    /// Clips to `[0, 1]` and goes back to 8 bits (see [`Rounding`]).
    pub fn to_image(&self, how: Rounding) -> Image {
        let offset = match how {
            Rounding::Round => 0.5,
            Rounding::Trunc => 0.0,
        };
        let mut pixels = Vec::with_capacity(self.size.pixels());
        levels(&self.data, offset, &mut pixels);
        Image { size: self.size, data: pixels.into_flattened() }
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// All `[3, H, W]` values.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All `[3, H, W]` values, to edit.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Plane `c` (0 red, 1 green, 2 blue), `[H, W]`.
    pub fn plane(&self, c: usize) -> &[f32] {
        let n = self.size.pixels();
        &self.data[c * n..(c + 1) * n]
    }

    /// Plane `c`, to edit.
    pub fn plane_mut(&mut self, c: usize) -> &mut [f32] {
        let n = self.size.pixels();
        &mut self.data[c * n..(c + 1) * n]
    }
}

vectorised! {
    fn fractions(pixels: &[[u8; 3]], planes: &mut Vec<f32>) {
        for channel in 0..3 {
            planes.extend(pixels.iter().map(|pixel| f32::from(pixel[channel]) / 255.0));
        }
    }

    fn levels(planes: &[f32], offset: f32, pixels: &mut Vec<[u8; 3]>) {
        let count = planes.len() / 3;
        // Narrowed first and then interleaved: both at once is more than a compiler makes good code of.
        let [mut red, mut green, mut blue] = [[0; RUN]; 3];
        for from in (0..count).step_by(RUN) {
            let run = RUN.min(count - from);
            narrow(&planes[from..], offset, &mut red);
            narrow(&planes[count + from..], offset, &mut green);
            narrow(&planes[2 * count + from..], offset, &mut blue);
            pixels.extend((0..run).map(|i| [red[i], green[i], blue[i]]));
        }
    } => avx2 {
        use crate::vectors::{Shuffle, shuffle, shuffle_of};
        const WOVEN: Shuffle = shuffle_of(woven());
        let count = planes.len() / 3;
        let [mut red, mut green, mut blue] = [[0; RUN]; 3];
        let mut woven = [[0; 3]; RUN];
        for from in (0..count).step_by(RUN) {
            let run = RUN.min(count - from);
            narrow(&planes[from..], offset, &mut red);
            narrow(&planes[count + from..], offset, &mut green);
            narrow(&planes[2 * count + from..], offset, &mut blue);
            for (i, pixels) in woven.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let channels = [red.as_chunks::<16>().0[i], green.as_chunks::<16>().0[i], blue.as_chunks::<16>().0[i]];
                *pixels = bytemuck::cast(shuffle(bytemuck::cast(channels), &WOVEN));
            }
            pixels.extend_from_slice(&woven[..run]);
        }
    }
}

/// Where the bytes of sixteen pixels come from in those of three channels, one after the other.
#[cfg(target_arch = "x86_64")]
const fn woven() -> [u8; 48] {
    let mut from = [0; 48];
    let mut to = 0;
    while to < 48 {
        from[to as usize] = to % 3 * 16 + to / 3;
        to += 1;
    }
    from
}

/// Pixels that are narrowed at once.
const RUN: usize = 64;

/// The levels of the first values, as many as there are.
#[inline(always)]
fn narrow(values: &[f32], offset: f32, levels: &mut [u8; RUN]) {
    match values.first_chunk::<RUN>() {
        Some(values) => levels.iter_mut().zip(values).for_each(|(level, value)| *level = narrowed(*value, offset)),
        None => levels.iter_mut().zip(values).for_each(|(level, value)| *level = narrowed(*value, offset)),
    }
}

#[inline(always)]
fn narrowed(value: f32, offset: f32) -> u8 {
    /// Adding it to a small number rounds that to a whole one, whose bits are then the sum's lowest.
    const WHOLE: f32 = 8_388_608.0;
    // Rust's `as u8` saturates, for which CPUs have no vector instruction. NaN becomes 0.
    let value = if value > 0.0 { value.min(1.0) } else { 0.0 } * 255.0 + offset;
    let nearest = (value + WHOLE) - WHOLE;
    let below = if nearest > value { nearest - 1.0 } else { nearest };
    (below + WHOLE).to_bits() as u8
}

/// An image between operations: 8 bits as long as that holds it, so that what moves or replaces whole pixels need not
/// leave them.
#[derive(Debug, Clone)]
pub enum Pixels {
    /// 8-bit levels; copied where they are edited and others see them too.
    Levels(Arc<Image>),
    /// Fractions of the largest level.
    Fractions(Planes),
}

impl Pixels {
    /// Width and height.
    pub fn size(&self) -> Size {
        match self {
            Self::Levels(image) => image.size(),
            Self::Fractions(planes) => planes.size(),
        }
    }

    /// The pixels as fractions, to edit.
    pub fn planes(&mut self) -> &mut Planes {
        if let Self::Levels(image) = self {
            *self = Self::Fractions(Planes::from_image(image));
        }
        match self {
            Self::Fractions(planes) => planes,
            Self::Levels(_) => unreachable!("they were made fractions just now"),
        }
    }

    /// The pixels as levels, to edit; rounded and clipped, if they were fractions.
    pub fn levels(&mut self) -> &mut Image {
        if let Self::Fractions(planes) = self {
            *self = Self::Levels(Arc::new(planes.to_image(Rounding::Round)));
        }
        match self {
            Self::Levels(image) => Arc::make_mut(image),
            Self::Fractions(_) => unreachable!("they were made levels just now"),
        }
    }

    /// The 8-bit image; fractions are clipped and rounded as `how` says.
    pub fn into_image(self, how: Rounding) -> Image {
        match self {
            Self::Levels(image) => Arc::unwrap_or_clone(image),
            Self::Fractions(planes) => planes.to_image(how),
        }
    }
}

/// How a value in `[0, 1]` becomes 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// `floor(255 · v + 0.5)`.
    #[default]
    Round,
    /// `floor(255 · v)`, as the LM4LV and PromptIR authors do.
    Trunc,
}
