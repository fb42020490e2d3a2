//! How fast a model is on a device, beside what the device could do: `lm4lv bench model`.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Result as Candle, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use serde::Serialize;

use super::config::Parallel;
use super::device::Place;
use super::folder::ModelFolder;
use super::llama::{Llama, LlamaConfig};
use super::lm4lv::{Adapter, Prompted};
use super::mae::{Mae, MaeConfig};
use super::model;
use super::random::Random;
use crate::error::{Error, Result};

/// What the device does at best in the same run: the measure of the shares.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rates {
    /// Floating point operations a second of a large square matrix product, in billions.
    pub gflops: f64,
    /// Bytes a second of reading memory, in billions.
    pub gbytes: f64,
}

/// A step of the model for one batch.
#[derive(Debug, Clone, Serialize)]
pub struct StepFigures {
    /// Such as `encoder` or `pass 1`.
    pub step: &'static str,
    /// Milliseconds, the median of the runs.
    pub ms: f64,
    /// Milliseconds that its arithmetic takes at the rate of large matrix products, or its memory traffic at the speed of memory, whichever
    /// is more.
    pub floor_ms: f64,
    /// Which of the two it is: `compute` or `memory`.
    pub bound: &'static str,
}

/// A batch size's figures.
#[derive(Debug, Clone, Serialize)]
pub struct BatchFigures {
    /// Images in the batch.
    pub batch: usize,
    /// The model's steps.
    pub steps: Vec<StepFigures>,
    /// Images a second from pixels to pixels with the parallel decoder, by passes 1 and 2.
    pub parallel_images_per_s: [f64; 2],
    /// The same with the autoregressive decoder: from the steps above.
    pub autoregressive_images_per_s: f64,
}

/// A model to time: trained or random, the arithmetic is the same.
#[derive(Debug)]
pub struct Subject {
    mae: Mae,
    llm: Prompted,
    adapter: Adapter,
    device: Device,
    dtype: DType,
}

/// Positions of LLaMA-2's prompt before, between and behind the image's and the task's tokens, and those.
const PROMPT: [usize; 3] = [8, 4, 8];
const TASK_TOKENS: usize = 10;

impl Subject {
    /// A model of the shape `name` (see [`SHAPES`]) with random weights, and LLaMA-2's prompt in length.
    pub fn random(name: &str, place: &Place) -> Result<Self> {
        let Some((mae, llama)) = shape(name) else {
            return Err(Error::Config(format!("--shape {name}: one of {}", SHAPES.join(", "))));
        };
        let make = || -> Candle<Self> {
            let vb = VarBuilder::from_backend(Box::new(Random { seed: 0 }), place.dtype, place.device.clone());
            let [before, between, after] = PROMPT.map(|count| vb.get((1, count, llama.hidden_size), "prompt"));
            let (features, hidden) = (mae.hidden_size, llama.hidden_size);
            Ok(Self {
                mae: Mae::new(&mae, &vb)?,
                llm: Prompted { llm: Llama::new(&llama, &vb)?, before: before?, between: between?, after: after? },
                adapter: Adapter::new(features, hidden, mae.tokens(), TASK_TOKENS, &vb)?,
                device: place.device.clone(),
                dtype: place.dtype,
            })
        };
        make().map_err(|error| Error::Config(format!("shape {name} on {}: {error}", place.name)))
    }

    /// A model folder's, with its first task's adapter. `Error::Config` names what is wrong with it.
    pub fn open(path: &Path, place: &Place) -> Result<Self> {
        let folder = ModelFolder::open(path)?;
        let (mae, llm) = (model::load_mae(&folder, place)?, model::load_llm(&folder, false, place)?);
        let Some(task) = folder.manifest().tasks.keys().next() else {
            return Err(Error::Config(format!("{}: there is no task", path.display())));
        };
        let adapter = model::load_adapter(&folder, task, mae.config(), llm.llm.config(), place)?;
        Ok(Self { mae, llm, adapter, device: place.device.clone(), dtype: place.dtype })
    }

    /// What the device does at best: the best of some runs each.
    pub fn rates(&self) -> Result<Rates> {
        rates(&self.device, self.dtype).map_err(|error| Error::Bug(format!("measuring the device: {error}")))
    }

    /// Bytes that an image needs in a batch: its cache, and the widest rows that lie beside it.
    pub fn bytes_per_image(&self) -> Result<u64> {
        self.bytes().map_err(|error| Error::Bug(format!("a prompt's shape: {error}")))
    }

    /// Times every step for a batch of `batch` images, `runs` times. `Error::Config` where the batch is too large for the device.
    pub fn measure(&self, batch: usize, runs: usize, rates: Rates) -> Result<BatchFigures> {
        self.time(batch, runs, rates).map_err(|error| Error::Config(format!("batch {batch}: {error}")))
    }

    /// Positions before the generated tokens.
    fn prompt(&self) -> Candle<usize> {
        Ok(self.llm.before.dim(1)?
            + self.llm.between.dim(1)?
            + self.llm.after.dim(1)?
            + self.adapter.task_tokens()
            + self.mae.config().tokens())
    }

    fn bytes(&self) -> Candle<u64> {
        let config = self.llm.llm.config();
        let positions = self.prompt()? + self.mae.config().tokens() - 1;
        Ok(config.image_values(positions) * self.dtype.size_in_bytes() as u64)
    }

    fn time(&self, batch: usize, runs: usize, rates: Rates) -> Candle<BatchFigures> {
        let (mae, llama) = (self.mae.config(), self.llm.llm.config());
        let tokens = mae.tokens();
        let shape = (batch, tokens - 1, mae.patch_values());
        let patches = Tensor::randn(0f32, 1.0, shape, &self.device)?.to_dtype(self.dtype)?;
        let time = |f: &mut dyn FnMut() -> Candle<()>| -> Candle<f64> {
            f()?;
            let mut took = Vec::with_capacity(runs);
            for _ in 0..runs {
                self.device.synchronize()?;
                let started = Instant::now();
                f()?;
                self.device.synchronize()?;
                took.push(started.elapsed().as_secs_f64() * 1e3);
            }
            took.sort_by(f64::total_cmp);
            Ok(took[took.len() / 2])
        };
        let size = self.dtype.size_in_bytes() as f64;
        let step = |step, ms, flops: f64, bytes: f64| {
            let (compute, memory) = (flops / rates.gflops / 1e6, bytes / rates.gbytes / 1e6);
            let bound = if compute >= memory { "compute" } else { "memory" };
            StepFigures { step, ms, floor_ms: compute.max(memory), bound }
        };

        let start = self.prompt()?;
        let hidden = llama.hidden_size;
        let features = self.mae.encode(&patches)?;
        let embeddings = |length| Tensor::randn(0f32, 1.0, (batch, length, hidden), &self.device)?.to_dtype(self.dtype);
        let (all, later, one) = (embeddings(start + tokens - 1)?, embeddings(tokens - 1)?, embeddings(1)?);
        let prefill = all.narrow(1, 0, start)?.contiguous()?;
        let cache = self.llm.llm.cache(batch, start + tokens - 1)?;
        let pass = |x: &Tensor, at| self.llm.llm.forward(x, &cache, at).map(|_| ());
        let weights = llama.layer_values() as f64 * llama.num_hidden_layers as f64 * size;
        let cached = (llama.cache_values() * llama.num_hidden_layers * batch) as f64 * size;
        let count = batch as f64;
        let steps = vec![
            step("encoder", time(&mut || self.mae.encode(&patches).map(|_| ()))?, mae.encoder_flops() * count, 0.0),
            step("prefill", time(&mut || pass(&prefill, 0))?, llama.flops(0, start) * count, weights),
            step("pass 1", time(&mut || pass(&all, 0))?, llama.flops(0, start + tokens - 1) * count, weights),
            step("later pass", time(&mut || pass(&later, start))?, llama.flops(start, tokens - 1) * count, weights),
            step(
                "one step",
                time(&mut || pass(&one, start + tokens / 2))?,
                llama.flops(start + tokens / 2, 1) * count,
                weights + cached * (start + tokens / 2) as f64,
            ),
            step("decoder", time(&mut || self.mae.decode(&features).map(|_| ()))?, mae.decoder_flops() * count, 0.0),
        ];
        let parallel = |max_passes| -> Candle<f64> {
            let how = Parallel { tolerance: 0.0, max_passes };
            let ms = time(&mut || {
                let features = self.mae.encode(&patches)?;
                let (made, _) = self.llm.parallel(&self.adapter, &features, how)?;
                self.mae.decode(&made)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>().map(|_| ())
            })?;
            Ok(count / ms * 1e3)
        };
        let parallel_images_per_s = [parallel(1)?, parallel(2)?];
        let autoregressive = steps[0].ms + steps[1].ms + steps[4].ms * (tokens - 1) as f64 + steps[5].ms;
        Ok(BatchFigures {
            batch,
            steps,
            parallel_images_per_s,
            autoregressive_images_per_s: count / autoregressive * 1e3,
        })
    }
}

fn rates(device: &Device, dtype: DType) -> Candle<Rates> {
    let side = if device.is_cpu() { 1536 } else { 8192 };
    let square = Tensor::randn(0f32, 1.0, (side, side), device)?.to_dtype(dtype)?;
    let best = |runs: usize, f: &mut dyn FnMut() -> Candle<()>| -> Candle<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..runs {
            device.synchronize()?;
            let started = Instant::now();
            f()?;
            device.synchronize()?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        Ok(best)
    };
    let product = best(8, &mut || square.matmul(&square).map(|_| ()))?;
    let gflops = 2.0 * (side as f64).powi(3) / product / 1e9;
    let gbytes = if device.is_cpu() {
        let values = vec![1u64; 32 << 20];
        let read = best(8, &mut || {
            std::hint::black_box(values.par_chunks(1 << 16).map(|part| part.iter().sum::<u64>()).sum::<u64>());
            Ok(())
        })?;
        (values.len() * 8) as f64 / read / 1e9
    } else {
        // Read once, written once.
        let values = Tensor::zeros(1usize << 29, DType::F32, device)?;
        let copy = best(8, &mut || values.affine(1.0, 1.0).map(|_| ()))?;
        2.0 * (values.elem_count() * 4) as f64 / copy / 1e9
    };
    Ok(Rates { gflops, gbytes })
}

/// A shape by name: the autoencoder's and the language model's configuration.
fn shape(name: &str) -> Option<(MaeConfig, LlamaConfig)> {
    let mae = |size: [usize; 10]| MaeConfig {
        image_size: size[0],
        patch_size: size[1],
        hidden_size: size[2],
        num_hidden_layers: size[3],
        num_attention_heads: size[4],
        intermediate_size: size[5],
        layer_norm_eps: 1e-12,
        decoder_hidden_size: size[6],
        decoder_num_hidden_layers: size[7],
        decoder_num_attention_heads: size[8],
        decoder_intermediate_size: size[9],
        hidden_act: "gelu".into(),
        num_channels: 3,
        qkv_bias: true,
    };
    let llama = |size: [usize; 6], theta: f64| LlamaConfig {
        hidden_size: size[0],
        intermediate_size: size[1],
        num_hidden_layers: size[2],
        num_attention_heads: size[3],
        num_key_value_heads: Some(size[4]),
        head_dim: None,
        rms_norm_eps: 1e-5,
        rope_theta: Some(theta),
        rope_parameters: None,
        rope_scaling: None,
        vocab_size: size[5],
        hidden_act: "silu".into(),
    };
    match name {
        "llama2-7b" => Some((
            mae([224, 16, 1024, 24, 16, 4096, 512, 8, 16, 2048]),
            llama([4096, 11008, 32, 32, 32, 32_000], 10_000.0),
        )),
        "smollm2-135m" => {
            Some((mae([112, 8, 384, 6, 6, 1536, 256, 4, 8, 1024]), llama([576, 1536, 30, 9, 3, 49_152], 100_000.0)))
        }
        _ => None,
    }
}

/// The names that [`shape`] knows.
pub const SHAPES: [&str; 2] = ["llama2-7b", "smollm2-135m"];
