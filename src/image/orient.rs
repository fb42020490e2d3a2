//! Exact quarter turns and mirrorings: pixels move, none changes.

use std::sync::Arc;

use super::{Image, Pixels, Planes, Size};
use crate::vectors::vectorised;

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

/// What is moved: a pixel, or one channel's value.
pub(crate) trait Cell: Copy + Default {
    /// Appends `from` backwards.
    fn reverse(from: &[Self], to: &mut Vec<Self>) {
        to.extend(from.iter().rev());
    }

    /// Stands the columns of `rows`, all of one width, on their side: column `x` goes to `to[place(x)..]`.
    fn stand(rows: &[&[Self]; BAND], place: Place, to: &mut [Self]) {
        stand_from(0, rows, place, to);
    }
}

/// The same, from column `first` on.
fn stand_from<T: Copy>(first: usize, rows: &[&[T]; BAND], place: Place, to: &mut [T]) {
    for x in first..rows[0].len() {
        for (to, row) in to[place.of(x)..][..BAND].iter_mut().zip(rows) {
            *to = row[x];
        }
    }
}

impl Cell for f32 {}

impl Cell for [u8; 3] {
    fn reverse(from: &[Self], to: &mut Vec<Self>) {
        reverse_pixels(from, to);
    }

    fn stand(rows: &[&[Self]; BAND], place: Place, to: &mut [Self]) {
        let done = stand_pixels(rows, place, to.as_flattened_mut());
        stand_from(done, rows, place, to);
    }
}

/// Rows whose columns are stood on their side together.
const BAND: usize = 16;

/// Where columns go.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    first: usize,
    /// From a column's place to the next one's.
    step: isize,
}

impl Place {
    #[inline(always)]
    fn of(self, x: usize) -> usize {
        self.first.wrapping_add_signed(self.step * x as isize)
    }
}

/// `from`, in rows of `width`, after `turn`.
pub(crate) fn turned<T: Cell>(from: &[T], width: usize, turn: Turn) -> Vec<T> {
    let rows = from.chunks_exact(width);
    // Appended, not written over zeros: those would take as long again.
    let mut to = Vec::with_capacity(from.len());
    match turn {
        Turn::None => to.extend_from_slice(from),
        Turn::FlipVertical => rows.rev().for_each(|row| to.extend_from_slice(row)),
        Turn::FlipHorizontal => rows.for_each(|row| T::reverse(row, &mut to)),
        Turn::Rotate180 => T::reverse(from, &mut to),
        Turn::Transpose => return stood(from, width, false, false),
        Turn::Rotate90 => return stood(from, width, true, false),
        Turn::Rotate270 => return stood(from, width, false, true),
        Turn::Transverse => return stood(from, width, true, true),
    }
    to
}

/// Columns become rows: read `upwards` or downwards, the `last` one first or the first.
fn stood<T: Cell>(from: &[T], width: usize, upwards: bool, last: bool) -> Vec<T> {
    let height = from.len() / width;
    let mut to = vec![T::default(); from.len()];
    let place = |at: usize| match last {
        false => Place { first: at, step: height as isize },
        true => Place { first: at + (width - 1) * height, step: -(height as isize) },
    };
    let bands = height / BAND;
    for band in 0..bands {
        let top = band * BAND;
        let rows = std::array::from_fn(|i| {
            let y = if upwards { height - 1 - top - i } else { top + i };
            &from[y * width..(y + 1) * width]
        });
        T::stand(&rows, place(top), &mut to);
    }
    for at in bands * BAND..height {
        let y = if upwards { height - 1 - at } else { at };
        for (x, cell) in from[y * width..(y + 1) * width].iter().enumerate() {
            to[place(at).of(x)] = *cell;
        }
    }
    to
}

vectorised! {
    fn reverse_pixels(from: &[[u8; 3]], to: &mut Vec<[u8; 3]>) {
        to.extend(from.iter().rev());
    } => avx2 {
        use crate::vectors::{Shuffle, shuffle, shuffle_of};
        const BACKWARDS: Shuffle = shuffle_of(backwards());
        let (rest, blocks) = from.as_rchunks::<16>();
        for block in blocks.iter().rev() {
            let block: [[u8; 3]; 16] = bytemuck::cast(shuffle(bytemuck::cast(*block), &BACKWARDS));
            to.extend_from_slice(&block);
        }
        to.extend(rest.iter().rev());
    }

    /// How many columns it stood on their side.
    fn stand_pixels(rows: &[&[[u8; 3]]; BAND], place: Place, to: &mut [u8]) -> usize {
        let _ = (rows, place, to);
        0
    } => avx2 {
        // Four pixels of four rows as four words each, words transposed, and three bytes of each kept.
        use std::arch::x86_64::{
            __m128i, _mm_setr_epi8, _mm_shuffle_epi8, _mm_unpackhi_epi32, _mm_unpackhi_epi64, _mm_unpacklo_epi32,
            _mm_unpacklo_epi64,
        };
        let widen = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
        let narrow = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
        let rows: [&[u8]; BAND] = rows.map(<[_]>::as_flattened);
        // What is loaded reaches four bytes further.
        let columns = (rows[0].len().saturating_sub(4) / 12) * 4;
        for x in (0..columns).step_by(4) {
            let mut columns = [[[0u8; 12]; 4]; 4];
            for (quarter, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
                let pixels = |row: &[u8]| bytemuck::pod_read_unaligned::<__m128i>(&row[x * 3..x * 3 + 16]);
                let a = _mm_shuffle_epi8(pixels(rows[0]), widen);
                let b = _mm_shuffle_epi8(pixels(rows[1]), widen);
                let c = _mm_shuffle_epi8(pixels(rows[2]), widen);
                let d = _mm_shuffle_epi8(pixels(rows[3]), widen);
                let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
                let (ab_right, cd_right) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
                let stood = [
                    _mm_unpacklo_epi64(ab, cd),
                    _mm_unpackhi_epi64(ab, cd),
                    _mm_unpacklo_epi64(ab_right, cd_right),
                    _mm_unpackhi_epi64(ab_right, cd_right),
                ];
                for (column, words) in columns.iter_mut().zip(stood) {
                    let bytes: [u8; 16] = bytemuck::cast(_mm_shuffle_epi8(words, narrow));
                    column[quarter].copy_from_slice(&bytes[..12]);
                }
            }
            for (j, column) in columns.iter().enumerate() {
                to[place.of(x + j) * 3..][..BAND * 3].copy_from_slice(column.as_flattened());
            }
        }
        columns
    }
}

/// Where the bytes of sixteen pixels come from when these stand backwards.
#[cfg(target_arch = "x86_64")]
const fn backwards() -> [u8; 48] {
    let mut from = [0; 48];
    let mut to = 0;
    while to < 48 {
        from[to as usize] = 45 - to / 3 * 3 + to % 3;
        to += 1;
    }
    from
}

impl Image {
    /// The image after `turn`.
    pub fn turned(self, turn: Turn) -> Self {
        if turn == Turn::None {
            return self;
        }
        let data = turned(self.pixels(), self.width() as usize, turn).into_flattened();
        Self { size: turn.size(self.size), data }
    }

    /// The image as EXIF orientation `exif` (tag 0x0112) wants it seen; any value but 2 to 8 changes nothing.
    pub fn oriented(self, exif: u8) -> Self {
        self.turned(Turn::from_exif(exif))
    }
}

impl Pixels {
    /// Moves the pixels, whatever they are.
    pub(crate) fn turn(&mut self, turn: Turn) {
        let width = self.size().width as usize;
        let size = turn.size(self.size());
        *self = match self {
            Self::Levels(image) => {
                let data = turned(image.pixels(), width, turn).into_flattened();
                Self::Levels(Arc::new(Image { size, data }))
            }
            Self::Fractions(planes) => {
                let data = (0..3).flat_map(|channel| turned(planes.plane(channel), width, turn)).collect();
                Self::Fractions(Planes { size, data })
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rounding;
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

    /// Every turn by its meaning, at sizes around those that are moved together.
    #[test]
    fn all_turns_of_levels_and_fractions_are_plain_moves() {
        let turns = [
            Turn::None,
            Turn::FlipHorizontal,
            Turn::Rotate180,
            Turn::FlipVertical,
            Turn::Transpose,
            Turn::Rotate90,
            Turn::Transverse,
            Turn::Rotate270,
        ];
        for (w, h) in [(1, 1), (1, 40), (40, 1), (5, 16), (6, 17), (16, 33), (37, 48), (64, 15), (83, 50)] {
            let image = Image::from_fn(Size::new(w, h), |x, y| [x as u8, y as u8, (7 * x + 13 * y) as u8]);
            for turn in turns {
                let size = turn.size(image.size());
                let expected = Image::from_fn(size, |x, y| {
                    let (x, y) = match turn {
                        Turn::None => (x, y),
                        Turn::FlipHorizontal => (w - 1 - x, y),
                        Turn::Rotate180 => (w - 1 - x, h - 1 - y),
                        Turn::FlipVertical => (x, h - 1 - y),
                        Turn::Transpose => (y, x),
                        Turn::Rotate90 => (y, h - 1 - x),
                        Turn::Transverse => (w - 1 - y, h - 1 - x),
                        Turn::Rotate270 => (w - 1 - y, x),
                    };
                    image.pixel(x, y)
                });
                assert!(image.clone().turned(turn) == expected, "{turn:?} of {w}x{h}");
                let mut planes = Pixels::Fractions(Planes::from_image(&image));
                planes.turn(turn);
                assert!(planes.into_image(Rounding::Round) == expected, "{turn:?} of {w}x{h}, as fractions");
            }
        }
    }
}
