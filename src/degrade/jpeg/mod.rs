//! JPEG: what a baseline file of a quality does to pixels, byte for byte as libjpeg(-turbo) and hence Pillow.
//!
//! Entropy coding is lossless, so it is left out: RGB → YCbCr, chroma downsampling, forward DCT, quantisation, and all of
//! it backwards. The integer arithmetic is that of the Independent JPEG Group's library in its default settings (`islow`
//! DCT, "fancy" triangle upsampling), tables of ITU-T T.81 Annex K scaled by quality. Fixtures made by Pillow pin it.

mod colour;
mod dct;

use serde::{Deserialize, Serialize};

use crate::image::{Planes, Size};
use crate::stream::Stream;

use super::Degradation;
use super::spec::{Kind, Param, Spec};
use colour::{Chroma, Plane};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jpeg {
    quality: u32,
    subsampling: Subsampling,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Subsampling {
    #[serde(rename = "4:2:0")]
    S420,
    #[serde(rename = "4:2:2")]
    S422,
    #[serde(rename = "4:4:4")]
    S444,
    #[serde(rename = "gray")]
    Gray,
}

impl Degradation for Jpeg {
    const SPEC: Spec = Spec {
        name: "jpeg",
        version: 1,
        doc: "Encodes as baseline JPEG and decodes again, to the byte as Pillow with libjpeg-turbo.",
        geometry: false,
        params: &[
            Param::required("quality", Kind::Whole(1, 100), "", "Quality, as libjpeg counts it."),
            Param::new(
                "subsampling",
                Kind::Word(&["4:2:0", "4:2:2", "4:4:4", "gray"]),
                "",
                r#""4:2:0""#,
                "Resolution of the colour planes; gray keeps the luma alone.",
            ),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Planes, _: &mut Stream) -> Result<(), String> {
        let Size { width, height } = image.size();
        let (w, h) = (width as usize, height as usize);
        let (across, down) = match self.subsampling {
            Subsampling::S420 => (2, 2),
            Subsampling::S422 => (2, 1),
            Subsampling::S444 | Subsampling::Gray => (1, 1),
        };
        let gray = self.subsampling == Subsampling::Gray;
        let (mut luma, mut chroma) = colour::separate(image, across, down, !gray);
        round_trip(&mut luma, &LUMA, self.quality);
        for plane in &mut chroma {
            round_trip(plane, &CHROMA, self.quality);
        }
        match &chroma[..] {
            [cb, cr] => colour::join(image, &luma, &Chroma { cb, cr, across, down, width: w, height: h }),
            _ => colour::spread(image, &luma),
        }
        Ok(())
    }
}

/// Forward DCT, quantisation and back, each block of 8×8 in place.
fn round_trip(plane: &mut Plane, base: &[u16; 64], quality: u32) {
    let quantisers: [_; 64] = std::array::from_fn(|i| dct::Quantiser::new(scaled(base[i], quality)));
    let mut blocks = [[0i16; dct::LANES]; 64];
    let stride = plane.stride;
    for strip in plane.data.chunks_exact_mut(8 * stride) {
        for x in (0..stride).step_by(8 * dct::LANES) {
            let width = (8 * dct::LANES).min(stride - x);
            for (row, lanes) in strip.chunks_exact(stride).zip(blocks.as_chunks_mut::<8>().0) {
                dct::load(&row[x..x + width], lanes);
            }
            dct::forward(&mut blocks);
            for (lanes, quantiser) in blocks.iter_mut().zip(&quantisers) {
                quantiser.apply(lanes);
            }
            dct::inverse(&mut blocks);
            for (row, lanes) in strip.chunks_exact_mut(stride).zip(blocks.as_chunks::<8>().0) {
                dct::store(lanes, &mut row[x..x + width]);
            }
        }
    }
}

/// An entry of a base table at a quality from 1 to 100, held to 8 bits (`jpeg_quality_scaling`, baseline forced).
fn scaled(base: u16, quality: u32) -> u16 {
    let percent = if quality < 50 { 5000 / quality.max(1) } else { 200 - 2 * quality.min(100) };
    ((u32::from(base) * percent + 50) / 100).clamp(1, 255) as u16
}

/// ITU-T T.81, table K.1, row by row.
#[rustfmt::skip]
const LUMA: [u16; 64] = [
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
const CHROMA: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
];
