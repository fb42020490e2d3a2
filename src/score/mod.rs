//! How near an image is to its clean original: PSNR and SSIM of 8-bit pixels, each as one of the field's code bases does it.
//!
//! The same pair of images differs by 5 dB and .15 of SSIM between code bases, so a score is always named with its
//! *profile*, in the pipeline file (`psnr.lm4lv`) and in the column (`input_psnr_lm4lv`):
//!
//! | profile | pixels | border | PSNR of identical images | SSIM window |
//! | --- | --- | --- | --- | --- |
//! | `lm4lv` | RGB | 4 px cut off each side | 100 dB | Gaussian, valid |
//! | `basicsr_y` | luma of MATLAB's BT.601 (16 to 235), not rounded | none cut off (as BasicSR's denoising and JPEG tests; its super-resolution tests cut the scale) | infinite | Gaussian, valid |
//! | `skimage` | RGB | none cut off | infinite | uniform, valid |
//! | `torchmetrics` | RGB | none cut off | infinite | Gaussian, image reflected at its border |
//!
//! An infinite PSNR is stored as that, since it is what these libraries return and is not the same as null (not scored).
//! It makes a plain mean over the column infinite too: filter with `isfinite`, or average what is below 100.
//!
//! Torchmetrics itself takes the logarithm of the range in f32 unless PyTorch's default type is f64, and is then 5e-7 dB
//! off; and its PSNR of a batch pools the errors, where ours is of one image.
//!
//! Results are the same to the bit on every CPU: whole numbers, or f32 and f64 without fused multiplication, in an order
//! fixed by the source, and no transcendental function but an own logarithm.

mod gaussian;
mod psnr;
mod uniform;

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::resize::{Filter, resize};
use crate::image::{Image, Size};
use crate::sample::{Record, Sample};
use crate::stage::{Fault, Stage};
use crate::vectors::vectorised;

/// A metric in a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ScoreName {
    /// PSNR in dB as LM4LV's evaluation: RGB, 4 px cut off each side, 100 for identical images.
    #[serde(rename = "psnr.lm4lv")]
    PsnrLm4lv,
    /// SSIM as LM4LV's evaluation: RGB, 4 px cut off each side, Gaussian window inside the image, mean of the channels.
    #[serde(rename = "ssim.lm4lv")]
    SsimLm4lv,
    /// PSNR in dB of the luma (16 to 235) against a peak of 255, as BasicSR with `test_y_channel`.
    #[serde(rename = "psnr.basicsr_y")]
    PsnrBasicsrY,
    /// SSIM of the luma (16 to 235) with a range of 255, as BasicSR with `test_y_channel`.
    #[serde(rename = "ssim.basicsr_y")]
    SsimBasicsrY,
    /// PSNR in dB over all channels, as scikit-image's `peak_signal_noise_ratio`.
    #[serde(rename = "psnr.skimage")]
    PsnrSkimage,
    /// SSIM as scikit-image's `structural_similarity(channel_axis=-1)`: uniform 7×7 window.
    #[serde(rename = "ssim.skimage")]
    SsimSkimage,
    /// PSNR in dB of one image, as torchmetrics' `peak_signal_noise_ratio(data_range=255)`.
    #[serde(rename = "psnr.torchmetrics")]
    PsnrTorchmetrics,
    /// SSIM as torchmetrics' `structural_similarity_index_measure(data_range=255)`: the border counts, reflected.
    #[serde(rename = "ssim.torchmetrics")]
    SsimTorchmetrics,
}

impl ScoreName {
    /// Every score, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::PsnrLm4lv,
        Self::SsimLm4lv,
        Self::PsnrBasicsrY,
        Self::SsimBasicsrY,
        Self::PsnrSkimage,
        Self::SsimSkimage,
        Self::PsnrTorchmetrics,
        Self::SsimTorchmetrics,
    ];

    /// The name in the pipeline file, such as `psnr.lm4lv`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PsnrLm4lv => "psnr.lm4lv",
            Self::SsimLm4lv => "ssim.lm4lv",
            Self::PsnrBasicsrY => "psnr.basicsr_y",
            Self::SsimBasicsrY => "ssim.basicsr_y",
            Self::PsnrSkimage => "psnr.skimage",
            Self::SsimSkimage => "ssim.skimage",
            Self::PsnrTorchmetrics => "psnr.torchmetrics",
            Self::SsimTorchmetrics => "ssim.torchmetrics",
        }
    }

    /// The column that compares image column `of` with the target, such as `input_psnr_lm4lv`.
    pub fn column(self, of: &str) -> String {
        format!("{of}_{}", self.as_str().replace('.', "_"))
    }
}

/// Scores `image` against `reference`. `None` if their sizes differ, or if they are too small: what is left after the cut
/// needs a pixel for PSNR, a whole window (11×11, skimage 7×7) for SSIM, and torchmetrics' reflection 6×6.
pub fn score(name: ScoreName, image: &Image, reference: &Image) -> Option<f64> {
    let cut = if matches!(name, ScoreName::PsnrLm4lv | ScoreName::SsimLm4lv) { 4 } else { 0 };
    let pair = Pair::new(image, reference, cut)?;
    match name {
        ScoreName::PsnrLm4lv => {
            Some(psnr::rgb(&pair)).map(|db| if db.is_finite() { db } else { psnr::LM4LV_IDENTICAL })
        }
        ScoreName::PsnrSkimage | ScoreName::PsnrTorchmetrics => Some(psnr::rgb(&pair)),
        ScoreName::PsnrBasicsrY => Some(psnr::luma(&pair)),
        ScoreName::SsimLm4lv => gaussian::rgb(&pair),
        ScoreName::SsimBasicsrY => gaussian::luma(&pair),
        ScoreName::SsimTorchmetrics => gaussian::rgb_reflected(&pair),
        ScoreName::SsimSkimage => uniform::rgb(&pair),
    }
}

/// What an image of `size`, made from an input of size `input`, is scored against: `target` itself, or, where a restorer resized
/// the input, `target` resized in the same way. `None` if `target` does not have the input's size: it shows something else.
pub fn target_for<'a>(size: Size, input: Size, target: &'a Image) -> Option<Cow<'a, Image>> {
    match target.size() {
        same if same != input => None,
        same if same == size => Some(Cow::Borrowed(target)),
        _ => Some(Cow::Owned(resize(target, size, Filter::Bicubic))),
    }
}

/// The stage `score`: compares each sample's images with its target.
#[derive(Debug)]
pub struct Score {
    names: Vec<ScoreName>,
    /// The columns of input, output and baseline, in the order of `names`.
    columns: [Vec<Arc<str>>; 3],
}

impl Score {
    /// Scores by `names`, in that order, into columns `input_…`, `output_…` and `baseline_…`, of images that are there.
    pub fn new(names: &[ScoreName]) -> Self {
        let of = |image| names.iter().map(|name| name.column(image).into()).collect();
        Self { names: names.to_vec(), columns: ["input", "output", "baseline"].map(of) }
    }
}

impl Stage for Score {
    fn name(&self) -> &'static str {
        "score"
    }

    /// Without an image, without a target, or where [`score`] gives none, the column stays null.
    fn process(&self, _record: &Record, sample: &mut Sample) -> Result<(), Fault> {
        let (Some(input), Some(target)) = (&sample.image, &sample.target) else { return Ok(()) };
        for (image, columns) in
            [Some(input), sample.output.as_ref(), sample.baseline.as_ref()].iter().zip(&self.columns)
        {
            let Some(image) = image else { continue };
            let Some(target) = target_for(image.size(), input.size(), target) else { continue };
            for (name, column) in self.names.iter().zip(columns) {
                if let Some(value) = score(*name, image, &target) {
                    sample.scores.push((column.clone(), value));
                }
            }
        }
        Ok(())
    }
}

/// The same window of two images, at least one pixel.
struct Pair<'a> {
    images: [&'a [u8]; 2],
    /// Bytes from a row to the next.
    stride: usize,
    /// Pixels across.
    width: usize,
    /// Pixels down.
    height: usize,
}

impl<'a> Pair<'a> {
    /// Both images without `cut` pixels at each side; `None` if the sizes differ or nothing is left.
    fn new(image: &'a Image, reference: &'a Image, cut: usize) -> Option<Self> {
        if image.size() != reference.size() {
            return None;
        }
        let [across, down] = [image.width() as usize, image.height() as usize];
        let [width, height] = [across.checked_sub(2 * cut)?, down.checked_sub(2 * cut)?];
        let start = (cut * across + cut) * 3;
        let images = [image, reference].map(|image| &image.as_bytes()[start.min(across * down * 3)..]);
        (width > 0 && height > 0).then_some(Self { images, stride: across * 3, width, height })
    }

    /// Row `y` of both, `width · 3` bytes each.
    fn row(&self, y: usize) -> [&'a [u8]; 2] {
        self.images.map(|image| &image[y * self.stride..][..self.width * 3])
    }
}

/// The weights of MATLAB's BT.601 luma, `Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255`, as whole numbers over
/// [`LUMA_UNIT`].
const LUMA: [i32; 3] = [21_827, 42_851, 8_322];
/// What one grey level is in the units of [`LUMA`].
const LUMA_UNIT: f64 = 85_000.0;

/// SSIM's constants (0.01 · 255)² and (0.03 · 255)², doubled: both forms here work with the sum and the difference of the
/// two images, and so with twice every term.
const C1: f32 = 2.0 * 6.5025;
const C2: f32 = 2.0 * 58.5225;

/// The sum of many f32 in an order that lets a CPU add several at once, and that does not depend on how many it can.
#[derive(Default)]
struct Sum {
    lanes: [f64; 8],
}

impl Sum {
    fn add(&mut self, values: &[f32]) {
        add_to(&mut self.lanes, values);
    }

    fn total(&self) -> f64 {
        self.lanes.iter().sum()
    }
}

vectorised! {
    fn add_to(lanes: &mut [f64; 8], values: &[f32]) {
        let (blocks, rest) = values.as_chunks::<8>();
        for block in blocks {
            for (lane, &value) in lanes.iter_mut().zip(block) {
                *lane += f64::from(value);
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Partition, Position};
    use crate::sample::Reference;

    fn noise(size: Size, seed: u32) -> Image {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        Image::from_fn(size, |_, _| {
            std::array::from_fn(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                (state >> 24) as u8
            })
        })
    }

    #[test]
    fn names_are_their_serde_names_and_an_unknown_one_lists_them() {
        for name in ScoreName::ALL {
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{}\"", name.as_str()));
        }
        assert_eq!(ScoreName::SsimBasicsrY.column("input"), "input_ssim_basicsr_y");
        let error = serde_json::from_str::<ScoreName>("\"psnr.kornia\"").unwrap_err().to_string();
        assert!(ScoreName::ALL.iter().all(|name| error.contains(name.as_str())), "{error}");
    }

    #[test]
    fn identical_images() {
        let image = noise(Size::new(40, 33), 1);
        for name in ScoreName::ALL {
            let expected = match name {
                ScoreName::PsnrLm4lv => 100.0,
                name if name.as_str().starts_with("psnr") => f64::INFINITY,
                _ => 1.0,
            };
            assert_eq!(score(name, &image, &image), Some(expected), "{}", name.as_str());
        }
    }

    #[test]
    fn too_small_or_of_another_size_is_no_score() {
        for (width, height) in
            [(1, 1), (5, 40), (6, 6), (8, 9), (9, 9), (7, 11), (11, 10), (18, 19), (19, 19), (1, 300)]
        {
            let [a, b] = [noise(Size::new(width, height), 1), noise(Size::new(width, height), 2)];
            let shorter = width.min(height);
            for name in ScoreName::ALL {
                let needs = match name {
                    ScoreName::PsnrLm4lv => 9,
                    ScoreName::SsimLm4lv => 19,
                    ScoreName::SsimBasicsrY => 11,
                    ScoreName::SsimSkimage => 7,
                    ScoreName::SsimTorchmetrics => 6,
                    _ => 1,
                };
                let value = score(name, &a, &b);
                assert_eq!(value.is_some(), shorter >= needs, "{} of {width}x{height}", name.as_str());
                assert!(value.is_none_or(f64::is_finite));
                assert_eq!(score(name, &a, &noise(Size::new(width, height + 1), 2)), None);
            }
        }
    }

    #[test]
    fn symmetric_and_blind_to_what_lm4lv_cuts_off() {
        let [a, b] = [noise(Size::new(300, 41), 3), noise(Size::new(300, 41), 4)];
        for name in ScoreName::ALL {
            assert_eq!(score(name, &a, &b), score(name, &b, &a), "{}", name.as_str());
        }
        let mut edge = a.clone();
        edge.as_bytes_mut()[..300 * 4 * 3].fill(7);
        for name in [ScoreName::PsnrLm4lv, ScoreName::SsimLm4lv] {
            assert_eq!(score(name, &edge, &b), score(name, &a, &b));
        }
    }

    #[test]
    fn the_stage_fills_columns_in_order_and_leaves_out_what_cannot_be_scored() {
        let record = Record::new("k", Reference::Missing, Position { partition: Partition::of_file(0, 0), offset: 0 });
        let stage = Score::new(&[ScoreName::SsimLm4lv, ScoreName::PsnrSkimage]);
        let size = Size::new(12, 12);
        let mut sample = Sample { image: Some(noise(size, 1)), ..Sample::default() };
        stage.process(&record, &mut sample).unwrap();
        assert!(sample.scores.is_empty());
        sample.target = Some(Arc::new(noise(size, 2)));
        stage.process(&record, &mut sample).unwrap();
        let columns: Vec<_> = sample.scores.iter().map(|(column, _)| &**column).collect();
        assert_eq!(columns, ["input_psnr_skimage"]);
    }
}
