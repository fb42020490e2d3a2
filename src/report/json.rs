//! Arrow cells as JSON values, for metadata files that other programs read.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

/// Cell `i` of `array`: numbers, booleans, strings, lists and structs as such, everything else (times, decimals) as Arrow
/// prints it, bytes and what cannot be printed as null. A float that JSON cannot hold (infinite, not a number) is null.
pub(crate) fn value(array: &dyn Array, i: usize) -> Value {
    if array.is_null(i) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(i).into(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => one(array, i, DataType::UInt64)
            .map_or(Value::Null, |cell| cell.as_primitive::<UInt64Type>().value(0).into()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            one(array, i, DataType::Int64).map_or(Value::Null, |cell| cell.as_primitive::<Int64Type>().value(0).into())
        }
        // Through f32's own digits, so that 0.1f32 is 0.1 and not 0.10000000149011612.
        DataType::Float32 => {
            let cell = array.as_primitive::<arrow::datatypes::Float32Type>().value(i);
            cell.to_string().parse::<f64>().map_or(Value::Null, Value::from)
        }
        DataType::Float16 | DataType::Float64 => one(array, i, DataType::Float64)
            .map_or(Value::Null, |cell| cell.as_primitive::<Float64Type>().value(0).into()),
        DataType::Utf8 => array.as_string::<i32>().value(i).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(i).into(),
        DataType::Utf8View => array.as_string_view().value(i).into(),
        DataType::List(_) => items(&array.as_list::<i32>().value(i)),
        DataType::LargeList(_) => items(&array.as_list::<i64>().value(i)),
        DataType::FixedSizeList(..) => items(&array.as_fixed_size_list().value(i)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), value(column, i))).collect()
        }
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => Value::Null,
        DataType::Dictionary(_, values) => {
            one(array, i, values.as_ref().clone()).map_or(Value::Null, |cell| value(&cell, 0))
        }
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(array, &options);
            formatter.map_or(Value::Null, |formatter| formatter.value(i).to_string().into())
        }
    }
}

/// Cell `i` alone, as `kind`.
fn one(array: &dyn Array, i: usize, kind: DataType) -> Option<arrow::array::ArrayRef> {
    cast(&array.slice(i, 1), &kind).ok()
}

fn items(list: &dyn Array) -> Value {
    (0..list.len()).map(|i| value(list, i)).collect()
}
