//! LLaMA (Touvron et al., arXiv 2302.13971; grouped queries arXiv 2305.13245) from embeddings to the final norm's output, for a
//! batch of sequences of one length, with a key and value cache that is sized once.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::attention::{self, Heads};
use super::ops::{self, Activation, Affine, AfterAttention, Norm};

/// `config.json` of a Hugging Face LLaMA folder: the keys that matter here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Width.
    pub hidden_size: usize,
    /// Width inside the feed-forward blocks.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; absent: as many as query heads.
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; absent: `hidden_size / num_attention_heads`.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Added to mean squares.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding's wavelengths.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// Where newer files put `rope_theta`.
    #[serde(default)]
    pub rope_parameters: Option<serde_json::Value>,
    /// Must be absent: scaled rotary embeddings are not LLaMA-2's.
    #[serde(default)]
    pub rope_scaling: Option<serde_json::Value>,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Must be `silu`.
    #[serde(default = "silu")]
    pub hidden_act: String,
}

impl LlamaConfig {
    pub(super) fn heads(&self) -> Heads {
        Heads {
            queries: self.num_attention_heads,
            keys: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            width: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
        }
    }

    /// Base of the rotary embedding's wavelengths; 10,000 where the file has none.
    pub fn theta(&self) -> f64 {
        let newer = || self.rope_parameters.as_ref()?.get("rope_theta")?.as_f64();
        self.rope_theta.or_else(newer).unwrap_or(10_000.0)
    }

    /// Values of a position in a layer's cache.
    pub fn cache_values(&self) -> usize {
        self.heads().cache_row()
    }

    /// Values that an image of `positions` positions needs in a batch: its cache, and the widest rows that lie beside it.
    pub fn image_values(&self, positions: usize) -> u64 {
        let cache = self.cache_values() as u64 * self.num_hidden_layers as u64;
        let rows = (2 * self.intermediate_size + 4 * self.hidden_size) as u64;
        positions as u64 * (cache + rows)
    }

    /// Values in a layer's matrices.
    pub fn layer_values(&self) -> usize {
        let heads = self.heads();
        self.hidden_size * (heads.row() + heads.query_row() + 3 * self.intermediate_size)
    }

    /// Floating point operations for one sequence's positions `at` to `at + length`.
    pub fn flops(&self, at: usize, length: usize) -> f64 {
        let seen = (0..length).map(|t| at + t + 1).sum::<usize>();
        let attention = 4 * self.heads().query_row() * seen;
        (2 * self.layer_values() * length + attention) as f64 * self.num_hidden_layers as f64
    }

    /// What this code cannot compute, with the key to blame.
    pub fn check(&self) -> std::result::Result<(), String> {
        let Heads { queries, keys, width } = self.heads();
        if keys == 0 || queries % keys != 0 {
            return Err(format!("num_key_value_heads {keys} does not divide num_attention_heads {queries}"));
        }
        if width == 0 || width % 2 != 0 {
            return Err(format!("head_dim {width} is not an even number"));
        }
        if self.hidden_act != "silu" {
            return Err(format!("hidden_act `{}` is not silu", self.hidden_act));
        }
        let kind = self.rope_parameters.as_ref().and_then(|rope| rope.get("rope_type")?.as_str());
        if self.rope_scaling.is_some() || kind.is_some_and(|kind| kind != "default") {
            return Err("rope_scaling: scaled rotary embeddings are not supported".into());
        }
        Ok(())
    }
}

fn silu() -> String {
    "silu".into()
}

/// A block: norm, attention, norm, gated feed-forward, each added to what came in.
#[derive(Debug)]
struct Layer {
    before: Norm,
    /// Queries, keys and values side by side: `heads.row()` of `hidden`.
    qkv: Affine,
    after: AfterAttention,
}

impl Layer {
    fn new(config: &LlamaConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let (width, inner, heads) = (config.hidden_size, config.intermediate_size, config.heads());
        let (keys, eps) = (heads.keys * heads.width, config.rms_norm_eps);
        let weight = |vb: VarBuilder<'_>, outside, inside| vb.get((outside, inside), "weight");
        let (attention, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
        let qkv = [
            weight(attention.pp("q_proj"), heads.query_row(), width)?,
            weight(attention.pp("k_proj"), keys, width)?,
            weight(attention.pp("v_proj"), keys, width)?,
        ];
        // Gate and up side by side.
        let gate_up = [weight(mlp.pp("gate_proj"), inner, width)?, weight(mlp.pp("up_proj"), inner, width)?];
        Ok(Self {
            before: Norm::root_mean_square(width, eps, &vb.pp("input_layernorm"))?,
            qkv: Affine::new(&Tensor::cat(&qkv, 0)?, None)?,
            after: AfterAttention {
                attended: Affine::new(&weight(attention.pp("o_proj"), width, heads.query_row())?, None)?,
                norm: Norm::root_mean_square(width, eps, &vb.pp("post_attention_layernorm"))?,
                inner: Affine::new(&Tensor::cat(&gate_up, 0)?, None)?,
                activation: Activation::SiluGate,
                outer: Affine::new(&weight(mlp.pp("down_proj"), width, inner)?, None)?,
            },
        })
    }
}

/// Keys and values of sequences of one length, room for all of them from the start.
#[derive(Debug, Clone)]
pub struct Cache {
    /// One tensor a layer, `[B, L, 2 · keys · width]`: a position's keys, then its values.
    layers: Vec<Tensor>,
}

impl Cache {
    /// The same of the sequences `rows` only, in that order.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let Some(first) = self.layers.first() else { return Ok(self.clone()) };
        let rows = Tensor::new(rows, first.device())?;
        Ok(Self { layers: self.layers.iter().map(|layer| layer.index_select(&rows, 0)).collect::<Result<_>>()? })
    }
}

/// The language model without its head.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    layers: Vec<Layer>,
    norm: Norm,
    dtype: DType,
    device: Device,
}

impl Llama {
    /// Loads the tensors below `model.layers` and `model.norm`.
    pub fn new(config: &LlamaConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let vb = vb.pp("model");
        let layers = (0..config.num_hidden_layers).map(|n| Layer::new(config, &vb.pp("layers").pp(n)));
        Ok(Self {
            config: config.clone(),
            layers: layers.collect::<Result<_>>()?,
            norm: Norm::root_mean_square(config.hidden_size, config.rms_norm_eps, &vb.pp("norm"))?,
            dtype: vb.dtype(),
            device: vb.device().clone(),
        })
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// An empty cache for `batch` sequences of at most `length` positions.
    pub fn cache(&self, batch: usize, length: usize) -> Result<Cache> {
        let shape = (batch, length, self.config.heads().cache_row());
        let layer = |_| Tensor::zeros(shape, self.dtype, &self.device);
        Ok(Cache { layers: (0..self.layers.len()).map(layer).collect::<Result<_>>()? })
    }

    /// Embeddings `[B, T, hidden]` of the positions `at` to `at + T` → their hidden states after the final norm. The cache holds the
    /// positions before `at`, and these ones too afterwards.
    pub fn forward(&self, embeddings: &Tensor, cache: &Cache, at: usize) -> Result<Tensor> {
        let (batch, length, width) = embeddings.dims3()?;
        let (angles, heads) = (self.angles(at, length)?, self.config.heads());
        ops::among_kernels(|| {
            // A copy, for it is added to where it lies.
            let mut x = embeddings.reshape((batch * length, width))?.copy()?;
            for (layer, cache) in self.layers.iter().zip(&cache.layers) {
                let rows = layer.qkv.behind(Some(&layer.before), &x)?;
                let rows = attention::rope_and_keep(rows, &angles, cache, at, heads)?;
                let attended = attention::causal_attention(&rows, cache, at, heads)?;
                x = layer.after.forward(x, &attended)?;
            }
            self.norm.forward(&x)?.reshape((batch, length, width))
        })
    }

    /// Cosines and sines of the positions' angles, `[T, head width]`: in each row the cosines of half a head, then the sines.
    fn angles(&self, at: usize, length: usize) -> Result<Tensor> {
        let width = self.config.heads().width;
        let mut angles = Vec::with_capacity(length * width);
        for position in at..at + length {
            let turn = |pair: usize| {
                // The frequency is rounded to f32, as Hugging Face's implementation has it.
                let frequency = 1.0 / (self.config.theta() as f32).powf(2.0 * pair as f32 / width as f32);
                position as f32 * frequency
            };
            angles.extend((0..width / 2).map(|pair| turn(pair).cos()));
            angles.extend((0..width / 2).map(|pair| turn(pair).sin()));
        }
        Tensor::from_vec(angles, (length, width), &self.device)?.to_dtype(self.dtype)
    }
}
