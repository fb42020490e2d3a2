//! Named recipes. The `lm4lv` ones were calibrated: the mean PSNR and SSIM of what they make agree with the degraded
//! images of the LM4LV paper (Table 2, <https://arxiv.org/abs/2405.15734>), whose authors published no degradation code.
//! `lm4lv.<task>` is the evaluation form, `lm4lv.<task>.train` the training range.

use super::recipe::Step;

/// A named recipe.
#[derive(Debug, PartialEq)]
pub struct Preset {
    /// Its name in a recipe.
    pub name: &'static str,
    /// What it is for, one sentence.
    pub doc: &'static str,
    /// True if its values were found by matching published scores, not published themselves.
    pub calibrated: bool,
    /// Its steps, in a recipe's grammar (JSON).
    recipe: &'static str,
}

impl Preset {
    /// Its steps. The text is a constant that a test reads, so `Err` is a bug here.
    pub fn steps(&self) -> Result<Vec<Step>, String> {
        serde_json::from_str(self.recipe).map_err(|e| format!("preset {}: {e}", self.name))
    }
}

const fn lm4lv(name: &'static str, doc: &'static str, recipe: &'static str) -> Preset {
    Preset { name, doc, calibrated: true, recipe }
}

/// Every preset.
pub const PRESETS: &[Preset] = &[
    lm4lv("lm4lv.denoise", "LM4LV's denoising task, evaluation.", r#"[{"gaussian_noise": {"sigma": 18}}]"#),
    lm4lv("lm4lv.denoise.train", "LM4LV's denoising task, training.", r#"[{"gaussian_noise": {"sigma": [10, 30]}}]"#),
    lm4lv(
        "lm4lv.deblur",
        "LM4LV's deblurring task, evaluation.",
        r#"[{"gaussian_blur": {"k": 15, "sigma": [0.3, 1.9]}}]"#,
    ),
    lm4lv(
        "lm4lv.deblur.train",
        "LM4LV's deblurring task, training.",
        r#"[{"gaussian_blur": {"k": 15, "sigma": [0.3, 1.9]}}]"#,
    ),
    lm4lv(
        "lm4lv.derain",
        "LM4LV's deraining task, evaluation.",
        r#"[{"rain": {"value": 18, "length": [30, 40], "theta": [-45, 45], "width": {"choice": [3, 5, 7, 9, 11]}, "blend": "add"}}]"#,
    ),
    lm4lv(
        "lm4lv.derain.train",
        "LM4LV's deraining task, training.",
        r#"[{"rain": {"value": [12, 26], "length": [30, 40], "theta": [-45, 45], "width": {"choice": [3, 5, 7, 9, 11]}, "blend": "add"}}]"#,
    ),
    lm4lv(
        "lm4lv.pepper",
        "LM4LV's pepper noise task, evaluation.",
        r#"[{"pepper": {"p": 0.05, "mode": "per_pixel", "fill": 0}}]"#,
    ),
    lm4lv(
        "lm4lv.pepper.train",
        "LM4LV's pepper noise task, training.",
        r#"[{"pepper": {"p": [0.01, 0.1], "mode": "per_pixel", "fill": 0}}]"#,
    ),
    lm4lv(
        "lm4lv.mask",
        "LM4LV's mask removal task, evaluation.",
        r#"[{"mask": {"shape": "grid", "cell": 4, "ratio": [0.01, 0.08], "fill": 0}}]"#,
    ),
    lm4lv(
        "lm4lv.mask.train",
        "LM4LV's mask removal task, training.",
        r#"[{"mask": {"shape": "grid", "cell": 4, "ratio": [0.01, 0.12], "fill": 0}}]"#,
    ),
    lm4lv(
        "lm4lv.rotate",
        "LM4LV's rotation task, a quarter turn clockwise; used with `target: degraded`.",
        r#"[{"rotate": {"angle": 90}}]"#,
    ),
    lm4lv(
        "lm4lv.rotate.train",
        "LM4LV's rotation task, training: the same as evaluation.",
        r#"[{"rotate": {"angle": 90}}]"#,
    ),
    lm4lv(
        "lm4lv.flip",
        "LM4LV's flipping task, left and right exchanged; used with `target: degraded`.",
        r#"[{"flip": {"direction": "horizontal"}}]"#,
    ),
    lm4lv(
        "lm4lv.flip.train",
        "LM4LV's flipping task, training: the same as evaluation.",
        r#"[{"flip": {"direction": "horizontal"}}]"#,
    ),
];
