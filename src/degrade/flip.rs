//! Mirror images: horizontal y(i, j) = x(i, W − 1 − j), vertical y(i, j) = x(H − 1 − i, j), transpose y(i, j) = x(j, i).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::{Image, Pixels, Planes, Size};
use crate::stream::Stream;

use super::Degradation;
use super::spec::{Kind, Param, Spec};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flip {
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Direction {
    Horizontal,
    Vertical,
    Transpose,
}

impl Degradation for Flip {
    const SPEC: Spec = Spec {
        name: "flip",
        version: 1,
        doc: "Mirrors the image.",
        geometry: true,
        params: &[Param::new(
            "direction",
            Kind::Word(&["horizontal", "vertical", "transpose"]),
            "",
            r#""horizontal""#,
            "Exchange left and right, top and bottom, or rows and columns.",
        )],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, _: &mut Stream) -> Result<(), String> {
        match self.direction {
            Direction::Horizontal => moved(image, Move::Mirror),
            Direction::Vertical => moved(image, Move::Overturn),
            Direction::Transpose => moved(image, Move::Transpose),
        }
    }
}

/// Where each pixel of an image of W×H comes from.
#[derive(Clone, Copy)]
pub(crate) enum Move {
    /// `(x, y)` from `(W − 1 − x, y)`.
    Mirror,
    /// `(x, y)` from `(x, H − 1 − y)`.
    Overturn,
    /// `(x, y)` from `(y, x)`.
    Transpose,
    /// A quarter turn clockwise: `(x, y)` from `(y, H − 1 − x)`.
    Right,
    /// Half a turn.
    Half,
    /// A quarter turn counter-clockwise: `(x, y)` from `(W − 1 − y, x)`.
    Left,
}

/// Moves the pixels of `image`, whatever they are.
pub(crate) fn moved(image: &mut Pixels, how: Move) -> Result<(), String> {
    let Size { width, height } = image.size();
    let (w, h) = (width as usize, height as usize);
    let size = match how {
        Move::Mirror | Move::Overturn | Move::Half => image.size(),
        Move::Transpose | Move::Right | Move::Left => Size::new(height, width),
    };
    *image = match image {
        Pixels::Levels(image) => {
            let mut data = vec![0u8; image.as_bytes().len()];
            move_all(image.pixels(), w, h, how, data.as_chunks_mut().0);
            Pixels::Levels(Arc::new(Image::from_rgb(size, data).ok_or(WRONG_SIZE)?))
        }
        Pixels::Fractions(planes) => {
            let mut data = vec![0f32; planes.data().len()];
            for (channel, out) in data.chunks_exact_mut(w * h).enumerate() {
                move_all(planes.plane(channel), w, h, how, out);
            }
            Pixels::Fractions(Planes::from_data(size, data).ok_or(WRONG_SIZE)?)
        }
    };
    Ok(())
}

const WRONG_SIZE: &str = "the moved image has a wrong size";

/// Side of the squares that are transposed at a time: a cache line of f32.
const TILE: usize = 16;

/// Moves the pixels of one plane of `w`×`h`.
fn move_all<T: Copy>(from: &[T], w: usize, h: usize, how: Move, to: &mut [T]) {
    match how {
        Move::Mirror => from.chunks_exact(w).zip(to.chunks_exact_mut(w)).for_each(|(from, to)| reverse(from, to)),
        Move::Overturn => {
            for (from, to) in from.chunks_exact(w).rev().zip(to.chunks_exact_mut(w)) {
                to.copy_from_slice(from);
            }
        }
        Move::Half => reverse(from, to),
        Move::Transpose => transpose(from, w, |x, y| x * h + y, |i| i, to),
        Move::Right => transpose(from, w, |x, y| x * h + h - 1 - y, |i| TILE - 1 - i, to),
        Move::Left => transpose(from, w, |x, y| (w - 1 - x) * h + y, |i| i, to),
    }
}

/// `from` backwards.
fn reverse<T: Copy>(from: &[T], to: &mut [T]) {
    let (runs, rest) = from.as_chunks::<TILE>();
    let (rest_to, runs_to) = to.split_at_mut(rest.len());
    for (from, to) in runs.iter().zip(runs_to.as_chunks_mut::<TILE>().0.iter_mut().rev()) {
        *to = std::array::from_fn(|i| from[TILE - 1 - i]);
    }
    for (from, to) in rest.iter().zip(rest_to.iter_mut().rev()) {
        *to = *from;
    }
}

/// Moves the pixel at column `x`, row `y` to `place(x, y)`; columns become rows. `turned(i)` is the tile's row whose
/// value comes to place `i` of the row that a column becomes.
#[inline(always)]
fn transpose<T: Copy>(
    from: &[T],
    w: usize,
    place: impl Fn(usize, usize) -> usize,
    turned: impl Fn(usize) -> usize,
    to: &mut [T],
) {
    let h = from.len() / w;
    for y0 in (0..h).step_by(TILE) {
        for x0 in (0..w).step_by(TILE) {
            if x0 + TILE <= w && y0 + TILE <= h {
                let mut tile = [&from[..w]; TILE];
                for (i, row) in tile.iter_mut().enumerate() {
                    *row = &from[(y0 + i) * w..(y0 + i + 1) * w];
                }
                for j in 0..TILE {
                    let at = place(x0 + j, y0).min(place(x0 + j, y0 + TILE - 1));
                    let row = &mut to[at..at + TILE];
                    for (i, to) in row.iter_mut().enumerate() {
                        *to = tile[turned(i)][x0 + j];
                    }
                }
            } else {
                for x in x0..(x0 + TILE).min(w) {
                    for y in y0..(y0 + TILE).min(h) {
                        to[place(x, y)] = from[y * w + x];
                    }
                }
            }
        }
    }
}
