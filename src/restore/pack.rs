//! Makes a model folder of its parts: `lm4lv model pack`.
//!
//! The folder is made under a temporary name beside its own and renamed when all is in it and has been opened as a model folder: there
//! is a whole one or none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::folder::{ModelFolder, digest};
use super::llama::LlamaConfig;
use super::manifest::{Format, Licence, Llm, MANIFEST, Manifest, Pieces, Prompt, Task};
use super::parts::{self, CONFIG};
use super::tokens;
use super::weights::{Weights, cut_gguf, json};
use crate::error::{Error, Result};

/// Where the prompt's ids come from.
#[derive(Debug, Clone)]
pub enum PromptSource {
    /// Texts and a `tokenizer.json`.
    Texts {
        /// The tokenizer's file.
        tokenizer: PathBuf,
        /// The texts.
        pieces: Pieces,
        /// Id of the token that begins a text; `None`: what the language model's own files say.
        bos: Option<u32>,
    },
    /// A JSON file with `before`, `between` and `after`.
    Ids(PathBuf),
}

/// What a model folder is made of.
#[derive(Debug, Clone)]
pub struct Pack {
    /// The model's name.
    pub name: String,
    /// The masked autoencoder's Hugging Face folder.
    pub mae: PathBuf,
    /// The language model's Hugging Face folder or GGUF file.
    pub llm: PathBuf,
    /// The prompt.
    pub prompt: PromptSource,
    /// Task → adapter file, what it restores.
    pub adapters: BTreeMap<String, (PathBuf, String)>,
    /// Where the parts come from.
    pub licences: Vec<Licence>,
    /// Leave the table of embeddings out, but for the prompt's tokens. For a GGUF file.
    pub prompt_only_embeddings: bool,
    /// Seed of the restorer `random_llm`.
    pub random_seed: Option<u64>,
}

impl Pack {
    /// Makes the folder `out`, which must not be there. `Error::Config` says which parts do not fit each other.
    pub fn make(&self, out: &Path) -> Result<ModelFolder> {
        if out.symlink_metadata().is_ok() {
            return Err(Error::Config(format!("{}: is there already", out.display())));
        }
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| Error::disk(parent, error))?;
        let scratch = tempfile::Builder::new().prefix(".lm4lv-pack-").tempdir_in(parent);
        let scratch = scratch.map_err(|error| Error::disk(parent, error))?;
        self.fill(scratch.path())?;
        // What was written is read back as a user would.
        ModelFolder::open(scratch.path())?.check()?;
        // (A temporary folder is for its owner alone.)
        #[cfg(unix)]
        fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(|error| Error::disk(scratch.path(), error))?;
        fs::rename(scratch.path(), out).map_err(|error| Error::disk(out, error))?;
        drop(scratch.keep());
        ModelFolder::open(out)
    }

    fn fill(&self, folder: &Path) -> Result<()> {
        let (mae_config, mae) = parts::mae(&self.mae)?;
        let (llm_config, llm) = parts::llm(&self.llm, true)?;
        let Some((first, (file, _))) = self.adapters.first_key_value() else {
            return Err(Error::Config("there is no adapter: a model is for one task at least".into()));
        };
        let tokens = Weights::open(file)?;
        let tokens = tokens.infos().find(|info| info.name == "learnable_task_token").map(|info| info.shape.to_vec());
        let task_tokens = match tokens.as_deref() {
            Some([1, tokens, _]) => *tokens,
            _ => {
                return Err(Error::Config(format!(
                    "{}: there is no learnable_task_token, [1, n, hidden]",
                    file.display()
                )));
            }
        };
        let prompt = self.prompt(&llm)?;

        copy_part(&mae, &self.mae, &folder.join("mae"))?;
        let (path, embeddings) = self.write_llm(folder, &llm_config, &llm, &prompt)?;
        let mut tasks = BTreeMap::new();
        for (task, (file, about)) in &self.adapters {
            if task.is_empty()
                || !task.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c))
                || task.starts_with('.')
            {
                return Err(Error::Config(format!("task `{task}`: letters, digits, `_`, `-` and `.` make its name")));
            }
            let adapter =
                parts::adapter(file, &mae_config, &llm_config, task_tokens).map_err(|error| match task == first {
                    true => error,
                    false => Error::Config(format!("{error} (task {first} has {task_tokens} task tokens)")),
                })?;
            let name = format!("adapters/{task}.safetensors");
            write_adapter(&adapter, file, &folder.join(&name))?;
            tasks.insert(task.clone(), Task { adapter: name, about: about.clone() });
        }
        let mut manifest = Manifest {
            format: Format::Lm4lvModel,
            version: 1,
            name: self.name.clone(),
            mae: "mae".into(),
            llm: Llm { path, embeddings, random_seed: self.random_seed },
            prompt,
            task_tokens,
            tasks,
            licences: self.licences.clone(),
            files: BTreeMap::new(),
        };
        for path in files_below(folder)? {
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            manifest.files.insert(name, digest(&path)?);
        }
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| Error::Bug(error.to_string()))?;
        write(&folder.join(MANIFEST), (text + "\n").as_bytes())
    }

    fn prompt(&self, llm: &Weights) -> Result<Prompt> {
        let (tokenizer, pieces, bos) = match &self.prompt {
            PromptSource::Ids(file) => return json(file),
            PromptSource::Texts { tokenizer, pieces, bos } => (tokenizer, pieces, bos),
        };
        let known = || match llm.gguf() {
            Some(gguf) => Ok(gguf.bos),
            None => {
                let config: serde_json::Value = json(&self.llm.join(CONFIG))?;
                Ok(config["bos_token_id"].as_u64().and_then(|id| u32::try_from(id).ok()))
            }
        };
        tokens::prompt(tokenizer, pieces, bos.map_or_else(known, |bos| Ok(Some(bos)))?)
    }

    /// The language model's path in the folder, and that of the prompt's embeddings.
    fn write_llm(
        &self,
        folder: &Path,
        config: &LlamaConfig,
        llm: &Weights,
        prompt: &Prompt,
    ) -> Result<(String, Option<String>)> {
        let to = folder.join("llm");
        if llm.gguf().is_none() {
            if self.prompt_only_embeddings {
                return Err(Error::Config(format!("{}: only a GGUF file can lose its embeddings", self.llm.display())));
            }
            copy_part(llm, &self.llm, &to)?;
            return Ok(("llm".into(), None));
        }
        make_folder(&to)?;
        let path = to.join("model.gguf");
        if !self.prompt_only_embeddings {
            copy(&self.llm, &path)?;
            return Ok(("llm/model.gguf".into(), None));
        }
        let left_out = |name: &str| name == "token_embd.weight" || name == "output.weight";
        create(&path, |file| cut_gguf(llm, left_out, |key| key.starts_with("tokenizer."), file))?;
        let mut ids: Vec<u32> =
            [&prompt.before, &prompt.between, &prompt.after].into_iter().flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let embeddings = llm.rows(parts::TABLE, &ids, config.hidden_size, DType::F32, &Device::Cpu)?;
        let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
        let ids = Tensor::new(ids, &Device::Cpu).map_err(|error| Error::Bug(error.to_string()))?;
        let name = "llm/prompt_embeddings.safetensors";
        write_tensors(vec![("ids".into(), ids), ("embeddings".into(), embeddings)], &folder.join(name))?;
        Ok(("llm/model.gguf".into(), Some(name.into())))
    }
}

/// Copies a Hugging Face folder's configuration and weights.
fn copy_part(weights: &Weights, from: &Path, to: &Path) -> Result<()> {
    make_folder(to)?;
    let config = from.join(CONFIG);
    weights
        .files()
        .chain([config.as_path()])
        .try_for_each(|file| copy(file, &to.join(file.file_name().unwrap_or_default())))
}

/// An adapter as safetensors; one that is such a file stays as it is, to the byte.
fn write_adapter(adapter: &Weights, from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_folder(parent)?;
    }
    if adapter.is_safetensors() {
        return copy(from, to);
    }
    let names: Vec<_> = adapter.infos().map(|info| info.name.to_owned()).collect();
    let tensors = names.into_iter().map(|name| adapter.as_stored(&name).map(|tensor| (name, tensor)));
    write_tensors(tensors.collect::<Result<_>>()?, to)
}

fn write_tensors(tensors: Vec<(String, Tensor)>, to: &Path) -> Result<()> {
    let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
    let bytes = safetensors::serialize(&tensors, None).map_err(|error| Error::Bug(error.to_string()))?;
    write(to, &bytes)
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(to, bytes).map_err(|error| Error::disk(to, error))
}

fn create(to: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let made = File::create(to).and_then(|file| {
        let mut file = BufWriter::new(file);
        fill(&mut file)?;
        file.flush()
    });
    made.map_err(|error| Error::disk(to, error))
}

/// The content alone: what a link leads to, and not that it may not be written.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|error| Error::disk(from, error))?;
    create(to, |file| std::io::copy(&mut source, file).map(|_| ()))
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Error::disk(path, error))
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| Error::disk(folder, error))? {
        let path = entry.map_err(|error| Error::disk(folder, error))?.path();
        match path.is_dir() {
            true => files.extend(files_below(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}
