//! Baseline JPEG as libjpeg(-turbo), and hence Pillow, in its default settings: what it does to pixels ([`round_trip`]), and
//! files ([`encode()`]), both byte for byte.
//!
//! RGB → YCbCr, chroma averaged, `islow` DCT, the tables of ITU-T T.81 Annex K scaled by quality; backwards "fancy" triangle
//! upsampling. All of it is the Independent JPEG Group's integer arithmetic. A round trip leaves out the entropy coding,
//! which is lossless.

mod colour;
mod dct;
mod encode;
mod huffman;

use serde::{Deserialize, Serialize};

use super::Image;
use crate::vectors::vectorised;
pub(crate) use colour::ycc_to_rgb;
use colour::{Chroma, Plane};
pub use encode::encode;

/// Resolution of the colour planes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Subsampling {
    /// As the luma's.
    #[serde(rename = "4:4:4")]
    S444,
    /// Half across.
    #[serde(rename = "4:2:2")]
    S422,
    /// Half across and down.
    #[serde(rename = "4:2:0")]
    S420,
    /// No colour at all.
    #[serde(rename = "gray")]
    Gray,
}

impl Subsampling {
    /// Luma samples for each of chroma, across and down.
    fn factors(self) -> (usize, usize) {
        match self {
            Self::S420 => (2, 2),
            Self::S422 => (2, 1),
            Self::S444 | Self::Gray => (1, 1),
        }
    }
}

/// What encoding at `quality` (1 to 100) and decoding make of `image`.
pub fn round_trip(image: &mut Image, quality: u8, subsampling: Subsampling) {
    let (across, down) = subsampling.factors();
    let (mut luma, mut chroma) = colour::separate(image, across, down, subsampling != Subsampling::Gray);
    there_and_back(&mut luma, &LUMA, quality);
    for plane in &mut chroma {
        there_and_back(plane, &CHROMA, quality);
    }
    match &chroma[..] {
        [cb, cr] => colour::join(image, &luma, &Chroma { cb, cr, across, down }),
        _ => colour::spread(image, &luma),
    }
}

/// Forward DCT, quantisation and back, each block of 8×8 in place.
fn there_and_back(plane: &mut Plane, base: &[u8; 64], quality: u8) {
    let quantisers = quantisers(base, quality);
    let stride = plane.stride;
    for strip in plane.data.chunks_exact_mut(8 * stride) {
        round_trip_strip(strip, stride, &quantisers);
    }
}

vectorised! {
    fn round_trip_strip(strip: &mut [u8], stride: usize, quantisers: &[dct::Quantiser; 64]) {
        let mut blocks = [[0i16; dct::LANES]; 64];
        for x in (0..stride).step_by(8 * dct::LANES) {
            let width = (8 * dct::LANES).min(stride - x);
            for (row, lanes) in strip.chunks_exact(stride).zip(blocks.as_chunks_mut::<8>().0) {
                dct::load(&row[x..x + width], lanes);
            }
            dct::forward(&mut blocks);
            for (lanes, quantiser) in blocks.iter_mut().zip(quantisers) {
                quantiser.quantise(lanes);
                quantiser.dequantise(lanes);
            }
            dct::inverse(&mut blocks);
            for (row, lanes) in strip.chunks_exact_mut(stride).zip(blocks.as_chunks::<8>().0) {
                dct::store(lanes, &mut row[x..x + width]);
            }
        }
    }
}

fn quantisers(base: &[u8; 64], quality: u8) -> [dct::Quantiser; 64] {
    base.map(|step| dct::Quantiser::new(scaled(step, quality)))
}

/// An entry of a base table at a quality from 1 to 100, held to 8 bits (`jpeg_quality_scaling`, baseline forced).
fn scaled(base: u8, quality: u8) -> u8 {
    let quality = u32::from(quality.clamp(1, 100));
    let percent = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    ((u32::from(base) * percent + 50) / 100).clamp(1, 255) as u8
}

/// ITU-T T.81, table K.1, row by row.
#[rustfmt::skip]
const LUMA: [u8; 64] = [
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
];

/// ITU-T T.81, table K.2, row by row.
#[rustfmt::skip]
const CHROMA: [u8; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
];
