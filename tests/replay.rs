//! `replay`, `verify --pixels`, `export` and `sheet` on datasets that the program itself made, through the command line.
//!
//! What is edited here (a recorded parameter, a score, an image, a source file) must be found out, each with exit code 3.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic like the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::Float64Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

const PART: &str = "data/00000-00000/00000000000000000000.parquet";

/// Two PNG photographs of noise, one of them in a sub-folder, and a pipeline file over them.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(pipeline: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        for (name, seed) in [("photos/a.png", 1), ("photos/deep/b c.png", 2)] {
            let path = place.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, photograph(seed)).unwrap();
        }
        fs::write(place.path("job.yaml"), pipeline).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program in the folder.
    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lm4lv")).current_dir(self.folder.path()).args(args).output().unwrap()
    }

    /// Runs the program and gives what it printed; fails unless it exits with `code`.
    fn say(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{text}{errors}");
        text + &errors
    }

    /// Makes the dataset `out`.
    fn make(pipeline: &str) -> Self {
        let place = Self::new(pipeline);
        place.say(0, &["run", "job.yaml"]);
        place
    }

    /// Writes the only part again with `edit` done to its rows; the footer's key-values stay.
    fn edit(&self, column: &str, edit: impl Fn(&ArrayRef) -> ArrayRef) {
        let path = self.path("out").join(PART);
        let builder = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).unwrap()).unwrap();
        let pairs = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let pairs = pairs.into_iter().filter(|pair| pair.key != "ARROW:schema").collect();
        let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
        let mut bytes = Vec::new();
        let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs)).build();
        let mut writer = ArrowWriter::try_new(&mut bytes, batches[0].schema(), Some(properties)).unwrap();
        for batch in batches {
            let index = batch.schema().index_of(column).unwrap();
            let mut columns = batch.columns().to_vec();
            columns[index] = edit(&columns[index]);
            writer.write(&RecordBatch::try_new(batch.schema(), columns).unwrap()).unwrap();
        }
        writer.close().unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// 48 × 40 pixels of a gradient under a coarse pattern, as a PNG file.
fn photograph(seed: u32) -> Vec<u8> {
    let pixel = |x: u32, y: u32| [(x * 5) as u8, (y * 6) as u8, ((x / 4 + y / 4 * 7 + seed) * 37 % 251) as u8];
    let data: Vec<u8> = (0..40).flat_map(|y| (0..48).flat_map(move |x| pixel(x, y))).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 48, 40);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&data).unwrap();
    writer.finish().unwrap();
    bytes
}

const FOLDER: &str = "
source: { folder: { path: photos } }
load: { resize: { size: 36, mode: shortest_side }, crop: { random: { size: 32 } } }
degrade:
  seed: 3
  variants: 2
  recipe:
    - gaussian_noise: { sigma: [10, 30] }
    - jpeg: { quality: [30, 95] }
    - probability: { p: 0.5, recipe: [ { flip: {} } ] }
score: [psnr.lm4lv, ssim.skimage]
sink: { dir: out }
";

#[test]
fn every_row_is_made_again_to_the_byte() {
    let targets = ["", "  target: geometry\n", "  target: degraded\n", "  quantize: { when: each_step, how: trunc }\n"];
    for (i, extra) in targets.iter().enumerate() {
        let encodings = ["", ", encoding: { jpeg: { quality: 90 } }", ", encoding: { webp: {} }", ""];
        let pipeline = FOLDER.replace("  variants: 2\n", &format!("  variants: 2\n{extra}"));
        let place = Place::make(&pipeline.replace("dir: out", &format!("dir: out{}", encodings[i])));
        for key in ["a.png", "deep/b c.png"] {
            for variant in ["0", "1"] {
                let said = place.say(0, &["replay", "out", key, "--variant", variant]);
                assert!(said.ends_with("equal\n") && said.contains("gaussian_noise"), "{said}");
            }
        }
        let json = place.say(0, &["replay", "out", "--at", "00000-00000:1", "--json", "-o", "again.bin"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["key"], &json["verdict"]), (&"deep/b c.png".into(), &"equal".into()));
        assert!(fs::metadata(place.path("again.bin")).unwrap().len() > 0);
        let said = place.say(0, &["verify", "out", "--complete", "--pixels"]);
        assert!(said.contains("8 images decoded") && said.contains("sound and complete"), "{said}");
        assert!(said.contains(if i == 1 { "8 skipped" } else { "8 scores computed again" }), "{said}");
    }
}

#[test]
fn inline_bytes_and_a_named_target_are_found_in_the_source() {
    let place = Place::new(
        "
source: { parquet: { path: refs.parquet, columns: { key: id, reference: noisy, target: clean } } }
load: { crop: { centre: { size: 30 } } }
degrade: { seed: 1, recipe: [ { gaussian_blur: { sigma: [0.5, 2] } } ] }
score: [psnr.skimage]
sink: { dir: out, encoding_of: { target: original } }
",
    );
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["one", "two", "three"]));
    let files = |seed: u32| Arc::new(BinaryArray::from_iter_values((0..3).map(|i| photograph(seed + i)))) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("id", keys), ("noisy", files(5)), ("clean", files(50))]).unwrap();
    let mut writer =
        ArrowWriter::try_new(fs::File::create(place.path("refs.parquet")).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    place.say(0, &["run", "job.yaml"]);
    for key in ["one", "two", "three"] {
        place.say(0, &["replay", "out", key]);
    }
    place.say(0, &["verify", "out", "--complete", "--pixels"]);
    // Inline bytes are nowhere else.
    fs::remove_file(place.path("refs.parquet")).unwrap();
    let said = place.say(3, &["replay", "out", "two"]);
    assert!(said.contains("refs.parquet") && said.ends_with("source gone\n"), "{said}");
}

#[test]
fn an_edited_parameter_makes_another_image() {
    let place = Place::make(FOLDER);
    place.edit("ops", |column| {
        let list = column.as_list::<i32>();
        let entries = list.values().as_struct();
        let params = entries.column_by_name("params").unwrap().as_string::<i32>();
        let index = entries.column_names().iter().position(|name| *name == "params").unwrap();
        let mut columns = entries.columns().to_vec();
        let edited = StringArray::from_iter(params.iter().map(|params| {
            let mut value: serde_json::Value = serde_json::from_str(params?).ok()?;
            if value.get("quality").is_some() {
                value["quality"] = 5.into();
            }
            Some(value.to_string())
        }));
        columns[index] = Arc::new(edited);
        let entries = StructArray::new(entries.fields().clone(), columns, entries.nulls().cloned());
        let arrow::datatypes::DataType::List(field) = list.data_type() else { unreachable!() };
        Arc::new(ListArray::new(field.clone(), list.offsets().clone(), Arc::new(entries), list.nulls().cloned()))
    });
    let said = place.say(3, &["replay", "out", "a.png"]);
    assert!(
        said.contains("pixels differ") && said.contains("input_psnr_lm4lv") && said.ends_with("differs\n"),
        "{said}"
    );
    assert!(said.contains("target: the same"), "{said}");
}

#[test]
fn a_changed_or_missing_source_is_said() {
    let place = Place::make(FOLDER);
    fs::write(place.path("photos/a.png"), photograph(9)).unwrap();
    let said = place.say(3, &["replay", "out", "a.png"]);
    assert!(said.contains("SHA-256") && said.ends_with("source changed\n"), "{said}");
    fs::rename(place.path("photos"), place.path("elsewhere")).unwrap();
    assert!(place.run(&["replay", "out", "deep/b c.png"]).status.code() != Some(0));
    place.say(0, &["replay", "out", "deep/b c.png", "--root", "elsewhere"]);
    fs::remove_file(place.path("elsewhere/a.png")).unwrap();
    let said = place.say(3, &["replay", "out", "a.png", "--root", "elsewhere"]);
    assert!(said.contains("not_found") && said.ends_with("source gone\n"), "{said}");
}

#[test]
fn a_stored_original_stands_in_for_a_source_that_has_gone() {
    let place = Place::make(
        "
source: { folder: { path: photos } }
degrade: { seed: 3, recipe: [ { pepper: { p: 0.1 } } ] }
sink: { dir: out, encoding_of: { target: original } }
",
    );
    place.say(0, &["replay", "out", "a.png"]);
    let said = place.say(0, &["verify", "out", "--pixels"]);
    assert!(said.contains("2 of them source files"), "{said}");
    fs::remove_file(place.path("photos/a.png")).unwrap();
    let said = place.say(0, &["replay", "out", "a.png"]);
    assert!(said.contains("column `target`") && said.ends_with("equal\n"), "{said}");
}

#[test]
fn failed_rows_and_wrong_names_are_told_apart() {
    let place = Place::new(FOLDER);
    fs::write(place.path("photos/broken.png"), &photograph(1)[..150]).unwrap();
    place.say(0, &["run", "job.yaml"]);
    assert!(place.say(2, &["replay", "out", "broken.png"]).contains("corrupt"));
    assert!(place.say(2, &["replay", "out", "nobody"]).contains("nobody"));
    assert!(place.say(2, &["replay", "out", "--at", "00000-00000:77"]).contains("00000-00000:77"));
    assert!(place.say(2, &["replay", "out", "a.png", "--variant", "2"]).contains("variant 2"));
    assert!(place.say(2, &["verify", "photos"]).contains("photos"));
    place.say(64, &["replay", "out", "--at", "17"]);
    place.say(64, &["replay", "out"]);
    let said = place.say(0, &["sheet", "out", "--failures"]);
    assert!(said.contains("2 of 6 rows failed") && said.contains("corrupt") && said.contains("broken.png"), "{said}");
    let json: serde_json::Value =
        serde_json::from_str(&place.say(0, &["sheet", "out", "--failures", "--json"])).unwrap();
    assert_eq!(json["by_code"][0][1], 2);
}

#[test]
fn verify_finds_edited_scores_and_images() {
    let place = Place::make(FOLDER);
    place.edit("input_psnr_lm4lv", |column| {
        let values = column.as_primitive::<Float64Type>();
        Arc::new(values.unary::<_, Float64Type>(|value| value + 1e-5)) as ArrayRef
    });
    let said = place.say(3, &["verify", "out", "--pixels"]);
    assert_eq!(said.matches("fault: ").count(), 4, "{said}");
    assert!(said.contains("input_psnr_lm4lv is") && said.contains("00000-00000:1"), "{said}");
    place.say(0, &["verify", "out"]);

    let place = Place::make(FOLDER);
    place.edit("input", |column| {
        let cells = column.as_struct();
        let bytes = cells.column_by_name("bytes").unwrap().as_binary::<i32>();
        let broken = bytes.iter().enumerate().map(|(i, bytes)| Some(if i == 0 { &bytes?[..99] } else { bytes? }));
        let mut columns = cells.columns().to_vec();
        columns[0] = Arc::new(BinaryArray::from_iter(broken));
        Arc::new(StructArray::new(cells.fields().clone(), columns, cells.nulls().cloned()))
    });
    let said = place.say(3, &["verify", "out", "--pixels", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["ok"], said["pixels"]["faults"].as_array().unwrap().len()), (&false.into(), 1));
    assert!(said["pixels"]["faults"][0].as_str().unwrap().contains("input cannot be decoded"));
}

#[test]
fn a_run_s_dataset_is_exported_and_drawn() {
    let place = Place::make(FOLDER);
    for (format, file) in
        [("folder", "target/deep/b c_v1.png"), ("basicsr", "lq/deep_b_c_v0.png"), ("webdataset", "shard-000000.tar")]
    {
        let said = place.say(0, &["export", "out", "--to", format, "--format", format]);
        assert!(said.contains("4 rows"), "{said}");
        assert!(Path::new(&place.path(format)).join(file).is_file(), "{format}");
        let said = place.say(0, &["export", "out", "--to", format, "--format", format, "--json"]);
        let json: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&json["rows"], &json["written"]), (&4.into(), &0.into()));
    }
    place.say(2, &["export", "out", "--to", "s3://bucket/x", "--format", "folder"]);
    let said = place.say(0, &["sheet", "out"]);
    assert!(said.trim_end().ends_with("sheet.png") && place.path("out/report/sheet.png").is_file(), "{said}");
    place.say(0, &["sheet", "out", "--sort", "input_ssim_skimage", "--descending", "-n", "1", "-o", "one/sheet.png"]);
    assert!(place.path("one/sheet.png").is_file());
    // The dataset is as readable with the sheet inside as without.
    place.say(0, &["verify", "out", "--complete"]);
}
