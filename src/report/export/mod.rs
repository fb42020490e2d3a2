//! Copies a dataset into layouts that other tools read: folders, BasicSR's pair of folders, WebDataset shards.
//!
//! Rows that failed are left out and counted, and so are the columns that differ from run to run (timings, attempts, run,
//! writer): exporting the same rows gives the same bytes. Every file is written under another name and renamed when it is
//! whole, so an export that was interrupted goes on where it stopped and one that is done writes nothing again. Which rows
//! it was made of is noted in `OUT/.lm4lv-export.json`; a dataset that has grown at its end (`run --extend`) continues
//! an export, one that has changed anywhere else is refused, since names and shards would no longer fit.

mod folder;
mod names;
mod webdataset;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::rows::{Dataset, Row};
use crate::error::{Error, Result};

/// A layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `OUT/<column>/<path>`, the sub-folders of the keys kept, and `OUT/metadata.jsonl`, which `datasets` reads as an
    /// `imagefolder`.
    Folder,
    /// `OUT/shard-000000.tar` …, in them `<key>.input.png`, `<key>.target.png`, `<key>.json`.
    Webdataset,
    /// `OUT/<path>.png`: the restored images alone, under the names and in the sub-folders of the keys; and
    /// `OUT/metadata.jsonl`.
    Mirror,
    /// `OUT/lq/<name>` and `OUT/gt/<name>` with equal names, no sub-folders, and `OUT/meta_info.txt`.
    Basicsr,
}

/// What to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportOptions {
    /// The layout.
    pub format: Format,
    /// Rows in each shard but the last (WebDataset only), at least 1.
    pub shard_rows: u64,
}

/// What an export did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Rows in the export.
    pub rows: u64,
    /// Failed rows, left out.
    pub failed: u64,
    /// Rows left out because they lack an image that the layout needs.
    pub without_images: u64,
    /// Rows whose name was taken by an earlier row and got a suffix.
    pub renamed: u64,
    /// Files (or shards) written by this call.
    pub written: u64,
    /// Files (or shards) that were there already.
    pub kept: u64,
}

/// Exports `dataset` into the local folder `out`. `Error::Config` where `out` holds another export or a dataset that has
/// changed since, `Error::Disk` for what the file system refuses.
pub async fn export(dataset: &Dataset, out: &Path, options: ExportOptions) -> Result<Exported> {
    let note = Note::of(dataset, options).await?;
    let path = out.join(NOTE);
    let grown = match Note::read(&path)? {
        Some(old) => {
            let grown = old.continued_by(&note, dataset, out)?;
            sweep(out);
            grown
        }
        None => false,
    };
    fs::create_dir_all(out).map_err(|e| Error::disk(out, e))?;
    let bytes = serde_json::to_vec_pretty(&note).map_err(|e| Error::Bug(format!("cannot write {NOTE}: {e}")))?;
    write_file(&path, &bytes)?;
    let names = names::Names::read(dataset, options.format).await?;
    match options.format {
        Format::Folder | Format::Mirror | Format::Basicsr => folder::export(dataset, out, options.format, names).await,
        Format::Webdataset => webdataset::export(dataset, out, options.shard_rows.max(1), names, grown).await,
    }
}

const NOTE: &str = ".lm4lv-export.json";

/// What an export was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// The dataset's id, where it has one.
    dataset: Option<String>,
    format: Format,
    shard_rows: u64,
    /// Number of parts, and BLAKE3 over their names and sizes, hex.
    parts: usize,
    parts_hash: String,
}

impl Note {
    async fn of(dataset: &Dataset, options: ExportOptions) -> Result<Self> {
        let plan = dataset.folder().get(".lm4lv/plan.json").await?;
        let plan = plan.and_then(|plan| serde_json::from_slice::<Value>(&plan).ok()).unwrap_or_default();
        let parts = dataset.parts().len();
        Ok(Self {
            version: 1,
            dataset: plan["dataset"].as_str().map(str::to_owned),
            format: options.format,
            shard_rows: if options.format == Format::Webdataset { options.shard_rows.max(1) } else { 0 },
            parts,
            parts_hash: hash_parts(dataset, parts),
        })
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::disk(path, e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::Config(format!("{}: not a note of an export ({e}): choose another folder", path.display()))
        })
    }

    /// Whether `new` is what this one was made of (false) or that with more at its end (true).
    fn continued_by(&self, new: &Self, dataset: &Dataset, out: &Path) -> Result<bool> {
        let out = out.display();
        if (self.format, self.shard_rows, &self.dataset) != (new.format, new.shard_rows, &new.dataset) {
            return Err(Error::Config(format!(
                "{out} holds another export (of another dataset, format or shard size): choose another folder"
            )));
        }
        if self.parts > new.parts || self.parts_hash != hash_parts(dataset, self.parts) {
            return Err(Error::Config(format!(
                "the rows of {} have changed since they were exported to {out}: choose another folder",
                dataset.place()
            )));
        }
        Ok(self.parts < new.parts)
    }
}

/// BLAKE3 over names and sizes of the first `count` parts.
fn hash_parts(dataset: &Dataset, count: usize) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in dataset.parts().iter().take(count) {
        hasher.update(part.name.as_bytes());
        hasher.update(&[0]);
        hasher.update(&part.size.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// How names of files begin that are not whole.
const PARTIAL: &str = ".partial-";

/// Removes what exports that were killed left below `folder`. What a living one writes is locked.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder {
            sweep(&entry.path());
        } else if entry.file_name().to_string_lossy().starts_with(PARTIAL)
            && fs::File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// A file that is not there until it is whole. Locked, so that no [`sweep`] takes it for one left behind.
struct Partial {
    file: std::io::BufWriter<fs::File>,
    partial: PathBuf,
    path: PathBuf,
}

impl Partial {
    /// Starts the file that will be at `path`, making its folders. Another process that writes the same file does not
    /// disturb: the last to finish wins, with the same bytes.
    fn create(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| Error::disk(folder, e))?;
        // A short name of its own: the file's name may be as long as the file system allows.
        loop {
            let partial = folder.join(format!("{PARTIAL}{}", uuid::Uuid::new_v4().simple()));
            let file = fs::File::create(&partial).map_err(|e| Error::disk(&partial, e))?;
            // Where a sweep has got hold of it before us it is about to go.
            if !matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
                return Ok(Self { file: std::io::BufWriter::new(file), partial, path: path.to_owned() });
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::disk(&self.path, e))
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::disk(&self.path, e))?;
        fs::rename(&self.partial, &self.path).map_err(|e| Error::disk(&self.path, e))
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    /// What was not finished is no use; after [`Partial::finish`] there is nothing under that name.
    fn drop(&mut self) {
        fs::remove_file(&self.partial).ok();
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = Partial::create(path)?;
    Partial::write(&mut partial, bytes)?;
    partial.finish()
}

/// True for a file with at least one byte (an empty one is what a power cut leaves of a file that was not synced).
fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// What the metadata says of a row: its columns but images and what differs from run to run. `params` of `ops` stay JSON
/// text, as in the dataset: readers that want one type for a column could not read them otherwise.
fn metadata(row: &Row) -> Map<String, Value> {
    let ops =
        row.ops.iter().map(|op| json!({"step": op.step, "op": op.op, "version": op.version, "params": op.params}));
    let side = |size: Option<(u32, u32)>, side: fn((u32, u32)) -> u32| size.map(side);
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    add("key", row.key.clone().into());
    add("variant", row.variant.into());
    add("url", row.url.clone().into());
    add("width", side(row.size, |s| s.0).into());
    add("height", side(row.size, |s| s.1).into());
    add("original_width", side(row.original_size, |s| s.0).into());
    add("original_height", side(row.original_size, |s| s.1).into());
    add("sha256", row.sha256.clone().into());
    add("partition", row.position.partition.as_str().into());
    add("offset", row.position.offset.into());
    add("source_file", row.source_file.clone().into());
    add("source_row", row.source_row.into());
    add("seed", row.seed.into());
    add("ops", ops.collect());
    for (name, value) in &row.scores {
        // JSON has no infinity.
        add(name, value.filter(|value| value.is_finite()).into());
    }
    for (name, value) in &row.other {
        if !is_volatile(name) {
            add(name, value.clone());
        }
    }
    fields
}

/// Columns that differ between runs over the same input. By name, not by their ending: a kept input column may end in `_ms`.
fn is_volatile(name: &str) -> bool {
    const STEPS: [&str; 6] = ["fetch", "decode", "degrade", "restore", "score", "encode"];
    name.strip_suffix("_ms").is_some_and(|step| STEPS.contains(&step)) || matches!(name, "attempts" | "run" | "writer")
}
