//! The `restore` section of a pipeline file. (long because every key explains itself)

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Count;
use crate::error::{Error, Result};
use crate::image::Rounding;

/// The `restore` section: what restores the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestoreConfig {
    /// LM4LV: encoder → adapter → frozen language model → de-adapter → decoder.
    Lm4lv(ModelConfig),
    /// The same with a randomly initialised language model (the paper's figure 7); the seed is in the model's manifest.
    RandomLlm(ModelConfig),
    /// One forward pass of the language model over a query sequence (the paper's figure 5).
    VitLlm(ModelConfig),
    /// Adapter and de-adapter without a language model (the paper's figure 6).
    Linear(ModelConfig),
    /// The masked autoencoder alone: decoder of encoder.
    MaeR(ModelConfig),
    /// Nothing: the output is the input. To try a pipeline without a model.
    Identity(IdentityConfig),
}

impl RestoreConfig {
    /// The variant's word in the pipeline file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lm4lv(_) => "lm4lv",
            Self::RandomLlm(_) => "random_llm",
            Self::VitLlm(_) => "vit_llm",
            Self::Linear(_) => "linear",
            Self::MaeR(_) => "mae_r",
            Self::Identity(_) => "identity",
        }
    }

    /// What it says of its model; `None` where there is none.
    pub fn model(&self) -> Option<&ModelConfig> {
        match self {
            Self::Lm4lv(model)
            | Self::RandomLlm(model)
            | Self::VitLlm(model)
            | Self::Linear(model)
            | Self::MaeR(model) => Some(model),
            Self::Identity(_) => None,
        }
    }

    /// True if each record must have a task, since adapters do the work.
    pub fn needs_task(&self) -> bool {
        !matches!(self, Self::MaeR(_) | Self::Identity(_))
    }

    /// True if tokens are generated, in one of two ways.
    pub fn generates(&self) -> bool {
        matches!(self, Self::Lm4lv(_) | Self::RandomLlm(_))
    }

    /// True if there is an image column `baseline`.
    pub fn baseline(&self) -> bool {
        self.model().is_some_and(|model| model.baseline)
    }

    /// How values become 8 bits.
    pub fn quantize(&self) -> Rounding {
        // What is not touched must come back as it was, which cutting off would not give for every level.
        self.model().map_or(Rounding::Round, |model| model.quantize)
    }

    /// Looks for values that cannot be meant; `Error::Config` names the key.
    pub fn check(&self) -> Result<()> {
        let Some(model) = self.model() else { return Ok(()) };
        let wrong = |key: &str, why: &str| Err(Error::Config(format!("restore.{}.{key}: {why}", self.name())));
        if model.model.as_os_str().is_empty() {
            return wrong("model", "is empty: name a model folder");
        }
        if model.task.is_some() && !self.needs_task() {
            return wrong("task", "the autoencoder alone has no adapters and so no task: leave it out");
        }
        if model.baseline && matches!(self, Self::MaeR(_)) {
            return wrong("baseline", "mae_r is the baseline: its `output` would be there twice");
        }
        match model.decoder {
            Some(_) if !self.generates() => {
                return wrong("decoder", "nothing is generated here: only lm4lv and random_llm have it");
            }
            Some(Decoder::Parallel(how)) if !(how.tolerance.is_finite() && how.tolerance >= 0.0) => {
                return wrong("decoder.parallel.tolerance", "a number from 0 on belongs here");
            }
            Some(Decoder::Parallel(how)) if !(1..=MAX_PASSES).contains(&how.max_passes) => {
                return wrong("decoder.parallel.max_passes", "at least one pass, and no more than there are tokens");
            }
            _ => {}
        }
        if model.max_wait_ms > MAX_WAIT_MS {
            return wrong("max_wait_ms", "that is longer than an hour");
        }
        Ok(())
    }

    /// What of this section makes a row, for the content hash: not where the model lies (`weights_sha256` says what is in it), nor
    /// batch, waiting and device.
    pub fn content(&self, weights_sha256: &str) -> serde_json::Value {
        let keys = self.model().map_or_else(
            || serde_json::json!({}),
            |model| {
                serde_json::json!({
                    "weights_sha256": weights_sha256,
                    "task": model.task,
                    "decoder": self.generates().then(|| model.decoder.unwrap_or_default()),
                    "sizes": model.sizes,
                    "baseline": model.baseline,
                    "quantize": model.quantize,
                    "dtype": model.dtype,
                })
            },
        );
        serde_json::json!({ self.name(): keys })
    }
}

/// Longest sequence of tokens that a pass could be for; the model says the real one.
const MAX_PASSES: u32 = 1 << 16;
/// An hour.
const MAX_WAIT_MS: u64 = 3_600_000;

/// `restore: { identity: {} }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {}

/// What every restorer with a model folder has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The model folder (see `lm4lv model pack`).
    pub model: PathBuf,
    /// The task of records that name none; required unless the source's task column names one for each. Not for `mae_r`.
    #[serde(default)]
    pub task: Option<String>,
    /// How tokens are generated; only for `lm4lv` and `random_llm`. Default `parallel`.
    #[serde(default)]
    pub decoder: Option<Decoder>,
    /// What is done with images that do not have the model's size. Default `tile`.
    #[serde(default)]
    pub sizes: Sizes,
    /// Also decode the encoder's own features, without the language model, as image column `baseline`. Default false.
    #[serde(default)]
    pub baseline: bool,
    /// How values in `[0, 1]` become 8 bits. Default `trunc`, as the LM4LV authors do.
    #[serde(default = "ModelConfig::quantize")]
    pub quantize: Rounding,
    /// Images (or tiles) a batch; `auto`: what suits the device. Never changes a row beyond float rounding. Default `auto`.
    #[serde(default)]
    pub batch: Count,
    /// Milliseconds that the first image of a batch waits for others. Default 200.
    #[serde(default = "ModelConfig::max_wait_ms")]
    pub max_wait_ms: u64,
    /// `auto` (a GPU where there is one, else the CPU), `cpu`, `cuda` or `cuda:1`. Default `auto`.
    #[serde(default)]
    pub device: DeviceName,
    /// `auto` (bf16 on a GPU, f32 on the CPU), `f32` or `bf16`. Default `auto`.
    #[serde(default)]
    pub dtype: DtypeName,
}

impl ModelConfig {
    fn quantize() -> Rounding {
        Rounding::Trunc
    }

    fn max_wait_ms() -> u64 {
        200
    }

    /// The defaults with this model folder.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            task: None,
            decoder: None,
            sizes: Sizes::default(),
            baseline: false,
            quantize: Self::quantize(),
            batch: Count::Auto,
            max_wait_ms: Self::max_wait_ms(),
            device: DeviceName::default(),
            dtype: DtypeName::default(),
        }
    }
}

/// How visual tokens are generated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decoder {
    /// Causal passes over all tokens at once, from the degraded image's own, until they stay where they are.
    Parallel(Parallel),
    /// One token after the other, as the paper does.
    Autoregressive,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::Parallel(Parallel::default())
    }
}

/// `decoder: { parallel: … }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parallel {
    /// An image is done when a pass moves its tokens by less than this: the root of the mean squared difference, where features have
    /// a standard deviation of 1. 0: always `max_passes`. Default 0.02.
    pub tolerance: f32,
    /// Passes after which an image is done anyway. From 1 to the number of tokens. Default 8.
    pub max_passes: u32,
}

impl Default for Parallel {
    fn default() -> Self {
        Self { tolerance: 0.02, max_passes: 8 }
    }
}

/// What is done with images that do not have the model's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sizes {
    /// Cut into overlapping tiles of the model's size, which are blended again: the output has the input's size.
    Tile(Tile),
    /// Resized to the model's size, whatever the aspect ratio, as the authors do: the output has the model's size.
    Resize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self::Tile(Tile::default())
    }
}

/// `sizes: { tile: … }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tile {
    /// Pixels by which neighbouring tiles overlap at least; less than half the model's side. Default 16.
    pub overlap_px: u32,
}

impl Default for Tile {
    fn default() -> Self {
        Self { overlap_px: 16 }
    }
}

/// Where the model computes: `auto`, `cpu`, `cuda` or `cuda:n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU, if this binary was built for one and there is one; else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl std::str::FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}` is no device: auto, cpu, cuda or cuda:1")),
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl Serialize for DeviceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for DeviceName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$" })
    }
}

/// The type that the model computes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DtypeName {
    /// bf16 on a GPU, f32 on the CPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of f32's range. Only on a GPU: sums on the CPU would be made in bf16 too.
    Bf16,
}
