//! Pepper noise: y = fill where a coin of chance p shows, x elsewhere (imgaug's `Pepper`, PromptGIP).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::Pixels;
use crate::stream::Stream;
use crate::vectors::vectorised;

use super::Degradation;
use super::spec::{Kind, Param, Spec};

const RUN: usize = 4096;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pepper {
    p: f64,
    mode: Mode,
    fill: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    PerPixel,
    PerChannel,
}

impl Degradation for Pepper {
    const SPEC: Spec = Spec {
        name: "pepper",
        version: 1,
        doc: "Puts one value in place of random pixels.",
        geometry: false,
        params: &[
            Param::required("p", Kind::Real(0.0, 0.5), "", "Chance of each pixel."),
            Param::new(
                "mode",
                Kind::Word(&["per_pixel", "per_channel"]),
                "",
                r#""per_pixel""#,
                "One chance for the three channels of a pixel, or one for each.",
            ),
            Param::new("fill", Kind::Real(0.0, 255.0), "grey levels of 255", "0", "The value put there."),
        ],
        check: |_| Ok(()),
    };

    fn apply(&self, image: &mut Pixels, noise: &mut Stream) -> Result<(), String> {
        // p as a share of 2^32: a word below it is a hit.
        let threshold = (self.p * 4_294_967_296.0) as u32;
        let level = (self.fill.fract() == 0.0).then_some(self.fill as u8);
        let fill = (self.fill / 255.0) as f32;
        let mut words = [0u32; RUN];
        match (image, self.mode, level) {
            (Pixels::Levels(image), Mode::PerPixel, Some(level)) => {
                for run in Arc::make_mut(image).pixels_mut().chunks_mut(RUN) {
                    noise.fill_u32(&mut words[..run.len()]);
                    put_pixels(run, &words, threshold, [level; 3]);
                }
            }
            (image, Mode::PerPixel, _) => {
                let pixels = image.size().pixels();
                for from in (0..pixels).step_by(RUN) {
                    let to = (from + RUN).min(pixels);
                    noise.fill_u32(&mut words[..to - from]);
                    for channel in 0..3 {
                        put(&mut image.planes().plane_mut(channel)[from..to], &words, threshold, fill);
                    }
                }
            }
            (Pixels::Levels(image), Mode::PerChannel, Some(level)) => {
                // The words come channel by channel, the levels lie pixel by pixel.
                let mut hits = vec![0u8; image.as_bytes().len()];
                for run in hits.chunks_mut(RUN) {
                    noise.fill_u32(&mut words[..run.len()]);
                    find(&words, threshold, run);
                }
                put_channels(Arc::make_mut(image).pixels_mut(), &hits, level);
            }
            (image, Mode::PerChannel, _) => {
                for run in image.planes().data_mut().chunks_mut(RUN) {
                    noise.fill_u32(&mut words[..run.len()]);
                    put(run, &words, threshold, fill);
                }
            }
        }
        Ok(())
    }
}

vectorised! {
    fn put(values: &mut [f32], words: &[u32], threshold: u32, fill: f32) {
        for (value, word) in values.iter_mut().zip(words) {
            *value = if *word < threshold { fill } else { *value };
        }
    }

    /// 255 where a word is a hit, else 0.
    fn find(words: &[u32], threshold: u32, hits: &mut [u8]) {
        for (hit, word) in hits.iter_mut().zip(words) {
            *hit = if *word < threshold { 255 } else { 0 };
        }
    }

    fn put_channels(pixels: &mut [[u8; 3]], hits: &[u8], fill: u8) {
        let (r, rest) = hits.split_at(pixels.len());
        let (g, b) = rest.split_at(pixels.len());
        for (((pixel, r), g), b) in pixels.iter_mut().zip(r).zip(g).zip(b) {
            *pixel = [pixel[0] & !r | fill & r, pixel[1] & !g | fill & g, pixel[2] & !b | fill & b];
        }
    }

    fn put_pixels(pixels: &mut [[u8; 3]], words: &[u32], threshold: u32, fill: [u8; 3]) {
        for (pixel, word) in pixels.iter_mut().zip(words) {
            *pixel = if *word < threshold { fill } else { *pixel };
        }
    }
}
