//! Record batches of a part, cast to the types of [`Row`].

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, UInt64Type};
use bytes::Bytes;

use super::json;
use super::rows::{Address, IMAGE_COLUMNS, Picture, Row, is_image, score_column};
use crate::checkpoint::{Partition, Position};
use crate::sample::AppliedOp;

/// The columns of a record batch in the types that [`Row`] wants.
pub(super) struct Batch {
    /// Rows.
    pub(super) len: usize,
    key: Option<ArrayRef>,
    variant: Option<ArrayRef>,
    partition: Option<ArrayRef>,
    offset: Option<ArrayRef>,
    url: Option<ArrayRef>,
    status: Option<ArrayRef>,
    error_code: Option<ArrayRef>,
    error_message: Option<ArrayRef>,
    width: Option<ArrayRef>,
    height: Option<ArrayRef>,
    original_width: Option<ArrayRef>,
    original_height: Option<ArrayRef>,
    sha256: Option<ArrayRef>,
    source_file: Option<ArrayRef>,
    source_row: Option<ArrayRef>,
    seed: Option<ArrayRef>,
    ops: Option<Ops>,
    images: Vec<(&'static str, StructArray, Option<ArrayRef>, Option<ArrayRef>)>,
    scores: Vec<(Arc<str>, ArrayRef)>,
    other: Vec<(String, ArrayRef)>,
}

/// The four string columns inside `ops`, and where each row's entries start and end.
struct Ops {
    ranges: Vec<Range<usize>>,
    step: ArrayRef,
    op: ArrayRef,
    version: ArrayRef,
    params: ArrayRef,
}

/// A column that cannot be read as what it should be: its name and its type.
pub(super) type WrongType = (String, DataType);

impl Batch {
    /// Finds and casts the columns. `Err` names one that is of a type that cannot be cast.
    pub(super) fn new(batch: &RecordBatch) -> Result<Self, WrongType> {
        let column = |name: &str, kind: DataType| match batch.column_by_name(name) {
            None => Ok(None),
            Some(array) => cast(array, &kind).map(Some).map_err(|_| (name.to_owned(), array.data_type().clone())),
        };
        let text = |name| column(name, DataType::Utf8);
        let number = |name| column(name, DataType::UInt64);
        let mut view = Self {
            len: batch.num_rows(),
            key: text("key")?,
            variant: number("variant")?,
            partition: text("partition")?,
            offset: number("offset")?,
            url: text("url")?,
            status: text("status")?,
            error_code: text("error_code")?,
            error_message: text("error_message")?,
            width: number("width")?,
            height: number("height")?,
            original_width: number("original_width")?,
            original_height: number("original_height")?,
            sha256: hex(batch)?,
            source_file: text("source_file")?,
            source_row: number("source_row")?,
            seed: seed(batch)?,
            ops: batch.column_by_name("ops").map(Ops::new).transpose()?,
            images: Vec::new(),
            scores: Vec::new(),
            other: Vec::new(),
        };
        for name in IMAGE_COLUMNS {
            let Some(cells) = batch.column_by_name(name).and_then(|array| array.as_struct_opt()) else { continue };
            let part = |field: &str, kind: DataType| match cells.column_by_name(field) {
                None => Ok(None),
                Some(array) => cast(array, &kind).map(Some).map_err(|_| (name.to_owned(), array.data_type().clone())),
            };
            view.images.push((name, cells.clone(), part("bytes", DataType::Binary)?, part("path", DataType::Utf8)?));
        }
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            let name = field.name().as_str();
            if KNOWN.contains(&name) || is_image(field.data_type()) {
                continue;
            }
            if score_column(name).is_some() && field.data_type().is_numeric() {
                let array =
                    cast(array, &DataType::Float64).map_err(|_| (name.to_owned(), array.data_type().clone()))?;
                view.scores.push((name.into(), array));
            } else {
                view.other.push((name.to_owned(), array.clone()));
            }
        }
        Ok(view)
    }

    /// Row `i`, which lies `at` there, in a part of `partition`.
    pub(super) fn row(&self, i: usize, at: Address, partition: &Partition) -> Row {
        let failed = string(&self.status, i).is_some_and(|status| status != "success");
        let both = |a: Option<u64>, b: Option<u64>| Some((u32::try_from(a?).ok()?, u32::try_from(b?).ok()?));
        let images = self.images.iter().filter(|(_, cells, _, _)| cells.is_valid(i));
        let images = images.map(|(name, _, bytes, path)| {
            let bytes = bytes.as_ref().filter(|bytes| bytes.is_valid(i));
            let bytes =
                bytes.map(|bytes| Bytes::copy_from_slice(bytes.as_binary::<i32>().value(i))).unwrap_or_default();
            (*name, Picture { bytes, path: string(path, i).unwrap_or_default().to_owned() })
        });
        Row {
            at,
            key: string(&self.key, i).unwrap_or_default().to_owned(),
            variant: unsigned(&self.variant, i).and_then(|v| u16::try_from(v).ok()).unwrap_or_default(),
            position: Position {
                partition: match string(&self.partition, i) {
                    Some(name) if name != partition.as_str() => Partition::new(name),
                    _ => partition.clone(),
                },
                offset: unsigned(&self.offset, i).unwrap_or_default(),
            },
            url: string(&self.url, i).map(str::to_owned),
            failure: failed.then(|| {
                let text = |column| string(column, i).unwrap_or_default().to_owned();
                (text(&self.error_code), text(&self.error_message))
            }),
            size: both(unsigned(&self.width, i), unsigned(&self.height, i)),
            original_size: both(unsigned(&self.original_width, i), unsigned(&self.original_height, i)),
            sha256: string(&self.sha256, i).map(str::to_owned),
            images: images.collect(),
            source_file: string(&self.source_file, i).map(str::to_owned),
            source_row: unsigned(&self.source_row, i),
            seed: unsigned(&self.seed, i),
            ops: self.ops.as_ref().map(|ops| ops.row(i)).unwrap_or_default(),
            scores: self.scores.iter().map(|(name, array)| (name.clone(), float(array, i))).collect(),
            other: self.other.iter().map(|(name, array)| (name.clone(), json::value(array, i))).collect(),
        }
    }
}

/// Columns with a field of their own in [`Row`], and `raw`, which is no text.
const KNOWN: [&str; 18] = [
    "key",
    "variant",
    "partition",
    "offset",
    "url",
    "status",
    "error_code",
    "error_message",
    "raw",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
    "source_file",
    "source_row",
    "seed",
    "ops",
];

impl Ops {
    fn new(array: &ArrayRef) -> Result<Self, WrongType> {
        let wrong = || ("ops".to_owned(), array.data_type().clone());
        let list = cast_list(array).ok_or_else(wrong)?;
        let entries = list.values().as_struct_opt().ok_or_else(wrong)?;
        let field = |name: &str, kind: DataType| {
            entries.column_by_name(name).and_then(|column| cast(column, &kind).ok()).ok_or_else(wrong)
        };
        let ranges = (0..list.len()).map(|i| match list.is_valid(i) {
            true => list.value_offsets()[i] as usize..list.value_offsets()[i + 1] as usize,
            false => 0..0,
        });
        Ok(Self {
            ranges: ranges.collect(),
            step: field("step", DataType::Utf8)?,
            op: field("op", DataType::Utf8)?,
            version: field("version", DataType::UInt64)?,
            params: field("params", DataType::Utf8)?,
        })
    }

    fn row(&self, i: usize) -> Vec<AppliedOp> {
        let text = |array: &ArrayRef, at: usize| text_at(array, at).unwrap_or_default().to_owned();
        let op = |at: usize| AppliedOp {
            step: text(&self.step, at),
            op: text(&self.op, at),
            version: integer_at(&self.version, at).and_then(|v| u16::try_from(v).ok()).unwrap_or_default(),
            params: text(&self.params, at),
        };
        self.ranges[i].clone().map(op).collect()
    }
}

fn cast_list(array: &ArrayRef) -> Option<arrow::array::ListArray> {
    if let Some(list) = array.as_list_opt::<i32>() {
        return Some(list.clone());
    }
    let DataType::LargeList(item) = array.data_type() else { return None };
    cast(array, &DataType::List(item.clone())).ok()?.as_list_opt::<i32>().cloned()
}

/// `sha256` as hex digits, also where it is stored as 32 bytes.
fn hex(batch: &RecordBatch) -> Result<Option<ArrayRef>, WrongType> {
    let Some(array) = batch.column_by_name("sha256") else { return Ok(None) };
    let wrong = || ("sha256".to_owned(), array.data_type().clone());
    match array.data_type() {
        DataType::Binary | DataType::FixedSizeBinary(_) => {
            let bytes = cast(array, &DataType::Binary).map_err(|_| wrong())?;
            let hex = bytes.as_binary::<i32>().iter().map(|cell| cell.map(to_hex));
            Ok(Some(Arc::new(hex.collect::<arrow::array::StringArray>())))
        }
        _ => cast(array, &DataType::Utf8).map(Some).map_err(|_| wrong()),
    }
}

/// `seed` as the unsigned number it is, also where a signed column holds its bits.
fn seed(batch: &RecordBatch) -> Result<Option<ArrayRef>, WrongType> {
    use arrow::datatypes::Int64Type;
    let Some(array) = batch.column_by_name("seed") else { return Ok(None) };
    if let Some(signed) = array.as_primitive_opt::<Int64Type>() {
        return Ok(Some(Arc::new(signed.unary::<_, UInt64Type>(i64::cast_unsigned))));
    }
    cast(array, &DataType::UInt64).map(Some).map_err(|_| ("seed".to_owned(), array.data_type().clone()))
}

/// Lower-case hex digits.
fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn string(array: &Option<ArrayRef>, i: usize) -> Option<&str> {
    text_at(array.as_ref()?, i)
}

fn unsigned(array: &Option<ArrayRef>, i: usize) -> Option<u64> {
    integer_at(array.as_ref()?, i)
}

fn text_at(array: &ArrayRef, i: usize) -> Option<&str> {
    array.is_valid(i).then(|| array.as_string::<i32>().value(i))
}

fn integer_at(array: &ArrayRef, i: usize) -> Option<u64> {
    array.is_valid(i).then(|| array.as_primitive::<UInt64Type>().value(i))
}

fn float(array: &ArrayRef, i: usize) -> Option<f64> {
    array.is_valid(i).then(|| array.as_primitive::<Float64Type>().value(i))
}
