//! One row of a finished dataset, as a plain struct.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::checkpoint::Position;
use crate::sample::AppliedOp;

/// Image columns, in the order in which people read them: what went in, what it should be, what came out.
pub const IMAGE_COLUMNS: [&str; 4] = ["input", "target", "output", "baseline"];

/// Where a row lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Index into [`Dataset::parts`](super::rows::Dataset::parts).
    pub part: usize,
    /// The row in that part, from 0.
    pub row: u64,
}

/// An image cell: `struct<bytes, path>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The file; empty unless [`Columns::All`](super::rows::Columns::All) was asked for.
    pub bytes: Bytes,
    /// The key, made safe, with the encoding's extension.
    pub path: String,
}

impl Picture {
    /// The extension of [`Self::path`], lower case, without the dot; empty if there is none.
    pub fn extension(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
    }
}

/// One row. Fields of columns that were not asked for, that are absent, or that are null are empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it was read.
    pub at: Address,
    /// The record's name; may repeat.
    pub key: String,
    /// From 0.
    pub variant: u16,
    /// Partition and offset of the record.
    pub position: Position,
    /// The reference as the source gave it.
    pub url: Option<String>,
    /// `error_code` and `error_message`; `None` where `status` is `success`.
    pub failure: Option<(String, String)>,
    /// Pixels of `input`, width and height.
    pub size: Option<(u32, u32)>,
    /// Pixels of the source file after EXIF orientation, width and height.
    pub original_size: Option<(u32, u32)>,
    /// SHA-256 of the source file, 64 hex digits.
    pub sha256: Option<String>,
    /// The image cells that are not null, by column name, in the order of [`IMAGE_COLUMNS`].
    pub images: Vec<(&'static str, Picture)>,
    /// The input file, as the plan writes it.
    pub source_file: Option<String>,
    /// The row in that file, from 0.
    pub source_row: Option<u64>,
    /// The run's seed.
    pub seed: Option<u64>,
    /// Every operation that was applied, in order.
    pub ops: Vec<AppliedOp>,
    /// Score columns in the order of the schema; null where the value is `None`.
    pub scores: Vec<(Arc<str>, Option<f64>)>,
    /// All other columns but the images, as JSON, in the order of the schema (kept input columns, timings, …).
    pub other: Map<String, Value>,
}

impl Row {
    /// The cell of image column `name`.
    pub fn image(&self, name: &str) -> Option<&Picture> {
        self.images.iter().find(|(column, _)| *column == name).map(|(_, picture)| picture)
    }

    /// The value of score column `name`.
    pub fn score(&self, name: &str) -> Option<f64> {
        self.scores.iter().find(|(column, _)| &**column == name).and_then(|(_, value)| *value)
    }
}

/// The image column and `metric_profile` of a score column's name, such as (`input`, `psnr_lm4lv`); `None` for other names.
pub fn score_column(name: &str) -> Option<(&str, &str)> {
    let (image, score) = name.split_once('_')?;
    let (metric, profile) = score.split_once('_')?;
    (IMAGE_COLUMNS.contains(&image) && matches!(metric, "psnr" | "ssim") && !profile.is_empty())
        .then_some((image, score))
}
