//! The manifest of a model folder, `model.json`.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

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

impl Manifest {
    /// What no model folder can have, with the key to blame.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
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
