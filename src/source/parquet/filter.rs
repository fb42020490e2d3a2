//! `where`: which rows have the values asked for.

use std::collections::VecDeque;
use std::ops::Range;

use ::parquet::arrow::ProjectionMask;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use arrow::error::ArrowError;

use crate::source::{Scalar, Values};

/// The conditions on one file's rows.
pub(super) struct Filter {
    /// The columns that are asked.
    pub(super) mask: ProjectionMask,
    /// Place in the batches read with `mask`, and the condition.
    pub(super) conditions: Vec<(usize, Condition)>,
}

/// The values that a column may have.
pub(super) struct Condition {
    kind: Kind,
    values: Vec<Scalar>,
}

/// How a column's values are compared.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Null,
    Bool,
    Integer,
    Single,
    Double,
    Text,
    /// As arrow writes them: dates, times, decimals.
    Written,
}

impl Condition {
    /// `values` for a column of type `data`; says what is wrong if it can have none of them.
    pub(super) fn new(values: &Values, data: &DataType) -> Result<Self, String> {
        let plain = match data {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        let kind = match plain {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Bool,
            integer if integer.is_integer() => Kind::Integer,
            DataType::Float16 | DataType::Float32 => Kind::Single,
            DataType::Float64 => Kind::Double,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
            other if other.is_temporal() || other.is_decimal() => Kind::Written,
            other => return Err(format!("a column of type {other} cannot be compared")),
        };
        let holds = match kind {
            Kind::Null => "only nulls",
            Kind::Bool => "true and false",
            Kind::Integer => "whole numbers",
            Kind::Single | Kind::Double => "numbers",
            Kind::Text => "strings",
            Kind::Written => "values that are compared as strings, such as \"2026-11-01\"",
        };
        for value in &values.0 {
            let fits = match value {
                Scalar::Null => true,
                Scalar::Bool(_) => kind == Kind::Bool,
                Scalar::Integer(_) => matches!(kind, Kind::Integer | Kind::Single | Kind::Double),
                Scalar::Float(_) => matches!(kind, Kind::Single | Kind::Double),
                Scalar::Text(_) => matches!(kind, Kind::Text | Kind::Written),
            };
            if !fits && kind != Kind::Null {
                return Err(format!("{value} can never be found: the column holds {holds}"));
            }
        }
        Ok(Self { kind, values: values.0.clone() })
    }

    fn matches(&self, array: &ArrayRef) -> Result<BooleanBuffer, ArrowError> {
        let null = self.values.contains(&Scalar::Null);
        let any = |array: &dyn Array, is: &dyn Fn(usize, &Scalar) -> bool| {
            BooleanBuffer::collect_bool(array.len(), |i| match array.is_valid(i) {
                true => self.values.iter().any(|value| is(i, value)),
                false => null,
            })
        };
        Ok(match self.kind {
            Kind::Null => BooleanBuffer::collect_bool(array.len(), |_| null),
            Kind::Bool => {
                let array = cast(array, &DataType::Boolean)?;
                let array = array.as_boolean();
                any(array, &|i, value| *value == Scalar::Bool(array.value(i)))
            }
            Kind::Integer if array.data_type() == &DataType::UInt64 => {
                let array = array.as_primitive::<UInt64Type>();
                any(array, &|i, value| *value == Scalar::Integer(array.value(i).into()))
            }
            Kind::Integer => {
                let array = cast(array, &DataType::Int64)?;
                let array = array.as_primitive::<Int64Type>();
                any(array, &|i, value| *value == Scalar::Integer(array.value(i).into()))
            }
            Kind::Single | Kind::Double => {
                let array = cast(array, &DataType::Float64)?;
                let array = array.as_primitive::<Float64Type>();
                any(array, &|i, value| {
                    let wanted = match value {
                        Scalar::Integer(value) => *value as f64,
                        Scalar::Float(value) => *value,
                        _ => return false,
                    };
                    let found = array.value(i);
                    // 0.1 in the pipeline file means the 0.1 that a column of single precision can hold.
                    found == wanted || (self.kind == Kind::Single && found as f32 == wanted as f32)
                })
            }
            Kind::Text | Kind::Written => {
                let array = cast(array, &DataType::Utf8)?;
                let array = array.as_string::<i32>();
                any(array, &|i, value| matches!(value, Scalar::Text(text) if text == array.value(i)))
            }
        })
    }
}

impl Filter {
    /// Which rows of `batch` satisfy every condition.
    pub(super) fn matches(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let mut all = BooleanBuffer::new_set(batch.num_rows());
        for (at, condition) in &self.conditions {
            all = &all & &condition.matches(batch.column(*at))?;
        }
        Ok(BooleanArray::new(all, None))
    }
}

/// Rows gathered from the masks of one batch after the other.
pub(super) struct Ranges {
    row: u64,
    ranges: VecDeque<Range<u64>>,
}

impl Ranges {
    /// The first mask's first row is `row`.
    pub(super) fn from(row: u64) -> Self {
        Self { row, ranges: VecDeque::new() }
    }

    /// Takes in the next mask.
    pub(super) fn extend(&mut self, mask: &BooleanArray) {
        for (from, to) in mask.values().set_slices() {
            let range = self.row + from as u64..self.row + to as u64;
            match self.ranges.back_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => self.ranges.push_back(range),
            }
        }
        self.row += mask.len() as u64;
    }

    /// The rows, ascending.
    pub(super) fn finish(self) -> VecDeque<Range<u64>> {
        self.ranges
    }
}
