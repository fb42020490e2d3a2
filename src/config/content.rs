//! What makes a row: the part of the pipeline file that the content hash covers.
//!
//! Taken from the parsed structs, so neither the order of keys nor written-out defaults matter. Not in it: where things are
//! read from and written to, credentials, batching, waiting, memory: what may change between two runs of one dataset.

use serde_json::{Map, Value, json};

use super::Pipeline;
use crate::load::LoadConfig;

impl Pipeline {
    /// What makes a row: source columns, `keep`, `where`; `load` without what only says how to fetch; `degrade` with presets
    /// expanded; `restore` without batching and device, with its model's hash (`weights_sha256`, see
    /// [`restore::weights_sha256`](crate::restore::weights_sha256)); `score`; the sink's images and encodings. Holds no secrets. The
    /// same for two files that mean the same.
    pub fn content(&self, weights_sha256: &str) -> Value {
        // Neither can fail on a pipeline that was parsed: both were checked then.
        let degrade = self.degrade.as_ref().and_then(|degrade| degrade.expanded().ok());
        let images = self.image_columns().unwrap_or_default();
        let encodings: Map<String, Value> =
            images.iter().map(|column| (column.name().to_owned(), json(&self.sink.encoding_of(*column)))).collect();
        let mut content = Map::from_iter([
            ("source".to_owned(), self.source.content()),
            ("load".to_owned(), json(&self.load.as_ref().map(LoadConfig::content))),
            ("degrade".to_owned(), json(&degrade)),
        ]);
        // Without the section no key: the hashes of datasets that nothing restores are older than it.
        if let Some(restore) = &self.restore {
            content.insert("restore".to_owned(), restore.content(weights_sha256));
        }
        content.insert("score".to_owned(), json(&self.score));
        content.insert("sink".to_owned(), json!({ "images": json(&images), "encoding_of": encodings }));
        Value::Object(content)
    }

    /// BLAKE3 of [`Self::content`], hex.
    pub fn content_hash(&self, weights_sha256: &str) -> String {
        crate::plan::content_hash(&self.content(weights_sha256))
    }
}

/// A section as JSON. The sections are plain structs with text keys, of which none can fail to serialise.
fn json(section: &impl serde::Serialize) -> Value {
    serde_json::to_value(section).unwrap_or_default()
}
