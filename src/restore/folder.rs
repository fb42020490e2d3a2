//! A model folder: a manifest, `model.json`, that names the parts of a model, and the parts.
//!
//! The manifest holds the prompt as token ids, so that running a model needs no tokenizer, and size and hash of each file, so that a
//! row can say which weights made it. A file that it does not list is never read.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::llama::LlamaConfig;
use super::mae::MaeConfig;
use super::manifest::{Digests, MANIFEST, Manifest, Prompt};
use super::parts::{self, CONFIG};
use super::weights::{Weights, json};
use crate::error::{Error, Result};

/// A model folder whose manifest has been checked.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
    manifest: Manifest,
}

impl ModelFolder {
    /// Reads the manifest and looks at the files' sizes, not yet at their bytes. `Error::Config` names what is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join(MANIFEST);
        if !file.exists() {
            return Err(Error::Config(format!(
                "{}: there is no {MANIFEST}, so this is not a model folder (`lm4lv model pack` makes one)",
                path.display()
            )));
        }
        let manifest: Manifest = json(&file)?;
        manifest.check().map_err(|why| Error::Config(format!("{}: {why}", file.display())))?;
        let folder = Self { path: path.to_owned(), manifest };
        for (name, digests) in &folder.manifest.files {
            let path = folder.at(name);
            let length = path.metadata().map_err(|error| Error::Config(format!("{}: {error}", path.display())))?.len();
            if length != digests.bytes {
                return Err(Error::Config(format!(
                    "{}: {length} bytes, but {MANIFEST} says {}: it is cut short, or not the file that was packed",
                    path.display(),
                    digests.bytes
                )));
            }
        }
        Ok(folder)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 over the lines `path sha256` of all files, in the order of paths, the prompt's ids, and which adapter is whose: names all that
    /// the model computes with. 64 hex digits.
    pub fn weights_sha256(&self) -> String {
        let Manifest { files, prompt, tasks, .. } = &self.manifest;
        let files = files.iter().map(|(path, digests)| format!("{path} {}\n", digests.sha256));
        let ids = format!("prompt {:?} {:?} {:?}\n", prompt.before, prompt.between, prompt.after);
        let tasks = tasks.iter().map(|(name, task)| format!("task {name:?} {}\n", task.adapter));
        hex(&Sha256::digest(files.chain([ids]).chain(tasks).collect::<String>()))
    }

    /// Reads all files and holds their hashes against the manifest. `Error::Config` names a file that is another.
    pub fn verify_hashes(&self) -> Result<()> {
        self.manifest.files.par_iter().try_for_each(|(name, digests)| {
            let path = self.at(name);
            let found = digest(&path)?;
            match found.sha256.eq_ignore_ascii_case(&digests.sha256) {
                true => Ok(()),
                false => Err(Error::Config(format!(
                    "{}: SHA-256 is {}, but {MANIFEST} says {}: not the file that was packed",
                    path.display(),
                    found.sha256,
                    digests.sha256
                ))),
            }
        })
    }

    /// The masked autoencoder: all of its tensors are there in the shapes that its configuration asks for.
    pub fn mae(&self) -> Result<(MaeConfig, Weights)> {
        let path = self.at(&self.manifest.mae);
        let (config, weights) = parts::mae(&path)?;
        self.listed(&path.join(CONFIG))?;
        self.all_listed(&weights)?;
        Ok((config, weights))
    }

    /// The language model: all of its tensors are there, but for the table of embeddings where `llm.embeddings` has the prompt's.
    pub fn llm(&self) -> Result<(LlamaConfig, Weights)> {
        let path = self.at(&self.manifest.llm.path);
        let (config, weights) = parts::llm(&path, self.manifest.llm.embeddings.is_none())?;
        let Prompt { before, between, after, .. } = &self.manifest.prompt;
        if let Some(id) = [before, between, after].into_iter().flatten().find(|id| **id as usize >= config.vocab_size) {
            let (file, known) = (self.at(MANIFEST), config.vocab_size);
            return Err(Error::Config(format!("{}: prompt: token {id}, but the model knows {known}", file.display())));
        }
        if path.is_dir() {
            self.listed(&path.join(CONFIG))?;
        }
        self.all_listed(&weights)?;
        Ok((config, weights))
    }

    /// The embeddings of the prompt's tokens before the image, between image and task, and behind, each `[1, n, hidden]`.
    pub fn prompt_embeddings(&self, config: &LlamaConfig, dtype: DType, device: &Device) -> Result<[Tensor; 3]> {
        let (Prompt { before, between, after, .. }, hidden) = (&self.manifest.prompt, config.hidden_size);
        let texts = [before, between, after];
        let (weights, name, rows) = match &self.manifest.llm.embeddings {
            None => (self.llm()?.1, parts::TABLE, texts.map(Clone::clone)),
            Some(file) => {
                let path = self.at(file);
                let weights = Weights::open(&path)?;
                self.all_listed(&weights)?;
                let ids = weights.numbers("ids")?;
                let row = |id: &u32| {
                    let row = ids.iter().position(|known| known == id).map(|row| row as u32);
                    row.ok_or_else(|| {
                        Error::Config(format!("{}: token {id} of the prompt is not in `ids`", path.display()))
                    })
                };
                let rows = texts.map(|ids| ids.iter().map(row).collect::<Result<Vec<_>>>());
                let [before, between, after] = rows;
                (weights, "embeddings", [before?, between?, after?])
            }
        };
        let text = |rows: &Vec<u32>| {
            let rows = weights.rows(name, rows, hidden, dtype, device)?;
            rows.unsqueeze(0).map_err(|error| Error::Config(format!("tensor {name}: {error}")))
        };
        Ok([text(&rows[0])?, text(&rows[1])?, text(&rows[2])?])
    }

    /// What was trained for `task`: adapter, de-adapter, task tokens, and `query` where there are queries; of the shapes that
    /// autoencoder and language model ask for. `Error::Config` lists the tasks that there are.
    pub fn adapter(&self, task: &str, mae: &MaeConfig, llm: &LlamaConfig) -> Result<Weights> {
        let Some(found) = self.manifest.tasks.get(task) else {
            let tasks = self.manifest.tasks.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::Config(format!("{}: there is no task `{task}`: it has {tasks}", self.path.display())));
        };
        let weights = parts::adapter(&self.at(&found.adapter), mae, llm, self.manifest.task_tokens)?;
        self.all_listed(&weights)?;
        Ok(weights)
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file that the manifest does not list would not be part of the hash.
    fn listed(&self, path: &Path) -> Result<()> {
        let name = path.strip_prefix(&self.path).unwrap_or(path).to_string_lossy();
        match self.manifest.files.contains_key(&*name) {
            true => Ok(()),
            false => Err(Error::Config(format!("{}: not among the files of {MANIFEST}", path.display()))),
        }
    }

    fn all_listed(&self, weights: &Weights) -> Result<()> {
        weights.files().try_for_each(|file| self.listed(file))
    }
}

/// Length and hash of a file.
pub(super) fn digest(path: &Path) -> Result<Digests> {
    let fault = |error| Error::disk(path, error);
    let mut file = File::open(path).map_err(fault)?;
    let (mut hasher, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 18], 0);
    loop {
        let read = file.read(&mut buffer).map_err(fault)?;
        if read == 0 {
            return Ok(Digests { bytes, sha256: hex(&hasher.finalize()) });
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
