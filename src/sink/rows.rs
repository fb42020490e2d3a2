//! Items → Arrow: the rows of some positions as one record batch of the dataset's schema.
//!
//! (long because every kind of column is filled here)

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder, ListArray, RecordBatch,
    StringBuilder, StructArray, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;

use super::schema::{Columns, ImageColumn, Kind, header_fields, image_fields, op_fields, written_type};
use crate::sample::{EncodedImage, Item, Message, Record, Sample, Stamp};

/// Longest name of a folder or file in an image's path, and longest path, in bytes, without the extension.
const MAX_NAME: usize = 200;
const MAX_PATH: usize = 800;

/// Makes batches; what is the same for all rows of a run.
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Columns,
    schema: SchemaRef,
    run: String,
    writer: String,
}

/// One row: its position and its sample.
pub(crate) type Row<'a> = (&'a Item, &'a Sample);

impl Rows {
    pub(crate) fn new(columns: Columns, run: String, writer: String) -> Self {
        let schema = columns.schema();
        Self { columns, schema, run, writer }
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn columns(&self) -> &Columns {
        &self.columns
    }

    /// These rows, in order; their images must not add up to 2 GiB, which one Arrow column cannot hold.
    pub(crate) fn batch(&self, rows: &[Row<'_>]) -> Result<RecordBatch, ArrowError> {
        let mut kept = 0;
        let arrays: Result<Vec<ArrayRef>, ArrowError> = self
            .columns
            .layout()
            .iter()
            .map(|(name, kind)| match kind {
                Ok(kind) => self.own(name, *kind, rows),
                Err(field) => {
                    kept += 1;
                    kept_column(rows, kept - 1, &written_type(field.data_type()))
                }
            })
            .collect();
        RecordBatch::try_new(Arc::clone(&self.schema), arrays?)
    }

    /// One of our own columns.
    fn own(&self, name: &str, kind: Kind, rows: &[Row<'_>]) -> Result<ArrayRef, ArrowError> {
        Ok(match kind {
            Kind::Text => {
                let mut array = StringBuilder::with_capacity(rows.len(), rows.len() * 16);
                let cell = text(name);
                rows.iter().for_each(|row| array.append_option(cell(self, *row)));
                Arc::new(array.finish())
            }
            Kind::Int32 => {
                let mut array = Int32Builder::with_capacity(rows.len());
                let cell = int32(name);
                rows.iter().for_each(|row| array.append_option(cell(self, *row)));
                Arc::new(array.finish())
            }
            Kind::Int64 => {
                let mut array = Int64Builder::with_capacity(rows.len());
                let cell = int64(name);
                rows.iter().for_each(|row| array.append_option(cell(self, *row)));
                Arc::new(array.finish())
            }
            Kind::Float64 => {
                let mut array = Float64Builder::with_capacity(rows.len());
                for (_, sample) in rows {
                    let score = sample.scores.iter().find(|(score, _)| &**score == name).map(|(_, value)| *value);
                    array.append_option(score.filter(|_| sample.failure.is_none()));
                }
                Arc::new(array.finish())
            }
            Kind::Float32 => {
                let step = name.trim_end_matches("_ms");
                let mut array = Float32Builder::with_capacity(rows.len());
                for (_, sample) in rows {
                    array.append_option(sample.timings.iter().find(|(name, _)| *name == step).map(|(_, ms)| *ms));
                }
                Arc::new(array.finish())
            }
            Kind::Bytes if name == "raw" && !self.columns.messages => new_null_array(&kind.arrow(), rows.len()),
            Kind::Bytes => {
                let value = |message: &Message| match name {
                    "raw" => message.raw.clone(),
                    _ => message.key.clone(),
                };
                let mut array = BinaryBuilder::new();
                rows.iter().for_each(|row| array.append_option(message(*row).and_then(value)));
                Arc::new(array.finish())
            }
            Kind::Timestamp => {
                let mut array = TimestampMicrosecondBuilder::with_capacity(rows.len()).with_timezone("UTC");
                rows.iter().for_each(|row| array.append_option(message(*row).and_then(|message| message.timestamp_us)));
                Arc::new(array.finish())
            }
            Kind::Headers => headers(rows)?,
            Kind::Image => self.images(name, rows)?,
            Kind::Ops => ops(rows)?,
        })
    }

    fn images(&self, name: &str, rows: &[Row<'_>]) -> Result<ArrayRef, ArrowError> {
        let column = ImageColumn::ALL.iter().copied().find(|column| column.name() == name);
        let images: Vec<Option<&EncodedImage>> = rows
            .iter()
            .map(|(_, sample)| match column {
                Some(ImageColumn::Input) => sample.encoded.input.as_ref(),
                Some(ImageColumn::Target) => sample.encoded.target.as_ref(),
                Some(ImageColumn::Output) => sample.encoded.output.as_ref(),
                Some(ImageColumn::Baseline) => sample.encoded.baseline.as_ref(),
                None => None,
            })
            .zip(rows)
            .map(|(image, (_, sample))| image.filter(|_| sample.failure.is_none()))
            .collect();
        let total = images.iter().flatten().map(|image| image.bytes.len()).sum();
        let mut bytes = BinaryBuilder::with_capacity(rows.len(), total);
        let mut paths = StringBuilder::with_capacity(rows.len(), rows.len() * 32);
        for (image, (item, sample)) in images.iter().zip(rows) {
            bytes.append_option(image.map(|image| &image.bytes));
            let variant = (self.columns.variants > 1).then_some(sample.variant);
            paths.append_option(image.map(|image| image_path(&item.record, variant, image.extension)));
        }
        let valid = NullBuffer::from_iter(images.iter().map(Option::is_some));
        let arrays: Vec<ArrayRef> = vec![Arc::new(bytes.finish()), Arc::new(paths.finish())];
        Ok(Arc::new(StructArray::try_new(image_fields(), arrays, Some(valid))?))
    }
}

/// A cell of a column; columns are looked up once for many rows.
type Cell<T> = for<'a> fn(&'a Rows, Row<'a>) -> Option<T>;
type TextCell = for<'a> fn(&'a Rows, Row<'a>) -> Option<Cow<'a, str>>;

fn text(name: &str) -> TextCell {
    fn stamp<'a>(row: Row<'a>) -> Option<&'a Stamp> {
        row.1.restored.as_ref().map(|restored| &*restored.stamp)
    }
    match name {
        "key" => |_, (item, _)| Some((&item.record.key).into()),
        "url" => |_, (item, _)| item.record.reference.as_text().map(Into::into),
        "status" => |_, (_, sample)| Some(if sample.failure.is_some() { "failed" } else { "success" }.into()),
        "error_code" => |_, (_, sample)| sample.failure.as_ref().map(|failure| failure.code.as_str().into()),
        "error_message" => |_, (_, sample)| sample.failure.as_ref().map(|failure| (&failure.message).into()),
        "sha256" => |_, (_, sample)| sample.origin.as_ref().map(|origin| hex(&origin.sha256).into()),
        "partition" => |_, (item, _)| Some(item.record.position.partition.as_str().into()),
        "topic" => |_, row| message(row).map(|message| (&*message.topic).into()),
        "source_file" => |_, (item, _)| item.record.source_file.as_deref().map(Into::into),
        "model" => |_, row| stamp(row).map(|stamp| (&stamp.model).into()),
        "weights_sha256" => {
            |_, row| stamp(row).map(|stamp| &stamp.weights_sha256).filter(|hash| !hash.is_empty()).map(Into::into)
        }
        "task" => |_, (_, sample)| sample.restored.as_ref()?.task.as_deref().map(Into::into),
        "decoder" => |_, row| stamp(row)?.decoder.map(Into::into),
        "device" => |_, row| stamp(row).map(|stamp| (&stamp.device).into()),
        "dtype" => |_, row| stamp(row).map(|stamp| stamp.dtype.into()),
        "run" => |rows, _| Some((&rows.run).into()),
        "writer" => |rows, _| Some((&rows.writer).into()),
        _ => |_, _| None,
    }
}

fn int64(name: &str) -> Cell<i64> {
    match name {
        "offset" => |_, (item, _)| i64::try_from(item.record.position.offset).ok(),
        "source_row" => |_, (item, _)| item.record.source_row.and_then(|row| i64::try_from(row).ok()),
        "seed" => |rows, _| rows.columns.seed.and_then(|seed| i64::try_from(seed).ok()),
        _ => |_, _| None,
    }
}

fn int32(name: &str) -> Cell<i32> {
    fn input<'a>((_, sample): Row<'a>) -> Option<&'a EncodedImage> {
        sample.encoded.input.as_ref().filter(|image| sample.failure.is_none() && image.width > 0)
    }
    fn whole(number: u32) -> Option<i32> {
        i32::try_from(number).ok().filter(|number| *number > 0)
    }
    match name {
        "variant" => |_, (_, sample)| Some(sample.variant.into()),
        "width" => |_, row| whole(input(row)?.width),
        "height" => |_, row| whole(input(row)?.height),
        "original_width" => |_, (_, sample)| whole(sample.origin.as_ref()?.width),
        "original_height" => |_, (_, sample)| whole(sample.origin.as_ref()?.height),
        "passes" => |_, (_, sample)| i32::try_from(sample.restored.as_ref()?.passes?).ok(),
        "attempts" => |_, (item, _)| i32::try_from(item.attempts).ok(),
        "topic_partition" => |_, row| message(row).map(|message| message.partition),
        _ => |_, _| None,
    }
}

fn message<'a>((item, _): Row<'a>) -> Option<&'a Message> {
    item.record.message.as_deref()
}

fn headers(rows: &[Row<'_>]) -> Result<ArrayRef, ArrowError> {
    let (mut keys, mut values) = (StringBuilder::new(), BinaryBuilder::new());
    for (key, value) in rows.iter().flat_map(|row| item_headers(row.0)) {
        keys.append_value(key);
        values.append_option(value.as_ref());
    }
    let arrays: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(values.finish())];
    list_of(header_fields(), arrays, rows.iter().map(|row| item_headers(row.0).len()))
}

/// Structs with these columns, so many of them to each row.
fn list_of(
    fields: Fields,
    arrays: Vec<ArrayRef>,
    lengths: impl Iterator<Item = usize>,
) -> Result<ArrayRef, ArrowError> {
    let length = arrays[0].len();
    let values = StructArray::try_new_with_length(fields.clone(), arrays, None, length)?;
    let item = Arc::new(Field::new("item", DataType::Struct(fields), true));
    Ok(Arc::new(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(values), None)?))
}

fn item_headers(item: &Item) -> &[(String, Option<Bytes>)] {
    item.record.message.as_ref().map_or(&[], |message| &message.headers)
}

fn ops(rows: &[Row<'_>]) -> Result<ArrayRef, ArrowError> {
    let (mut step, mut op, mut params) = (StringBuilder::new(), StringBuilder::new(), StringBuilder::new());
    let mut version = Int32Builder::new();
    for applied in rows.iter().flat_map(|(_, sample)| &sample.ops) {
        step.append_value(&applied.step);
        op.append_value(&applied.op);
        version.append_value(i32::from(applied.version));
        params.append_value(&applied.params);
    }
    let arrays: Vec<ArrayRef> =
        vec![Arc::new(step.finish()), Arc::new(op.finish()), Arc::new(version.finish()), Arc::new(params.finish())];
    list_of(op_fields(), arrays, rows.iter().map(|(_, sample)| sample.ops.len()))
}

/// Kept column number `index`, each position's value repeated for its variants.
fn kept_column(rows: &[Row<'_>], index: usize, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let values: Result<Vec<ArrayRef>, ArrowError> = rows
        .iter()
        .map(|(item, _)| match item.record.kept.as_ref().filter(|k| index < k.num_columns() && k.num_rows() == 1) {
            Some(kept) => arrow::compute::cast(kept.column(index), data_type),
            None => Ok(new_null_array(data_type, 1)),
        })
        .collect();
    let values = values?;
    let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
    if values.is_empty() { Ok(new_null_array(data_type, 0)) } else { arrow::compute::concat(&values) }
}

/// The `path` of an image: the record's key made safe, the variant where there are several, the encoding's extension.
fn image_path(record: &Record, variant: Option<u16>, extension: &str) -> String {
    let mut path = safe_path(&record.key);
    if let Some(stem) = path.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.'))
        && !stem.is_empty()
        && !stem.ends_with('/')
    {
        path = stem.to_owned();
    }
    match variant {
        Some(variant) => format!("{path}.v{variant}.{extension}"),
        None => format!("{path}.{extension}"),
    }
}

/// A relative path that is legal on every file system and cannot leave its folder: `/` parts folders, no part is empty, `.`
/// or `..`, no control character and none of `\ : * ? " < > |`; what is longer than a file system takes is cut and ends in a
/// hash of the whole key.
pub(crate) fn safe_path(key: &str) -> String {
    let hash = || format!("~{}", &blake3::hash(key.as_bytes()).to_hex()[..16]);
    let clean = |part: &str| -> String {
        let illegal = |c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        let part: String = part.chars().map(|c| if illegal(c) { '_' } else { c }).collect();
        match part.len() {
            0..=MAX_NAME => part,
            _ => format!("{}{}", &part[..part.floor_char_boundary(MAX_NAME)], hash()),
        }
    };
    // `https://host/a` is a folder for each of its three words.
    let parts: Vec<String> = key
        .replacen("://", "/", 1)
        .split('/')
        .filter(|part| !matches!(part.trim(), "" | "." | ".."))
        .map(clean)
        .collect();
    match parts.join("/") {
        path if path.is_empty() => format!("unnamed{}", hash()),
        path if path.len() > MAX_PATH => {
            format!("{}{}", path[..path.floor_char_boundary(MAX_PATH)].trim_end_matches('/'), hash())
        }
        path => path,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_safe_and_keep_their_folders() {
        for (key, path) in [
            ("a/b/cat.jpg", "a/b/cat.jpg"),
            ("https://host:80/x.jpg?a=1", "https/host_80/x.jpg_a=1"),
            ("../../etc/passwd", "etc/passwd"),
            ("/abs//./x", "abs/x"),
            ("a\\..\\b\u{0}\n", "a_.._b__"),
            ("ünï/猫", "ünï/猫"),
        ] {
            assert_eq!(safe_path(key), path);
        }
        assert!(safe_path("..").starts_with("unnamed~"));
        let long = safe_path(&"猫".repeat(1000));
        assert!(long.len() <= MAX_NAME + 17 && long.contains('~'));
        assert!(safe_path(&"ab/".repeat(2000)).len() <= MAX_PATH + 17);
        assert_ne!(safe_path(&"a".repeat(300)), safe_path(&"a".repeat(301)));
    }
}
