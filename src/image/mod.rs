//! Pixels: [`Image`] between stages, [`Planes`] inside a recipe.

pub mod orient;
pub mod resize;

use serde::{Deserialize, Serialize};

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
        let n = image.size.pixels();
        let mut data = vec![0.0; n * 3];
        let (r, rest) = data.split_at_mut(n);
        let (g, b) = rest.split_at_mut(n);
        for (i, rgb) in image.data.chunks_exact(3).enumerate() {
            r[i] = f32::from(rgb[0]) / 255.0;
            g[i] = f32::from(rgb[1]) / 255.0;
            b[i] = f32::from(rgb[2]) / 255.0;
        }
        Self { size: image.size, data }
    }

    /// Clips to `[0, 1]` and goes back to 8 bits (see [`Rounding`]).
    pub fn to_image(&self, how: Rounding) -> Image {
        let n = self.size.pixels();
        let offset = match how {
            Rounding::Round => 0.5,
            Rounding::Trunc => 0.0,
        };
        let quantise = |v: f32| (v.clamp(0.0, 1.0) * 255.0 + offset) as u8;
        let mut data = vec![0u8; n * 3];
        let (r, rest) = self.data.split_at(n);
        let (g, b) = rest.split_at(n);
        for (i, rgb) in data.chunks_exact_mut(3).enumerate() {
            rgb[0] = quantise(r[i]);
            rgb[1] = quantise(g[i]);
            rgb[2] = quantise(b[i]);
        }
        Image { size: self.size, data }
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
