//! From a record to the bytes of its message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serializer;
use serde::ser::SerializeMap;

use crate::error::{Error, Result};
use crate::load::Format;
use crate::sample::{Record, Reference};

/// The fields of a JSON message that are ours: a kept column must not have one of these names.
pub(super) const OWN: [&str; 5] = ["key", "reference", "inline", "task", "target"];

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// A JSON object: `key`, `reference` or `inline` (base64), `task`, and the kept columns; nulls are left out.
    #[default]
    Json,
    /// The image file, with a header `content-type`.
    Bytes,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Bytes => "bytes",
        }
    }
}

/// The message in work; its buffer is used again.
pub(super) struct Message {
    form: Form,
    payload: Vec<u8>,
    content_type: &'static str,
}

impl Message {
    pub(super) fn new(form: Form) -> Self {
        Self { form, payload: Vec::new(), content_type: "application/json" }
    }

    /// Makes it the message of `record`, which stands in `row`.
    pub(super) fn fill(&mut self, record: &Record, row: u64) -> Result<()> {
        self.payload.clear();
        match (self.form, &record.reference) {
            (Form::Json, _) => {
                json(record, &mut self.payload).map_err(|error| Error::Bug(format!("row {row} as JSON: {error}")))
            }
            (Form::Bytes, Reference::Inline { bytes, .. }) => {
                self.payload.extend_from_slice(bytes);
                self.content_type = media_type(bytes);
                Ok(())
            }
            // Nothing to decode: its reader will say so.
            (Form::Bytes, Reference::Missing) => {
                self.content_type = "application/octet-stream";
                Ok(())
            }
            (Form::Bytes, _) => Err(Error::Config(format!(
                "row {row} (key {}) names its image and does not hold it: publish it as JSON, without --message bytes",
                record.key
            ))),
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(super) fn content_type(&self) -> &'static str {
        self.content_type
    }
}

fn json(record: &Record, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let mut json = serde_json::Serializer::new(out);
    let mut fields = json.serialize_map(None)?;
    if !record.key.is_empty() {
        fields.serialize_entry("key", &record.key)?;
    }
    match &record.reference {
        Reference::Uri(text) | Reference::TooLong { start: text, .. } => fields.serialize_entry("reference", text)?,
        Reference::Inline { bytes, .. } => fields.serialize_entry("inline", &STANDARD.encode(bytes))?,
        _ => {}
    }
    if let Some(task) = &record.task {
        fields.serialize_entry("task", task)?;
    }
    if let Some(kept) = &record.kept {
        for (field, column) in kept.schema_ref().fields().iter().zip(kept.columns()) {
            let value = crate::report::json::value(column, 0);
            if !value.is_null() {
                fields.serialize_entry(field.name(), &value)?;
            }
        }
    }
    fields.end()
}

/// The media type of an image file, by its first bytes.
fn media_type(bytes: &[u8]) -> &'static str {
    match Format::sniff(bytes) {
        Ok(Format::Jpeg) => "image/jpeg",
        Ok(Format::Png) => "image/png",
        Ok(Format::WebP) => "image/webp",
        Ok(Format::Gif) => "image/gif",
        Ok(Format::Bmp) => "image/bmp",
        Ok(Format::Tiff) => "image/tiff",
        Err(_) => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};

    use super::*;
    use crate::checkpoint::{Partition, Position};

    fn record(key: &str, reference: Reference) -> Record {
        Record::new(key, reference, Position { partition: Partition::of_file(0, 0), offset: 0 })
    }

    #[test]
    fn a_json_message_leaves_out_what_is_null() {
        let columns: [(&str, ArrayRef); 3] = [
            ("sigma", Arc::new(Float32Array::from(vec![Some(0.1)]))),
            ("label", Arc::new(StringArray::from(vec![Some("a \"cat\"")]))),
            ("gone", Arc::new(Int64Array::from(vec![None]))),
        ];
        let mut record = record("k", Reference::Uri("s3://b/a.jpg".into()));
        record.kept = Some(RecordBatch::try_from_iter(columns).unwrap());
        let mut message = Message::new(Form::Json);
        message.fill(&record, 0).unwrap();
        let text = r#"{"key":"k","reference":"s3://b/a.jpg","sigma":0.1,"label":"a \"cat\""}"#;
        assert_eq!(std::str::from_utf8(message.payload()).unwrap(), text);
    }

    #[test]
    fn inline_bytes_are_base64_or_the_message_itself() {
        let inline = record("k", Reference::Inline { bytes: vec![0xff, 0xd8, 0xff, 0xe0].into(), path: None });
        let mut message = Message::new(Form::Json);
        message.fill(&inline, 0).unwrap();
        assert_eq!(message.payload(), br#"{"key":"k","inline":"/9j/4A=="}"#);
        let mut message = Message::new(Form::Bytes);
        message.fill(&inline, 0).unwrap();
        assert_eq!((message.payload(), message.content_type()), (&[0xff, 0xd8, 0xff, 0xe0][..], "image/jpeg"));
        let refused = message.fill(&record("k", Reference::Uri("a.jpg".into())), 7).unwrap_err();
        assert!(matches!(&refused, Error::Config(why) if why.contains("row 7 (key k)")), "{refused}");
    }
}
