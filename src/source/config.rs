//! The pipeline file's `source` section.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kafka::{KafkaConfig, MessageFormat};

mod values;

pub use values::{ColumnChoice, OneOrMany, Scalar, Values};

/// Where the records come from: exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// Rows of Parquet files, each naming or holding an image.
    Parquet(ParquetConfig),
    /// A tree of image files.
    Folder(FolderConfig),
    /// Messages of Kafka topics, each naming or holding an image.
    Kafka(KafkaConfig),
}

/// `source.parquet`: rows of Parquet files, local or in an object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// File, folder (all `*.parquet` in it, at any depth), glob or URL (`s3://`, `gs://`, `az://`), or a list of them. The
    /// order decides the plan's; within a folder or glob, files are sorted by the bytes of their paths. Required.
    pub path: OneOrMany,
    /// Which columns mean what. Default: reference and key are detected, target and task are not read.
    #[serde(default)]
    pub columns: ColumnsConfig,
    /// Input columns copied into the rows under their own names; `["*"]`: all but images. Default: none.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Only rows whose columns equal these values (a value or a list, any of which will do; `null` is a null) are read, such
    /// as `{ status: [failed] }`. Default: all rows.
    #[serde(default, rename = "where")]
    pub filter: BTreeMap<String, Values>,
    /// Rows in each partition, the unit of work of a shard. The plan fixes it at the first start. Default: 20000.
    #[serde(default = "rows_per_partition")]
    pub rows_per_partition: NonZeroU64,
}

/// `source.parquet.columns`: `auto` (detected), `none` (not read), or a column's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnsConfig {
    /// The image: a path or URI (string), its bytes (binary), or `struct<bytes, path>`. Default: `auto`.
    pub reference: ColumnChoice,
    /// Names the row in the output and seeds its randomness: string or integer. Default: `auto`; `none`: the reference as
    /// written, or the SHA-256 of inline bytes.
    pub key: ColumnChoice,
    /// The clean image, of the same kinds as the reference. Default: `none`.
    pub target: ColumnChoice,
    /// The task of each row, a string. Default: `none`.
    pub task: ColumnChoice,
}

impl Default for ColumnsConfig {
    fn default() -> Self {
        Self {
            reference: ColumnChoice::Auto,
            key: ColumnChoice::Auto,
            target: ColumnChoice::None,
            task: ColumnChoice::None,
        }
    }
}

/// `source.folder`: a tree of image files, local or in an object store. Its list is frozen at the first start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// Folder or URL (`s3://`, `gs://`, `az://`). A row's key is the path below it. Required.
    pub path: String,
    /// Globs of paths below the folder, case-insensitive; `**` is any number of folders. Default: the usual extensions of the
    /// formats that `load` reads.
    #[serde(default = "include")]
    pub include: Vec<String>,
    /// Globs of files, or of folders with all they hold, that are left out; case-insensitive. Default: names that begin with
    /// a dot, and the thumbnails that Synology disks keep.
    #[serde(default = "exclude")]
    pub exclude: Vec<String>,
    /// Files in each partition, the unit of work of a shard. The plan fixes it at the first start. Default: 20000.
    #[serde(default = "rows_per_partition")]
    pub rows_per_partition: NonZeroU64,
}

fn rows_per_partition() -> NonZeroU64 {
    const { NonZeroU64::new(20_000).unwrap() }
}

fn include() -> Vec<String> {
    vec!["**/*.{jpg,jpeg,png,webp,gif,bmp,tif,tiff}".into()]
}

fn exclude() -> Vec<String> {
    vec!["**/.*".into(), "**/@eaDir/**".into()]
}

impl SourceConfig {
    /// Files in each partition of a new plan.
    pub fn rows_per_partition(&self) -> NonZeroU64 {
        match self {
            Self::Parquet(config) => config.rows_per_partition,
            Self::Folder(config) => config.rows_per_partition,
            // A topic has partitions of its own.
            Self::Kafka(_) => rows_per_partition(),
        }
    }

    /// True if the source names a clean image beside each reference.
    pub fn has_target(&self) -> bool {
        match self {
            Self::Parquet(config) => config.columns.target != ColumnChoice::None,
            Self::Folder(_) | Self::Kafka(_) => false,
        }
    }

    /// True if records may name their task.
    pub fn has_task(&self) -> bool {
        match self {
            Self::Parquet(config) => config.columns.task != ColumnChoice::None,
            Self::Folder(_) => false,
            Self::Kafka(config) => matches!(config.message, MessageFormat::Auto | MessageFormat::Json(_)),
        }
    }

    /// What of this section makes a row, for the content hash: the columns, `keep` and `where`. (Paths are the plan's source
    /// identity; a folder's globs only make its frozen list.)
    pub fn content(&self) -> serde_json::Value {
        match self {
            Self::Parquet(config) => serde_json::json!({
                "parquet": { "columns": config.columns, "keep": config.keep, "where": config.filter }
            }),
            Self::Folder(_) => serde_json::json!({ "folder": {} }),
            Self::Kafka(config) => serde_json::json!({ "kafka": { "message": config.message } }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<SourceConfig, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_every_key() {
        let config = parse(
            "parquet:\n  path: [a.parquet, 's3://b/*.parquet']\n  columns: { reference: url, key: none, task: t }\n  keep: ['*']\n  \
             where: { status: [failed, null], n: 3, x: 0.5, ok: true, gone: null, word: 'no', big: 18446744073709551615 }\n  rows_per_partition: 7\n",
        )
        .unwrap();
        let SourceConfig::Parquet(config) = &config else { panic!("{config:?}") };
        assert_eq!(config.path.0, ["a.parquet", "s3://b/*.parquet"]);
        assert_eq!(config.columns.reference, ColumnChoice::Named("url".into()));
        assert_eq!(config.columns.key, ColumnChoice::None);
        assert_eq!(config.columns.target, ColumnChoice::None);
        assert_eq!(config.columns.task, ColumnChoice::Named("t".into()));
        assert_eq!(config.keep, ["*"]);
        assert_eq!(config.filter["status"].0, [Scalar::Text("failed".into()), Scalar::Null]);
        assert_eq!(config.filter["n"].0, [Scalar::Integer(3)]);
        assert_eq!(config.filter["x"].0, [Scalar::Float(0.5)]);
        assert_eq!(config.filter["ok"].0, [Scalar::Bool(true)]);
        assert_eq!(config.filter["gone"].0, [Scalar::Null]);
        assert_eq!(config.filter["word"].0, [Scalar::Text("no".into())]);
        assert_eq!(config.filter["big"].0, [Scalar::Integer(u64::MAX.into())]);
        assert_eq!(config.rows_per_partition.get(), 7);
    }

    #[test]
    fn goes_through_json() {
        for yaml in [
            "parquet: { path: refs.parquet, where: { a: [1, 2.5, x, null, true], b: y } }",
            "folder: { path: photos }",
            "folder: { path: photos, include: ['*.png'], exclude: [], rows_per_partition: 3 }",
        ] {
            let config = parse(yaml).unwrap();
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<SourceConfig>(&json).unwrap(), config, "{json}");
        }
    }

    #[test]
    fn refuses_with_a_place() {
        for (yaml, said) in [
            ("parquet: { path: [] }", "a text, or a list of them"),
            ("parquet: {}", "path"),
            ("parquet: { path: a, kep: [b] }", "kep"),
            ("parquet: { path: a, columns: { keys: b } }", "keys"),
            ("parquet: { path: a, rows_per_partition: 0 }", "nonzero"),
            ("parquet: { path: a, where: { b: { c: 1 } } }", "a string, number, boolean or null"),
            ("parquet: { path: a, where: { b: [] } }", "a string, number, boolean or null"),
            ("folder: { path: [a, b] }", "string"),
            ("csv: { path: a }", "csv"),
        ] {
            let message = parse(yaml).unwrap_err();
            assert!(message.contains(said), "{yaml}: {message}");
            assert!(message.contains("line 1"), "{yaml}: {message}");
        }
    }

    #[test]
    fn only_what_makes_a_row_is_content() {
        let config = parse("parquet: { path: a, keep: [b], where: { c: 1 }, rows_per_partition: 3 }").unwrap();
        let columns = serde_json::json!({ "reference": "auto", "key": "auto", "target": "none", "task": "none" });
        assert_eq!(
            config.content(),
            serde_json::json!({ "parquet": { "columns": columns, "keep": ["b"], "where": { "c": 1 } } })
        );
    }
}
