//! The pipeline file's `load` section: what is read, how much of it, and what is done to its geometry.
//!
//! Values that may be secrets (`headers`) are never printed and serialise as `[redacted]`, so that a plan or a log that
//! holds the section cannot hold them.
//!
//! Long because each key is described here once, for the JSON schema and editors too; the section is one thing to read.
//!
//! (long because every key explains itself)

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::image::Size;
use crate::image::resize::Filter;
use crate::load::guard::Guard;

/// The pipeline file's `load` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoadConfig {
    /// Folder, or `s3://`, `gs://`, `az://` prefix, that relative references start at and local ones must stay below.
    /// `auto`: the Parquet file's folder, or the source folder's path.
    pub root: String,
    /// `none`, or `{ size: 224, mode: exact, filter: bicubic, only_shrink: false }`. Comes before `crop`.
    #[serde(deserialize_with = "none_or", serialize_with = "or_none")]
    #[schemars(schema_with = "resize_schema")]
    pub resize: Option<Resize>,
    /// `none`, `{ centre: { size: 224 } }` or `{ random: { size: 256, per: variant } }`.
    pub crop: Crop,
    /// What becomes of an embedded colour profile.
    pub icc: Icc,
    /// References fetched at once. More hides more latency and holds more memory. Default 64.
    #[schemars(range(min = 1))]
    pub concurrency: u32,
    /// Requests to one host (or bucket) at once; the files of a local root count as one host. Default 8.
    #[schemars(range(min = 1))]
    pub concurrency_per_host: u32,
    /// Tries after the first one, where another may help (no connection, cut bodies, 408, 429, 5xx). Default 4.
    pub retries: u32,
    /// Milliseconds before the first retry; doubles each time, with jitter. A server's `Retry-After` wins. Default 500.
    #[schemars(range(min = 1))]
    pub retry_base_ms: u64,
    /// Seconds that one reference may take, all tries together. Waiting for a free slot or for memory does not count.
    /// Default 60.
    #[schemars(range(min = 0.001))]
    pub deadline_s: f64,
    /// Redirects followed, each checked as the first address was. Default 5.
    pub redirects: u32,
    /// Request headers by URL prefix, the longest wins; looked up anew at each redirect and never forwarded:
    /// `{ "https://cdn.example/": { Authorization: "${TOKEN}" } }`.
    pub headers: Headers,
    /// `X-Robots-Tag` directives that make a page's image a failed row `opted_out`. Default `noai`, `noimageai`,
    /// `noindex`, `noimageindex`, as img2dataset; `[]` ignores the header.
    pub disallowed_header_directives: Vec<String>,
    /// Largest file in MiB, as encoded. Default 64.
    #[schemars(range(min = 1, max = 4096))]
    pub max_mib: u32,
    /// Largest image in million pixels, checked before anything is allocated for them. Default 100.
    #[schemars(range(min = 0.0))]
    pub max_mpx: f64,
    /// Largest ratio of the longer to the shorter side. Default 50.
    #[schemars(range(min = 1.0))]
    pub max_aspect: f64,
    /// Hosts, `*.suffixes`, addresses and networks that are open besides the public ones: `[images.svc, 10.0.0.0/8]`. A
    /// cloud's metadata address is opened only by naming that very address.
    pub allow: Vec<String>,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            root: "auto".to_owned(),
            resize: None,
            crop: Crop::None,
            icc: Icc::Keep,
            concurrency: 64,
            concurrency_per_host: 8,
            retries: 4,
            retry_base_ms: 500,
            deadline_s: 60.0,
            redirects: 5,
            headers: Headers::default(),
            disallowed_header_directives: ["noai", "noimageai", "noindex", "noimageindex"].map(str::to_owned).to_vec(),
            max_mib: 64,
            max_mpx: 100.0,
            max_aspect: 50.0,
            allow: Vec::new(),
        }
    }
}

impl LoadConfig {
    /// The keys that make a row, for the content hash: all but where files lie, who may be asked, how often and for how
    /// long.
    pub fn content(&self) -> serde_json::Value {
        // As this section's own keys and values: a plan's content is read back as a `LoadConfig`.
        serde_json::json!({
            "resize": self.resize.as_ref().map_or_else(|| "none".into(), |resize| serde_json::json!(resize)),
            "crop": self.crop,
            "icc": self.icc,
            "redirects": self.redirects,
            "disallowed_header_directives": self.disallowed_header_directives,
            "max_mib": self.max_mib,
            "max_mpx": self.max_mpx,
            "max_aspect": self.max_aspect,
        })
    }

    /// Checks what the types cannot say. `Error::Config` names the key.
    pub fn check(&self) -> Result<()> {
        let bad = |key: &str, why: &str| Err(Error::Config(format!("load.{key}: {why}")));
        if self.root.is_empty() {
            return bad("root", "is empty: name a folder, or `auto`");
        }
        if self.concurrency == 0 {
            return bad("concurrency", "must be at least 1");
        }
        if self.concurrency_per_host == 0 {
            return bad("concurrency_per_host", "must be at least 1");
        }
        if self.retry_base_ms == 0 {
            return bad("retry_base_ms", "must be at least 1");
        }
        if !(self.deadline_s > 0.0 && self.deadline_s <= 86_400.0) {
            return bad("deadline_s", "must be above 0 and at most 86400");
        }
        if !(1..=4096).contains(&self.max_mib) {
            return bad("max_mib", "must be from 1 to 4096");
        }
        if !(self.max_mpx > 0.0 && self.max_mpx <= 10_000.0) {
            return bad("max_mpx", "must be above 0 and at most 10000");
        }
        if !(self.max_aspect >= 1.0 && self.max_aspect.is_finite()) {
            return bad("max_aspect", "must be at least 1");
        }
        if let Some(resize) = &self.resize {
            resize.check()?;
        }
        self.crop.check()?;
        self.headers.check()?;
        Guard::new(&self.allow).map(drop)
    }

    /// Largest encoded file in bytes.
    pub(crate) fn max_bytes(&self) -> u64 {
        u64::from(self.max_mib) << 20
    }
}

/// Resizing: to what, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// A side in pixels, or `[width, height]` (mode `exact` only).
    pub size: Sides,
    /// What `size` means. Default `exact`.
    #[serde(default)]
    pub mode: ResizeMode,
    /// The resampling filter, as Pillow's of that name. Default `bicubic`.
    #[serde(default)]
    pub filter: Filter,
    /// True: an image that would grow in either direction keeps its size. Default false.
    #[serde(default)]
    pub only_shrink: bool,
}

impl Resize {
    fn check(&self) -> Result<()> {
        self.size.check("load.resize.size")?;
        if self.mode != ResizeMode::Exact && self.size.width != self.size.height {
            return Err(Error::Config("load.resize.size: give one number, or use mode: exact".to_owned()));
        }
        Ok(())
    }

    /// The size that an image of `from` gets; `None` where nothing is to be done.
    ///
    /// Side modes keep the aspect; the other side is rounded down but at least 1, as torchvision's `Resize` does.
    pub(crate) fn target(&self, from: Size) -> Option<Size> {
        let (short, long) = (from.width.min(from.height), from.width.max(from.height));
        let side = u64::from(self.size.width);
        let scaled = |other: u32, base: u32| {
            u32::try_from((side * u64::from(other) / u64::from(base)).max(1)).unwrap_or(u32::MAX)
        };
        let base = match self.mode {
            ResizeMode::Exact => 0,
            ResizeMode::ShortestSide => short,
            ResizeMode::LongestSide => long,
        };
        let to = if base == 0 {
            Size::new(self.size.width, self.size.height)
        } else if base == from.width {
            Size::new(self.size.width, scaled(from.height, base))
        } else {
            Size::new(scaled(from.width, base), self.size.width)
        };
        let grows = to.width > from.width || to.height > from.height;
        (to != from && !(self.only_shrink && grows)).then_some(to)
    }
}

/// What `load.resize.size` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The image gets that very size; one number is a square. The aspect may change.
    #[default]
    Exact,
    /// The shorter side gets that length, the aspect stays.
    ShortestSide,
    /// The longer side gets that length, the aspect stays.
    LongestSide,
}

/// Cropping, after resizing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// No crop.
    #[default]
    None,
    /// The middle of the image (rounded towards the upper left).
    Centre(CentreCrop),
    /// A place drawn from the run's seed and the record's key.
    Random(RandomCrop),
}

impl Crop {
    fn check(&self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Centre(crop) => crop.size.check("load.crop.centre.size"),
            Self::Random(crop) => crop.size.check("load.crop.random.size"),
        }
    }
}

/// The middle of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CentreCrop {
    /// Pixels: `224` or `[width, height]`. A smaller image is a failed row `too_small`.
    pub size: Sides,
}

/// A random part of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomCrop {
    /// Pixels: `256` or `[width, height]`. A smaller image is a failed row `too_small`.
    pub size: Sides,
    /// Whether each variant draws its own place. Default `variant`.
    #[serde(default)]
    pub per: Per,
}

/// How often a random crop is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Each variant has a place of its own.
    #[default]
    Variant,
    /// All variants of a record share one place.
    Record,
}

/// What becomes of an embedded colour profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Icc {
    /// Pixels stay as they are, the profile goes along into encoded images.
    #[default]
    Keep,
    /// Pixels are converted to sRGB. The one setting whose pixels may differ by a level between kinds of CPU.
    Srgb,
    /// Pixels stay as they are, the profile is forgotten.
    Drop,
}

/// Pixels across and down, written `224` (both) or `[320, 240]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl Sides {
    fn check(self, key: &str) -> Result<()> {
        let fits = |n: u32| (1..=65_535).contains(&n);
        if fits(self.width) && fits(self.height) {
            Ok(())
        } else {
            Err(Error::Config(format!("{key}: sides go from 1 to 65535 pixels")))
        }
    }
}

impl Serialize for Sides {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.width == self.height {
            self.width.serialize(serializer)
        } else {
            [self.width, self.height].serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Sides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SidesVisitor;
        impl<'de> Visitor<'de> for SidesVisitor {
            type Value = Sides;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of pixels, or [width, height]")
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Sides, E> {
                let n = u32::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))?;
                Ok(Sides { width: n, height: n })
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Sides, E> {
                let n = u64::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
                self.visit_u64(n)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sides, A::Error> {
                let sides = (seq.next_element()?, seq.next_element()?, seq.next_element::<u32>()?);
                let (Some(width), Some(height), None) = sides else {
                    return Err(de::Error::custom("expected two numbers: [width, height]"));
                };
                Ok(Sides { width, height })
            }
        }
        deserializer.deserialize_any(SidesVisitor)
    }
}

impl JsonSchema for Sides {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sides".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let side = serde_json::json!({ "type": "integer", "minimum": 1, "maximum": 65_535 });
        schemars::json_schema!({
            "description": "Pixels: one number for both sides, or [width, height].",
            "oneOf": [side, { "type": "array", "items": side, "minItems": 2, "maxItems": 2 }]
        })
    }
}

/// Request headers by URL prefix; the values are secret.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Headers(pub BTreeMap<String, BTreeMap<String, String>>);

impl Headers {
    fn check(&self) -> Result<()> {
        for (prefix, headers) in &self.0 {
            let url = url::Url::parse(prefix).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
            if url.is_none_or(|u| u.query().is_some() || u.fragment().is_some()) {
                let why = "write a prefix such as https://cdn.example/images/";
                return Err(Error::Config(format!("load.headers: `{prefix}` is no http or https URL: {why}")));
            }
            for (name, value) in headers {
                let bad_name = reqwest::header::HeaderName::try_from(name).is_err();
                if bad_name || reqwest::header::HeaderValue::try_from(value).is_err() {
                    let what = if bad_name { "name" } else { "value" };
                    return Err(Error::Config(format!("load.headers: `{prefix}`: `{name}`: not a header's {what}")));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Headers {
    /// Prefixes and header names, no values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(k, v)| (k, v.keys().collect::<Vec<_>>()))).finish()
    }
}

impl Serialize for Headers {
    /// With `[redacted]` for every value.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(prefix, headers)| {
            (prefix, headers.keys().map(|name| (name, "[redacted]")).collect::<BTreeMap<_, _>>())
        }))
    }
}

/// `none`, or a map.
fn none_or<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Resize>, D::Error> {
    struct NoneOr;
    impl<'de> Visitor<'de> for NoneOr {
        type Value = Option<Resize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("`none` or { size, mode, filter, only_shrink }")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            if word == "none" { Ok(None) } else { Err(E::invalid_value(de::Unexpected::Str(word), &self)) }
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Resize::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
    deserializer.deserialize_any(NoneOr)
}

fn or_none<S: Serializer>(resize: &Option<Resize>, serializer: S) -> Result<S::Ok, S::Error> {
    match resize {
        None => serializer.serialize_str("none"),
        Some(resize) => resize.serialize(serializer),
    }
}

fn resize_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let map = generator.subschema_for::<Resize>();
    schemars::json_schema!({ "oneOf": [{ "const": "none" }, map] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<LoadConfig, String> {
        serde_saphyr::from_str(yaml).map_err(|e| e.to_string())
    }

    #[test]
    fn every_form_parses_and_survives_json() {
        for yaml in [
            "{}",
            "resize: none\ncrop: none",
            "resize: { size: 224 }\nicc: srgb",
            "resize: { size: [320, 240], mode: exact, filter: box, only_shrink: true }\nmax_mpx: 2",
            "resize: { size: 64, mode: shortest_side }\ncrop: { centre: { size: 64 } }",
            "crop: { random: { size: [48, 32], per: record } }\nallow: [\"*.svc\", 10.0.0.0/8, \"::1\"]",
        ] {
            let config = parse(yaml).unwrap();
            config.check().unwrap();
            let json = serde_json::to_value(&config).unwrap();
            assert_eq!(serde_json::from_value::<LoadConfig>(json).unwrap(), config, "{yaml}");
        }
        assert_eq!(parse("{}").unwrap(), LoadConfig::default());
    }

    #[test]
    fn errors_say_where_and_what() {
        let error = parse("icc: keep\nresize: { size: 224, fliter: box }").unwrap_err();
        assert!(error.contains("fliter") && error.contains("filter") && error.contains('2'), "{error}");
        let error = parse("resize: big").unwrap_err();
        assert!(error.contains("none"), "{error}");
        let error = parse("crop: { random: { size: [1, 2, 3] } }").unwrap_err();
        assert!(error.contains("width"), "{error}");
        for (yaml, key) in [
            ("resize: { size: 0 }", "load.resize.size"),
            ("resize: { size: [2, 3], mode: longest_side }", "load.resize.size"),
            ("deadline_s: 0", "load.deadline_s"),
            ("max_aspect: .nan", "load.max_aspect"),
            ("allow: [\"10.0.0.0/99\"]", "load.allow"),
            ("headers: { \"cdn.example\": { A: b } }", "load.headers"),
        ] {
            let error = parse(yaml).unwrap().check().unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }

    #[test]
    fn header_values_are_never_shown() {
        let config = parse("headers: { \"https://a/\": { Authorization: hunter2 } }").unwrap();
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(shown.contains("Authorization") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(config.content(), LoadConfig::default().content());
    }

    #[test]
    fn resize_targets() {
        let resize = |size, mode, only_shrink| Resize { size, mode, filter: Filter::default(), only_shrink };
        let square = Sides { width: 100, height: 100 };
        let from = Size::new(401, 200);
        let target = |mode, only| resize(square, mode, only).target(from);
        assert_eq!(target(ResizeMode::Exact, false), Some(Size::new(100, 100)));
        assert_eq!(target(ResizeMode::ShortestSide, false), Some(Size::new(200, 100)));
        assert_eq!(target(ResizeMode::LongestSide, false), Some(Size::new(100, 49)));
        let large = Sides { width: 300, height: 300 };
        assert_eq!(resize(large, ResizeMode::ShortestSide, true).target(from), None);
        assert_eq!(resize(large, ResizeMode::LongestSide, true).target(from), Some(Size::new(300, 149)));
        assert_eq!(resize(large, ResizeMode::Exact, true).target(from), None);
        let same = Sides { width: 401, height: 200 };
        assert_eq!(resize(same, ResizeMode::Exact, false).target(from), None);
    }
}
