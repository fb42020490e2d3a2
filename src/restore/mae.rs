//! The masked autoencoder (He et al., arXiv 2111.06377) with masking off, as Hugging Face's `ViTMAEForPreTraining` stores it.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::attention::{self, Heads};
use super::ops::{self, Activation, Affine, AfterAttention, Norm};

/// `config.json` of a `ViTMAEForPreTraining` folder: the keys that matter here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaeConfig {
    /// Side of the square images, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Width of the encoder.
    pub hidden_size: usize,
    /// Layers of the encoder.
    pub num_hidden_layers: usize,
    /// Attention heads of the encoder.
    pub num_attention_heads: usize,
    /// Width inside the encoder's feed-forward blocks.
    pub intermediate_size: usize,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Width of the decoder.
    pub decoder_hidden_size: usize,
    /// Layers of the decoder.
    pub decoder_num_hidden_layers: usize,
    /// Attention heads of the decoder.
    pub decoder_num_attention_heads: usize,
    /// Width inside the decoder's feed-forward blocks.
    pub decoder_intermediate_size: usize,
    /// Must be `gelu` (the one with erf).
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Must be 3.
    #[serde(default = "three")]
    pub num_channels: usize,
    /// Whether q, k and v have a bias.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
}

impl MaeConfig {
    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of an image: the class token and one for each patch.
    pub fn tokens(&self) -> usize {
        1 + self.grid() * self.grid()
    }

    /// Values of a patch.
    pub fn patch_values(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }

    /// Floating point operations that encoding an image takes.
    pub fn encoder_flops(&self) -> f64 {
        let patches = 2 * (self.tokens() - 1) * self.patch_values() * self.hidden_size;
        patches as f64 + self.stack_flops(self.num_hidden_layers, self.hidden_size, self.intermediate_size)
    }

    /// Floating point operations that decoding an image takes.
    pub fn decoder_flops(&self) -> f64 {
        let width = self.decoder_hidden_size;
        let ends = 2 * self.tokens() * width * (self.hidden_size + self.patch_values());
        ends as f64 + self.stack_flops(self.decoder_num_hidden_layers, width, self.decoder_intermediate_size)
    }

    fn stack_flops(&self, layers: usize, width: usize, inner: usize) -> f64 {
        let tokens = self.tokens();
        (layers * tokens * (2 * width * (4 * width + 2 * inner) + 4 * width * tokens)) as f64
    }

    /// What this code cannot compute, with the key to blame.
    pub fn check(&self) -> std::result::Result<(), String> {
        let wide = [
            ("patch_size", self.patch_size, self.image_size, "image_size"),
            ("num_attention_heads", self.num_attention_heads, self.hidden_size, "hidden_size"),
            (
                "decoder_num_attention_heads",
                self.decoder_num_attention_heads,
                self.decoder_hidden_size,
                "decoder_hidden_size",
            ),
        ];
        for (key, part, whole, of) in wide {
            if part == 0 || whole == 0 || whole % part != 0 {
                return Err(format!("{key} {part} does not divide {of} {whole}"));
            }
        }
        if self.image_size > 4096 {
            return Err(format!("image_size {} is more than 4096", self.image_size));
        }
        if self.hidden_act != "gelu" {
            return Err(format!("hidden_act `{}` is not gelu", self.hidden_act));
        }
        if self.num_channels != 3 {
            return Err(format!("num_channels {} is not 3", self.num_channels));
        }
        Ok(())
    }
}

fn gelu() -> String {
    "gelu".into()
}

fn three() -> usize {
    3
}

fn yes() -> bool {
    true
}

/// The widths of a stack of layers.
#[derive(Debug, Clone, Copy)]
struct Stack {
    layers: usize,
    width: usize,
    heads: usize,
    inner: usize,
    eps: f64,
    qkv_bias: bool,
}

/// A block of a vision transformer: norm, attention, norm, feed-forward, each added to what came in.
#[derive(Debug)]
struct Layer {
    before: Norm,
    /// Queries, keys and values side by side.
    qkv: Affine,
    heads: Heads,
    after: AfterAttention,
}

impl Layer {
    fn new(stack: Stack, vb: &VarBuilder<'_>) -> Result<Self> {
        let Stack { width, heads, inner, eps, .. } = stack;
        let attention = vb.pp("attention");
        let parts = ["query", "key", "value"].map(|name| attention.pp("attention").pp(name));
        let weights = parts.iter().map(|vb| vb.get((width, width), "weight")).collect::<Result<Vec<_>>>()?;
        let bias = match stack.qkv_bias {
            true => Some(Tensor::cat(&parts.iter().map(|vb| vb.get(width, "bias")).collect::<Result<Vec<_>>>()?, 0)?),
            false => None,
        };
        Ok(Self {
            before: Norm::layer(width, eps, &vb.pp("layernorm_before"))?,
            qkv: Affine::new(&Tensor::cat(&weights, 0)?, bias)?,
            heads: Heads { queries: heads, keys: heads, width: width / heads },
            after: AfterAttention {
                attended: Affine::load(width, width, &attention.pp("output").pp("dense"))?,
                norm: Norm::layer(width, eps, &vb.pp("layernorm_after"))?,
                inner: Affine::load(width, inner, &vb.pp("intermediate").pp("dense"))?,
                activation: Activation::Gelu,
                outer: Affine::load(inner, width, &vb.pp("output").pp("dense"))?,
            },
        })
    }

    /// `[B · T, width]` → the same; on the CPU `x` is added to where it lies.
    fn forward(&self, x: Tensor, batch: usize) -> Result<Tensor> {
        let rows = self.qkv.behind(Some(&self.before), &x)?;
        let attended = attention::full_attention(&rows, batch, self.heads)?;
        self.after.forward(x, &attended)
    }
}

fn layers(stack: Stack, vb: &VarBuilder<'_>) -> Result<Vec<Layer>> {
    (0..stack.layers).map(|layer| Layer::new(stack, &vb.pp(layer))).collect()
}

/// The masked autoencoder: pixels → features → pixels.
#[derive(Debug)]
pub struct Mae {
    config: MaeConfig,
    patches: Affine,
    /// `[1, 1, width]`.
    class: Tensor,
    /// `[1, tokens, width]`.
    positions: Tensor,
    encoder: Vec<Layer>,
    norm: Norm,
    embed: Affine,
    /// `[1, tokens, decoder width]`.
    decoder_positions: Tensor,
    decoder: Vec<Layer>,
    decoder_norm: Norm,
    predict: Affine,
}

impl Mae {
    /// Loads the tensors that `ViTMAEForPreTraining` saves.
    pub fn new(config: &MaeConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let (width, decoder_width) = (config.hidden_size, config.decoder_hidden_size);
        let encoder = Stack {
            layers: config.num_hidden_layers,
            width,
            heads: config.num_attention_heads,
            inner: config.intermediate_size,
            eps: config.layer_norm_eps,
            qkv_bias: config.qkv_bias,
        };
        let decoder = Stack {
            layers: config.decoder_num_hidden_layers,
            width: decoder_width,
            heads: config.decoder_num_attention_heads,
            inner: config.decoder_intermediate_size,
            ..encoder
        };
        let (vit, dec) = (vb.pp("vit"), vb.pp("decoder"));
        let embeddings = vit.pp("embeddings");
        let projection = embeddings.pp("patch_embeddings").pp("projection");
        let weight = projection.get((width, 3, config.patch_size, config.patch_size), "weight")?;
        let tokens = config.tokens();
        let positions = embeddings.get((1, tokens, width), "position_embeddings")?;
        let class = embeddings.get((1, 1, width), "cls_token")?;
        Ok(Self {
            config: config.clone(),
            patches: Affine::new(
                &weight.reshape((width, config.patch_values()))?,
                Some(projection.get(width, "bias")?),
            )?,
            class,
            positions,
            encoder: layers(encoder, &vit.pp("encoder").pp("layer"))?,
            norm: Norm::layer(width, config.layer_norm_eps, &vit.pp("layernorm"))?,
            embed: Affine::load(width, decoder_width, &dec.pp("decoder_embed"))?,
            decoder_positions: dec.get((1, tokens, decoder_width), "decoder_pos_embed")?,
            decoder: layers(decoder, &dec.pp("decoder_layers"))?,
            decoder_norm: Norm::layer(decoder_width, config.layer_norm_eps, &dec.pp("decoder_norm"))?,
            predict: Affine::load(decoder_width, config.patch_values(), &dec.pp("decoder_pred"))?,
        })
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &MaeConfig {
        &self.config
    }

    /// `[B, patches, 3 · p · p]` (channel, row, column in a patch), normalised → features `[B, tokens, width]`, the class token first,
    /// after the final norm.
    pub fn encode(&self, patches: &Tensor) -> Result<Tensor> {
        let (batch, count, values) = patches.dims3()?;
        let width = self.config.hidden_size;
        ops::among_kernels(|| {
            let x = self.patches.forward(&patches.reshape((batch * count, values))?)?.reshape((batch, count, width))?;
            let x = Tensor::cat(&[&self.class.broadcast_as((batch, 1, width))?, &x], 1)?;
            let mut x = ops::add_to_each(x, &self.positions)?.reshape((batch * (count + 1), width))?;
            for layer in &self.encoder {
                x = layer.forward(x, batch)?;
            }
            self.norm.forward(&x)?.reshape((batch, count + 1, width))
        })
    }

    /// Features `[B, tokens, width]` → `[B, patches, p · p · 3]` (row, column, channel in a patch), normalised.
    pub fn decode(&self, features: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = features.dims3()?;
        let decoder_width = self.config.decoder_hidden_size;
        ops::among_kernels(|| {
            let x = self.embed.forward(&features.reshape((batch * tokens, width))?)?;
            let x = ops::add_to_each(x.reshape((batch, tokens, decoder_width))?, &self.decoder_positions)?;
            let mut x = x.reshape((batch * tokens, decoder_width))?;
            for layer in &self.decoder {
                x = layer.forward(x, batch)?;
            }
            let x = self.predict.behind(Some(&self.decoder_norm), &x)?;
            x.reshape((batch, tokens, self.config.patch_values()))?.narrow(1, 1, tokens - 1)
        })
    }
}
