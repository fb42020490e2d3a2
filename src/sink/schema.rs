//! The dataset's columns: one list (what every dataset has and what a run adds to it) from which the Arrow schema, the features that Hugging
//! Face `datasets` reads, the schema hash and `schemas/results.json` are all made.
//!
//! (long because every column is described in it) Types are those that `datasets`, Spark and Iceberg share: no unsigned numbers, no maps, no dictionaries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::sample::{FailureClass, FailureCode};

/// The metadata key, of schema and footer, in which `datasets` looks for its features.
pub const HUGGINGFACE: &str = "huggingface";

/// An image column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageColumn {
    /// Degraded, or as it came.
    Input,
    /// Clean.
    Target,
    /// Restored.
    Output,
    /// What the autoencoder alone makes of the input.
    Baseline,
}

impl ImageColumn {
    /// All, in the schema's order.
    pub const ALL: &[Self] = &[Self::Input, Self::Target, Self::Output, Self::Baseline];

    /// The column's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Target => "target",
            Self::Output => "output",
            Self::Baseline => "baseline",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Input => "the image: degraded if the pipeline degrades, else as loaded, or as it came without load",
            Self::Target => "the clean image that the others are scored against",
            Self::Output => "what the restorer made of input",
            Self::Baseline => "what the restorer's autoencoder alone made of input",
        }
    }
}

/// What a run makes of each row, from which the schema follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    /// Image columns, in the order of [`ImageColumn::ALL`].
    pub images: Vec<ImageColumn>,
    /// True if the source is Kafka: then there are columns that say which message a row is of.
    pub messages: bool,
    /// True if the pipeline restores: then there are columns that say by what.
    pub restores: bool,
    /// Score columns, full names such as `input_psnr_lm4lv`: for each image in turn, in the order of the pipeline's `score` list.
    pub scores: Vec<Arc<str>>,
    /// Kept input columns, as the source reads them.
    pub kept: Fields,
    /// The steps whose milliseconds are recorded, as in `Sample::timings`; the column is `<step>_ms`.
    pub timings: Vec<&'static str>,
    /// The seed of the run's randomness; `None` where nothing draws.
    pub seed: Option<u64>,
    /// Rows for each input position, at least 1.
    pub variants: u16,
}

/// A column's type, in the words of `schemas/results.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Int32,
    Int64,
    Float32,
    Float64,
    Bytes,
    Image,
    Ops,
    Timestamp,
    Headers,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Bytes => "binary",
            Self::Image => "struct<bytes: binary, path: string>",
            Self::Ops => "list<struct<step: string, op: string, version: int32, params: string>>",
            Self::Timestamp => "timestamp[us, UTC]",
            Self::Headers => "list<struct<key: string, value: binary>>",
        }
    }

    pub(crate) fn arrow(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Bytes => DataType::Binary,
            Self::Image => DataType::Struct(image_fields()),
            Self::Ops => DataType::List(Arc::new(Field::new("item", DataType::Struct(op_fields()), true))),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Headers => DataType::List(Arc::new(Field::new("item", DataType::Struct(header_fields()), true))),
        }
    }
}

/// The fields of an image.
pub(crate) fn image_fields() -> Fields {
    Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)])
}

/// The fields of one element of `ops`.
pub(crate) fn op_fields() -> Fields {
    Fields::from(vec![
        Field::new("step", DataType::Utf8, true),
        Field::new("op", DataType::Utf8, true),
        Field::new("version", DataType::Int32, true),
        Field::new("params", DataType::Utf8, true),
    ])
}

/// The fields of one element of `headers`.
pub(crate) fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)])
}

/// A column as `schemas/results.json` describes it.
#[derive(Debug, Clone, Copy)]
struct Own {
    name: &'static str,
    kind: Kind,
    unit: Option<&'static str>,
    null_when: &'static str,
    volatile: bool,
    what: &'static str,
}

const fn own(name: &'static str, kind: Kind, null_when: &'static str, what: &'static str) -> Own {
    Own { name, kind, unit: None, null_when, volatile: false, what }
}

impl Own {
    const fn in_unit(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    const fn volatile(self) -> Self {
        Self { volatile: true, ..self }
    }
}

/// Columns before the images.
const HEAD: &[Own] = &[
    own("key", Kind::Text, "never", "names the record and seeds its randomness; may repeat"),
    own("variant", Kind::Int32, "never", "which of the position's rows this is, from 0"),
    own(
        "url",
        Kind::Text,
        "the reference is null, or inline bytes without a path",
        "the reference as given, of whatever kind; the start and a hash of one that is too long to be fetched",
    ),
    own("status", Kind::Text, "never", "success or failed"),
    own("error_code", Kind::Text, "status is success", "why the row failed: one of failure_codes"),
    own("error_message", Kind::Text, "status is success", "the same for people, with the thing at fault"),
    own("raw", Kind::Bytes, "the record could be read", "the bytes of an unreadable message"),
    own("width", Kind::Int32, "failed, or nothing was decoded", "of input").in_unit("px"),
    own("height", Kind::Int32, "failed, or nothing was decoded", "of input").in_unit("px"),
    own(
        "original_width",
        Kind::Int32,
        "nothing was decoded",
        "of the source file, EXIF orientation applied, before resize and crop",
    )
    .in_unit("px"),
    own(
        "original_height",
        Kind::Int32,
        "nothing was decoded",
        "of the source file, EXIF orientation applied, before resize and crop",
    )
    .in_unit("px"),
    own("sha256", Kind::Text, "nothing was loaded", "SHA-256 of the source file's bytes, hex"),
];

/// Columns between the images and the scores.
const MIDDLE: &[Own] = &[
    own("partition", Kind::Text, "never", "the input partition; (partition, offset, variant) is unique"),
    own("offset", Kind::Int64, "never", "the position in the partition, from 0"),
    own("source_file", Kind::Text, "the source has no files", "the input file, as the plan names it"),
    own("source_row", Kind::Int64, "the source has no files", "the row in that file, from 0"),
    own("seed", Kind::Int64, "nothing draws", "the seed of the run's randomness"),
    own(
        "ops",
        Kind::Ops,
        "never (empty where nothing was done)",
        "every operation applied to input, in order, resize and crop first; params is a JSON object",
    ),
];

/// Columns behind those, where the source is Kafka.
const MESSAGES: &[Own] = &[
    own("topic", Kind::Text, NO_MESSAGE, "the message's topic"),
    own("topic_partition", Kind::Int32, NO_MESSAGE, "the number of its partition; `offset` is its offset there"),
    own("timestamp", Kind::Timestamp, "the topic keeps no timestamps", "the message's own, or when the broker took it"),
    own("kafka_key", Kind::Bytes, "the message has no key", "the message's key"),
    own("headers", Kind::Headers, NO_MESSAGE, "the message's headers, in order"),
];
const NO_MESSAGE: &str = "never, where the source is Kafka";

/// Columns behind those, where the pipeline restores.
const RESTORED: &[Own] = &[
    own("model", Kind::Text, NOT_RESTORED, "the restorer's name, from its model folder"),
    own(
        "weights_sha256",
        Kind::Text,
        "the image was not restored, or the restorer has no weights",
        "SHA-256 over the hashes of the model's files, hex",
    ),
    own(
        "task",
        Kind::Text,
        "the image was not restored, or the restorer has no tasks",
        "which of the model's tasks restored it: the record's own, else the pipeline file's",
    ),
    own(
        "decoder",
        Kind::Text,
        "the image was not restored, or nothing is generated",
        "how tokens were generated: parallel or autoregressive",
    ),
    own(
        "passes",
        Kind::Int32,
        "the image was not restored, or the restorer has no language model",
        "of the language model over the image; of an image in tiles the most that one of them took",
    ),
    own("device", Kind::Text, NOT_RESTORED, "where the restorer computed"),
    own("dtype", Kind::Text, NOT_RESTORED, "the type that it computed in: f32 or bf16"),
];
const NOT_RESTORED: &str = "the image was not restored";

/// Columns behind the timings.
const TAIL: &[Own] = &[
    own("attempts", Kind::Int32, "never", "tries of the fetch").volatile(),
    own("run", Kind::Text, "never", "which run wrote the row").volatile(),
    own("writer", Kind::Text, "never", "which process wrote the row").volatile(),
];

fn all_own() -> impl Iterator<Item = &'static Own> {
    HEAD.iter().chain(MIDDLE).chain(TAIL)
}

impl Columns {
    /// True if `name` is a column that every dataset has, or an image column, so that no kept input column can have it.
    pub fn is_own(name: &str) -> bool {
        all_own().any(|own| own.name == name) || matches!(name, "input" | "target")
    }

    /// The same for a dataset of a pipeline that restores, which has more columns.
    pub fn is_own_restored(name: &str) -> bool {
        Self::is_own(name) || RESTORED.iter().any(|own| own.name == name) || matches!(name, "output" | "baseline")
    }

    /// Of these two the one for a pipeline that does or does not restore.
    pub fn reserved(restores: bool) -> fn(&str) -> bool {
        if restores { Self::is_own_restored } else { Self::is_own }
    }

    /// `Error::Config` names a kept column whose name or type the output cannot have, or a seed out of range.
    pub fn check(&self) -> Result<()> {
        let mut names = BTreeMap::new();
        let reserved = Self::reserved(self.restores);
        for field in &self.kept {
            let name = field.name();
            let of_message = self.messages && MESSAGES.iter().any(|own| own.name == name);
            if reserved(name) || of_message || self.scores.iter().any(|score| **score == **name) || self.is_timing(name)
            {
                return Err(Error::Config(format!(
                    "source.keep: the output has a column `{name}` of its own: leave it out, or rename it in the input"
                )));
            }
            if names.insert(name.to_lowercase(), name).is_some() {
                return Err(Error::Config(format!(
                    "source.keep: two columns are called `{name}` but for upper and lower case, which DuckDB and Spark refuse"
                )));
            }
            if feature(&written_type(field.data_type())).is_none() {
                return Err(Error::Config(format!(
                    "source.keep: column `{name}` is of type {}, which Hugging Face datasets cannot read: leave it out",
                    field.data_type()
                )));
            }
        }
        if self.seed.is_some_and(|seed| i64::try_from(seed).is_err()) {
            return Err(Error::Config(format!("degrade.seed: must be at most {}, to fit its column", i64::MAX)));
        }
        Ok(())
    }

    fn is_timing(&self, name: &str) -> bool {
        name.strip_suffix("_ms").is_some_and(|step| self.timings.contains(&step))
    }

    /// Name and kind of every column of our own, and where the kept ones go (`Err`).
    pub(crate) fn layout(&self) -> Vec<(String, Result<Kind, Arc<Field>>)> {
        let fixed = |own: &Own| (own.name.to_owned(), Ok(own.kind));
        let mut layout: Vec<(String, Result<Kind, Arc<Field>>)> = HEAD.iter().map(fixed).collect();
        layout.extend(self.images.iter().map(|image| (image.name().to_owned(), Ok(Kind::Image))));
        layout.extend(MIDDLE.iter().map(fixed));
        layout.extend(MESSAGES.iter().filter(|_| self.messages).map(fixed));
        layout.extend(RESTORED.iter().filter(|_| self.restores).map(fixed));
        layout.extend(self.scores.iter().map(|score| (score.to_string(), Ok(Kind::Float64))));
        layout.extend(self.kept.iter().map(|field| (field.name().clone(), Err(Arc::clone(field)))));
        layout.extend(self.timings.iter().map(|step| (format!("{step}_ms"), Ok(Kind::Float32))));
        layout.extend(TAIL.iter().map(fixed));
        layout
    }

    /// The Arrow schema, every field nullable, with the features for `datasets` in its metadata.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<Field> = self
            .layout()
            .into_iter()
            .map(|(name, kind)| match kind {
                Ok(kind) => Field::new(name, kind.arrow(), true),
                Err(kept) => Field::new(name, written_type(kept.data_type()), true),
            })
            .collect();
        let metadata = HashMap::from([(HUGGINGFACE.to_owned(), self.features(&fields))]);
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    /// The JSON by which `datasets` knows the columns, images among them.
    fn features(&self, fields: &[Field]) -> String {
        let is_image = |name: &str| self.images.iter().any(|image| image.name() == name);
        let features: serde_json::Map<String, Value> = fields
            .iter()
            .filter_map(|field| {
                let name = field.name().clone();
                let feature = if is_image(&name) { json!({ "_type": "Image" }) } else { feature(field.data_type())? };
                Some((name, feature))
            })
            .collect();
        json!({ "info": { "features": features } }).to_string()
    }

    /// BLAKE3 of names, types and order of all columns, hex: two runs with the same hash can share a dataset.
    pub fn hash(&self) -> String {
        let schema = self.schema();
        let described: Vec<Value> =
            schema.fields().iter().map(|field| json!([field.name(), field.data_type().to_string()])).collect();
        blake3::hash(Value::Array(described).to_string().as_bytes()).to_hex().to_string()
    }
}

/// The type that a kept column of type `read` is written as: views and dictionaries become what they stand for.
pub(crate) fn written_type(read: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Arc::new(Field::new(field.name(), written_type(field.data_type()), true));
    match read {
        DataType::Dictionary(_, value) => written_type(value),
        DataType::RunEndEncoded(_, values) => written_type(values.data_type()),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(field) | DataType::ListView(field) => DataType::List(inner(field)),
        DataType::LargeList(field) | DataType::LargeListView(field) => DataType::LargeList(inner(field)),
        DataType::FixedSizeList(field, n) => DataType::FixedSizeList(inner(field), *n),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

/// The feature of `datasets` for an Arrow type; `None` where it has none.
fn feature(data_type: &DataType) -> Option<Value> {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    };
    let dtype = match data_type {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int8 => "int8".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Float16 => "float16".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Utf8 => "string".to_owned(),
        DataType::LargeUtf8 => "large_string".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::Date32 => "date32".to_owned(),
        DataType::Date64 => "date64".to_owned(),
        DataType::Time32(u) => format!("time32[{}]", unit(u)),
        DataType::Time64(u) => format!("time64[{}]", unit(u)),
        DataType::Duration(u) => format!("duration[{}]", unit(u)),
        DataType::Timestamp(u, None) => format!("timestamp[{}]", unit(u)),
        DataType::Timestamp(u, Some(zone)) => format!("timestamp[{}, tz={zone}]", unit(u)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        DataType::List(field) => return Some(json!({ "feature": feature(field.data_type())?, "_type": "List" })),
        DataType::LargeList(field) => {
            return Some(json!({ "feature": feature(field.data_type())?, "_type": "LargeList" }));
        }
        DataType::FixedSizeList(field, n) => {
            return Some(json!({ "feature": feature(field.data_type())?, "length": n, "_type": "List" }));
        }
        DataType::Struct(fields) => {
            let fields: Option<serde_json::Map<_, _>> =
                fields.iter().map(|field| Some((field.name().clone(), feature(field.data_type())?))).collect();
            return Some(Value::Object(fields?));
        }
        _ => return None,
    };
    Some(json!({ "dtype": dtype, "_type": "Value" }))
}

/// The content of `schemas/results.json`: every column a dataset can have, and every failure code.
pub fn results_schema() -> Value {
    let entry = |own: &Own| {
        json!({
            "name": own.name,
            "type": own.kind.name(),
            "unit": own.unit,
            "null_when": own.null_when,
            "volatile": own.volatile,
            "description": own.what,
        })
    };
    let mut columns: Vec<Value> = HEAD.iter().map(entry).collect();
    for image in ImageColumn::ALL {
        let null_when = "failed; the column is absent where nothing makes the image, or sink.images leaves it out";
        columns.push(entry(&own(image.name(), Kind::Image, null_when, image.describe())));
    }
    columns.extend(MIDDLE.iter().map(entry));
    columns.extend(MESSAGES.iter().map(entry));
    columns.extend(RESTORED.iter().map(entry));
    let score = |name: &str, unit: &str, what: &str| {
        json!({
            "name": name,
            "type": Kind::Float64.name(),
            "unit": unit,
            "null_when": "failed, or too small an image for the score, or input and target differ in size",
            "volatile": false,
            "description": what,
        })
    };
    for image in ["input", "output", "baseline"] {
        let resized = if image == "input" { "" } else { " (resized like it where the restorer resizes)" };
        for (metric, unit) in [("psnr", "dB"), ("ssim", "1")] {
            let what =
                format!("{} of {image} against target{resized}, 8-bit pixels before encoding", metric.to_uppercase());
            columns.push(score(&format!("{image}_{metric}_<profile>"), unit, &what));
        }
    }
    columns.push(json!({
        "name": "<kept input column>",
        "type": "as in the input (views and dictionaries as what they stand for)",
        "unit": null,
        "null_when": "null in the input",
        "volatile": false,
        "description": "a column of source.keep, under its own name",
    }));
    let timing = own("<step>_ms", Kind::Float32, "the step was not reached", "time spent in a step").in_unit("ms");
    columns.push(entry(&timing.volatile()));
    columns.extend(TAIL.iter().map(entry));
    let codes: Vec<Value> = FailureCode::ALL
        .iter()
        .map(|code| {
            json!({
                "code": code.as_str(),
                "class": code.class(),
                "retry": code.class() != FailureClass::Permanent,
                "meaning": code.describe(),
            })
        })
        .collect();
    json!({
        "format": 1,
        "same_row": "two rows are the same if all their columns but the volatile ones are equal",
        "columns": columns,
        "failure_codes": codes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        Columns {
            images: ImageColumn::ALL.to_vec(),
            messages: false,
            restores: false,
            scores: vec!["input_psnr_lm4lv".into()],
            kept: Fields::from(vec![Field::new("caption", DataType::Utf8View, false)]),
            timings: vec!["fetch", "encode"],
            seed: Some(7),
            variants: 2,
        }
    }

    #[test]
    fn every_column_is_described_to_datasets() {
        let schema = columns().schema();
        let features: Value = serde_json::from_str(&schema.metadata()[HUGGINGFACE]).unwrap();
        let features = features["info"]["features"].as_object().unwrap();
        let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, features.keys().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(features["input"], json!({ "_type": "Image" }));
        assert_eq!(features["ops"]["feature"]["version"]["dtype"], "int32");
        assert_eq!(features["caption"]["dtype"], "string");
    }

    #[test]
    fn kept_columns_that_cannot_be_written_are_refused_by_name() {
        let map = DataType::Map(Arc::new(Field::new("entries", DataType::Struct(op_fields()), false)), false);
        for (name, data_type) in [("url", DataType::Utf8), ("encode_ms", DataType::Utf8), ("tags", map)] {
            let kept = Fields::from(vec![Field::new(name, data_type, true)]);
            let error = Columns { kept, ..columns() }.check().unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
        assert!(columns().check().is_ok());
        assert!(Columns { seed: Some(u64::MAX), ..columns() }.check().is_err());
    }

    #[test]
    fn the_hash_knows_names_types_and_order() {
        let hash = columns().hash();
        assert_eq!(hash, columns().hash());
        assert_ne!(hash, Columns { scores: vec![], ..columns() }.hash());
        assert_eq!(hash, Columns { seed: None, variants: 1, ..columns() }.hash(), "values are not the schema");
    }

    /// `lm4lv schema results > schemas/results.json` writes the file anew.
    #[test]
    fn the_committed_schema_is_the_code_s() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/results.json");
        let committed: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(committed, results_schema(), "schemas/results.json is out of date: lm4lv schema results writes it");
    }
}
