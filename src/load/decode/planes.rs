//! One component of a JPEG brought to the image's size, as libjpeg does it ("fancy" upsampling, jdsample.c): a triangle
//! filter between the samples of a component that has half as many, with its very rounding; plain repetition otherwise.

use crate::image::Size;

/// The samples of one component, rows from the top, no padding.
pub(super) struct Plane {
    /// Its own size.
    pub(super) size: Size,
    pub(super) samples: Vec<u8>,
}

impl Plane {
    fn row(&self, y: usize) -> &[u8] {
        let width = self.size.width as usize;
        &self.samples[y * width..(y + 1) * width]
    }

    /// The component at `to`, each of its samples standing for `across` × `down` pixels.
    pub(super) fn enlarged(&self, to: Size, (across, down): (usize, usize)) -> Vec<u8> {
        let (width, height) = (to.width as usize, to.height as usize);
        let last = self.size.height as usize - 1;
        let mut out = Vec::with_capacity(width * height);
        // libjpeg interpolates only where there are more than two samples to do it with.
        let smooth = (across == 1 || self.size.width > 2) && matches!((across, down), (2, 1) | (2, 2) | (1, 2));
        for y in 0..height {
            let here = self.row((y / down).min(last));
            if !smooth {
                out.extend((0..width).map(|x| here[(x / across).min(here.len() - 1)]));
                continue;
            }
            // Of two rows the nearer counts three times; at the border both are the same.
            let upper = y % 2 == 0;
            let other = match (down, upper) {
                (1, _) => here,
                (_, true) => self.row((y / 2).saturating_sub(1).min(last)),
                (_, false) => self.row((y / 2 + 1).min(last)),
            };
            let column =
                |x: usize| if down == 2 { 3 * u32::from(here[x]) + u32::from(other[x]) } else { u32::from(here[x]) };
            if across == 1 {
                let bias = if upper { 1 } else { 2 };
                out.extend((0..width).map(|x| ((column(x) + bias) >> 2) as u8));
                continue;
            }
            // Sums of 4 for one direction, of 16 for both; halves are rounded up and down in turn.
            let (shift, left, right) = if down == 2 { (4, 8, 7) } else { (2, 1, 2) };
            let edge = |x: usize, bias: u32| if down == 2 { (4 * column(x) + bias) >> 4 } else { column(x) };
            let end = here.len() - 1;
            out.extend((0..width).map(|x| {
                let (at, is_left) = (x / 2, x % 2 == 0);
                let value = match (at, is_left) {
                    (0, true) => edge(0, 8),
                    (at, true) => (3 * column(at) + column(at - 1) + left) >> shift,
                    (at, false) if at < end => (3 * column(at) + column(at + 1) + right) >> shift,
                    (at, false) => edge(at, 7),
                };
                value as u8
            }));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enlarged(samples: &[u8], (w, h): (u32, u32), to: (u32, u32), by: (usize, usize)) -> Vec<u8> {
        Plane { size: Size::new(w, h), samples: samples.to_vec() }.enlarged(Size::new(to.0, to.1), by)
    }

    #[test]
    fn flat_stays_flat_and_edges_keep_their_values() {
        for by in [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (3, 2)] {
            let flat = enlarged(&[77; 20], (5, 4), (5 * by.0 as u32 - 1, 4 * by.1 as u32 - 1), by);
            assert!(flat.iter().all(|v| *v == 77), "{by:?}");
        }
        assert_eq!(enlarged(&[0, 100, 200], (3, 1), (6, 1), (2, 1)), [0, 25, 75, 125, 175, 200]);
        assert_eq!(enlarged(&[0, 100], (1, 2), (1, 4), (1, 2)), [0, 25, 75, 100]);
        assert_eq!(enlarged(&[0, 100], (2, 1), (4, 1), (2, 1)), [0, 0, 100, 100]);
    }
}
