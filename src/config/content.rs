//! What makes a row: the part of the pipeline file that the content hash covers.
//!
//! Taken from the parsed structs, so neither the order of keys nor written-out defaults matter. Not in it: where things are
//! read from and written to, credentials, batching, waiting, memory: what may change between two runs of one dataset.

use serde_json::{Map, Value, json};

use super::Pipeline;
use crate::load::LoadConfig;

impl Pipeline {
    /// What makes a row: source columns, `keep`, `where`; `load` without what only says how to fetch; `degrade` with presets
    /// expanded; `score`; the sink's images and encodings. Holds no secrets. The same for two files that mean the same.
    pub fn content(&self) -> Value {
        // Neither can fail on a pipeline that was parsed: both were checked then.
        let degrade = self.degrade.as_ref().and_then(|degrade| degrade.expanded().ok());
        let images = self.image_columns().unwrap_or_default();
        let encodings: Map<String, Value> =
            images.iter().map(|column| (column.name().to_owned(), json(&self.sink.encoding_of(*column)))).collect();
        json!({
            "source": self.source.content(),
            "load": self.load.as_ref().map(LoadConfig::content),
            "degrade": json(&degrade),
            "score": json(&self.score),
            "sink": { "images": json(&images), "encoding_of": encodings },
        })
    }

    /// BLAKE3 of [`Self::content`], hex.
    pub fn content_hash(&self) -> String {
        crate::plan::content_hash(&self.content())
    }
}

/// A section as JSON. The sections are plain structs with text keys, of which none can fail to serialise.
fn json(section: &impl serde::Serialize) -> Value {
    serde_json::to_value(section).unwrap_or_default()
}
