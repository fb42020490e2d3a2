//! Sources give every planned position once, in order, whoever wrote the files, and from wherever they are started.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic like the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float32Type};
use lm4lv::Error;
use lm4lv::checkpoint::Partition;
use lm4lv::plan::{Opened, Plan, PlannedPartition, Wanted};
use lm4lv::sample::{Record, Reference};
use lm4lv::source::{Discovery, Event, Look, MemorySource, Source, SourceConfig, discover, open};
use lm4lv::store::{Folder, Stores};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};

const RESERVED: [&str; 4] = ["key", "url", "status", "width"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/source").join(name)
}

fn config(yaml: &str) -> SourceConfig {
    serde_saphyr::from_str(yaml).unwrap()
}

async fn look(config: &SourceConfig) -> lm4lv::Result<Discovery> {
    let stores = Stores::default();
    discover(Look { config, stores: &stores, sink: None, known: None, reserved: |name| RESERVED.contains(&name) }).await
}

/// A plan in a new folder, and what it was made with.
async fn plan(config: &SourceConfig) -> (tempfile::TempDir, Opened, Discovery) {
    let dir = tempfile::tempdir().unwrap();
    let discovery = look(config).await.unwrap();
    let wanted = Wanted {
        content: &config.content(),
        schema_hash: "s",
        discovery: &discovery,
        rows_per_partition: config.rows_per_partition().get(),
        accept_change: None,
        extend: false,
    };
    let opened = Plan::open_or_create(&Folder::Local(dir.path().join("out")), wanted).await.unwrap();
    (dir, opened, discovery)
}

/// What a source said: records and the end of each partition, both in the order of the events.
#[derive(Default)]
struct Said {
    records: Vec<Record>,
    ends: Vec<(Partition, u64)>,
    /// Most partitions assigned and not ended.
    open: usize,
}

/// Reads to the end; `at` says where each partition starts.
async fn read(source: &mut impl Source, at: impl Fn(&Partition) -> u64) -> Said {
    let mut said = Said::default();
    let mut open = 0;
    let mut epochs = BTreeMap::new();
    while let Some(event) = source.next(true).await.unwrap() {
        match event {
            Event::Assigned { partition, .. } => {
                open += 1;
                said.open = said.open.max(open);
                let epoch = 100 + epochs.len() as u64;
                epochs.insert(partition.clone(), epoch);
                let at = at(&partition);
                source.start(partition, epoch, at).unwrap();
            }
            Event::Records { epoch, records } => {
                assert!(!records.is_empty());
                assert!(records.iter().all(|record| epochs[&record.position.partition] == epoch));
                said.records.extend(records);
            }
            Event::End { partition, epoch, next } => {
                open -= 1;
                assert_eq!(epochs[&partition], epoch);
                said.ends.push((partition, next));
            }
            Event::Gap { .. } | Event::Revoked { .. } => panic!("neither is known here"),
        }
    }
    said
}

async fn read_all(config: &SourceConfig) -> Said {
    let (_dir, opened, discovery) = plan(config).await;
    let partitions = opened.partitions(None, None);
    read(&mut open(discovery, &opened, partitions).unwrap(), |_| 0).await
}

fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_str()).collect()
}

fn positions(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.position.to_string()).collect()
}

fn as_json(reference: &Reference) -> serde_json::Value {
    match reference {
        Reference::Missing | Reference::Unreadable(_) => serde_json::Value::Null,
        Reference::Uri(uri) | Reference::TooLong { start: uri, .. } => uri.as_str().into(),
        Reference::Inline { bytes, path } => {
            let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            serde_json::json!({ "sha256": hex, "path": path })
        }
    }
}

/// Writes rows of `id` (int64) and `url`, `rows` of them from `from` on, `group` in a row group.
fn write_urls(path: &Path, from: i64, rows: i64, group: usize) {
    let ids = Int64Array::from_iter_values(from..from + rows);
    let urls = StringArray::from_iter_values((from..from + rows).map(|i| format!("{i}.jpg")));
    let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("url", Arc::new(urls) as _)]).unwrap();
    write(path, &batch, group);
}

fn write(path: &Path, batch: &RecordBatch, group: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

#[tokio::test]
async fn reads_what_other_libraries_write() {
    let expected: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap();
    for (name, rows) in &expected {
        let columns = match name.as_str() {
            "huggingface.parquet" => "{ reference: noisy, target: clean }",
            "pyarrow_dictionary.parquet" => "{ task: task }",
            _ => "{}",
        };
        let path = fixture(name);
        let yaml = format!("parquet: {{ path: {path:?}, columns: {columns}, rows_per_partition: 11 }}");
        let said = read_all(&config(&yaml)).await;
        let rows = rows.as_array().unwrap();
        assert_eq!(said.records.len(), rows.len(), "{name}");
        for (i, (record, row)) in said.records.iter().zip(rows).enumerate() {
            assert_eq!(record.key, row["key"].as_str().unwrap(), "{name} {i}");
            assert_eq!(as_json(&record.reference), row["reference"], "{name} {i}");
            assert_eq!(record.target.as_ref().map(as_json), row.get("target").cloned(), "{name} {i}");
            assert_eq!(record.task.as_deref(), row.get("task").and_then(|task| task.as_str()), "{name} {i}");
            assert_eq!(record.position.to_string(), format!("00000-{:05}:{}", i / 11, i % 11), "{name}");
            assert_eq!(record.source_row, Some(i as u64));
            assert_eq!(record.source_file.as_deref(), Some(path.to_str().unwrap()));
        }
    }
}

#[tokio::test]
async fn finds_columns_or_says_what_it_found() {
    let message = async |name: &str, columns: &str| {
        let yaml = format!("parquet: {{ path: {:?}, columns: {columns} }}", fixture(name));
        match look(&config(&yaml)).await {
            Err(Error::Config(message)) => message,
            other => panic!("{name} {columns}: {other:?}"),
        }
    };
    let said = message("huggingface.parquet", "{}").await;
    assert!(said.contains("columns.reference: several") && said.contains("clean, noisy"), "{said}");
    let said = message("pyarrow_urls.parquet", "{ reference: tags }").await;
    assert!(said.contains("List(") && said.contains("unnest"), "{said}");
    let said = message("pyarrow_urls.parquet", "{ reference: link }").await;
    assert!(said.contains("no column link; it has id, url, caption"), "{said}");
    let said = message("pyarrow_urls.parquet", "{ key: sigma }").await;
    assert!(said.contains("Float32") && said.contains("string or an integer"), "{said}");
    let said = message("pyarrow_urls.parquet", "{ reference: none }").await;
    assert!(said.contains("columns.reference: none is not possible"), "{said}");
    let said = message("pyarrow_urls.parquet", "{ target: auto }").await;
    assert!(said.contains("columns.target"), "{said}");
    let said = message("pyarrow_urls.parquet", "{ task: id }").await;
    assert!(said.contains("a task is a string"), "{said}");

    let yaml = format!("parquet: {{ path: {:?}, columns: {{ target: clean }} }}", fixture("huggingface.parquet"));
    let discovery = look(&config(&yaml)).await.unwrap();
    assert_eq!(discovery.columns().unwrap().reference, "noisy");
    let yaml = format!("parquet: {{ path: {:?}, columns: {{ key: none }} }}", fixture("pyarrow_urls.parquet"));
    assert_eq!(
        keys(&read_all(&config(&yaml)).await.records[..2]),
        ["https://example.org/0.jpg", "https://example.org/1.jpg"]
    );
}

#[tokio::test]
async fn several_names_or_none_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let strings = || Arc::new(StringArray::from(vec!["x"])) as arrow::array::ArrayRef;
    let numbers = || Arc::new(Int64Array::from(vec![1])) as arrow::array::ArrayRef;
    for (columns, found) in [
        (vec![("URL", strings()), ("Path", strings())], Err("URL, Path")),
        (vec![("words", strings())], Err("the file has words")),
        (vec![("image", numbers()), ("words", strings())], Err("image would be called so")),
        (vec![("image", numbers()), ("jpg", strings())], Ok("jpg")),
        (vec![("photo", strings()), ("IMG_URL", strings())], Ok("IMG_URL")),
    ] {
        let path = dir.path().join("a.parquet");
        write(&path, &RecordBatch::try_from_iter(columns).unwrap(), 10);
        let looked = look(&config(&format!("parquet: {{ path: {path:?} }}"))).await;
        match found {
            Ok(name) => assert_eq!(looked.unwrap().columns().unwrap().reference, name),
            Err(said) => {
                let error = looked.unwrap_err();
                assert!(matches!(error, Error::Config(_)) && error.to_string().contains(said), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn every_position_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    write_urls(&dir.path().join("in/b.parquet"), 100, 50, 13);
    write_urls(&dir.path().join("in/a/z.parquet"), 0, 70, 1000);
    write_urls(&dir.path().join("in/c.parquet"), 200, 0, 10);
    write_urls(&dir.path().join("in/_temporary/d.parquet"), 300, 5, 10);
    let config = config(&format!("parquet: {{ path: {:?}, rows_per_partition: 10 }}", dir.path().join("in")));
    let (_out, opened, discovery) = plan(&config).await;
    assert_eq!(discovery.notes(), ["1 files or folders whose names begin with . or _ were left out"]);
    assert_eq!(opened.rows(), 120);
    let partitions = opened.partitions(None, None);
    assert_eq!(partitions.len(), 12);
    let said = read(&mut open(discovery, &opened, partitions).unwrap(), |_| 0).await;
    let wanted: Vec<_> = (0..70).chain(100..150).map(|i| i.to_string()).collect();
    assert_eq!(keys(&said.records), wanted);
    assert_eq!(said.records[69].position.to_string(), "00000-00006:9");
    assert_eq!(said.records[70].position.to_string(), "00001-00000:0");
    assert_eq!(said.ends.len(), 12);
    assert!(said.ends.iter().all(|(_, next)| *next == 10));
    assert_eq!(said.open, 5, "partitions are announced a few ahead, not all");
}

#[tokio::test]
async fn goes_on_from_any_offset() {
    for name in ["pyarrow_urls.parquet", "pyarrow_dictionary.parquet", "polars_paths.parquet", "huggingface.parquet"] {
        let columns = if name.starts_with("hugging") { "{ reference: clean }" } else { "{}" };
        let yaml = format!("parquet: {{ path: {:?}, columns: {columns}, rows_per_partition: 19 }}", fixture(name));
        let config = config(&yaml);
        let all = read_all(&config).await.records;
        for at in 0..=20 {
            let (_dir, opened, discovery) = plan(&config).await;
            let partitions = opened.partitions(None, None);
            let rows = partitions[0].rows;
            let said = read(&mut open(discovery, &opened, partitions).unwrap(), |_| at).await;
            let left: Vec<_> = all.iter().filter(|record| record.position.offset >= at).collect();
            assert_eq!(said.records.len(), left.len(), "{name} {at}");
            for (record, same) in said.records.iter().zip(left) {
                assert_eq!(
                    (&record.key, &record.reference, &record.position),
                    (&same.key, &same.reference, &same.position)
                );
            }
            assert_eq!(said.ends[0].1, rows.max(at), "a chain that is longer than the partition stays so");
        }
    }
}

#[tokio::test]
async fn starts_again_after_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    write_urls(&dir.path().join("a.parquet"), 0, 2000, 700);
    let config = config(&format!("parquet: {{ path: {:?} }}", dir.path().join("a.parquet")));
    let (_out, opened, discovery) = plan(&config).await;
    let mut source = open(discovery, &opened, opened.partitions(None, None)).unwrap();
    let Some(Event::Assigned { partition, .. }) = source.next(true).await.unwrap() else { panic!() };
    source.start(partition.clone(), 1, 0).unwrap();
    let Some(Event::Records { epoch: 1, records }) = source.next(true).await.unwrap() else { panic!() };
    assert_eq!(records[0].position.offset, 0);
    source.start(partition.clone(), 2, 1500).unwrap();
    let mut offsets = Vec::new();
    loop {
        match source.next(true).await.unwrap() {
            Some(Event::Records { epoch: 2, records }) => offsets.extend(records.iter().map(|r| r.position.offset)),
            Some(Event::End { epoch: 2, next: 2000, .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(offsets, (1500..2000).collect::<Vec<_>>());
    assert!(source.next(true).await.unwrap().is_none());
    source.start(partition, 3, 1999).unwrap();
    let Some(Event::Records { epoch: 3, records }) = source.next(true).await.unwrap() else { panic!() };
    assert_eq!(positions(&records), ["00000-00000:1999"]);
    assert!(matches!(source.next(true).await.unwrap(), Some(Event::End { epoch: 3, .. })));
    assert!(source.next(true).await.unwrap().is_none());
    assert!(matches!(source.start(Partition::new("other"), 1, 0), Err(Error::Bug(_))));
}

#[tokio::test]
async fn shards_share_out_the_partitions() {
    let dir = tempfile::tempdir().unwrap();
    write_urls(&dir.path().join("a.parquet"), 0, 119, 40);
    let config = config(&format!("parquet: {{ path: {:?}, rows_per_partition: 10 }}", dir.path().join("a.parquet")));
    let all = read_all(&config).await;
    let mut shared = Vec::new();
    for i in 0..3 {
        let (_out, opened, discovery) = plan(&config).await;
        let partitions = opened.partitions(Some((i, 3)), None);
        assert_eq!(partitions.len(), 4);
        let said = read(&mut open(discovery, &opened, partitions).unwrap(), |_| 0).await;
        shared.extend(said.records);
    }
    shared.sort_by(|a, b| a.position.cmp(&b.position));
    assert_eq!(positions(&shared), positions(&all.records));
    assert_eq!(keys(&shared), keys(&all.records));
}

#[tokio::test]
async fn a_limit_cuts_the_plan_before_the_shards() {
    let dir = tempfile::tempdir().unwrap();
    write_urls(&dir.path().join("a.parquet"), 0, 50, 40);
    let config = config(&format!("parquet: {{ path: {:?}, rows_per_partition: 10 }}", dir.path().join("a.parquet")));
    let (_out, opened, discovery) = plan(&config).await;
    let rows =
        |partitions: &[PlannedPartition]| partitions.iter().map(|p| (p.rows, p.planned_rows)).collect::<Vec<_>>();
    assert_eq!(rows(&opened.partitions(None, Some(25))), [(10, 10), (10, 10), (5, 10)]);
    assert_eq!(rows(&opened.partitions(Some((0, 2)), Some(25))), [(10, 10), (5, 10)]);
    assert_eq!(rows(&opened.partitions(None, Some(0))), []);
    assert_eq!(opened.partitions(None, Some(99)).len(), 5);
    let said = read(&mut open(discovery, &opened, opened.partitions(None, Some(25))).unwrap(), |_| 0).await;
    assert_eq!(said.records.len(), 25);
    assert_eq!(said.ends.last().unwrap().1, 5);
}

#[tokio::test]
async fn where_leaves_gaps() {
    let read_where = async |name: &str, filter: &str| {
        let yaml = format!("parquet: {{ path: {:?}, where: {filter}, rows_per_partition: 17 }}", fixture(name));
        let said = read_all(&config(&yaml)).await;
        assert_eq!(said.ends.iter().map(|(_, next)| next).sum::<u64>(), if name.starts_with("duck") { 25 } else { 40 });
        said.records.iter().map(|record| record.source_row.unwrap()).collect::<Vec<_>>()
    };
    let rows = |keep: &dyn Fn(u64) -> bool, n: u64| (0..n).filter(|&i| keep(i)).collect::<Vec<_>>();
    let urls = "pyarrow_urls.parquet";
    assert_eq!(read_where(urls, "{ status: failed }").await, rows(&|i| i % 3 == 1, 40));
    assert_eq!(read_where(urls, "{ status: [failed, null] }").await, rows(&|i| i % 3 != 0, 40));
    assert_eq!(read_where(urls, "{ status: ok, id: [1003, 1004, 1033] }").await, [3, 33]);
    assert_eq!(read_where(urls, "{ id: null }").await, [7]);
    assert_eq!(read_where(urls, "{ sigma: [0.25, 3] }").await, [1, 12]);
    assert_eq!(read_where(urls, "{ when: '1970-01-31' }").await, [30]);
    assert!(read_where(urls, "{ caption: nothing }").await.is_empty());
    assert_eq!(read_where("duckdb_urls.parquet", "{ even: true }").await, rows(&|i| i % 2 == 0, 25));
    assert_eq!(read_where("duckdb_urls.parquet", "{ ID: 18446744073709551003 }").await, [3]);
    for (filter, said) in [
        ("{ id: x }", "where.id: \"x\" can never be found: the column holds whole numbers"),
        ("{ gone: 1 }", "no column gone"),
        ("{ tags: a }", "cannot be compared"),
        ("{ status: 3 }", "the column holds strings"),
    ] {
        let error =
            look(&config(&format!("parquet: {{ path: {:?}, where: {filter} }}", fixture(urls)))).await.unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn where_goes_on_in_the_middle() {
    let yaml = format!(
        "parquet: {{ path: {:?}, where: {{ status: failed }}, rows_per_partition: 30 }}",
        fixture("pyarrow_urls.parquet")
    );
    let config = config(&yaml);
    for at in 0..30 {
        let (_dir, opened, discovery) = plan(&config).await;
        let partitions = opened.partitions(None, Some(30));
        let said = read(&mut open(discovery, &opened, partitions).unwrap(), |_| at).await;
        let wanted: Vec<_> = (at..30).filter(|i| i % 3 == 1).collect();
        assert_eq!(said.records.iter().map(|record| record.position.offset).collect::<Vec<_>>(), wanted);
    }
}

#[tokio::test]
async fn kept_columns_go_with_each_record() {
    let kept = async |name: &str, more: &str| {
        let config = config(&format!("parquet: {{ path: {:?}, {more} }}", fixture(name)));
        let discovery = look(&config).await?;
        let fields: Vec<_> =
            discovery.kept_fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        Ok::<_, Error>((fields, read_all(&config).await.records))
    };
    let (fields, records) = kept("pyarrow_urls.parquet", "keep: [sigma, caption]").await.unwrap();
    assert_eq!(fields, [("caption".into(), DataType::Utf8), ("sigma".into(), DataType::Float32)]);
    let row = records[37].kept.as_ref().unwrap();
    assert_eq!(row.num_rows(), 1);
    assert_eq!(row.column(0).as_string::<i32>().value(0), "caption 37 é");
    assert_eq!(row.column(1).as_primitive::<Float32Type>().value(0), 9.25);
    assert_eq!(records[37].number("sigma"), Some(9.25));

    // Strings, categories and lists come as plain ones, whoever wrote them.
    let (fields, records) = kept("polars_paths.parquet", "keep: ['*']").await.unwrap();
    let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["uid", "file_name", "category", "scores"]);
    assert_eq!(fields[2].1, DataType::Utf8);
    assert!(matches!(&fields[3].1, DataType::List(item) if item.data_type() == &DataType::Float64));
    let row = records[5].kept.as_ref().unwrap();
    assert_eq!(row.column(2).as_string::<i32>().value(0), "b");
    assert_eq!(row.column(3).as_list::<i32>().value(0).len(), 2);

    // All but images, and but what the row has anyway.
    let (fields, _) = kept("huggingface.parquet", "columns: { reference: clean }, keep: ['*']").await.unwrap();
    assert_eq!(fields, [("label".into(), DataType::Int64)]);
    let (fields, _) = kept("pyarrow_webdataset.parquet", "keep: ['*']").await.unwrap();
    assert_eq!(fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["__key__", "json"]);
    let (fields, _) = kept("duckdb_urls.parquet", "keep: ['*']").await.unwrap();
    assert_eq!(fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["ID", "taken", "size", "even"]);

    // Days are dates, not a number of milliseconds.
    let dir = tempfile::tempdir().unwrap();
    let columns: [(&str, arrow::array::ArrayRef); 2] = [
        ("url", Arc::new(arrow::array::StringArray::from(vec!["a.png"]))),
        ("taken", Arc::new(arrow::array::Date64Array::from(vec![18_262 * 86_400_000]))),
    ];
    write(&dir.path().join("a.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 10);
    let path = dir.path().join("a.parquet");
    let (fields, records) = kept(path.to_str().unwrap(), "keep: [taken]").await.unwrap();
    assert_eq!(fields, [("taken".into(), DataType::Date32)]);
    let row = records[0].kept.as_ref().unwrap();
    assert_eq!(row.column(0).as_primitive::<arrow::datatypes::Date32Type>().value(0), 18_262);

    for (more, said) in [
        ("keep: ['*']", "columns of their own called status"),
        ("keep: [status, url]", "columns of their own called status, url"),
        ("keep: [sigma, sigma]", "sigma is there twice"),
        ("keep: [nothing]", "no column nothing; it has id"),
    ] {
        let error = kept("pyarrow_urls.parquet", more).await.unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn files_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let strings = |name| (name, Arc::new(StringArray::from(vec!["x"])) as arrow::array::ArrayRef);
    let numbers = |name| (name, Arc::new(Int64Array::from(vec![1])) as arrow::array::ArrayRef);
    write(&dir.path().join("a.parquet"), &RecordBatch::try_from_iter([strings("url"), strings("text")]).unwrap(), 10);
    let config = config(&format!("parquet: {{ path: {:?}, keep: [text] }}", dir.path().join("*.parquet")));
    for (columns, said) in [
        (vec![strings("url"), numbers("text")], "Utf8 in the first file, but Int64 in"),
        (vec![strings("text")], "no column url"),
        (vec![numbers("url"), strings("text")], "an image is a string"),
    ] {
        write(&dir.path().join("b.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 10);
        let error = look(&config).await.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("b.parquet"), "{error}");
    }
    // Another order of columns is no difference.
    let swapped = RecordBatch::try_from_iter([strings("text"), ("more", numbers("more").1), strings("url")]).unwrap();
    write(&dir.path().join("b.parquet"), &swapped, 10);
    assert_eq!(read_all(&config).await.records.len(), 2);
}

#[tokio::test]
async fn what_is_no_parquet_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in
        [("empty", &b""[..]), ("text", b"hello world, this is text"), ("huge", b"xxxx\xff\xff\xff\x3fPAR1")]
    {
        let path = dir.path().join(format!("{name}.parquet"));
        std::fs::write(&path, bytes).unwrap();
        let error = look(&config(&format!("parquet: {{ path: {path:?} }}"))).await.unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains(path.to_str().unwrap())), "{error}");
    }
    for path in ["nowhere.parquet", "*.nothing", "no/such/*/folder"] {
        let error = look(&config(&format!("parquet: {{ path: {:?} }}", dir.path().join(path)))).await.unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains("names no Parquet file")), "{error}");
    }
    let error = look(&config("parquet: { path: '[' }")).await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
}

#[tokio::test]
async fn large_images_come_in_small_batches() {
    let dir = tempfile::tempdir().unwrap();
    let images = BinaryArray::from_iter_values((0..40u8).map(|i| vec![i; 1 << 20]));
    let batch = RecordBatch::try_from_iter([("bytes", Arc::new(images) as arrow::array::ArrayRef)]).unwrap();
    write(&dir.path().join("a.parquet"), &batch, 1000);
    let config = config(&format!("parquet: {{ path: {:?}, columns: {{ key: none }} }}", dir.path().join("a.parquet")));
    let (_out, opened, discovery) = plan(&config).await;
    let mut source = open(discovery, &opened, opened.partitions(None, None)).unwrap();
    let mut seen = 0;
    while let Some(event) = source.next(true).await.unwrap() {
        match event {
            Event::Assigned { partition, .. } => source.start(partition, 0, 13).unwrap(),
            Event::Records { records, .. } => {
                assert!(records.len() <= 16, "{} images of 1 MiB at once", records.len());
                for record in records {
                    let Reference::Inline { bytes, .. } = &record.reference else { panic!() };
                    assert_eq!(bytes[77], 13 + seen);
                    assert_eq!(record.key.len(), 64);
                    seen += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(seen, 27);
}

#[tokio::test]
async fn a_file_written_to_while_it_is_read_is_not_mixed_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let images = BinaryArray::from_iter_values((0..40u8).map(|i| vec![i; 1 << 20]));
    let batch = RecordBatch::try_from_iter([("bytes", Arc::new(images) as arrow::array::ArrayRef)]).unwrap();
    write(&path, &batch, 10);
    let config = config(&format!("parquet: {{ path: {path:?}, columns: {{ key: none }} }}"));
    let (_out, opened, discovery) = plan(&config).await;
    let mut source = open(discovery, &opened, opened.partitions(None, None)).unwrap();
    let mut read = Vec::new();
    let error = loop {
        match source.next(true).await {
            Ok(Some(Event::Assigned { partition, .. })) => source.start(partition, 0, 0).unwrap(),
            Ok(Some(Event::Records { records, .. })) => {
                read.extend(records.into_iter().map(|record| record.reference));
                // One byte of the last image: footer, size and layout stay as they were.
                let mut bytes = std::fs::read(&path).unwrap();
                let at = bytes.iter().rposition(|&byte| byte == 39).unwrap();
                bytes[at] = 40;
                std::fs::write(&path, bytes).unwrap();
            }
            Ok(Some(_)) => {}
            Ok(None) => panic!("{} rows, the last of another file", read.len()),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, Error::DataLoss(why) if why.contains("a.parquet: the file changed while it was read")),
        "{error}"
    );
    for (i, reference) in read.iter().enumerate() {
        let Reference::Inline { bytes, .. } = reference else { panic!() };
        assert_eq!(bytes[..], vec![i as u8; 1 << 20]);
    }
    assert!(!read.is_empty() && read.len() < 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_gives_its_frozen_list() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("photos");
    for i in 0..600 {
        let path = root.join(format!("{}/{i:04}.JPG", i % 3));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![0; i]).unwrap();
    }
    for path in [".hidden.jpg", ".cache/a.jpg", "@eaDir/a.jpg", "0/@eaDir/b.jpg", "notes.txt"] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let config = config(&format!("folder: {{ path: {root:?}, rows_per_partition: 290 }}"));
    let (out, opened, discovery) = plan(&config).await;
    assert_eq!((discovery.rows(), discovery.bytes()), (600, (0..600).sum()));
    assert_eq!(opened.default_root().as_deref(), root.to_str());
    let listing = opened.inputs[0].listing.clone().unwrap();
    assert!(out.path().join("out/.lm4lv").join(&listing).exists());
    // What comes later, or goes, changes nothing.
    std::fs::write(root.join("0/aaaa.jpg"), "x").unwrap();
    std::fs::remove_file(root.join("0/0000.JPG")).unwrap();
    for at in [0, 1, 255, 256, 257, 289] {
        let discovery = look(&config).await.unwrap();
        let mut source = open(discovery, &opened, opened.partitions(None, None)).unwrap();
        let said = read(&mut source, |_| at).await;
        let mut wanted: Vec<_> = (0..600).map(|i| format!("{}/{i:04}.JPG", i % 3)).collect();
        wanted.sort();
        let wanted: Vec<_> = (0..600).filter(|i| i % 290 >= at).map(|i| wanted[i as usize].as_str()).collect();
        assert_eq!(keys(&said.records), wanted);
        let Some(record) = said.records.iter().find(|record| record.key == "2/0599.JPG") else { continue };
        assert_eq!(record.reference, Reference::Uri("2/0599.JPG".into()));
        assert_eq!(record.listed.unwrap().size, 599);
        assert!(record.listed.unwrap().mtime_ns > 0);
        assert_eq!((record.source_file.clone(), record.source_row), (None, None));
    }
    let discovery = look(&config).await.unwrap();
    let said = read(&mut open(discovery, &opened, opened.partitions(Some((1, 3)), None)).unwrap(), |_| 0).await;
    assert_eq!(said.records[0].position.to_string(), "00000-00001:0");
    assert_eq!(said.records.len(), 290);
}

#[tokio::test]
async fn a_folder_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "x").unwrap();
    for (path, said) in [("nowhere", "No such file"), ("a.txt", "is a file"), ("", "no file below")] {
        let config = config(&format!("folder: {{ path: {:?} }}", dir.path().join(path)));
        let error = look(&config).await.unwrap_err();
        assert!(matches!(&error, Error::Config(message) if message.contains(said)), "{error}");
    }
    let bad = config(&format!("folder: {{ path: {:?}, include: ['a[']}}", dir.path()));
    let error = look(&bad).await.unwrap_err().to_string();
    assert!(error.contains("source.folder.include: the glob \"a[\""), "{error}");
}

#[tokio::test]
async fn memory_gives_back_what_it_was_given() {
    let record = |partition: &Partition, offset| {
        Record::new(
            format!("{partition}/{offset}"),
            Reference::Missing,
            lm4lv::checkpoint::Position { partition: partition.clone(), offset },
        )
    };
    let partitions = ["a", "b", "c"].map(|name| {
        let partition = Partition::new(name);
        let records = (0..10).filter(|i| i % 4 != 3).map(|i| record(&partition, i)).collect();
        (partition, records)
    });
    let mut source = MemorySource::new(partitions.to_vec(), 3);
    let said = read(&mut source, |partition| if partition.as_str() == "b" { 5 } else { 0 }).await;
    assert_eq!(said.records.len(), 8 + 4 + 8);
    assert_eq!(said.ends.iter().map(|(_, next)| *next).collect::<Vec<_>>(), [10, 10, 10]);
}
