//! Images of any size for a restorer that takes squares of one: cut into overlapping tiles and blended again, or resized.
//!
//! Tiles are spread evenly, the first and the last flush with the border; an image that is smaller than a tile in one
//! direction is extended there by its own reflection, which is cropped away again. Where tiles overlap, each counts the
//! less the nearer its own edge is: linearly, so that two tiles' weights add up to one. Blending is in f32, before the
//! one quantisation at the end.

use super::config::Sizes;
use crate::image::resize::{Filter, resize};
use crate::image::{Image, Planes, Size};

/// How an image of one size becomes pieces for a restorer, and their answers one image again.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    input: Size,
    how: How,
}

#[derive(Debug, Clone, PartialEq)]
enum How {
    /// The image as it is.
    Whole,
    /// Resized to a square of this side.
    Resized(u32),
    /// Tiles: every combination of a place across and one down, row by row.
    Tiled { side: u32, across: Axis, down: Axis },
}

/// The tiles along one direction.
#[derive(Debug, Clone, PartialEq)]
struct Axis {
    /// Where each begins, ascending.
    starts: Vec<u32>,
    /// For each tile the weight of each of its pixels; those of all tiles over one pixel add up to 1.
    weights: Vec<Vec<f32>>,
}

impl Axis {
    /// Tiles of `side` pixels over `length`, neighbours sharing at least `overlap`, which is less than `side`.
    fn new(length: u32, side: u32, overlap: u32) -> Self {
        let step = side - overlap.min(side - 1);
        let more = length.saturating_sub(side);
        let gaps = more.div_ceil(step);
        let place = |i: u32| (u64::from(more) * u64::from(i) / u64::from(gaps.max(1))) as u32;
        let starts: Vec<u32> = (0..=gaps).map(place).collect();
        let slope = |i: usize| {
            let shared = |a: usize, b: usize| Some(f64::from(side - (starts.get(b)? - starts.get(a)?)));
            let (before, behind) = (i.checked_sub(1).and_then(|before| shared(before, i)), shared(i, i + 1));
            (0..side).map(move |x| {
                let rise = before.map_or(1.0, |shared| f64::from(x + 1) / (shared + 1.0));
                let fall = behind.map_or(1.0, |shared| f64::from(side - x) / (shared + 1.0));
                rise.min(fall).min(1.0)
            })
        };
        let mut weights: Vec<Vec<f64>> = (0..starts.len()).map(|i| slope(i).collect()).collect();
        // Tiles that are close together overlap in threes: then a sum is not 1 by itself.
        let mut sums = vec![0.0; length.max(side) as usize];
        for (start, weights) in starts.iter().zip(&weights) {
            for (sum, weight) in sums[*start as usize..].iter_mut().zip(weights) {
                *sum += weight;
            }
        }
        for (start, weights) in starts.iter().zip(&mut weights) {
            for (weight, sum) in weights.iter_mut().zip(&sums[*start as usize..]) {
                *weight /= sum;
            }
        }
        let weights = weights.into_iter().map(|tile| tile.into_iter().map(|weight| weight as f32).collect()).collect();
        Self { starts, weights }
    }
}

impl Cut {
    /// For images of `size` and a restorer of this `side` (`None`: it takes any size).
    pub fn new(size: Size, side: Option<u32>, sizes: Sizes) -> Self {
        let how = match (side, sizes) {
            (None, _) => How::Whole,
            (Some(side), _) if size == Size::new(side, side) => How::Whole,
            (Some(side), Sizes::Resize) => How::Resized(side),
            (Some(side), Sizes::Tile(tile)) => How::Tiled {
                side,
                across: Axis::new(size.width, side, tile.overlap_px),
                down: Axis::new(size.height, side, tile.overlap_px),
            },
        };
        Self { input: size, how }
    }

    /// The size of what [`join`](Self::join) gives.
    pub fn output(&self) -> Size {
        match self.how {
            How::Resized(side) => Size::new(side, side),
            How::Whole | How::Tiled { .. } => self.input,
        }
    }

    /// The pieces of `image`, which has the size that this was made for: at least one, all of one size.
    pub fn pieces(&self, image: &Image) -> Vec<Image> {
        match &self.how {
            How::Whole => vec![image.clone()],
            How::Resized(side) => vec![resize(image, Size::new(*side, *side), Filter::Bicubic)],
            How::Tiled { side, across, down } => {
                let place = |y: &u32| across.starts.iter().map(move |x| (*x, *y)).collect::<Vec<_>>();
                down.starts.iter().flat_map(place).map(|(x, y)| tile(image, x, y, *side)).collect()
            }
        }
    }

    /// The answers to all pieces, in their order, as one image; `None` unless they are as many and as large as the pieces.
    pub fn join(&self, answers: Vec<Planes>) -> Option<Planes> {
        let (side, across, down) = match &self.how {
            How::Tiled { side, across, down } => (*side, across, down),
            How::Whole | How::Resized(_) => {
                let [answer] = <[Planes; 1]>::try_from(answers).ok()?;
                return (answer.size() == self.output()).then_some(answer);
            }
        };
        let size = self.input;
        let right = |answer: &Planes| answer.size() == Size::new(side, side);
        if answers.len() != across.starts.len() * down.starts.len() || !answers.iter().all(right) {
            return None;
        }
        let (width, side) = (size.width as usize, side as usize);
        let mut joined = Planes::from_data(size, vec![0.0; size.pixels() * 3])?;
        for (index, answer) in answers.iter().enumerate() {
            let (i, j) = (index % across.starts.len(), index / across.starts.len());
            let (left, top) = (across.starts[i] as usize, down.starts[j] as usize);
            let columns = side.min(width - left);
            for c in 0..3 {
                let rows = joined.plane_mut(c).chunks_mut(width).skip(top);
                for ((row, from), weight) in rows.zip(answer.plane(c).chunks(side)).zip(&down.weights[j]) {
                    for ((to, from), across) in row[left..left + columns].iter_mut().zip(from).zip(&across.weights[i]) {
                        *to += weight * across * from;
                    }
                }
            }
        }
        Some(joined)
    }
}

/// The square of `side` at (`x`, `y`) of an image that goes on as its own reflection.
fn tile(image: &Image, x: u32, y: u32, side: u32) -> Image {
    image.crop(x, y, Size::new(side, side)).unwrap_or_else(|| {
        Image::from_fn(Size::new(side, side), |column, row| {
            image.pixel(reflected(x + column, image.width()), reflected(y + row, image.height()))
        })
    })
}

/// Where `at` lies in a line of `length` pixels that is reflected at its ends, the end pixels standing once.
fn reflected(at: u32, length: u32) -> u32 {
    let period = 2 * (length - 1);
    if period == 0 {
        return 0;
    }
    let at = at % period;
    at.min(period - at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::config::Tile;
    use super::*;
    use crate::image::Rounding;

    fn noise(size: Size) -> Image {
        let level = |x: u32, y: u32, c: u32| {
            let mixed = (x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663) ^ c.wrapping_mul(83_492_791))
                .wrapping_mul(2_654_435_761);
            (mixed >> 24) as u8
        };
        Image::from_fn(size, |x, y| [level(x, y, 0), level(x, y, 1), level(x, y, 2)])
    }

    fn tiled(size: Size, side: u32, overlap_px: u32) -> Cut {
        Cut::new(size, Some(side), Sizes::Tile(Tile { overlap_px }))
    }

    fn through(cut: &Cut, image: &Image) -> Image {
        let answers = cut.pieces(image).iter().map(Planes::from_image).collect();
        cut.join(answers).unwrap().to_image(Rounding::Round)
    }

    #[test]
    fn tiles_that_nobody_changes_give_the_image_back() {
        for (width, height) in
            [(1, 1), (1024, 768), (113, 112), (112, 113), (112, 112), (5000, 3), (111, 300), (57, 56)]
        {
            let image = noise(Size::new(width, height));
            let cut = tiled(image.size(), 112, 16);
            assert!(through(&cut, &image) == image, "{width}x{height}");
            assert_eq!(cut.output(), image.size());
        }
    }

    #[test]
    fn one_tile_that_fits_is_not_touched() {
        let cut = tiled(Size::new(112, 112), 112, 16);
        let odd: Vec<f32> = (0..112 * 112 * 3).map(|i| (i as f32).sin()).collect();
        let planes = Planes::from_data(Size::new(112, 112), odd).unwrap();
        assert_eq!(cut.join(vec![planes.clone()]), Some(planes));
    }

    #[test]
    fn resized_is_what_pillow_would_give() {
        let image = noise(Size::new(40, 30));
        let cut = Cut::new(image.size(), Some(16), Sizes::Resize);
        assert_eq!(cut.output(), Size::new(16, 16));
        assert_eq!(cut.pieces(&image), [resize(&image, Size::new(16, 16), Filter::Bicubic)]);
        assert_eq!(Cut::new(image.size(), None, Sizes::Resize).pieces(&image), std::slice::from_ref(&image));
    }

    #[test]
    fn answers_of_another_number_or_size_are_no_image() {
        let cut = tiled(Size::new(20, 9), 8, 2);
        let answer = |side| Planes::from_data(Size::new(side, 8), vec![0.0; side as usize * 24]).unwrap();
        let n = cut.pieces(&noise(Size::new(20, 9))).len();
        assert_eq!(n, 6);
        assert!(cut.join(vec![answer(8); n]).is_some());
        assert!(cut.join(vec![answer(8); n - 1]).is_none() && cut.join(vec![answer(7); n]).is_none());
    }

    #[test]
    fn a_reflection_does_not_repeat_the_edge() {
        let line: Vec<u32> = (0..9).map(|at| reflected(at, 4)).collect();
        assert_eq!(line, [0, 1, 2, 3, 2, 1, 0, 1, 2]);
        assert_eq!(reflected(7, 1), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn tiles_cover_the_line_overlap_enough_and_weigh_one(length in 1u32..2000, side in 2u32..120, share in 0.0f64..0.5) {
            let overlap = (f64::from(side) * share) as u32;
            let axis = Axis::new(length, side, overlap);
            prop_assert_eq!(axis.starts[0], 0);
            prop_assert_eq!(axis.starts[axis.starts.len() - 1], length.saturating_sub(side));
            for pair in axis.starts.windows(2) {
                prop_assert!(pair[0] < pair[1] && pair[1] - pair[0] <= side - overlap);
            }
            // No tile more than the overlap asks for.
            prop_assert_eq!(axis.starts.len() as u32, 1 + length.saturating_sub(side).div_ceil(side - overlap));
            let mut sums = vec![0.0f32; length.max(side) as usize];
            for (start, weights) in axis.starts.iter().zip(&axis.weights) {
                for (sum, weight) in sums[*start as usize..].iter_mut().zip(weights) {
                    prop_assert!(*weight > 0.0 && *weight <= 1.0);
                    *sum += weight;
                }
            }
            prop_assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6));
        }

        #[test]
        fn a_constant_stays_constant(width in 1u32..60, height in 1u32..60, side in 2u32..24, level in 0u8..=255) {
            let image = Image::from_fn(Size::new(width, height), |_, _| [level, 255 - level, 7]);
            let cut = tiled(image.size(), side, side / 3);
            prop_assert!(through(&cut, &image) == image);
        }
    }
}
