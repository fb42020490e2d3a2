//! Files: segments, and the entropy coding of ITU-T T.81 Annex F with the tables of Annex K.

use super::dct::{self, Blocks, LANES, Quantiser};
use super::huffman::{TABLES, Table, Tables};
use super::{CHROMA, LUMA, Plane, Subsampling, colour, quantisers, scaled};
use crate::image::Image;
use crate::vectors::vectorised;

/// `image` as a baseline JPEG file of `quality` (1 to 100), with a colour profile: byte for byte what Pillow's
/// `save(quality, subsampling, icc_profile)` writes. `None` if a side is longer than the format's 65,535 pixels, or the
/// profile than its 255 segments.
pub fn encode(image: &Image, quality: u8, subsampling: Subsampling, icc: Option<&[u8]>) -> Option<Vec<u8>> {
    let (Ok(width), Ok(height)) = (u16::try_from(image.width()), u16::try_from(image.height())) else {
        return None;
    };
    let (across, down) = subsampling.factors();
    let (luma, chroma) = colour::separate(image, across, down, subsampling != Subsampling::Gray);
    let mut components = vec![Component::new(&luma, &LUMA, quality, across, down, &TABLES[0])];
    components.extend(chroma.iter().map(|plane| Component::new(plane, &CHROMA, quality, 1, 1, &TABLES[1])));

    // Most photographs need less than a byte for three.
    let mut file = Vec::with_capacity(image.as_bytes().len() / 3 + 4096);
    file.extend_from_slice(&[0xff, 0xd8]);
    // Version 1.1, square pixels, no thumbnail.
    segment(&mut file, 0xe0, &[b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"]);
    profile(&mut file, icc.unwrap_or_default())?;
    let kinds = if chroma.is_empty() { 1 } else { 2 };
    for (id, base) in [LUMA, CHROMA].iter().enumerate().take(kinds) {
        segment(&mut file, 0xdb, &[&[id as u8], &ZIGZAG.map(|i| scaled(base[i], quality))]);
    }
    let ([h1, h2], [w1, w2]) = (height.to_be_bytes(), width.to_be_bytes());
    let ids = 0..components.len() as u8;
    let frame: Vec<[u8; 3]> = ids
        .clone()
        .zip(&components)
        .map(|(id, component)| [id + 1, (component.across << 4 | component.down) as u8, id.min(1)])
        .collect();
    segment(&mut file, 0xc0, &[&[8, h1, h2, w1, w2, frame.len() as u8], frame.as_flattened()]);
    for (id, tables) in (0..).zip(&TABLES[..kinds]) {
        segment(&mut file, 0xc4, &[&[id], &tables.dc.lengths, tables.dc.symbols]);
        segment(&mut file, 0xc4, &[&[0x10 | id], &tables.ac.lengths, tables.ac.symbols]);
    }
    let scan: Vec<[u8; 2]> = ids.map(|id| [id + 1, id.min(1) * 0x11]).collect();
    segment(&mut file, 0xda, &[&[scan.len() as u8], scan.as_flattened(), &[0, 63, 0]]);

    let mut bits = Bits { file, pending: 0, count: 0 };
    let units = (usize::from(width).div_ceil(8 * across), usize::from(height).div_ceil(8 * down));
    for row in 0..units.1 {
        for component in &mut components {
            component.quantise(row);
        }
        for column in 0..units.0 {
            for component in &mut components {
                component.write(column, &mut bits);
            }
        }
    }
    Some(bits.finish())
}

fn segment(file: &mut Vec<u8>, marker: u8, parts: &[&[u8]]) {
    let length = 2 + parts.iter().map(|part| part.len()).sum::<usize>();
    file.extend_from_slice(&[0xff, marker]);
    file.extend_from_slice(&(length as u16).to_be_bytes());
    parts.iter().for_each(|part| file.extend_from_slice(part));
}

/// A colour profile, in as many segments as it needs. `None` if they are more than can be counted.
fn profile(file: &mut Vec<u8>, icc: &[u8]) -> Option<()> {
    const MOST: usize = 65_533 - 14;
    let count = u8::try_from(icc.len().div_ceil(MOST)).ok()?;
    for (part, number) in icc.chunks(MOST).zip(1..) {
        segment(file, 0xe2, &[b"ICC_PROFILE\0", &[number, count], part]);
    }
    Some(())
}

/// Quantised coefficients of [`LANES`] blocks side by side, in zigzag order, and for each block a bit for each that is not 0.
#[derive(Clone)]
struct Group {
    levels: Blocks,
    nonzero: [u64; LANES],
}

/// A plane on its way into the file.
struct Component<'a> {
    plane: &'a Plane,
    quantisers: [Quantiser; 64],
    tables: &'a Tables,
    /// Blocks in a unit (the least that holds whole blocks of every plane).
    across: usize,
    down: usize,
    /// Blocks across the plane.
    wide: usize,
    /// The blocks of a row of units, `wide` and some more in each row; rows beyond the plane's last are not there.
    groups: Vec<Group>,
    last_dc: i16,
}

impl<'a> Component<'a> {
    fn new(plane: &'a Plane, base: &[u8; 64], quality: u8, across: usize, down: usize, tables: &'a Tables) -> Self {
        let quantisers = quantisers(base, quality);
        Self { plane, quantisers, tables, across, down, wide: plane.stride / 8, groups: Vec::new(), last_dc: 0 }
    }

    /// Fills `groups` from a row of units.
    fn quantise(&mut self, row: usize) {
        let stride = self.plane.stride;
        let strips = self.plane.data.chunks_exact(8 * stride).skip(row * self.down).take(self.down);
        let across = self.wide.div_ceil(LANES);
        self.groups.resize(strips.len() * across, Group { levels: [[0; LANES]; 64], nonzero: [0; LANES] });
        for (strip, groups) in strips.zip(self.groups.chunks_exact_mut(across)) {
            quantise_strip(strip, stride, &self.quantisers, groups);
        }
    }

    /// Writes the blocks of a unit. Where the plane ends before the unit does, blocks repeat the mean of the one before.
    fn write(&mut self, column: usize, bits: &mut Bits) {
        for y in 0..self.down {
            for x in column * self.across..(column + 1) * self.across {
                let group = self.groups.get(y * self.wide.div_ceil(LANES) + x / LANES).filter(|_| x < self.wide);
                match group {
                    Some(group) => {
                        let dc = group.levels[0][x % LANES];
                        bits.difference(dc - self.last_dc, &self.tables.dc);
                        self.last_dc = dc;
                        bits.rest(group, x % LANES, &self.tables.ac);
                    }
                    None => {
                        bits.difference(0, &self.tables.dc);
                        bits.symbol(0, &self.tables.ac);
                    }
                }
            }
        }
    }
}

vectorised! {
    /// The blocks of eight rows of pixels.
    fn quantise_strip(strip: &[u8], stride: usize, quantisers: &[Quantiser; 64], groups: &mut [Group]) {
        let mut blocks: Blocks = [[0; LANES]; 64];
        for (x, group) in (0..stride).step_by(8 * LANES).zip(groups) {
            let width = (8 * LANES).min(stride - x);
            for (row, places) in strip.chunks_exact(stride).zip(blocks.as_chunks_mut::<8>().0) {
                dct::load(&row[x..x + width], places);
            }
            dct::forward(&mut blocks);
            let mut nonzero = [[0u32; LANES]; 2];
            for (k, (&place, levels)) in ZIGZAG.iter().zip(&mut group.levels).enumerate() {
                *levels = blocks[place];
                quantisers[place].quantise(levels);
                for (mask, level) in nonzero[k / 32].iter_mut().zip(levels) {
                    *mask |= u32::from(*level != 0) << (k % 32);
                }
            }
            for ((mask, low), high) in group.nonzero.iter_mut().zip(&nonzero[0]).zip(&nonzero[1]) {
                *mask = u64::from(*low) | u64::from(*high) << 32;
            }
        }
    }
}

/// Bits after bits, at the end of a file.
struct Bits {
    file: Vec<u8>,
    /// The last `count` bits are yet to be written; never more than 31 between calls.
    pending: u64,
    count: u32,
}

impl Bits {
    #[inline(always)]
    fn put(&mut self, bits: u32, count: u32) {
        self.pending = self.pending << count | u64::from(bits);
        self.count += count;
        if self.count >= 32 {
            self.count -= 32;
            let word = (self.pending >> self.count) as u32;
            // Whether a byte is 0xff, that is, whether one of the inverse is 0.
            let inverse = !word;
            if inverse.wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.file.extend_from_slice(&word.to_be_bytes());
            } else {
                word.to_be_bytes().into_iter().for_each(|byte| self.byte(byte));
            }
        }
    }

    /// Decoders would take 0xff for the beginning of a marker.
    fn byte(&mut self, byte: u8) {
        self.file.push(byte);
        if byte == 0xff {
            self.file.push(0);
        }
    }

    #[inline(always)]
    fn symbol(&mut self, symbol: u8, table: &Table) {
        let (code, length) = table.codes[usize::from(symbol)];
        self.put(u32::from(code), u32::from(length));
    }

    /// A symbol made of `zeros` and the number of bits of `value`, and those bits.
    #[inline(always)]
    fn value(&mut self, zeros: u32, value: i16, table: &Table) {
        let size = 16 - value.unsigned_abs().leading_zeros();
        let (code, length) = table.codes[(zeros << 4 | size) as usize];
        // A negative value is written less 1.
        let bits = (value + (value >> 15)) as u32 & ((1 << size) - 1);
        self.put(u32::from(code) << size | bits, u32::from(length) + size);
    }

    /// The first coefficient, less that of the block before.
    fn difference(&mut self, difference: i16, table: &Table) {
        self.value(0, difference, table);
    }

    /// All other coefficients of a group's block.
    fn rest(&mut self, group: &Group, lane: usize, table: &Table) {
        let mut left = group.nonzero[lane] & !1;
        let mut next = 1;
        while left != 0 {
            let k = left.trailing_zeros();
            let mut zeros = k - next;
            while zeros > 15 {
                self.symbol(0xf0, table);
                zeros -= 16;
            }
            self.value(zeros, group.levels[k as usize & 63][lane], table);
            next = k + 1;
            left &= left - 1;
        }
        if next < 64 {
            self.symbol(0, table);
        }
    }

    /// The file with its end marker; the last byte is filled with ones.
    fn finish(mut self) -> Vec<u8> {
        let missing = self.count.wrapping_neg() % 8;
        self.pending = self.pending << missing | ((1 << missing) - 1);
        self.count += missing;
        while self.count > 0 {
            self.count -= 8;
            self.byte((self.pending >> self.count) as u8);
        }
        self.file.extend_from_slice(&[0xff, 0xd9]);
        self.file
    }
}

/// The place in a block, row by row, of the first, second, … coefficient in the file.
#[rustfmt::skip]
const ZIGZAG: [usize; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];
