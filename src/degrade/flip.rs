//! Mirror images: horizontal y(i, j) = x(i, W − 1 − j), vertical y(i, j) = x(H − 1 − i, j), transpose y(i, j) = x(j, i).

use serde::{Deserialize, Serialize};

use crate::image::{Planes, Size};
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

    fn apply(&self, image: &mut Planes, _: &mut Stream) -> Result<(), String> {
        let Size { width, height } = image.size();
        let (w, h) = (width as usize, height as usize);
        match self.direction {
            Direction::Horizontal => image.data_mut().chunks_exact_mut(w).for_each(<[f32]>::reverse),
            Direction::Vertical => {
                for channel in 0..3 {
                    let (upper, lower) = image.plane_mut(channel).split_at_mut(h / 2 * w);
                    for (a, b) in upper.chunks_exact_mut(w).zip(lower.chunks_exact_mut(w).rev()) {
                        a.swap_with_slice(b);
                    }
                }
            }
            Direction::Transpose => *image = transpose(image)?,
        }
        Ok(())
    }
}

/// Side of the squares that are transposed at a time: a cache line of f32.
const TILE: usize = 16;

/// Rows become columns: `[3, H, W]` → `[3, W, H]`.
pub(crate) fn transpose(image: &Planes) -> Result<Planes, String> {
    let Size { width, height } = image.size();
    let (w, h) = (width as usize, height as usize);
    let mut data = vec![0.0; w * h * 3];
    for (channel, turned) in data.chunks_exact_mut(w * h).enumerate() {
        let plane = image.plane(channel);
        for y0 in (0..h).step_by(TILE) {
            for x0 in (0..w).step_by(TILE) {
                // By way of a tile of our own, so that each cache line of either image is touched once: rows of images
                // often lie a power of two apart, where a cache holds few of them.
                let mut tile = [[0.0f32; TILE]; TILE];
                if x0 + TILE <= w && y0 + TILE <= h {
                    for (i, row) in tile.iter_mut().enumerate() {
                        row.copy_from_slice(&plane[(y0 + i) * w + x0..][..TILE]);
                    }
                    for j in 0..TILE {
                        let column: [f32; TILE] = std::array::from_fn(|i| tile[i][j]);
                        turned[(x0 + j) * h + y0..][..TILE].copy_from_slice(&column);
                    }
                } else {
                    for x in x0..(x0 + TILE).min(w) {
                        for y in y0..(y0 + TILE).min(h) {
                            turned[x * h + y] = plane[y * w + x];
                        }
                    }
                }
            }
        }
    }
    Planes::from_data(Size::new(height, width), data).ok_or_else(|| "the turned image has a wrong size".into())
}
