//! Exact quarter turns and mirrorings: pixels move, none changes.

use super::{Image, Size};

/// The eight ways to lay a rectangle on itself, in the order of EXIF's orientation tag, 1 to 8: what has to be *done* to
/// the stored pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Turn {
    /// Nothing.
    #[default]
    None,
    /// Left becomes right.
    FlipHorizontal,
    /// Half a turn.
    Rotate180,
    /// Top becomes bottom.
    FlipVertical,
    /// Rows become columns (mirrored at the diagonal from the upper left).
    Transpose,
    /// A quarter turn clockwise.
    Rotate90,
    /// Mirrored at the diagonal from the upper right.
    Transverse,
    /// A quarter turn counterclockwise.
    Rotate270,
}

impl Turn {
    /// The turn that EXIF tag 0x0112 asks for; any value but 2 to 8 means none.
    pub fn from_exif(orientation: u8) -> Self {
        match orientation {
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Transpose,
            6 => Self::Rotate90,
            7 => Self::Transverse,
            8 => Self::Rotate270,
            _ => Self::None,
        }
    }

    /// The size of an image of `size` after the turn.
    pub fn size(self, size: Size) -> Size {
        match self {
            Self::None | Self::FlipHorizontal | Self::Rotate180 | Self::FlipVertical => size,
            Self::Transpose | Self::Rotate90 | Self::Transverse | Self::Rotate270 => Size::new(size.height, size.width),
        }
    }
}

/// Output pixels that are moved row by row before going on to the right: what a column of the source touches stays cached.
const TILE: usize = 64;

impl Image {
    /// The image after `turn`.
    pub fn turned(self, turn: Turn) -> Self {
        if turn == Turn::None {
            return self;
        }
        let (w, h) = (self.width() as usize, self.height() as usize);
        // The source pixel of the output's upper left, then the steps to those of its right and its lower neighbour.
        let (last_x, last_y, down) = (w - 1, (h - 1) * w, w as isize);
        let (origin, right, below) = match turn {
            Turn::None => (0, 1, down),
            Turn::FlipHorizontal => (last_x, -1, down),
            Turn::Rotate180 => (last_y + last_x, -1, -down),
            Turn::FlipVertical => (last_y, 1, -down),
            Turn::Transpose => (0, down, 1),
            Turn::Rotate90 => (last_y, -down, 1),
            Turn::Transverse => (last_y + last_x, -down, -1),
            Turn::Rotate270 => (last_x, down, -1),
        };
        let size = turn.size(self.size);
        let width = size.width as usize;
        let source = self.data.as_chunks::<3>().0;
        let mut data = vec![0; self.data.len()];
        for from in (0..width).step_by(TILE) {
            for (y, row) in data.as_chunks_mut::<3>().0.chunks_exact_mut(width).enumerate() {
                let mut at = origin as isize + y as isize * below + from as isize * right;
                for pixel in row[from..].iter_mut().take(TILE) {
                    *pixel = source[at as usize];
                    at += right;
                }
            }
        }
        Self { size, data }
    }

    /// The image as EXIF orientation `exif` (tag 0x0112) wants it seen; any value but 2 to 8 changes nothing.
    pub fn oriented(self, exif: u8) -> Self {
        self.turned(Turn::from_exif(exif))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A, B above C, D above E, F: two wide, three tall.
    fn letters(image: &Image) -> String {
        let mut text = String::new();
        for y in 0..image.height() {
            text.extend((0..image.width()).map(|x| char::from(image.pixel(x, y)[1])));
            text.push('/');
        }
        text
    }

    #[test]
    fn every_exif_orientation() {
        let stored = Image::from_fn(Size::new(2, 3), |x, y| [0, b'A' + (y * 2 + x) as u8, 255]);
        let expected = [
            "AB/CD/EF/",
            "AB/CD/EF/",
            "BA/DC/FE/",
            "FE/DC/BA/",
            "EF/CD/AB/",
            "ACE/BDF/",
            "ECA/FDB/",
            "FDB/ECA/",
            "BDF/ACE/",
            "AB/CD/EF/",
        ];
        for (exif, expected) in expected.iter().enumerate() {
            assert_eq!(letters(&stored.clone().oriented(exif as u8)), *expected, "orientation {exif}");
        }
        assert_eq!(stored.clone().oriented(255), stored);
    }

    #[test]
    fn four_quarters_are_a_whole_turn_also_beyond_a_tile() {
        let image = Image::from_fn(Size::new(200, 131), |x, y| [x as u8, y as u8, (x * y) as u8]);
        let quarter = image.clone().turned(Turn::Rotate90);
        assert_eq!(quarter.size(), Size::new(131, 200));
        assert_eq!(quarter.pixel(130 - 7, 11), image.pixel(11, 7));
        let half = quarter.turned(Turn::Rotate90);
        assert_eq!(half, image.clone().turned(Turn::Rotate180));
        assert_eq!(half.turned(Turn::Rotate90), image.clone().turned(Turn::Rotate270));
        for turn in [Turn::FlipHorizontal, Turn::FlipVertical, Turn::Transpose, Turn::Transverse, Turn::Rotate180] {
            assert_eq!(image.clone().turned(turn).turned(turn), image, "{turn:?} twice");
        }
    }
}
