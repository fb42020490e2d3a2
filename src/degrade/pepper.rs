//! Pepper noise: y = fill where a coin of chance p shows, x elsewhere (imgaug's `Pepper`, PromptGIP).

use serde::{Deserialize, Serialize};

use crate::image::Planes;
use crate::stream::Stream;

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

    fn apply(&self, image: &mut Planes, noise: &mut Stream) -> Result<(), String> {
        // p as a share of 2^32: a word below it is a hit.
        let threshold = (self.p * 4_294_967_296.0) as u32;
        let fill = (self.fill / 255.0) as f32;
        let mut words = [0u32; RUN];
        let put = |run: &mut [f32], words: &[u32]| {
            for (value, word) in run.iter_mut().zip(words) {
                *value = if *word < threshold { fill } else { *value };
            }
        };
        match self.mode {
            Mode::PerChannel => {
                for run in image.data_mut().chunks_mut(RUN) {
                    noise.fill_u32(&mut words[..run.len()]);
                    put(run, &words);
                }
            }
            Mode::PerPixel => {
                let pixels = image.size().pixels();
                for from in (0..pixels).step_by(RUN) {
                    let to = (from + RUN).min(pixels);
                    noise.fill_u32(&mut words[..to - from]);
                    for channel in 0..3 {
                        put(&mut image.plane_mut(channel)[from..to], &words);
                    }
                }
            }
        }
        Ok(())
    }
}
