//! A message's value → the reference, key, task and kept fields of a record.
//!
//! (long because every form of a message is read here)

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use super::config::{JsonMessage, KeptType, MessageFormat};
use crate::sample::Reference;
use crate::source::Fits;

/// JSON Schema of a message of references, where `source.kafka.message` does not say otherwise: `schemas/reference.schema.json`.
pub fn reference_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A reference to an image, as a Kafka message",
        "description": "What else stands in it is passed over, or kept where source.kafka.message.json.keep names it.",
        "type": "object",
        "properties": {
            "key": {
                "description": "Names the row in the output and seeds its randomness. Default: <topic>/<partition>/<offset>.",
                "type": ["string", "number", "null"]
            },
            "reference": {
                "description": "A path, or a URI with the scheme file, http, https, s3, gs, az or data.",
                "type": ["string", "null"]
            },
            "inline": {
                "description": "The image file itself; goes before reference, which then is only its name.",
                "type": ["string", "null"],
                "contentEncoding": "base64"
            },
            "task": {
                "description": "The task of the model that restores it. Default: restore's own.",
                "type": ["string", "null"]
            }
        }
    })
}

/// What a message says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    pub(super) key: Option<String>,
    pub(super) reference: Option<Reference>,
    pub(super) task: Option<String>,
    /// In the order of the kept fields; empty where the message is no JSON.
    pub(super) kept: Vec<Value>,
}

/// Reads messages.
pub(super) struct Reader {
    format: MessageFormat,
    json: Json,
    fits: Fits,
}

/// A JSON pointer, first step apart: only that many fields of an object are looked at.
struct Pointer {
    first: String,
    /// Empty, or the rest as a pointer.
    rest: String,
}

impl Pointer {
    fn new(pointer: &str) -> Self {
        let (first, rest) = match pointer[1..].split_once('/') {
            Some((first, rest)) => (first, format!("/{rest}")),
            None => (&pointer[1..], String::new()),
        };
        Self { first: first.replace("~1", "/").replace("~0", "~"), rest }
    }
}

struct Json {
    /// key, reference, inline, task, and the kept fields.
    pointers: Vec<Pointer>,
    types: Vec<KeptType>,
    schema: SchemaRef,
}

impl Json {
    fn new(config: &JsonMessage) -> Self {
        let mut pointers: Vec<_> =
            [&config.key, &config.reference, &config.inline, &config.task].map(|pointer| Pointer::new(pointer)).into();
        pointers.extend(config.keep.keys().map(|name| Pointer::new(&format!("/{name}"))));
        let fields = config.keep.iter().map(|(name, kept)| {
            let data_type = match kept {
                KeptType::String => DataType::Utf8,
                KeptType::Integer => DataType::Int64,
                KeptType::Number => DataType::Float64,
                KeptType::Boolean => DataType::Boolean,
            };
            Field::new(name, data_type, true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { pointers, types: config.keep.values().copied().collect(), schema }
    }
}

impl Reader {
    /// `fits` says which references are short enough to be fetched.
    pub(super) fn new(format: &MessageFormat, fits: Fits) -> Self {
        let json = match format {
            MessageFormat::Json(config) => Json::new(config),
            _ => Json::new(&JsonMessage::default()),
        };
        Self { format: format.clone(), json, fits }
    }

    /// The columns that [`Self::kept`] makes.
    pub(super) fn fields(&self) -> Vec<FieldRef> {
        self.json.schema.fields().iter().cloned().collect()
    }

    /// Reads `value`, of the type that the header says, if it says one. The `Err` says why that is not possible.
    pub(super) fn read(&self, value: Option<&[u8]>, content_type: Option<&[u8]>) -> Result<Said, String> {
        let value = value.ok_or("the message has no value (a tombstone)")?;
        match &self.format {
            MessageFormat::Uri => self.uri(value),
            MessageFormat::Bytes => Ok(inline(Bytes::copy_from_slice(value))),
            MessageFormat::Json(_) => self.json(value),
            MessageFormat::Auto => self.auto(value, content_type),
        }
    }

    fn auto(&self, value: &[u8], content_type: Option<&[u8]>) -> Result<Said, String> {
        let given = content_type.map(|given| String::from_utf8_lossy(given).trim().to_ascii_lowercase());
        match given.as_deref().and_then(|given| given.split(';').next()).map(str::trim_end) {
            Some("application/json") => self.json(value),
            Some(kind) if kind.starts_with("image/") => Ok(inline(Bytes::copy_from_slice(value))),
            Some(kind) if kind.starts_with("text/") => self.uri(value),
            _ if value.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') => self.json(value),
            _ if image::guess_format(value).is_ok() => Ok(inline(Bytes::copy_from_slice(value))),
            _ => self.uri(value),
        }
    }

    fn uri(&self, value: &[u8]) -> Result<Said, String> {
        let text = std::str::from_utf8(value).map_err(|error| {
            format!("neither JSON nor an image, and no text (UTF-8) from byte {} on", error.valid_up_to())
        })?;
        match text.trim() {
            "" => Err("the message is empty".into()),
            text => Ok(Said { reference: Some(Reference::from_text(text, &*self.fits)), ..Said::default() }),
        }
    }

    fn json(&self, value: &[u8]) -> Result<Said, String> {
        let mut found = vec![None; self.json.pointers.len()];
        let mut reader = serde_json::Deserializer::from_slice(value);
        Fields { pointers: &self.json.pointers, found: &mut found }
            .deserialize(&mut reader)
            .and_then(|()| reader.end())
            .map_err(|error| format!("not a JSON object: {error}"))?;
        let mut values = self.json.pointers.iter().zip(found).map(|(pointer, value)| match (value, &*pointer.rest) {
            (Some(Value::Null), _) | (None, _) => None,
            (value, "") => value,
            (Some(mut value), rest) => value.pointer_mut(rest).map(Value::take).filter(|value| !value.is_null()),
        });
        let mut text = |what: &str| match values.next().flatten() {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            // An id is often a number.
            Some(Value::Number(number)) if what == "key" => Ok(Some(number.to_string())),
            Some(other) => Err(format!("its {what} is {}, not a text", kind(&other))),
        };
        let (key, reference, encoded, task) = (text("key")?, text("reference")?, text("inline")?, text("task")?);
        let reference = match (encoded, reference) {
            (Some(encoded), path) => {
                let bytes = BASE64_STANDARD.decode(encoded.as_bytes());
                let bytes = bytes.map_err(|error| format!("its inline image is no base64: {error}"))?;
                Some(Reference::Inline { bytes: bytes.into(), path })
            }
            (None, Some(text)) => Some(Reference::from_text(&text, &*self.fits)),
            (None, None) => None,
        };
        let kept: Vec<_> = values.map(|value| value.unwrap_or_default()).collect();
        for ((value, data_type), field) in kept.iter().zip(&self.json.types).zip(self.json.schema.fields()) {
            let fits = match data_type {
                KeptType::String => true,
                KeptType::Integer => value.is_i64(),
                KeptType::Number => value.is_number(),
                KeptType::Boolean => value.is_boolean(),
            };
            if !fits && !value.is_null() {
                return Err(format!(
                    "its `{}` is {}, not what source.kafka.message.json.keep says",
                    field.name(),
                    kind(value)
                ));
            }
        }
        Ok(Said { key, reference, task, kept })
    }

    /// The kept fields of some messages as columns; `None` if none are kept.
    pub(super) fn kept(&self, messages: &[Vec<Value>]) -> Option<RecordBatch> {
        if self.json.types.is_empty() {
            return None;
        }
        let columns = self.json.types.iter().enumerate().map(|(index, kept)| {
            let values = messages.iter().map(|values| values.get(index).unwrap_or(&Value::Null));
            let column: ArrayRef = match kept {
                KeptType::String => {
                    let mut array = StringBuilder::new();
                    values.for_each(|value| match value {
                        Value::Null => array.append_null(),
                        Value::String(text) => array.append_value(text),
                        other => array.append_value(other.to_string()),
                    });
                    Arc::new(array.finish())
                }
                KeptType::Integer => {
                    let mut array = Int64Builder::new();
                    values.for_each(|value| array.append_option(value.as_i64()));
                    Arc::new(array.finish())
                }
                KeptType::Number => {
                    let mut array = Float64Builder::new();
                    values.for_each(|value| array.append_option(value.as_f64()));
                    Arc::new(array.finish())
                }
                KeptType::Boolean => {
                    let mut array = BooleanBuilder::new();
                    values.for_each(|value| array.append_option(value.as_bool()));
                    Arc::new(array.finish())
                }
            };
            column
        });
        // The columns were made by this very schema.
        RecordBatch::try_new(Arc::clone(&self.json.schema), columns.collect()).ok()
    }
}

fn inline(bytes: Bytes) -> Said {
    Said { reference: Some(Reference::Inline { bytes, path: None }), ..Said::default() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Takes the wanted fields out of an object and passes over the rest.
struct Fields<'a> {
    pointers: &'a [Pointer],
    found: &'a mut [Option<Value>],
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let mut wanted =
                self.pointers.iter().enumerate().filter(|(_, pointer)| pointer.first == name).map(|(at, _)| at);
            let Some(first) = wanted.next() else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<Value>()?;
            for at in wanted {
                self.found[at] = Some(value.clone());
            }
            self.found[first] = Some(value);
        }
        Ok(())
    }
}

/// A field's name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(yaml: &str) -> Reader {
        Reader::new(&serde_saphyr::from_str(yaml).unwrap(), Arc::new(|reference| reference.len() < 100))
    }

    fn uri(text: &str) -> Option<Reference> {
        Some(Reference::Uri(text.into()))
    }

    #[test]
    fn the_committed_schema_is_this_one() {
        let committed: Value = serde_json::from_str(include_str!("../../../schemas/reference.schema.json")).unwrap();
        assert_eq!(committed, reference_schema(), "lm4lv schema reference > schemas/reference.schema.json");
    }

    #[test]
    fn auto_takes_json_text_and_images_for_what_they_are() {
        let auto = reader("auto");
        let read = |value: &[u8]| auto.read(Some(value), None).unwrap();
        let said = read(br#" {"key": 7, "reference": "a.jpg", "task": "mask", "other": [1, {"key": "x"}]}"#);
        assert_eq!((said.key.as_deref(), said.task.as_deref()), (Some("7"), Some("mask")));
        assert_eq!(said.reference, uri("a.jpg"));
        assert_eq!(read(b" https://host/a.jpg\n").reference, uri("https://host/a.jpg"));
        let jpeg = [0xff, 0xd8, 0xff, 0xe0, 1, 2];
        assert_eq!(read(&jpeg).reference, Some(Reference::Inline { bytes: jpeg.to_vec().into(), path: None }));
        let inline = read(br#"{"inline": "AQID", "reference": "b.png"}"#).reference;
        assert_eq!(inline, Some(Reference::Inline { bytes: vec![1, 2, 3].into(), path: Some("b.png".into()) }));
        assert_eq!(read(br#"{"key": null}"#), Said::default());
    }

    #[test]
    fn the_header_goes_before_the_looks() {
        let auto = reader("auto");
        let said = auto.read(Some(b"{"), Some(b"image/png; x=y")).unwrap();
        assert!(matches!(said.reference, Some(Reference::Inline { .. })));
        assert_eq!(auto.read(Some(b"{a}.jpg"), Some(b"text/plain; charset=utf-8")).unwrap().reference, uri("{a}.jpg"));
        assert!(auto.read(Some(b"a.jpg"), Some(b"application/json")).is_err());
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let auto = reader("auto");
        for (value, said) in [
            (&b"{\"key\": "[..], "line 1 column 8"),
            (b"{} {}", "trailing characters"),
            (b"{\"reference\": 3}", "its reference is a number, not a text"),
            (b"{\"inline\": \"?\"}", "no base64"),
            (b"\xc3(x", "from byte 0 on"),
            (b"  ", "empty"),
        ] {
            let error = auto.read(Some(value), None).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert!(auto.read(None, None).unwrap_err().contains("tombstone"));
    }

    #[test]
    fn pointers_and_kept_fields_go_deep() {
        let reader = reader(
            "json: { key: /meta/id, reference: /img, keep: { label: string, 'meta/n': integer, w: number, ok: boolean } }",
        );
        let read = |value: &str| reader.read(Some(value.as_bytes()), None);
        let said = read(r#"{"meta": {"id": "k", "n": 3}, "img": "a", "label": ["x"], "w": 2, "ok": true}"#).unwrap();
        assert_eq!((said.key.as_deref(), said.reference.clone()), (Some("k"), uri("a")));
        let none = read("{}").unwrap();
        let batch = reader.kept(&[said.kept, none.kept]).unwrap();
        let cell = |column: usize| arrow::util::display::array_value_to_string(batch.column(column), 0).unwrap();
        assert_eq!([0, 1, 2, 3].map(cell), ["[\"x\"]", "3", "true", "2.0"]);
        assert!(read(r#"{"w": "2"}"#).unwrap_err().contains("`w` is a text"));
    }
}
