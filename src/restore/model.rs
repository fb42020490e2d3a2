//! A model folder's restorers: images in, tokens through [`Mae`] and what stands between its halves, images out.

use candle_core::{DType, Device, Result as Candle, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::config::{Decoder, ModelConfig, RestoreConfig};
use super::device::Place;
use super::folder::ModelFolder;
use super::llama::{Llama, LlamaConfig};
use super::lm4lv::{Adapter, Prompted};
use super::mae::{Mae, MaeConfig};
use super::ops;
use super::random::Random;
use super::{Restored, Restorer, Stamp, TaskId, Trouble};
use crate::error::{Error, Result};
use crate::image::{Image, Planes, Size};

/// ImageNet's mean and standard deviation of R, G, B in `[0, 1]`, by which the encoder's input is normalised.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What turns a degraded image's features into the restored one's.
#[derive(Debug)]
enum Between {
    /// Nothing: the autoencoder alone.
    Nothing,
    /// The adapters alone.
    Linear,
    /// A language model that generates.
    Generated(Box<Prompted>, Decoder),
    /// A language model over queries.
    Queries(Box<Prompted>),
}

/// A masked autoencoder with what stands between its halves, and adapters for some tasks.
#[derive(Debug)]
pub(super) struct Model {
    mae: Mae,
    between: Between,
    /// Names of the tasks and what was learned for them; none where nothing stands between the halves.
    tasks: Vec<(String, Adapter)>,
    baseline: bool,
    batch: usize,
    stamp: Stamp,
    device: Device,
    dtype: DType,
}

/// Images in a batch where nobody said how many: enough to read weights for, few enough to fit.
const BATCH_CPU: usize = 8;
const BATCH_GPU: usize = 64;

impl Model {
    /// Loads what `restore` needs of the model folder, and holds all files' hashes against the manifest meanwhile. `Error::Config` names
    /// the file and tensor, the device or the key at fault.
    pub(super) fn open(restore: &RestoreConfig, config: &ModelConfig) -> Result<Self> {
        let folder = ModelFolder::open(&config.model)?;
        let place = Place::find(config.device, config.dtype)?;
        tracing::info!(
            model = folder.manifest().name,
            device = place.name,
            dtype = place.dtype_name(),
            why = place.why
        );
        let (hashes, model) = rayon::join(|| folder.verify_hashes(), || Self::load(&folder, restore, config, &place));
        hashes.and(model)
    }

    fn load(folder: &ModelFolder, restore: &RestoreConfig, config: &ModelConfig, place: &Place) -> Result<Self> {
        let mae = load_mae(folder, place)?;
        let names = folder.manifest().tasks.keys().cloned();
        let decoder = config.decoder.unwrap_or_default();
        let (between, tasks): (_, Vec<(String, Adapter)>) = match restore {
            RestoreConfig::MaeR(_) | RestoreConfig::Identity(_) => (Between::Nothing, Vec::new()),
            with_adapters => {
                let (llama, _) = folder.llm()?;
                let adapters = names.map(|name| {
                    let adapter = load_adapter(folder, &name, mae.config(), &llama, place)?;
                    Ok((name, adapter))
                });
                let adapters = adapters.collect::<Result<_>>()?;
                let prompted = |random| load_llm(folder, random, place).map(Box::new);
                let between = match with_adapters {
                    RestoreConfig::VitLlm(_) => Between::Queries(prompted(false)?),
                    RestoreConfig::RandomLlm(_) => Between::Generated(prompted(true)?, decoder),
                    RestoreConfig::Lm4lv(_) => Between::Generated(prompted(false)?, decoder),
                    _ => Between::Linear,
                };
                (between, adapters)
            }
        };
        let decoder = match (&between, decoder) {
            (Between::Generated(..), Decoder::Parallel(_)) => Some("parallel"),
            (Between::Generated(..), Decoder::Autoregressive) => Some("autoregressive"),
            _ => None,
        };
        Ok(Self {
            mae,
            between,
            tasks,
            baseline: config.baseline,
            batch: if place.device.is_cpu() { BATCH_CPU } else { BATCH_GPU },
            stamp: Stamp {
                model: folder.manifest().name.clone(),
                weights_sha256: folder.weights_sha256(),
                decoder,
                device: place.name.clone(),
                dtype: place.dtype_name(),
            },
            device: place.device.clone(),
            dtype: place.dtype,
        })
    }

    /// `[B, tokens, features]`, and the passes of each image.
    fn translate(&self, task: TaskId, features: &Tensor) -> Candle<(Tensor, Option<Vec<u32>>)> {
        let batch = features.dim(0)?;
        let Some((_, adapter)) = self.tasks.get(task.0) else {
            return Ok((features.clone(), None));
        };
        match &self.between {
            Between::Nothing => Ok((features.clone(), None)),
            Between::Linear => Ok((adapter.linear(features)?, None)),
            Between::Generated(llm, Decoder::Parallel(how)) => {
                let (tokens, passes) = llm.parallel(adapter, features, *how)?;
                Ok((tokens, Some(passes)))
            }
            Between::Generated(llm, Decoder::Autoregressive) => {
                let steps = features.dim(1)? as u32;
                Ok((llm.autoregressive(adapter, features)?, Some(vec![steps; batch])))
            }
            Between::Queries(llm) => Ok((llm.at_queries(adapter, features)?, Some(vec![1; batch]))),
        }
    }

    fn compute(&self, task: TaskId, images: &[&Image]) -> Candle<Vec<Restored>> {
        let config = self.mae.config();
        let patches = Tensor::from_vec(
            patches(config, images),
            (images.len(), config.tokens() - 1, config.patch_values()),
            &self.device,
        )?;
        let features = self.mae.encode(&patches.to_dtype(self.dtype)?)?;
        let (tokens, passes) = self.translate(task, &features)?;
        let outputs = planes(config, &self.mae.decode(&tokens)?)?;
        let mut baselines = match self.baseline {
            true => planes(config, &self.mae.decode(&features)?)?.into_iter().map(Some).collect(),
            false => vec![None; images.len()],
        };
        let restored = outputs.into_iter().enumerate().map(|(index, output)| Restored {
            output,
            baseline: baselines[index].take(),
            passes: passes.as_ref().map(|passes| passes[index]),
        });
        Ok(restored.collect())
    }
}

/// What candle said of the tensors in a model folder, as a complaint about its files.
fn in_folder(folder: &ModelFolder) -> impl Fn(candle_core::Error) -> Error {
    let name = folder.path().display().to_string();
    move |error| Error::Config(format!("{name}: {error}"))
}

/// The folder's autoencoder.
pub(super) fn load_mae(folder: &ModelFolder, place: &Place) -> Result<Mae> {
    let (config, weights) = folder.mae()?;
    Mae::new(&config, &weights.var_builder(place.dtype, &place.device)).map_err(in_folder(folder))
}

/// The folder's language model with its prompt, or one of its shape with random weights.
pub(super) fn load_llm(folder: &ModelFolder, random: bool, place: &Place) -> Result<Prompted> {
    let (config, weights) = folder.llm()?;
    if !random {
        let [before, between, after] = folder.prompt_embeddings(&config, place.dtype, &place.device)?;
        let vb = weights.var_builder(place.dtype, &place.device);
        let llm = Llama::new(&config, &vb).map_err(in_folder(folder))?;
        return Ok(Prompted { llm, before, between, after });
    }
    let make = || -> Candle<Prompted> {
        let seed = folder.manifest().llm.random_seed.unwrap_or(0);
        let vb = VarBuilder::from_backend(Box::new(Random { seed }), place.dtype, place.device.clone());
        let table = vb.get((config.vocab_size, config.hidden_size), "model.embed_tokens.weight")?;
        let prompt = &folder.manifest().prompt;
        let [before, between, after] = [&prompt.before, &prompt.between, &prompt.after]
            .map(|ids| table.index_select(&Tensor::new(ids.as_slice(), &place.device)?, 0)?.unsqueeze(0));
        Ok(Prompted { llm: Llama::new(&config, &vb)?, before: before?, between: between?, after: after? })
    };
    make().map_err(in_folder(folder))
}

/// The folder's adapter for `task`.
pub(super) fn load_adapter(
    folder: &ModelFolder,
    task: &str,
    mae: &MaeConfig,
    llama: &LlamaConfig,
    place: &Place,
) -> Result<Adapter> {
    let vb = folder.adapter(task, mae, llama)?.var_builder(place.dtype, &place.device);
    let task_tokens = folder.manifest().task_tokens;
    Adapter::new(mae.hidden_size, llama.hidden_size, mae.tokens(), task_tokens, &vb).map_err(in_folder(folder))
}

impl Restorer for Model {
    fn side(&self) -> Option<u32> {
        Some(self.mae.config().image_size as u32)
    }

    fn task(&self, name: &str) -> Option<TaskId> {
        self.tasks.iter().position(|(task, _)| task == name).map(TaskId)
    }

    fn tasks(&self) -> Vec<&str> {
        self.tasks.iter().map(|(task, _)| task.as_str()).collect()
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn restore(&self, task: TaskId, images: &[&Image]) -> std::result::Result<Vec<Restored>, Trouble> {
        let side = self.mae.config().image_size as u32;
        if let Some(image) = images.iter().find(|image| image.size() != Size::new(side, side)) {
            let (width, height) = (image.width(), image.height());
            return Err(Error::Bug(format!("an image of {width}x{height} came to a model of {side}x{side}")).into());
        }
        ops::among_kernels(|| self.compute(task, images)).map_err(|error| trouble(&error, &self.stamp.device))
    }
}

/// What the device said: out of memory, or the run's end.
fn trouble(error: &candle_core::Error, device: &str) -> Trouble {
    let said = error.to_string();
    let short = ["OUT_OF_MEMORY", "out of memory", "ALLOC_FAILED"].iter().any(|words| said.contains(words));
    match short {
        true => Trouble::OutOfMemory(said),
        false => Trouble::Failed(Error::Bug(format!("the model on {device}: {said}"))),
    }
}

/// `[B, patches, 3 · p · p]` values of the images' patches (channel, row, column), normalised.
fn patches(config: &MaeConfig, images: &[&Image]) -> Vec<f32> {
    let (side, patch, grid) = (config.image_size, config.patch_size, config.grid());
    let mut values = vec![0.0; images.len() * 3 * side * side];
    values.par_chunks_mut(3 * side * side).zip(images).for_each(|(values, image)| {
        for (index, patch_values) in values.chunks_exact_mut(config.patch_values()).enumerate() {
            let (top, left) = (index / grid * patch, index % grid * patch);
            for (index, value) in patch_values.iter_mut().enumerate() {
                let (channel, y, x) = (index / (patch * patch), index / patch % patch, index % patch);
                let level = image.as_bytes()[((top + y) * side + left + x) * 3 + channel];
                *value = (f32::from(level) / 255.0 - MEAN[channel]) / STD[channel];
            }
        }
    });
    values
}

/// `[B, patches, p · p · 3]` (row, column, channel), normalised → images in `[0, 1]`.
fn planes(config: &MaeConfig, patches: &Tensor) -> Candle<Vec<Planes>> {
    let (side, patch, grid) = (config.image_size, config.patch_size, config.grid());
    let values: Vec<f32> = patches.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let size = Size::new(side as u32, side as u32);
    let images = values.par_chunks(3 * side * side).map(|values| {
        let mut planes = vec![0.0; values.len()];
        for (index, values) in values.chunks_exact(config.patch_values()).enumerate() {
            let (top, left) = (index / grid * patch, index % grid * patch);
            for (index, value) in values.iter().enumerate() {
                let (y, x, channel) = (index / (3 * patch), index / 3 % patch, index % 3);
                let value = value * STD[channel] + MEAN[channel];
                // (`clamp` would let a NaN through.)
                let value = if value > 0.0 { value.min(1.0) } else { 0.0 };
                planes[(channel * side + top + y) * side + left + x] = value;
            }
        }
        Planes::from_data(size, planes).ok_or_else(|| candle_core::Error::Msg("an image without pixels".into()))
    });
    images.collect()
}
