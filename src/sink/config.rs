//! The pipeline file's `sink` section. (long because every key explains itself)

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::schema::ImageColumn;
use crate::error::{Error, Result};
use crate::store::Folder;

/// Where the rows go and in what shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// The dataset's folder: a path, or an `s3://`, `gs://` or `az://` URL. Required.
    pub dir: String,
    /// The image columns to write. Default `auto`: those the pipeline makes.
    #[serde(default)]
    pub images: Images,
    /// The file format of image columns. Default `png: { level: 1 }`.
    #[serde(default)]
    pub encoding: Encoding,
    /// Another format for one image column, by its name. `original` keeps the source's own bytes where nothing resized,
    /// cropped, turned or degraded the image, and is PNG elsewhere. Default: none.
    #[serde(default)]
    pub encoding_of: BTreeMap<ImageColumn, ColumnEncoding>,
    /// Name of the split in the dataset card. Default `train`.
    #[serde(default = "defaults::split")]
    pub split: String,
    /// Rows after which a part is closed (cut between input positions, so variants may carry it over). Default 5000.
    #[serde(default = "defaults::rows_per_part")]
    pub rows_per_part: u64,
    /// MiB after which a part is closed; also what uploads may hold in memory together. Default 128.
    #[serde(default = "defaults::max_part_mib")]
    pub max_part_mib: u64,
    /// Seconds after its first row at which a part is closed. Default 300.
    #[serde(default = "defaults::max_age_s")]
    pub max_age_s: u64,
    /// MiB after which a row group is closed and leaves memory. Default 48.
    #[serde(default = "defaults::row_group_mib")]
    pub row_group_mib: u64,
    /// Local folder for parts that are not published yet. Default `auto`: below the dataset's `.lm4lv/scratch` where that is
    /// local, else the system's temporary folder.
    #[serde(default = "defaults::scratch")]
    pub scratch: String,
}

/// The values of absent keys; serde wants them as functions.
mod defaults {
    pub(super) fn split() -> String {
        "train".to_owned()
    }
    pub(super) fn rows_per_part() -> u64 {
        5000
    }
    pub(super) fn max_part_mib() -> u64 {
        128
    }
    pub(super) fn max_age_s() -> u64 {
        300
    }
    pub(super) fn row_group_mib() -> u64 {
        48
    }
    pub(super) fn scratch() -> String {
        "auto".to_owned()
    }
}

/// Which image columns are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Images {
    /// Those that the pipeline makes.
    #[default]
    Auto,
    /// These, in the schema's order.
    Only(Vec<ImageColumn>),
}

impl Serialize for Images {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Only(columns) => columns.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Images {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrList;
        impl<'de> Visitor<'de> for AutoOrList {
            type Value = Images;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto` or a list of `input`, `target`, `output`, `baseline`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Images, E> {
                match text {
                    "auto" => Ok(Images::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Images, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Images::Only)
            }
        }
        deserializer.deserialize_any(AutoOrList)
    }
}

impl JsonSchema for Images {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Images".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let column = generator.subschema_for::<ImageColumn>();
        json_schema!({
            "description": "`auto` (those that the pipeline makes) or a list of image columns",
            "oneOf": [{ "const": "auto" }, { "type": "array", "items": column, "uniqueItems": true }]
        })
    }
}

/// The file format of an image column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// PNG, lossless.
    Png(PngConfig),
    /// Baseline JPEG, lossy.
    Jpeg(JpegConfig),
    /// WebP, lossless.
    Webp(WebpConfig),
}

impl Default for Encoding {
    fn default() -> Self {
        Self::Png(PngConfig::default())
    }
}

/// The file format of one image column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnEncoding {
    /// The source's bytes where the image is still the source's, else PNG.
    Original,
    /// PNG, lossless.
    Png(PngConfig),
    /// Baseline JPEG, lossy.
    Jpeg(JpegConfig),
    /// WebP, lossless.
    Webp(WebpConfig),
}

impl From<Encoding> for ColumnEncoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Png(config) => Self::Png(config),
            Encoding::Jpeg(config) => Self::Jpeg(config),
            Encoding::Webp(config) => Self::Webp(config),
        }
    }
}

/// PNG's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PngConfig {
    /// 0 (stored, largest) to 9 (smallest, slowest); the pixels are the same. Default 1.
    #[schemars(range(min = 0, max = 9))]
    pub level: u8,
}

impl Default for PngConfig {
    fn default() -> Self {
        Self { level: 1 }
    }
}

/// JPEG's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JpegConfig {
    /// 1 to 100, libjpeg's scale. Default 95.
    #[schemars(range(min = 1, max = 100))]
    pub quality: u8,
    /// How coarse colour is kept. Default `4:4:4`: as fine as brightness.
    pub subsampling: Subsampling,
}

impl Default for JpegConfig {
    fn default() -> Self {
        Self { quality: 95, subsampling: Subsampling::Full }
    }
}

/// JPEG's chroma subsampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Subsampling {
    /// None.
    #[serde(rename = "4:4:4")]
    Full,
    /// Half across.
    #[serde(rename = "4:2:2")]
    Across,
    /// Half across and half down.
    #[serde(rename = "4:2:0")]
    Both,
}

/// Lossless WebP has no options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebpConfig {}

impl SinkConfig {
    /// A sink in `dir` with every other key's default.
    pub fn new(dir: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            images: Images::Auto,
            encoding: Encoding::default(),
            encoding_of: BTreeMap::new(),
            split: defaults::split(),
            rows_per_part: defaults::rows_per_part(),
            max_part_mib: defaults::max_part_mib(),
            max_age_s: defaults::max_age_s(),
            row_group_mib: defaults::row_group_mib(),
            scratch: defaults::scratch(),
        }
    }

    /// Looks for values that cannot be meant; `Error::Config` names the key.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, why: String| Err(Error::Config(format!("sink.{key}: {why}")));
        if self.dir.trim().is_empty() {
            return wrong("dir", "is empty: name a folder or an s3://, gs:// or az:// URL".into());
        }
        if let Images::Only(columns) = &self.images
            && let Some(twice) = columns.iter().enumerate().find(|(i, c)| columns[..*i].contains(c))
        {
            return wrong("images", format!("`{}` is named twice", twice.1.name()));
        }
        check_encoding("encoding", self.encoding.into())?;
        for (column, encoding) in &self.encoding_of {
            check_encoding(&format!("encoding_of.{}", column.name()), *encoding)?;
        }
        let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !self.split.split('.').all(word) {
            return wrong(
                "split",
                format!("`{}` is not a split's name: letters, digits, `_` and single dots", self.split),
            );
        }
        for (key, value, most) in [
            ("rows_per_part", self.rows_per_part, 100_000_000),
            ("max_part_mib", self.max_part_mib, 4096),
            ("max_age_s", self.max_age_s, 31_536_000),
            ("row_group_mib", self.row_group_mib, 1024),
        ] {
            if value == 0 || value > most {
                return wrong(key, format!("is {value}, must be from 1 to {most}"));
            }
        }
        if self.scratch.is_empty() {
            return wrong("scratch", "is empty: name a local folder, or auto".into());
        }
        if self.scratch.contains("://") {
            return wrong("scratch", format!("`{}` is not a local folder", self.scratch));
        }
        Ok(())
    }

    /// The image columns of a run that makes `made`, in the schema's order. `Error::Config` if one is asked for that the
    /// run does not make, or `encoding_of` names one that is not written.
    pub fn image_columns(&self, made: &[ImageColumn]) -> Result<Vec<ImageColumn>> {
        let columns: Vec<_> = match &self.images {
            Images::Auto => ImageColumn::ALL.iter().copied().filter(|c| made.contains(c)).collect(),
            Images::Only(wanted) => {
                if let Some(column) = wanted.iter().find(|c| !made.contains(c)) {
                    return Err(Error::Config(format!("sink.images: this pipeline makes no `{}`", column.name())));
                }
                ImageColumn::ALL.iter().copied().filter(|c| wanted.contains(c)).collect()
            }
        };
        match self.encoding_of.keys().find(|column| !columns.contains(column)) {
            Some(column) => {
                Err(Error::Config(format!("sink.encoding_of: `{}` is not among the images written", column.name())))
            }
            None => Ok(columns),
        }
    }

    /// The format of `column`.
    pub fn encoding_of(&self, column: ImageColumn) -> ColumnEncoding {
        self.encoding_of.get(&column).copied().unwrap_or(self.encoding.into())
    }

    /// The folder below which open parts are kept.
    pub fn scratch_root(&self, dataset: &Folder) -> PathBuf {
        match (self.scratch.as_str(), dataset) {
            ("auto", Folder::Local(root)) => root.join(".lm4lv").join("scratch"),
            ("auto", Folder::Remote { .. }) => std::env::temp_dir(),
            (path, _) => PathBuf::from(path),
        }
    }
}

fn check_encoding(key: &str, encoding: ColumnEncoding) -> Result<()> {
    match encoding {
        ColumnEncoding::Png(PngConfig { level }) if level > 9 => {
            Err(Error::Config(format!("sink.{key}.png.level: is {level}, must be from 0 to 9")))
        }
        ColumnEncoding::Jpeg(JpegConfig { quality, .. }) if !(1..=100).contains(&quality) => {
            Err(Error::Config(format!("sink.{key}.jpeg.quality: is {quality}, must be from 1 to 100")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<SinkConfig, String> {
        serde_saphyr::from_str(yaml).map_err(|e| e.to_string())
    }

    #[test]
    fn every_key_parses_and_survives_json() {
        let yaml = "dir: out\nimages: [target, input]\nencoding: { jpeg: { quality: 90, subsampling: \"4:2:0\" } }\n\
                    encoding_of: { target: original, input: { webp: {} } }\nsplit: validation\nrows_per_part: 7\n\
                    max_part_mib: 8\nmax_age_s: 9\nrow_group_mib: 10\nscratch: tmp\n";
        let config = parse(yaml).unwrap();
        config.check().unwrap();
        assert_eq!(config.encoding_of(ImageColumn::Target), ColumnEncoding::Original);
        let both = [ImageColumn::Input, ImageColumn::Target];
        assert_eq!(config.image_columns(&both).unwrap(), both);
        assert!(config.image_columns(&both[..1]).is_err());
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<SinkConfig>(&json).unwrap(), config);
        assert_eq!(parse("dir: out").unwrap(), SinkConfig::new("out"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_key() {
        for (yaml, word) in [
            ("dir: out\nrow_per_part: 5", "row_per_part"),
            ("dir: out\nimages: all", "auto"),
            ("dir: out\nimages: [outputs]", "outputs"),
            ("dir: out\nencoding: { gif: {} }", "gif"),
            ("dir: out\nencoding: { jpeg: { quality: 95, subsampling: \"4:1:1\" } }", "4:1:1"),
        ] {
            let error = parse(yaml).unwrap_err();
            assert!(error.contains(word) && error.contains("line"), "{yaml}: {error}");
        }
        for (yaml, word) in [
            ("dir: ''", "sink.dir"),
            ("dir: out\nimages: [input, input]", "twice"),
            ("dir: out\nencoding: { png: { level: 10 } }", "sink.encoding.png.level"),
            ("dir: out\nencoding_of: { input: { jpeg: { quality: 0 } } }", "sink.encoding_of.input.jpeg.quality"),
            ("dir: out\nmax_age_s: 0", "sink.max_age_s"),
            ("dir: out\nsplit: a-b", "sink.split"),
            ("dir: out\nscratch: s3://x", "sink.scratch"),
        ] {
            let error = parse(yaml).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(word), "{yaml}: {error}");
        }
    }
}
