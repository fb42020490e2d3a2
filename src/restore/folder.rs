//! A model folder: a manifest, `model.json`, that names the parts of a model, and the parts.
//!
//! The manifest holds the prompt as token ids, so that running a model needs no tokenizer, and size and hash of each file, so that a
//! row can say which weights made it. A file that it does not list is never read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Device, Tensor};
// house: some GB are hashed while somebody waits for the first image.
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::expected;
use super::llama::LlamaConfig;
use super::mae::MaeConfig;
use super::weights::{Weights, json};
use crate::error::{Error, Result};

/// The manifest's name.
pub const MANIFEST: &str = "model.json";

/// `model.json`. Paths are relative to the folder, with `/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `lm4lv-model`.
    pub format: Format,
    /// Of the manifest's layout: 1.
    pub version: u32,
    /// The model's name, which rows record.
    pub name: String,
    /// The masked autoencoder: a Hugging Face folder.
    pub mae: String,
    /// The language model.
    pub llm: Llm,
    /// What stands around the image's tokens.
    pub prompt: Prompt,
    /// Task tokens of each adapter.
    pub task_tokens: usize,
    /// What the model was trained for, by the names that pipeline files use.
    pub tasks: BTreeMap<String, Task>,
    /// Where the parts come from.
    #[serde(default)]
    pub licences: Vec<Licence>,
    /// Every file of the folder but the manifest and texts about it.
    pub files: BTreeMap<String, Digests>,
}

/// The only format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// This one.
    #[serde(rename = "lm4lv-model")]
    Lm4lvModel,
}

/// The language model's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llm {
    /// A Hugging Face folder or a GGUF file.
    pub path: String,
    /// For a model whose table of embeddings was left out: a file with tensors `ids`, `[n]`, and `embeddings`, `[n, hidden]`, of the
    /// prompt's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<String>,
    /// Seed of the restorer `random_llm`. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_seed: Option<u64>,
}

/// What stands around the image's tokens, as token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// The texts that the ids were made of, piece by piece; absent where the ids were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Pieces>,
    /// Before the image's tokens.
    pub before: Vec<u32>,
    /// Between the image's tokens and the task's.
    pub between: Vec<u32>,
    /// Behind the task's tokens.
    pub after: Vec<u32>,
}

/// The prompt's texts: each piece is tokenised by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pieces {
    /// Before the image's tokens.
    pub before: Vec<Piece>,
    /// Between the image's tokens and the task's.
    pub between: Vec<Piece>,
    /// Behind the task's tokens.
    pub after: Vec<Piece>,
}

/// A piece of the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// The token that begins a text.
    Bos,
    /// A text, tokenised without special tokens.
    Text(String),
}

/// What was trained for a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The file with adapter, de-adapter and task tokens.
    pub adapter: String,
    /// What it restores, for people.
    #[serde(default)]
    pub about: String,
}

/// Where a part comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// The part.
    pub what: String,
    /// Its licence.
    pub licence: String,
    /// Where it comes from.
    pub source: String,
}

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, 64 hex digits.
    pub sha256: String,
}

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

    /// SHA-256 over the lines `path sha256` of all files, in the order of paths: names the weights. 64 hex digits.
    pub fn weights_sha256(&self) -> String {
        let lines = self.manifest.files.iter().map(|(path, digests)| format!("{path} {}\n", digests.sha256));
        hex(&Sha256::digest(lines.collect::<String>()))
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
        let (config, weights) = mae(&path)?;
        self.listed(&path.join(CONFIG))?;
        self.all_listed(&weights)?;
        Ok((config, weights))
    }

    /// The language model: all of its tensors are there, but for the table of embeddings where `llm.embeddings` has the prompt's.
    pub fn llm(&self) -> Result<(LlamaConfig, Weights)> {
        let path = self.at(&self.manifest.llm.path);
        let (config, weights) = llm(&path, self.manifest.llm.embeddings.is_none())?;
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
            None => (self.llm()?.1, expected::TABLE, texts.map(Clone::clone)),
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
        let weights = adapter(&self.at(&found.adapter), mae, llm, self.manifest.task_tokens)?;
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

const CONFIG: &str = "config.json";

/// Opens a masked autoencoder's folder and checks it as a whole.
pub(super) fn mae(path: &Path) -> Result<(MaeConfig, Weights)> {
    let file = path.join(CONFIG);
    let config: MaeConfig = json(&file)?;
    config.check().map_err(|why| Error::Config(format!("{}: {why}", file.display())))?;
    let weights = Weights::open(path)?;
    weights.check(&expected::mae(&config), expected::mae_spare)?;
    Ok((config, weights))
}

/// Opens a language model's folder or GGUF file and checks it as a whole, with its table of embeddings if `table`.
pub(super) fn llm(path: &Path, table: bool) -> Result<(LlamaConfig, Weights)> {
    let weights = Weights::open(path)?;
    let (config, file): (LlamaConfig, _) = match weights.gguf() {
        Some(gguf) => {
            (gguf.llama().map_err(|why| Error::Config(format!("{}: {why}", path.display())))?, path.to_owned())
        }
        None => {
            let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
            (json(&folder.join(CONFIG))?, folder.join(CONFIG))
        }
    };
    config.check().map_err(|why| Error::Config(format!("{}: {why}", file.display())))?;
    weights.check(&expected::llama(&config, table), expected::llama_spare)?;
    Ok((config, weights))
}

/// Opens an adapter's file and checks it as a whole.
pub(super) fn adapter(path: &Path, mae: &MaeConfig, llm: &LlamaConfig, task_tokens: usize) -> Result<Weights> {
    let weights = Weights::open(path)?;
    let expected = expected::adapter(mae.hidden_size, llm.hidden_size, task_tokens);
    weights.check(&expected, expected::adapter_spare)?;
    Ok(weights)
}

impl Manifest {
    /// What no model folder can have, with the key to blame.
    fn check(&self) -> std::result::Result<(), String> {
        if self.version != 1 {
            return Err(format!("version {} is not known to this lm4lv: 1 is", self.version));
        }
        if self.tasks.is_empty() {
            return Err("tasks: there is none".into());
        }
        if !(1..=4096).contains(&self.task_tokens) {
            return Err(format!("task_tokens {} is not from 1 to 4096", self.task_tokens));
        }
        let longest = [&self.prompt.before, &self.prompt.between, &self.prompt.after].map(Vec::len).into_iter().max();
        if longest > Some(1 << 16) {
            return Err("prompt: more than 65,536 tokens".into());
        }
        let parts = [Some(&self.mae), Some(&self.llm.path), self.llm.embeddings.as_ref()].into_iter().flatten();
        let paths = parts.chain(self.files.keys()).chain(self.tasks.values().map(|task| &task.adapter));
        for path in paths {
            let mut parts = Path::new(path).components();
            if path.is_empty() || path.contains('\\') || !parts.all(|part| matches!(part, Component::Normal(_))) {
                return Err(format!("path `{path}` is not one inside the folder"));
            }
        }
        for (path, digests) in &self.files {
            let digits = digests.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
            if digests.sha256.len() != 64 || !digits {
                return Err(format!("files: {path}: `{}` is not a SHA-256 of 64 hex digits", digests.sha256));
            }
        }
        Ok(())
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
