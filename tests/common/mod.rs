//! What the end-to-end tests share: photographs, input files, the binary, and the rows of a dataset.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The columns that may differ between two runs that made the same rows.
pub(crate) const VOLATILE: &[&str] =
    &["fetch_ms", "decode_ms", "degrade_ms", "restore_ms", "score_ms", "encode_ms", "attempts", "run", "writer"];
/// The columns that say where a row's reference stood, which differ between sources.
pub(crate) const PLACE: &[&str] = &["partition", "offset", "source_file", "source_row", "url"];

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the binary in `dir` and gives what it printed.
pub(crate) fn lm4lv(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lm4lv")).args(args).current_dir(dir).env_remove("RUST_LOG").output().unwrap()
}

/// Runs the binary and asserts its exit code.
pub(crate) fn expect(dir: &Path, args: &[&str], code: i32) -> Output {
    let output = lm4lv(dir, args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "lm4lv {args:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Writes `n` small, different photographs-like JPEGs (crops of the repository's photographs) and returns their names.
pub(crate) fn photographs(dir: &Path, n: usize, size: u32) -> Vec<String> {
    let sources: Vec<image::RgbImage> = ["astronaut.jpg", "coffee.jpg", "rocket.jpg"]
        .iter()
        .map(|name| {
            let bytes = std::fs::read(root().join("pipelines/photos").join(name)).unwrap();
            let mut decoder = zune_jpeg::JpegDecoder::new(std::io::Cursor::new(bytes));
            let pixels = decoder.decode().unwrap();
            let (width, height) = decoder.dimensions().unwrap();
            image::RgbImage::from_raw(width as u32, height as u32, pixels).unwrap()
        })
        .collect();
    std::fs::create_dir_all(dir).unwrap();
    (0..n)
        .map(|i| {
            let source = &sources[i % sources.len()];
            let (x, y) = ((i as u32 * 37) % (source.width() - size), (i as u32 * 53) % (source.height() - size));
            let crop = image::imageops::crop_imm(source, x, y, size, size).to_image();
            let name = format!("{i:04}.jpg");
            let encoder = jpeg_encoder::Encoder::new_file(dir.join(&name), 90).unwrap();
            encoder.encode(&crop, size as u16, size as u16, jpeg_encoder::ColorType::Rgb).unwrap();
            name
        })
        .collect()
}

/// Writes a Parquet file of the given columns.
pub(crate) fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A column of optional strings.
pub(crate) fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// A column of bytes.
pub(crate) fn binaries(values: &[Vec<u8>]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(values))
}

/// The dataset's parts, in order of partition and offset.
pub(crate) fn parts(dataset: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(partitions) = std::fs::read_dir(dataset.join("data")) else { return found };
    for partition in partitions {
        for part in std::fs::read_dir(partition.unwrap().path()).unwrap() {
            found.push(part.unwrap().path());
        }
    }
    found.sort();
    found
}

/// Every row as column → text (bytes as their BLAKE3), by (key, variant, ordinal among equal keys).
pub(crate) fn rows(dataset: &Path, without: &[&str]) -> BTreeMap<(String, String, usize), BTreeMap<String, String>> {
    let mut rows = BTreeMap::new();
    for part in parts(dataset) {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&part).unwrap()).unwrap().build().unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                let mut cells = BTreeMap::new();
                for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                    if !without.contains(&field.name().as_str()) {
                        cells.insert(field.name().clone(), cell(column, row));
                    }
                }
                let (key, variant) = (text(&batch, "key", row), text(&batch, "variant", row));
                let ordinal = (0..).find(|n| !rows.contains_key(&(key.clone(), variant.clone(), *n))).unwrap();
                rows.insert((key, variant, ordinal), cells);
            }
        }
    }
    rows
}

/// One cell by column name, as text.
pub(crate) fn text(batch: &RecordBatch, column: &str, row: usize) -> String {
    cell(batch.column_by_name(column).unwrap_or_else(|| panic!("no column {column}")), row)
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".into();
    }
    if let Some(fields) = column.as_struct_opt()
        && let Some(bytes) = fields.column_by_name("bytes")
    {
        return format!("{} {}", cell(fields.column_by_name("path").unwrap(), row), cell(bytes, row));
    }
    if let Some(bytes) = column.as_binary_opt::<i32>() {
        return blake3::hash(bytes.value(row)).to_hex().to_string();
    }
    // The formatter knows no time zone by name.
    if let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() {
        return times.value_as_datetime(row).unwrap().to_string();
    }
    ArrayFormatter::try_new(column, &FormatOptions::default()).unwrap().value(row).to_string()
}
