//! What reads a finished dataset: rows in order from a local folder and an object store, contact sheets, exports that
//! resume. The datasets are written here with Arrow, so that the reader is tested against the documented layout and not
//! against our own writer.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic like the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use lm4lv::Error;
use lm4lv::checkpoint::{Partition, Position};
use lm4lv::report::Order;
use lm4lv::report::export::{ExportOptions, Exported, Format, export};
use lm4lv::report::failures::failures;
use lm4lv::report::rows::{Columns, Dataset, Row, score_column};
use lm4lv::report::sheet::{SheetOptions, make};
use lm4lv::store::Folder;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

/// A row to write.
#[derive(Clone)]
struct Wanted {
    key: &'static str,
    variant: i32,
    offset: i64,
    failed: Option<(&'static str, &'static str)>,
    psnr: f64,
    /// Width, height, grey level of `input`.
    image: (u32, u32, u8),
    target: bool,
    extension: &'static str,
}

fn wanted(key: &'static str, offset: i64) -> Wanted {
    Wanted { key, variant: 0, offset, failed: None, psnr: 20.0, image: (24, 16, 90), target: true, extension: "png" }
}

fn grey_png(width: u32, height: u32, level: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![level; (width * height * 3) as usize]).unwrap();
    writer.finish().unwrap();
    bytes
}

fn pixels(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut data).unwrap();
    data.truncate(info.buffer_size());
    (info.width, info.height, data)
}

fn cells(images: Vec<Option<(Vec<u8>, String)>>) -> ArrayRef {
    let bytes = BinaryArray::from_iter(images.iter().map(|cell| cell.as_ref().map(|(bytes, _)| bytes)));
    let paths = StringArray::from_iter(images.iter().map(|cell| cell.as_ref().map(|(_, path)| path)));
    let fields =
        Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)]);
    let valid = NullBuffer::from_iter(images.iter().map(Option::is_some));
    Arc::new(StructArray::new(fields, vec![Arc::new(bytes), Arc::new(paths)], Some(valid)))
}

/// A part's bytes; several row groups, so that a reader that counts rows per group wrongly is found out.
fn part(partition: &str, rows: &[Wanted]) -> Vec<u8> {
    let ok = |row: &Wanted| row.failed.is_none();
    let path = |row: &Wanted, extension: &str| match row.variant {
        0 => format!("{}.{extension}", row.key),
        variant => format!("{}.v{variant}.{extension}", row.key),
    };
    let op_fields = Fields::from(vec![
        Field::new("step", DataType::Utf8, true),
        Field::new("op", DataType::Utf8, true),
        Field::new("version", DataType::Int32, true),
        Field::new("params", DataType::Utf8, true),
    ]);
    let text = |value: &str| Arc::new(StringArray::from(vec![value; rows.len()])) as ArrayRef;
    let ops = StructArray::new(
        op_fields.clone(),
        vec![
            text("0"),
            text("gaussian_noise"),
            Arc::new(Int32Array::from(vec![1; rows.len()])),
            text(r#"{"sigma":18.0}"#),
        ],
        None,
    );
    let ops = ListArray::new(
        Arc::new(Field::new("item", DataType::Struct(op_fields), true)),
        OffsetBuffer::from_lengths(rows.iter().map(|_| 1)),
        Arc::new(ops),
        None,
    );
    let width = |row: &Wanted| ok(row).then_some(row.image.0 as i32);
    let height = |row: &Wanted| ok(row).then_some(row.image.1 as i32);
    let input =
        |row: &Wanted| ok(row).then(|| (grey_png(row.image.0, row.image.1, row.image.2), path(row, row.extension)));
    let target =
        |row: &Wanted| (ok(row) && row.target).then(|| (grey_png(row.image.0, row.image.1, 200), path(row, "png")));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("key", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.key)))),
        ("variant", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.variant)))),
        ("url", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.key)))),
        (
            "status",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| if ok(row) { "success" } else { "failed" }))),
        ),
        ("error_code", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.failed.map(|f| f.0))))),
        ("error_message", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.failed.map(|f| f.1))))),
        ("width", Arc::new(Int32Array::from_iter(rows.iter().map(width)))),
        ("height", Arc::new(Int32Array::from_iter(rows.iter().map(height)))),
        ("sha256", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| format!("{:064x}", row.key.len()))))),
        ("input", cells(rows.iter().map(input).collect())),
        ("target", cells(rows.iter().map(target).collect())),
        ("partition", text(partition)),
        ("offset", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset)))),
        ("seed", Arc::new(Int64Array::from(vec![7; rows.len()]))),
        ("ops", Arc::new(ops)),
        ("input_psnr_lm4lv", Arc::new(Float64Array::from_iter(rows.iter().map(|row| ok(row).then_some(row.psnr))))),
        ("caption", text("a \"kept\" column")),
        ("fetch_ms", Arc::new(Float32Array::from(vec![1.5; rows.len()]))),
        ("attempts", Arc::new(Int32Array::from(vec![1; rows.len()]))),
        ("run", text("run")),
        ("writer", text("writer")),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let mut bytes = Vec::new();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(3)).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    if batch.num_rows() > 0 {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// Parts by name: partition 0 in three parts, one of them without rows, and partition 1 in one.
fn parts(rows: impl Fn(i64) -> Vec<Wanted>) -> BTreeMap<String, Vec<u8>> {
    let name = |partition: &str, from: u64| format!("data/{partition}/{from:020}.parquet");
    let of = |range: std::ops::Range<i64>| range.flat_map(&rows).collect::<Vec<_>>();
    BTreeMap::from([
        (name("00000-00000", 0), part("00000-00000", &of(0..4))),
        (name("00000-00000", 4), part("00000-00000", &[])),
        (name("00000-00000", 9), part("00000-00000", &of(9..10))),
        (name("00000-00001", 0), part("00000-00001", &of(0..2))),
    ])
}

const KEYS: [&str; 10] = ["a/one", "a/two", "b/three", "four", "", "", "", "", "", "nine"];

fn simple() -> BTreeMap<String, Vec<u8>> {
    parts(|offset| vec![wanted(KEYS[offset as usize], offset)])
}

struct Place {
    _folder: tempfile::TempDir,
    dataset: PathBuf,
    out: PathBuf,
}

impl Place {
    fn new(parts: &BTreeMap<String, Vec<u8>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (dataset, out) = (folder.path().join("ds"), folder.path().join("out"));
        let place = Self { _folder: folder, dataset, out };
        place.write(parts);
        place
    }

    fn write(&self, parts: &BTreeMap<String, Vec<u8>>) {
        for (name, bytes) in parts {
            let path = self.dataset.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn open(&self) -> Result<Dataset, Error> {
        runtime().block_on(Dataset::open(Folder::Local(self.dataset.clone()), "some/ds/"))
    }

    fn export(&self, format: Format) -> Result<Exported, Error> {
        let options = ExportOptions { format, shard_rows: 2 };
        runtime().block_on(async { export(&self.open_async().await?, &self.out, options).await })
    }

    async fn open_async(&self) -> Result<Dataset, Error> {
        Dataset::open(Folder::Local(self.dataset.clone()), "some/ds/").await
    }

    /// Every file of the export with its bytes, by its path with `/`.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(root, &path, found);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.out, &self.out, &mut found);
        found
    }

    /// The names of the export's files but the note.
    fn names(&self) -> Vec<String> {
        self.files().into_keys().filter(|name| name != ".lm4lv-export.json").collect()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn all(dataset: &Dataset, columns: Columns) -> Vec<Row> {
    runtime().block_on(async {
        let mut rows = dataset.rows(columns);
        let mut found = Vec::new();
        while let Some(row) = rows.next().await.unwrap() {
            found.push(row);
        }
        found
    })
}

fn at(partition: usize, offset: u64) -> Position {
    Position { partition: Partition::of_file(0, partition), offset }
}

#[test]
fn rows_come_in_chain_order_with_the_columns_asked_for() {
    let place = Place::new(&simple());
    let dataset = place.open().unwrap();
    assert_eq!((dataset.name(), dataset.place(), dataset.parts().len()), ("ds", "some/ds", 4));
    let rows = all(&dataset, Columns::All);
    let keys: Vec<_> = rows.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(keys, ["a/one", "a/two", "b/three", "four", "nine", "a/one", "a/two"]);
    assert_eq!(rows[4].position, at(0, 9));
    assert_eq!(rows[6].position, at(1, 1));
    let row = &rows[3];
    assert_eq!((row.variant, row.seed, row.size, row.url.as_deref()), (0, Some(7), Some((24, 16)), Some("four")));
    assert_eq!(row.image("input").unwrap().path, "four.png");
    assert_eq!(pixels(&row.image("input").unwrap().bytes).2[0], 90);
    assert_eq!(pixels(&row.image("target").unwrap().bytes).2[0], 200);
    assert_eq!((row.ops[0].op.as_str(), row.ops[0].params.as_str()), ("gaussian_noise", r#"{"sigma":18.0}"#));
    assert_eq!(row.score("input_psnr_lm4lv"), Some(20.0));
    assert_eq!(row.other["caption"], "a \"kept\" column");
    assert_eq!(row.other["fetch_ms"], 1.5);

    let facts = all(&dataset, Columns::Facts);
    assert!(facts.iter().all(|row| row.images.iter().all(|(_, picture)| picture.bytes.is_empty())));
    assert_eq!(facts[3].image("target").unwrap().path, "four.png");
    assert_eq!(facts[3].score("input_psnr_lm4lv"), Some(20.0));
    let names = all(&dataset, Columns::Names);
    assert!(names.iter().zip(&rows).all(|(name, row)| (&name.key, &name.position) == (&row.key, &row.position)));
    assert!(names.iter().all(|row| row.ops.is_empty() && row.other.is_empty() && row.image("input").is_some()));
}

#[test]
fn rows_are_found_by_key_and_by_position() {
    let variants = |offset: i64| {
        let row = wanted(KEYS[offset as usize], offset);
        vec![row.clone(), Wanted { variant: 1, psnr: 30.0, ..row }]
    };
    let place = Place::new(&parts(variants));
    let dataset = place.open().unwrap();
    runtime().block_on(async {
        let found = dataset.find_key("a/two", None, 10).await.unwrap();
        assert_eq!(found.len(), 4, "two variants in each of two partitions");
        assert_eq!(dataset.find_key("a/two", None, 1).await.unwrap(), found[..1]);
        assert_eq!(dataset.find_key("nobody", None, 10).await.unwrap(), []);
        let rows = dataset.fetch(&[found[3], found[0]], Columns::All).await.unwrap();
        assert_eq!((rows[0].position.clone(), rows[0].variant), (at(1, 1), 1));
        assert_eq!((rows[1].position.clone(), rows[1].variant), (at(0, 1), 0));
        assert_eq!((rows[0].at, rows[1].at), (found[3], found[0]));
        assert_eq!(rows[0].score("input_psnr_lm4lv"), Some(30.0));
        let nine = dataset.find_position(&at(0, 9), Some(1)).await.unwrap();
        assert_eq!(dataset.fetch(&nine, Columns::Facts).await.unwrap()[0].key, "nine");
        for nowhere in [at(0, 5), at(0, 10), at(1, 2), at(7, 0)] {
            assert_eq!(dataset.find_position(&nowhere, None).await.unwrap(), [], "{nowhere}");
        }
    });
}

#[test]
fn an_object_store_reads_as_a_folder_does() {
    let parts = simple();
    let store = Arc::new(InMemory::new());
    let folder = Folder::Remote { store: store.clone(), prefix: "deep/ds".into(), url: "s3://bucket/deep/ds".into() };
    runtime().block_on(async {
        for (name, bytes) in &parts {
            store.put(&format!("deep/ds/{name}").into(), bytes.clone().into()).await.unwrap();
        }
    });
    let remote = runtime().block_on(Dataset::open(folder, "s3://bucket/deep/ds")).unwrap();
    let local = Place::new(&parts);
    assert_eq!(all(&remote, Columns::All), all(&local.open().unwrap(), Columns::All));
    let found = runtime().block_on(remote.find_position(&at(1, 1), None)).unwrap();
    assert_eq!(runtime().block_on(remote.fetch(&found, Columns::All)).unwrap()[0].key, "a/two");
}

#[test]
fn what_is_no_dataset_is_refused_by_name() {
    let place = Place::new(&BTreeMap::new());
    assert!(matches!(place.open(), Err(Error::Config(text)) if text.contains("some/ds")));

    let mut parts = simple();
    let name = "data/00000-00001/00000000000000000000.parquet";
    let whole = parts[name].clone();
    for broken in [whole[..whole.len() / 2].to_vec(), b"not a part".to_vec(), Vec::new()] {
        parts.insert(name.to_owned(), broken);
        let place = Place::new(&parts);
        let dataset = place.open().unwrap();
        let mut rows = dataset.rows(Columns::All);
        let error = runtime().block_on(async {
            loop {
                match rows.next().await {
                    Ok(row) => assert!(row.is_some(), "the broken part was passed over"),
                    Err(error) => return error,
                }
            }
        });
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn score_columns_are_known_by_name() {
    assert_eq!(score_column("input_psnr_lm4lv"), Some(("input", "psnr_lm4lv")));
    assert_eq!(score_column("output_ssim_basicsr_y"), Some(("output", "ssim_basicsr_y")));
    for other in ["input", "input_psnr_", "kept_psnr_lm4lv", "input_width", "psnr_lm4lv", "input_lpips_alex_"] {
        assert_eq!(score_column(other), None, "{other}");
    }
}

fn sheet_of(place: &Place, records: usize, order: Order) -> Result<Vec<u8>, Error> {
    runtime().block_on(async { make(&place.open_async().await?, &SheetOptions { records, order }).await })
}

#[test]
fn a_sheet_shows_clean_and_degraded_beside_each_other() {
    let variants = |offset: i64| {
        let row = Wanted { image: (300, 200, 90), ..wanted(KEYS[offset as usize], offset) };
        (0..5).map(|variant| Wanted { variant, ..row.clone() }).collect()
    };
    let place = Place::new(&parts(variants));
    let (width, height, data) = pixels(&sheet_of(&place, 7, Order::Spread).unwrap());
    // Six tiles of 256 pixels with gaps of 12 between, margins of 36; seven lines of tiles 171 high.
    assert_eq!(width, 6 * 256 + 5 * 12 + 2 * 36);
    assert!(height > 7 * 171 && height < 7 * 260 + 200, "{height}");
    let at = |x: u32, y: u32| data[((y * width + x) * 3) as usize];
    let line = (0..height).find(|y| at(36 + 128, *y) == 200).expect("the clean tile");
    for tile in 1..6 {
        assert_eq!(at(36 + tile * 268 + 128, line + 20), 90, "tile {tile}");
    }
}

#[test]
fn a_sheet_sorts_and_says_what_it_cannot_sort_by() {
    let graded = |offset: i64| {
        let level = 10 * offset as u8 + 40;
        vec![Wanted { psnr: offset as f64, image: (256, 256, level), ..wanted(KEYS[offset as usize], offset) }]
    };
    let place = Place::new(&parts(graded));
    let lowest = sheet_of(&place, 1, Order::Ascending("input_psnr_lm4lv".into())).unwrap();
    let highest = sheet_of(&place, 1, Order::Descending("input_psnr_lm4lv".into())).unwrap();
    let has = |png: &[u8], level: u8| pixels(png).2.chunks_exact(256).any(|run| run.iter().all(|v| *v == level));
    assert!(has(&lowest, 40) && !has(&lowest, 130));
    assert!(has(&highest, 130) && !has(&highest, 40));
    let error = sheet_of(&place, 1, Order::Ascending("psnr".into())).unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("input_psnr_lm4lv")), "{error}");
    assert_eq!(lowest, sheet_of(&place, 1, Order::Ascending("input_psnr_lm4lv".into())).unwrap());
}

#[test]
fn a_sheet_bears_odd_rows() {
    let odd = |offset: i64| {
        let row = wanted(KEYS[offset as usize], offset);
        match offset {
            0 => vec![Wanted { failed: Some(("corrupt", "cut short")), ..row }],
            1 => vec![Wanted { target: false, ..row }],
            2 => {
                vec![Wanted { image: (1, 1, 0), ..row.clone() }, Wanted { variant: 1, failed: Some(("io", "")), ..row }]
            }
            3 => (0..20).map(|variant| Wanted { variant, image: (2000, 3, 9), ..row.clone() }).collect(),
            _ => vec![Wanted { key: "猫\u{0}\u{202e}\n long ".repeat(40).leak(), image: (3, 700, 9), ..row }],
        }
    };
    let place = Place::new(&parts(odd));
    pixels(&sheet_of(&place, 500, Order::Spread).unwrap());
    let none = Place::new(&BTreeMap::from([("data/x/00000000000000000000.parquet".into(), part("x", &[]))]));
    assert!(matches!(sheet_of(&none, 8, Order::Spread), Err(Error::Config(text)) if text.contains("no row")));
    let failed = |offset: i64| vec![Wanted { failed: Some(("corrupt", "cut short")), ..wanted("x", offset) }];
    pixels(&sheet_of(&Place::new(&parts(failed)), 8, Order::Spread).unwrap());
}

#[test]
fn failures_are_counted_by_code() {
    let failing = |offset: i64| {
        let code = if offset % 2 == 0 { ("corrupt", "cut\nshort") } else { ("not_found", "no such file") };
        vec![Wanted { failed: (offset > 0).then_some(code), ..wanted(KEYS[offset as usize], offset) }]
    };
    let place = Place::new(&parts(failing));
    let dataset = place.open().unwrap();
    let found = runtime().block_on(failures(&dataset, 3)).unwrap();
    assert_eq!((found.rows, found.failed), (7, 5));
    assert_eq!(found.by_code, [("not_found".to_owned(), 4), ("corrupt".to_owned(), 1)]);
    assert_eq!(found.first[1].at, "00000-00000:2");
    let text = found.text();
    assert!(
        text.contains("5 of 7 rows failed") && text.contains("cut\\nshort") && text.contains("and 2 more"),
        "{text}"
    );
    pixels(&found.png().unwrap());
}

/// Two records of one key, one failed, one without a target, one in upper case.
fn awkward() -> BTreeMap<String, Vec<u8>> {
    parts(|offset| match offset {
        0 => vec![wanted("dir/a.jpg", 0)],
        1 => vec![wanted("dir/a.jpg", 1)],
        2 => vec![Wanted { failed: Some(("corrupt", "cut short")), ..wanted("dir/b", 2) }],
        3 => vec![Wanted { target: false, ..wanted("../etc/x y", 3) }],
        _ => vec![wanted("dir/a", offset)],
    })
}

#[test]
fn a_folder_export_mirrors_names_and_overwrites_nothing() {
    let place = Place::new(&awkward());
    let done = place.export(Format::Folder).unwrap();
    assert_eq!((done.rows, done.failed, done.renamed, done.kept), (6, 1, 4, 0));
    let expected = [
        "input/dir/a.png",
        "input/dir/a~00000-00000-1.png",
        "input/dir/a~00000-00000-9.png",
        "input/dir/a~00000-00001-0.png",
        "input/dir/a~00000-00001-1.png",
        "input/etc/x y.png",
        "metadata.jsonl",
        "target/dir/a.png",
        "target/dir/a~00000-00000-1.png",
        "target/dir/a~00000-00000-9.png",
        "target/dir/a~00000-00001-0.png",
        "target/dir/a~00000-00001-1.png",
    ];
    assert_eq!(place.names(), expected);
    let files = place.files();
    let lines = std::str::from_utf8(&files["metadata.jsonl"]).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[1]["input_file_name"], "input/dir/a~00000-00000-1.png");
    assert_eq!(lines[1]["input_psnr_lm4lv"], 20.0);
    assert_eq!(lines[1]["ops"][0]["op"], "gaussian_noise");
    assert_eq!(lines[1]["caption"], "a \"kept\" column");
    for volatile in ["fetch_ms", "attempts", "run", "writer"] {
        assert!(lines[1].get(volatile).is_none(), "{volatile}");
    }
    assert_eq!(pixels(&files["target/dir/a.png"]).2[0], 200);
}

#[test]
fn an_export_resumes_and_writes_nothing_twice() {
    for format in [Format::Folder, Format::Basicsr, Format::Webdataset] {
        let place = Place::new(&awkward());
        let first = place.export(format).unwrap();
        let files = place.files();
        let again = place.export(format).unwrap();
        assert_eq!((again.written, again.kept, again.rows), (0, first.written, first.rows), "{format:?}");
        // As after an interruption: some files are missing, one was not finished.
        let images: Vec<_> = files.keys().filter(|name| name.contains("00000") || name.contains("shard")).collect();
        fs::remove_file(place.out.join(images[0])).unwrap();
        fs::write(place.out.join(images[1]), b"").unwrap();
        let resumed = place.export(format).unwrap();
        assert_eq!((resumed.written, resumed.kept), (2, first.written - 2), "{format:?}");
        assert_eq!(place.files(), files, "{format:?}");
    }
}

#[test]
fn an_export_sweeps_what_a_killed_one_left() {
    let place = Place::new(&awkward());
    place.export(Format::Folder).unwrap();
    let whole = place.files();
    let [dead, living] = [".partial-1", "input/dir/.partial-2"].map(|name| place.out.join(name));
    fs::write(&dead, "half").unwrap();
    let writing = fs::File::create(&living).unwrap();
    writing.lock().unwrap();
    place.export(Format::Folder).unwrap();
    assert!(!dead.exists() && living.exists(), "what another export writes now stays");
    drop(writing);
    place.export(Format::Folder).unwrap();
    assert_eq!(place.files(), whole);
}

#[test]
fn an_export_goes_on_with_a_dataset_that_grew_and_refuses_another() {
    let grow = |place: &Place, rows: &[Wanted]| {
        place.write(&BTreeMap::from([(
            "data/00001-00000/00000000000000000000.parquet".into(),
            part("00001-00000", rows),
        )]));
    };
    for format in [Format::Folder, Format::Basicsr, Format::Webdataset] {
        let place = Place::new(&simple());
        place.export(format).unwrap();
        grow(&place, &[wanted("new", 0), wanted("a/one", 1)]);
        let grown = place.export(format).unwrap();
        assert_eq!(grown.rows, 9);
        let fresh = Place::new(&simple());
        grow(&fresh, &[wanted("new", 0), wanted("a/one", 1)]);
        fresh.export(format).unwrap();
        assert_eq!(place.files(), fresh.files(), "{format:?}");
        // Another first part: names and shards would not fit any more.
        place.write(&awkward());
        assert!(matches!(place.export(format), Err(Error::Config(text)) if text.contains("changed")), "{format:?}");
        let other = if format == Format::Folder { Format::Basicsr } else { Format::Folder };
        assert!(matches!(fresh.export(other), Err(Error::Config(text)) if text.contains("another")), "{format:?}");
    }
}

#[test]
fn a_basicsr_export_has_pairs_of_equal_names() {
    let place = Place::new(&awkward());
    let done = place.export(Format::Basicsr).unwrap();
    assert_eq!((done.rows, done.failed, done.without_images), (5, 1, 1));
    let names = place.names();
    let of = |folder: &str| names.iter().filter_map(|name| name.strip_prefix(folder)).map(str::to_owned).collect();
    let (lq, gt): (Vec<String>, Vec<String>) = (of("lq/"), of("gt/"));
    assert_eq!(lq, gt);
    assert!(lq.iter().all(|name| !name.contains('/') && !name.contains(' ')), "{lq:?}");
    let files = place.files();
    let info = std::str::from_utf8(&files["meta_info.txt"]).unwrap();
    assert_eq!(info.lines().next(), Some("dir_a.png (16,24,3)"));
    assert_eq!(info.lines().count(), 5);
}

#[test]
fn webdataset_shards_hold_whole_samples_and_are_the_same_bytes_each_time() {
    let place = Place::new(&awkward());
    let done = place.export(Format::Webdataset).unwrap();
    assert_eq!((done.rows, done.written), (6, 3));
    assert_eq!(place.names(), ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]);
    let files = place.files();
    let mut keys = Vec::new();
    for shard in ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"] {
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in tar::Archive::new(files[shard].as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let (key, end) = name.split_once('.').unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if end == "json" {
                let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(json["seed"], 7);
            }
            members.entry(key.to_owned()).or_default().push(end.to_owned());
        }
        assert_eq!(members.len(), 2, "{shard}");
        for (key, ends) in members {
            let without_target = key == "etc_x_y";
            let expected: &[&str] =
                if without_target { &["input.png", "json"] } else { &["input.png", "target.png", "json"] };
            assert_eq!(ends, expected, "{key}");
            keys.push(key);
        }
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6);
    let again = Place::new(&awkward());
    again.export(Format::Webdataset).unwrap();
    assert_eq!(again.files(), files);
}
