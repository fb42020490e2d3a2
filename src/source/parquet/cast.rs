//! From the types that writers choose to those that the pipeline has.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use bytes::Bytes;

use super::columns::Kind;
use crate::sample::Reference;
use crate::source::Fits;

/// `data` as the output has it: one kind of string, binary and list, and no dictionaries, whoever wrote the file.
pub(super) fn plain(data: &DataType) -> DataType {
    let inner = |field: &FieldRef| Arc::new(Field::new(field.name(), plain(field.data_type()), true));
    let item = |field: &FieldRef| Arc::new(Field::new("item", plain(field.data_type()), true));
    match data {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        // Parquet's dates are days; written as they are, these would be numbers.
        DataType::Date64 => DataType::Date32,
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field) => DataType::List(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

/// The column's images, row by row.
pub(super) fn references(array: &ArrayRef, kind: &Kind, fits: &Fits) -> Result<Vec<Reference>, ArrowError> {
    let text = |text: &str| Reference::from_text(text, &**fits);
    let uri = |uri: Option<&str>| uri.map_or(Reference::Missing, text);
    Ok(match kind {
        Kind::Null => vec![Reference::Missing; array.len()],
        Kind::Text => cast(array, &DataType::Utf8)?.as_string::<i32>().iter().map(uri).collect(),
        Kind::Bytes => {
            let array = cast(array, &DataType::Binary)?;
            let inline = |bytes: &[u8]| Reference::Inline { bytes: Bytes::copy_from_slice(bytes), path: None };
            array.as_binary::<i32>().iter().map(|bytes| bytes.map_or(Reference::Missing, inline)).collect()
        }
        Kind::Struct { bytes, path } => {
            let array = array.as_struct();
            let bytes = cast(array.column(*bytes), &DataType::Binary)?;
            let bytes = bytes.as_binary::<i32>();
            let path = path.map(|path| cast(array.column(path), &DataType::Utf8)).transpose()?;
            let path = path.as_ref().map(|path| path.as_string::<i32>());
            let row = |i: usize| {
                if array.is_null(i) {
                    return Reference::Missing;
                }
                let path = path.and_then(|path| path.is_valid(i).then(|| path.value(i)));
                if bytes.is_null(i) {
                    return uri(path);
                }
                let path = path.and_then(|path| text(path).as_text().map(str::to_owned));
                Reference::Inline { bytes: Bytes::copy_from_slice(bytes.value(i)), path }
            };
            (0..array.len()).map(row).collect()
        }
    })
}
