//! Any bytes are a part that can be verified, or a fault in the report; never an end of the walk, in bounded memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray};
use lm4lv::Error;
use lm4lv::checkpoint::Partition;
use lm4lv::plan::PlannedPartition;
use lm4lv::sink::footer::{Footer, parse_part_name, part_name};
use lm4lv::sink::read::StoredPart;
use lm4lv::sink::verify::verify;
use lm4lv::store::Folder;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::{folder, let_crates_panic, memory, put, wait};

const NAME: &str = "data/00000-00000/00000000000000000000.parquet";

/// Memory besides the file's own.
const OVERHEAD: u64 = 64 << 20;

/// Reads a part: the bytes behind a `P`, or one made of lines `key=value` for its footer, the first of which says how many
/// rows it has.
pub fn footer(data: &[u8]) {
    let_crates_panic();
    let bytes = match data.split_first() {
        Some((b'P', part)) => part.to_vec(),
        _ => {
            let text = String::from_utf8_lossy(data);
            let (rows, lines) = text.split_once('\n').unwrap_or_default();
            let pairs = lines.lines().filter_map(|line| line.split_once('='));
            let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            part(rows.len() as i64 % 8, pairs)
        }
    };
    let folder = folder();
    wait(put(&folder, NAME, bytes.clone()));
    let (opened, peak) = memory::peak(|| wait(StoredPart::open(&folder, NAME)));
    assert!(peak <= OVERHEAD + 64 * bytes.len() as u64, "{peak} bytes for {}", bytes.len());
    match opened {
        Ok(part) => {
            let footer = part.unwrap().footer().clone();
            if footer.fault("d", NAME).is_none() {
                assert!(footer.from == 0 && footer.end > 0 && footer.dataset == "d");
            }
            rewritten(&footer);
            let name = part_name(&footer.partition, footer.from);
            if !footer.partition.as_str().contains('/') {
                assert_eq!(parse_part_name(&name), Some((footer.partition.clone(), footer.from)), "{name}");
            }
        }
        Err(Error::DataLoss(why)) => assert!(why.contains(NAME), "{why}"),
        Err(other) => panic!("{other:?}"),
    }
    walk(&folder, bytes.len());
}

/// A walk over the dataset of this part ends with a report.
fn walk(folder: &Folder, length: usize) {
    let partition = Partition::of_file(0, 0);
    let plan = [PlannedPartition { partition, input: 0, path: "x".into(), first_row: 0, rows: 3, planned_rows: 3 }];
    let (report, peak) = memory::peak(|| wait(verify(folder, "d", &plan, &|_| None, true)));
    assert!(peak <= OVERHEAD + 64 * length as u64, "{peak} bytes for {length}");
    let report = report.unwrap();
    assert_eq!((report.parts, report.partitions), (1, 1));
    if report.faults.is_empty() {
        assert_eq!((report.complete, report.missing, report.archived), (1, 0, 0));
    }
}

/// The same account of itself, written and read again.
fn rewritten(footer: &Footer) {
    let fields: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(serde_json::to_value(footer).unwrap()).unwrap();
    let pairs = fields.into_iter().filter_map(|(key, value)| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some((key, text)),
        number => Some((key, number.to_string())),
    });
    let folder = folder();
    wait(put(&folder, NAME, part(1, pairs.collect())));
    let read = wait(StoredPart::open(&folder, NAME)).unwrap().unwrap();
    assert_eq!(read.footer(), footer);
}

/// A Parquet file with rows of offsets from 0 and these key-values, each key behind `lm4lv.`.
fn part(rows: i64, pairs: Vec<(String, String)>) -> Vec<u8> {
    let count = rows as usize;
    let batch = RecordBatch::try_from_iter([
        ("variant", Arc::new(Int32Array::from(vec![0; count])) as _),
        ("status", Arc::new(StringArray::from(vec!["ok"; count])) as _),
        ("partition", Arc::new(StringArray::from(vec!["00000-00000"; count])) as _),
        ("offset", Arc::new(Int64Array::from_iter_values(0..rows)) as _),
    ])
    .unwrap();
    let pairs = pairs.into_iter().map(|(key, value)| KeyValue::new(format!("lm4lv.{key}"), value)).collect();
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(pairs))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    if count > 0 {
        writer.write(&batch).unwrap();
    }
    writer.into_inner().unwrap()
}
