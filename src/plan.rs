//! The plan: what a dataset is made from, decided once and durably when it is first started.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Partition;

/// The bytes of `.lm4lv/plan.json`, and of each `plan-<n>.json` that `--extend` adds (which holds only the new inputs).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this format.
    pub format: u32,
    /// A UUID, made when the dataset was first started.
    pub dataset: String,
    /// BLAKE3 of `content`, hex.
    pub content_hash: String,
    /// BLAKE3 of the output schema, hex.
    pub schema_hash: String,
    /// What makes a row: the sections of the pipeline file that the content hash covers, presets expanded, no secrets.
    pub content: serde_json::Value,
    /// The inputs, in plan order.
    pub inputs: Vec<Input>,
}

/// One input and how its rows are cut into partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Path or URL of a Parquet file, or the folder that was listed.
    pub path: String,
    /// `listing-<hash>.jsonl.zst` for a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listing: Option<String>,
    /// Bytes of a Parquet file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// A remote file's ETag, or `footer:` and BLAKE3 of a local file's footer, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Rows.
    pub rows: u64,
    /// Rows in each partition but the last.
    pub rows_per_partition: u64,
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
    /// Number of rows; offsets go from 0 to this.
    pub rows: u64,
}
