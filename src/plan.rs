//! The plan: what a dataset is made from, decided once and durably when it is first started.
//!
//! `.lm4lv/plan.json` is created if absent and never changed. `plan-000001.json`, … (made by `--extend`) add inputs behind
//! it, `change-1.json`, … (made by `--accept-change`) put another content hash in force. Both are numbered without gaps, so
//! the next one is found by asking for it: no folder is listed. A folder's list of images is frozen beside them before the
//! plan that names it.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::store::Folder;

mod diff;
mod open;
mod opened;

pub use open::Wanted;
pub use opened::Opened;

/// The version of the plan's files that this program reads and writes.
pub const FORMAT: u32 = 1;

/// More are a mistake, and would not fit into memory.
const MAX_PARTITIONS: u64 = 10_000_000;

const PLAN: &str = ".lm4lv/plan.json";

/// The bytes of `.lm4lv/plan.json`, and of each `plan-<n>.json` that `--extend` adds (which holds only the new inputs).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this format.
    pub format: u32,
    /// A UUID, made when the dataset was first started.
    pub dataset: String,
    /// BLAKE3 of `content`, hex (see [`content_hash`]).
    pub content_hash: String,
    /// BLAKE3 of the output schema, hex.
    pub schema_hash: String,
    /// What makes a row: the sections of the pipeline file that the content hash covers, presets expanded, no secrets.
    pub content: Value,
    /// The inputs, in plan order.
    pub inputs: Vec<Input>,
    /// Kafka topics, where those are the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<Topic>,
}

/// A Kafka topic as a dataset reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, which another topic of the same name does not have; empty where the brokers were too old to give one.
    pub id: String,
    /// The cluster's id; empty where there was none.
    pub cluster: String,
    /// For each partition the offset where the dataset begins; partitions that were added later begin at 0.
    pub starts: Vec<u64>,
}

/// One input and how its rows are cut into partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Path or URL of a Parquet file, or the folder that was listed.
    pub path: String,
    /// `listing-<hash>.jsonl.zst` for a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<String>,
    /// Bytes of a Parquet file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// A remote file's ETag, or `footer:` and BLAKE3 of the file's footer, hex (local files, and stores without ETags).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Rows.
    pub rows: u64,
    /// Rows in each partition but the last.
    pub rows_per_partition: u64,
}

/// The bytes of `.lm4lv/change-<n>.json`: from here on rows are made so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    format: u32,
    dataset: String,
    content_hash: String,
    content: Value,
}

/// A range of rows of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPartition {
    /// Its name.
    pub partition: Partition,
    /// The input it is cut from, counted over the plan and its extensions.
    pub input: usize,
    /// The path of that input.
    pub path: Arc<str>,
    /// The first row.
    pub first_row: u64,
    /// Number of rows to read; offsets go from 0 to this. Less than `planned_rows` where `--limit` cuts the partition.
    pub rows: u64,
    /// Number of rows in the plan: the partition is complete when its chain has come this far.
    pub planned_rows: u64,
}

/// BLAKE3, hex, of `value` written as JSON without spaces and with the keys of objects sorted.
pub fn content_hash(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| key.as_str());
                Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
            }
            Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    blake3::hash(sorted(value).to_string().as_bytes()).to_hex().to_string()
}

/// The number of partitions; `None` where that, or the number of rows, is none.
fn partitions_of<'a>(inputs: impl IntoIterator<Item = &'a Input>) -> Option<u64> {
    let (mut rows, mut partitions) = (0u64, 0u64);
    for input in inputs {
        rows = rows.checked_add(input.rows)?;
        let of_input = input.rows.checked_next_multiple_of(input.rows_per_partition)? / input.rows_per_partition;
        partitions = partitions.checked_add(of_input)?;
    }
    Some(partitions)
}

fn extension_name(n: u32) -> String {
    format!(".lm4lv/plan-{n:06}.json")
}

fn change_name(n: u32) -> String {
    format!(".lm4lv/change-{n}.json")
}

/// Reads a plan file, its format's version first: that of a newer program is no damage.
fn parse<T: DeserializeOwned>(folder: &Folder, name: &str, bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(bytes).map_err(|error| damaged(folder, name, error))?;
    if format != FORMAT {
        return Err(Error::Config(format!(
            "{} has format {format}, this program reads {FORMAT}: use the version of lm4lv that wrote it",
            folder.place(name)
        )));
    }
    serde_json::from_slice(bytes).map_err(|error| damaged(folder, name, error))
}

fn damaged(folder: &Folder, name: &str, reason: impl std::fmt::Display) -> Error {
    let place = folder.place(name);
    Error::DataLoss(format!("{place} is damaged: {reason}: restore it from a copy, nothing can go on without it"))
}

fn bytes_of(file: &impl Serialize) -> Result<Bytes> {
    let mut bytes = serde_json::to_vec_pretty(file).map_err(|error| Error::Bug(format!("the plan: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes.into())
}
