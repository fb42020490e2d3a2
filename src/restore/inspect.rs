//! What a model folder holds, for people and programs: `lm4lv model inspect`.

use std::collections::BTreeMap;

use candle_core::DType;
use serde::Serialize;

use super::folder::ModelFolder;
use super::llama::LlamaConfig;
use super::mae::MaeConfig;
use super::manifest::{Licence, Manifest, Prompt};
use super::weights::Weights;
use crate::error::{Error, Result};

/// A model folder, looked at.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The model's name.
    pub name: String,
    /// What rows record of its weights.
    pub weights_sha256: String,
    /// Autoencoder, language model, adapters.
    pub parts: Vec<PartReport>,
    /// The autoencoder's configuration.
    pub mae: Option<MaeConfig>,
    /// The language model's configuration.
    pub llm: Option<LlamaConfig>,
    /// The prompt's texts and token ids.
    pub prompt: Prompt,
    /// Task → what it restores.
    pub tasks: BTreeMap<String, String>,
    /// Positions of an image's sequence: prompt, image, task tokens, generated tokens.
    pub positions: Option<usize>,
    /// Memory, by the type that is computed in.
    pub memory: Option<[Memory; 2]>,
    /// Where the parts come from.
    pub licences: Vec<Licence>,
    /// What is wrong: missing, unknown or misshapen tensors, files that are not those that were packed. Empty: the model is sound.
    pub problems: Vec<String>,
}

/// A part's tensors.
#[derive(Debug, Serialize)]
pub struct PartReport {
    /// `mae`, `llm`, `prompt_embeddings` or `adapter NAME`.
    pub part: String,
    /// Tensors.
    pub tensors: usize,
    /// Values in them.
    pub parameters: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// Type → values that are stored so.
    pub dtypes: BTreeMap<String, u64>,
    /// Name, shape and type of each tensor.
    pub shapes: Vec<(String, Vec<usize>, String)>,
}

/// Bytes of memory on the device.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// `f32` or `bf16`.
    pub dtype: &'static str,
    /// All parts' weights (without the table of embeddings).
    pub weights: u64,
    /// For each image of a batch, the cache of keys and values and the widest rows beside it.
    pub per_image: u64,
}

/// Looks at all parts, and at every byte if `hashes`. `Error::Config` only if there is no manifest; all else is among the problems.
pub fn inspect(folder: &ModelFolder, hashes: bool) -> Inspection {
    let manifest = folder.manifest();
    let mut problems = Vec::new();
    let mut note = |error: Error| problems.push(error.to_string());
    if hashes {
        folder.verify_hashes().unwrap_or_else(&mut note);
    }
    let mut parts = Vec::new();
    let mae = folder.mae().map_err(&mut note).ok();
    let llm = folder.llm().map_err(&mut note).ok();
    parts.extend(mae.as_ref().map(|(_, weights)| part("mae".into(), weights)));
    parts.extend(llm.as_ref().map(|(_, weights)| part("llm".into(), weights)));
    if let Some(file) = &manifest.llm.embeddings {
        parts.extend(
            Weights::open(&folder.at(file)).map_err(&mut note).ok().map(|w| part("prompt_embeddings".into(), &w)),
        );
    }
    let mae = mae.map(|(config, _)| config);
    let llm = llm.map(|(config, _)| config);
    if let Some(llm) = &llm {
        folder.prompt_embeddings(llm, DType::F32, &candle_core::Device::Cpu).map(|_| ()).unwrap_or_else(&mut note);
    }
    for task in manifest.tasks.keys() {
        if let (Some(mae), Some(llm)) = (&mae, &llm) {
            let adapter = folder.adapter(task, mae, llm).map_err(&mut note).ok();
            parts.extend(adapter.map(|weights| part(format!("adapter {task}"), &weights)));
        }
    }
    let positions = mae.as_ref().map(|mae| positions(manifest, mae));
    let memory = llm.as_ref().zip(positions).map(|(llm, positions)| {
        [("f32", DType::F32), ("bf16", DType::BF16)].map(|(dtype, kind)| {
            let size = kind.size_in_bytes() as u64;
            let used =
                |part: &PartReport| part.shapes.iter().filter(|(name, ..)| !spare(name)).map(values).sum::<u64>();
            Memory {
                dtype,
                weights: parts.iter().map(used).sum::<u64>() * size,
                per_image: llm.image_values(positions) * size,
            }
        })
    });
    Inspection {
        name: manifest.name.clone(),
        weights_sha256: folder.weights_sha256(),
        parts,
        mae,
        llm,
        prompt: manifest.prompt.clone(),
        tasks: manifest.tasks.iter().map(|(name, task)| (name.clone(), task.about.clone())).collect(),
        positions,
        memory,
        licences: manifest.licences.clone(),
        problems,
    }
}

impl ModelFolder {
    /// That all parts are sound and fit each other. The first `Error::Config`.
    pub fn check(&self) -> Result<()> {
        match inspect(self, false).problems.into_iter().next() {
            Some(problem) => Err(Error::Config(problem)),
            None => Ok(()),
        }
    }
}

/// Prompt, image, task tokens, and the generated tokens, of which the last is not an input.
fn positions(manifest: &Manifest, mae: &MaeConfig) -> usize {
    let Prompt { before, between, after, .. } = &manifest.prompt;
    before.len() + between.len() + after.len() + manifest.task_tokens + 2 * mae.tokens() - 1
}

fn values((_, shape, _): &(String, Vec<usize>, String)) -> u64 {
    shape.iter().map(|dim| *dim as u64).product()
}

/// Tables that are looked up in and not kept.
fn spare(name: &str) -> bool {
    [super::parts::TABLE, "lm_head.weight", "ids", "embeddings"].contains(&name)
}

fn part(part: String, weights: &Weights) -> PartReport {
    let shapes: Vec<_> =
        weights.infos().map(|info| (info.name.to_owned(), info.shape.to_vec(), info.dtype.clone())).collect();
    let mut dtypes = BTreeMap::new();
    for shape in &shapes {
        *dtypes.entry(shape.2.clone()).or_default() += values(shape);
    }
    PartReport {
        part,
        tensors: shapes.len(),
        parameters: shapes.iter().map(values).sum(),
        bytes: weights.infos().map(|info| info.bytes).sum(),
        dtypes,
        shapes,
    }
}
