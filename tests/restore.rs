//! Restoring end to end. With restorers that answer at once: which batches they are given, what the rows say, and what happens
//! when one fails, is killed, or has more to hold than there is memory for. With models: that pixels do not depend on how a run went.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "not every test needs all of it")]
mod common;

use std::collections::BTreeMap;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{VOLATILE, binaries, expect, photographs, root, rows, strings, write_parquet};
use lm4lv::config::Pipeline;
use lm4lv::error::{Error, Result};
use lm4lv::image::{Image, Planes, Size};
use lm4lv::pipeline::{Ended, Meter, Options, run_with};
use lm4lv::report::rows::{Columns, Dataset, Row};
use lm4lv::report::summary::Summary;
use lm4lv::report::{Order, pixels, sheet};
use lm4lv::restore::pack::{Pack, PromptSource};
use lm4lv::restore::{Restored, Restorer, Stamp, TaskId, Trouble};
use lm4lv::store::Folder;

const TASKS: [&str; 3] = ["darken", "invert", "keep"];

/// What a [`Fake`] does before it answers.
type Before = Box<dyn Fn(&Fake, usize) -> Result<(), Trouble> + Send + Sync>;

/// Darkens, inverts or keeps, by task; its baseline is all black.
struct Fake {
    side: Option<u32>,
    baseline: bool,
    before: Before,
    /// Task and images of each batch that it answered.
    batches: Mutex<Vec<(usize, usize)>>,
    /// Records whose task was asked for.
    asked: Mutex<usize>,
    more_asked: Condvar,
    stamp: Stamp,
}

impl Fake {
    fn new(side: Option<u32>) -> Self {
        let stamp = Stamp {
            model: "fake".into(),
            weights_sha256: "f00d".into(),
            decoder: Some("parallel"),
            device: "cpu".into(),
            dtype: "f32",
        };
        let before: Before = Box::new(|_, _| Ok(()));
        let (batches, asked, more_asked) = Default::default();
        Self { side, baseline: false, before, batches, asked, more_asked, stamp }
    }

    fn before(self, before: impl Fn(&Self, usize) -> Result<(), Trouble> + Send + Sync + 'static) -> Self {
        Self { before: Box::new(before), ..self }
    }

    fn batches(&self) -> Vec<(usize, usize)> {
        self.batches.lock().unwrap().clone()
    }
}

impl Restorer for Fake {
    fn side(&self) -> Option<u32> {
        self.side
    }

    fn task(&self, name: &str) -> Option<TaskId> {
        *self.asked.lock().unwrap() += 1;
        self.more_asked.notify_all();
        TASKS.iter().position(|task| *task == name).map(TaskId)
    }

    fn tasks(&self) -> Vec<&str> {
        TASKS.to_vec()
    }

    fn batch(&self) -> usize {
        4
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn restore(&self, task: TaskId, images: &[&Image]) -> Result<Vec<Restored>, Trouble> {
        (self.before)(self, images.len())?;
        self.batches.lock().unwrap().push((task.0, images.len()));
        let answer = |image: &&Image| {
            if let Some(side) = self.side {
                assert_eq!(image.size(), Size::new(side, side));
            }
            let output = restored(task.0, image);
            let black = || Planes::from_data(image.size(), vec![0.0; image.size().pixels() * 3]).unwrap();
            Restored {
                output: Planes::from_image(&output),
                baseline: self.baseline.then(black),
                passes: Some(u32::from(image.pixel(0, 0)[0]) % 5 + 1),
            }
        };
        Ok(images.iter().map(answer).collect())
    }
}

fn restored(task: usize, image: &Image) -> Image {
    let level = |level: u8| match task {
        0 => level / 2,
        1 => 255 - level,
        _ => level,
    };
    let data = image.as_bytes().iter().map(|value| level(*value)).collect();
    Image::from_rgb(image.size(), data).unwrap()
}

fn picture(number: u32, size: Size) -> Image {
    Image::from_fn(size, |x, y| {
        let mixed = (x * 31 + y * 57 + number * 101).wrapping_mul(2_654_435_761);
        [(mixed >> 24) as u8, (x * 255 / size.width) as u8, (y * 255 / size.height) as u8]
    })
}

fn png(image: &Image) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::from_raw(image.width(), image.height(), image.as_bytes().to_vec()).unwrap();
    pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn decoded(row: &Row, column: &str) -> Image {
    let pixels = image::load_from_memory(&row.image(column).unwrap().bytes).unwrap().to_rgb8();
    Image::from_rgb(Size::new(pixels.width(), pixels.height()), pixels.into_raw()).unwrap()
}

/// A Parquet file of `n` pictures of `size` with the tasks of `task`.
fn pictures(dir: &Path, n: u32, size: Size, task: impl Fn(u32) -> Option<&'static str>) {
    let keys: Vec<String> = (0..n).map(|i| format!("{i:03}")).collect();
    let files: Vec<_> = (0..n).map(|i| png(&picture(i, size))).collect();
    let tasks: Vec<_> = (0..n).map(task).collect();
    let keys: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
    let columns = vec![("key", strings(&keys)), ("png", binaries(&files)), ("task", strings(&tasks))];
    write_parquet(&dir.join("in.parquet"), columns);
}

/// A pipeline over [`pictures`]: `restore` are keys of `lm4lv`, `more` other sections.
fn pipeline(dir: &Path, out: &str, restore: &str, more: &str) -> Pipeline {
    let dir = dir.display();
    let text = format!(
        "source: {{ parquet: {{ path: {dir}/in.parquet, columns: {{ task: task }} }} }}\n\
         restore: {{ lm4lv: {{ model: nowhere, quantize: round, {restore} }} }}\n\
         sink: {{ dir: {dir}/{out}, rows_per_part: 20 }}\n{more}\n"
    );
    Pipeline::parse("p.yaml", &text, &[], &|_| None).unwrap()
}

/// Runs `pipeline`; a run that would never end is an error.
async fn run(pipeline: &Pipeline, fake: &Arc<Fake>) -> Result<Summary> {
    let meter = Arc::new(Meter::new(2));
    let options = Options::default();
    let run = run_with(pipeline, &options, meter, pending(), Some(fake.clone()));
    let (summary, ended) = tokio::time::timeout(Duration::from_secs(60), run).await.expect("it hangs")?;
    assert_eq!(ended, Ended::Done);
    Ok(summary)
}

async fn open(pipeline: &Pipeline) -> Dataset {
    Dataset::open(Folder::Local(pipeline.sink.dir.clone().into()), &pipeline.sink.dir).await.unwrap()
}

async fn all(pipeline: &Pipeline) -> Vec<Row> {
    let dataset = open(pipeline).await;
    let mut rows = dataset.rows(Columns::All);
    let mut all = Vec::new();
    while let Some(row) = rows.next().await.unwrap() {
        all.push(row);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_s_task_selects_and_a_batch_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let size = Size::new(24, 17);
    let task = |i: u32| [Some("darken"), Some("invert"), None, Some("derain")][i as usize % 4];
    pictures(dir.path(), 40, size, task);
    let pipeline = pipeline(dir.path(), "out", "task: keep, batch: 4", "");
    let fake = Arc::new(Fake::new(None));
    let summary = run(&pipeline, &fake).await.unwrap();
    assert_eq!((summary.rows, summary.failed_rows()), (40, 10));

    let of_task = |task| fake.batches().iter().filter(|(of, _)| *of == task).map(|(_, n)| *n).collect::<Vec<_>>();
    for task in 0..3 {
        assert_eq!(of_task(task).iter().sum::<usize>(), 10, "{:?}", fake.batches());
        assert!(of_task(task).iter().all(|n| *n <= 4));
    }
    let batches = summary.batches.unwrap();
    assert_eq!((batches.pieces, batches.count), (30, fake.batches().len() as u64));
    assert!(summary.stages.iter().any(|share| share.stage == "restore"));

    for (i, row) in (0..).zip(all(&pipeline).await) {
        if task(i) == Some("derain") {
            let (code, message) = row.failure.clone().unwrap();
            assert_eq!(code, "task");
            assert!(message.contains("`derain`") && message.contains("darken, invert, keep"), "{message}");
            assert!(row.images.is_empty() && row.other["model"].is_null() && row.other["passes"].is_null());
            continue;
        }
        let number = task(i).map_or(2, |task| TASKS.iter().position(|known| *known == task).unwrap());
        assert!(decoded(&row, "output") == restored(number, &picture(i, size)), "{i}");
        assert!(decoded(&row, "input") == picture(i, size));
        let text = |name: &str| row.other[name].as_str().unwrap().to_owned();
        assert_eq!(text("task"), TASKS[number]);
        assert_eq!(
            ["model", "weights_sha256", "decoder", "device", "dtype"].map(text),
            ["fake", "f00d", "parallel", "cpu", "f32"]
        );
        assert_eq!(row.other["passes"], u32::from(picture(i, size).pixel(0, 0)[0]) % 5 + 1);
        assert!(row.other["restore_ms"].as_f64().unwrap() > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_any_size_give_the_same_rows_also_of_tiles() {
    let dir = tempfile::tempdir().unwrap();
    let size = Size::new(45, 30);
    pictures(dir.path(), 30, size, |i| Some(TASKS[i as usize % 3]));
    let more = "degrade: { variants: 2, recipe: [ { gaussian_noise: { sigma: 10 } } ] }\nscore: [psnr.skimage]";
    let mut first: Option<BTreeMap<_, _>> = None;
    for (batch, workers) in [(1, 1), (7, 2), (32, 2)] {
        let out = format!("out-{batch}");
        let restore = format!("batch: {batch}, sizes: {{ tile: {{ overlap_px: 4 }} }}");
        let mut pipeline = pipeline(dir.path(), &out, &restore, more);
        pipeline.run.workers = serde_json::from_value(workers.into()).unwrap();
        let fake = Arc::new(Fake::new(Some(16)));
        run(&pipeline, &fake).await.unwrap();
        // 4 tiles across and 3 down. The pieces of an image are spread over batches, which are full but for the last.
        let batches = fake.batches();
        assert_eq!(batches.iter().map(|(_, n)| n).sum::<usize>(), 30 * 2 * 12);
        assert!(batches.iter().all(|(_, n)| *n <= batch));
        let rows = rows(Path::new(&pipeline.sink.dir), VOLATILE);
        assert!(rows.values().all(|row| row["status"] == "success" && row["output"] != "null"));
        match &first {
            None => first = Some(rows),
            Some(first) => assert_eq!(&rows, first, "batch {batch}"),
        }
        let kept = all(&pipeline).await.into_iter().nth(4).unwrap();
        assert!(decoded(&kept, "output") == decoded(&kept, "input"), "kept tiles are the image");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_batch_is_halved_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), 32, Size::new(16, 16), |_| Some("invert"));
    let short_of = |most: usize| {
        move |_: &Fake, n: usize| match n > most {
            true => Err(Trouble::OutOfMemory(format!("no room for {n}"))),
            false => Ok(()),
        }
    };
    let small = pipeline(dir.path(), "small", "batch: 16", "");
    let fake = Arc::new(Fake::new(None).before(short_of(5)));
    let summary = run(&small, &fake).await.unwrap();
    assert_eq!((summary.rows, summary.failed_rows()), (32, 0));
    assert_eq!(fake.batches().iter().map(|(_, n)| n).sum::<usize>(), 32);
    assert!(fake.batches().iter().all(|(_, n)| *n <= 4), "{:?}", fake.batches());
    for (i, row) in (0..).zip(all(&small).await) {
        assert!(decoded(&row, "output") == restored(1, &picture(i, Size::new(16, 16))));
    }

    let none = pipeline(dir.path(), "none", "batch: 16", "");
    let error = run(&none, &Arc::new(Fake::new(None).before(short_of(0)))).await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(["cpu", "no room for 1", "restore.lm4lv.device"].iter().all(|part| text.contains(part)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_in_the_restorer_ends_the_run_with_a_message() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), 6, Size::new(16, 16), |_| Some("keep"));
    let panicking = Fake::new(None).before(|_, n| if n > 0 { panic!("as the test wants") } else { Ok(()) });
    let error = run(&pipeline(dir.path(), "a", "", ""), &Arc::new(panicking)).await.unwrap_err();
    assert!(matches!(&error, Error::Bug(why) if why.contains("restore.lm4lv panicked on a batch of")), "{error}");

    let failing = Fake::new(None).before(|_, _| Err(Trouble::Failed(Error::Config("the device went away".into()))));
    let error = run(&pipeline(dir.path(), "b", "", ""), &Arc::new(failing)).await.unwrap_err();
    assert_eq!(error.to_string(), "the device went away");

    // Before anything is written.
    for (restore, part) in [
        ("sizes: { tile: { overlap_px: 8 } }", "restore.lm4lv.sizes.tile.overlap_px"),
        ("task: derain, sizes: resize", "restore.lm4lv.task: `derain` is no task of model fake"),
    ] {
        let error = run(&pipeline(dir.path(), "c", restore, ""), &Arc::new(Fake::new(Some(16)))).await.unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
        assert!(!dir.path().join("c").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_nothing_can_fill_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), 5, Size::new(16, 16), |i| Some(TASKS[i as usize % 2]));
    let fake = Arc::new(Fake::new(None));
    run(&pipeline(dir.path(), "out", "batch: 1000, max_wait_ms: 3600000", ""), &fake).await.unwrap();
    let mut batches = fake.batches();
    batches.sort_unstable();
    assert_eq!(batches, [(0, 3), (1, 2)], "each once, with all there was");
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_hold_all_the_memory_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    // Of 32 MiB for pixels each takes nearly all.
    let size = Size::new(640, 480);
    pictures(dir.path(), 8, size, |i| Some(TASKS[i as usize % 3]));
    let restore = "batch: 1000, max_wait_ms: 3600000, sizes: { tile: { overlap_px: 8 } }";
    let pipeline = pipeline(dir.path(), "out", restore, "run: { memory_mib: 64, workers: 2 }");
    let summary = run(&pipeline, &Arc::new(Fake::new(Some(64)))).await.unwrap();
    assert_eq!((summary.rows, summary.failed_rows()), (8, 0));
    assert!(summary.batches.unwrap().count >= 2, "memory held more than it can");
    for (i, row) in (0..).zip(all(&pipeline).await) {
        assert!(decoded(&row, "output") == restored(i as usize % 3, &picture(i, size)), "{i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_batch_is_made_ready_while_one_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), 24, Size::new(16, 16), |_| Some("keep"));
    // The first batch of four is not answered before eight records have been cut.
    let fake = Fake::new(None).before(|fake, _| {
        let asked = fake.asked.lock().unwrap();
        let long = Duration::from_secs(30);
        let (_asked, late) = fake.more_asked.wait_timeout_while(asked, long, |asked| *asked < 8).unwrap();
        match late.timed_out() {
            true => Err(Trouble::Failed(Error::Bug("nothing was cut meanwhile".into()))),
            false => Ok(()),
        }
    });
    let fake = Arc::new(fake);
    run(&pipeline(dir.path(), "out", "batch: 4", ""), &fake).await.unwrap();
    assert_eq!(fake.batches().len(), 6, "all are full");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_between_batches_the_next_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), 60, Size::new(16, 16), |i| Some(TASKS[i as usize % 3]));
    let calm = pipeline(dir.path(), "calm", "", "");
    run(&calm, &Arc::new(Fake::new(None))).await.unwrap();

    // One record at a time; stopped when ten have come to the restorer.
    let stopped = pipeline(dir.path(), "stopped", "batch: 1", "load: { concurrency: 1 }\nrun: { workers: 1 }");
    let (tell, told) = tokio::sync::watch::channel(0);
    let fake = Fake::new(None).before(move |_, _| {
        tell.send_modify(|n| *n += 1);
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    });
    let stop = async {
        let mut told = told;
        told.wait_for(|n| *n >= 10).await.unwrap();
    };
    let options = Options::default();
    let (summary, ended) =
        run_with(&stopped, &options, Arc::new(Meter::new(1)), stop, Some(Arc::new(fake))).await.unwrap();
    assert_eq!(ended, Ended::Drained);
    assert!((10..60).contains(&summary.rows), "{}", summary.rows);
    let again = run(&stopped, &Arc::new(Fake::new(None))).await.unwrap();
    assert_eq!((again.rows + summary.rows, again.rows_before), (60, summary.rows));
    let of = |pipeline: &Pipeline| rows(Path::new(&pipeline.sink.dir), VOLATILE);
    assert_eq!(of(&stopped), of(&calm));
}

#[tokio::test(flavor = "multi_thread")]
async fn resized_images_are_scored_against_the_target_resized_alike_and_verify_and_sheet_know_them() {
    let dir = tempfile::tempdir().unwrap();
    let size = Size::new(64, 40);
    pictures(dir.path(), 3, size, |_| Some("keep"));
    let more = "degrade: { recipe: [ { gaussian_noise: { sigma: 10 } } ] }\nscore: [psnr.skimage, ssim.skimage]";
    let mut pipeline = pipeline(dir.path(), "out", "sizes: resize, baseline: true", more);
    pipeline
        .sink
        .encoding_of
        .insert(lm4lv::sink::ImageColumn::Baseline, serde_json::from_str(r#"{"jpeg":{}}"#).unwrap());
    let fake = Arc::new(Fake { baseline: true, ..Fake::new(Some(32)) });
    run(&pipeline, &fake).await.unwrap();
    let rows = all(&pipeline).await;
    for row in &rows {
        let columns: Vec<_> = row.scores.iter().map(|(name, _)| &**name).collect();
        let expected =
            ["input", "output", "baseline"].map(|of| [format!("{of}_psnr_skimage"), format!("{of}_ssim_skimage")]);
        assert_eq!(columns, expected.concat());
        assert_eq!((decoded(row, "output").size(), decoded(row, "target").size()), (Size::new(32, 32), size));
        let target = lm4lv::image::resize::resize(&decoded(row, "target"), Size::new(32, 32), Default::default());
        let psnr = lm4lv::score::score(lm4lv::score::ScoreName::PsnrSkimage, &decoded(row, "output"), &target);
        assert_eq!(row.score("output_psnr_skimage"), psnr);
        assert!(row.score("output_psnr_skimage") > row.score("baseline_psnr_skimage"));
        assert_eq!(row.image("baseline").unwrap().extension(), "jpg");
    }
    let dataset = open(&pipeline).await;
    let report = pixels::check(&dataset, None).await.unwrap();
    // The baseline's two are of pixels that JPEG did not keep.
    assert_eq!((report.faults, report.scores, report.skipped_scores), (vec![], 3 * 4, 3 * 2));
    let options = sheet::SheetOptions { records: 3, order: Order::Spread };
    let drawn = sheet::make(&dataset, &options).await.unwrap();
    if let Some(path) = std::env::var_os("LM4LV_SHEET") {
        std::fs::write(path, &drawn).unwrap();
    }
    let drawn = image::load_from_memory(&drawn).unwrap();
    assert!(drawn.width() >= 4 * 256, "clean, degraded, autoencoder alone, restored: {}", drawn.width());
}

#[test]
fn a_folder_is_restored_into_the_same_tree_and_again_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("in/a"), 2, 24);
    photographs(&dir.join("in/b"), 1, 24);
    let restore = ["restore", "in", "-o", "out", "--restorer", "identity", "--format", "folder"];
    expect(dir, &restore, 0);
    for name in ["a/0000", "a/0001", "b/0000"] {
        assert_eq!(image::open(dir.join(format!("out/{name}.png"))).unwrap().to_rgb8().dimensions(), (24, 24));
    }
    let written = |name: &str| std::fs::metadata(dir.join("out").join(name)).unwrap().modified().unwrap();
    let before = written("a/0000.png");
    // What was lost is written again, what is there is left.
    std::fs::remove_file(dir.join("out/b/0000.png")).unwrap();
    expect(dir, &restore, 0);
    assert!(dir.join("out/b/0000.png").exists() && written("a/0000.png") == before);
    expect(dir, &["verify", "out/.lm4lv/rows", "--pixels", "--complete"], 0);
    // The file that it wrote is an ordinary one.
    let output = expect(dir, &["run", "out/.lm4lv/rows/.lm4lv/pipeline.yaml"], 0);
    assert!(String::from_utf8_lossy(&output.stdout).contains("all done already"));
    for inside in ["in", "in/a/out", "."] {
        expect(dir, &["restore", "in", "-o", inside, "--restorer", "identity", "--format", "folder"], 2);
    }
}

#[cfg(unix)]
#[test]
fn killed_at_once_and_run_again_every_restored_row_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 200, 64);
    let run = |out: &str| {
        let source = "{ folder: { path: photos, rows_per_partition: 40 } }";
        let text =
            format!("source: {source}\nrestore: {{ identity: {{}} }}\nsink: {{ dir: {out}, rows_per_part: 20 }}\n");
        std::fs::write(dir.join(format!("{out}.yaml")), text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lm4lv"));
        let quiet = std::process::Stdio::null;
        command.args(["run", &format!("{out}.yaml")]).current_dir(dir).stdout(quiet()).stderr(quiet());
        command.spawn().unwrap()
    };
    assert!(run("calm").wait().unwrap().success());
    let mut killed = run("killed");
    while common::parts(&dir.join("killed")).len() < 2 && killed.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let there = rows(&dir.join("killed"), VOLATILE).len();
    assert!(there >= 20, "{there}");
    assert!(run("killed").wait().unwrap().success());
    expect(dir, &["verify", "killed", "--complete"], 0);
    assert_eq!(rows(&dir.join("killed"), VOLATILE), rows(&dir.join("calm"), VOLATILE));
}

/// Packs the tiny model of random weights as `dir/tiny`.
fn tiny_model(dir: &Path) {
    let fixture = |name: &str| root().join("tests/fixtures/models").join(name);
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture("facts.json")).unwrap()).unwrap();
    let ids = dir.join("ids.json");
    std::fs::write(&ids, facts["prompt"].to_string()).unwrap();
    let adapter = |task: &str, file: &str| (task.to_owned(), (fixture(file), String::new()));
    let pack = Pack {
        name: "tiny".into(),
        mae: fixture("mae"),
        llm: fixture("llm_gqa"),
        prompt: PromptSource::Ids(ids),
        adapters: [adapter("one", "adapter.safetensors"), adapter("two", "adapter_f32_query.safetensors")].into(),
        licences: Vec::new(),
        prompt_only_embeddings: false,
        random_seed: None,
    };
    pack.make(&dir.join("tiny")).unwrap();
}

/// The images that a dataset has restored, by key.
async fn restored_images(dataset: &Path) -> BTreeMap<String, Image> {
    let url = dataset.display().to_string();
    let dataset = Dataset::open(Folder::Local(dataset.into()), &url).await.unwrap();
    let (mut rows, mut images) = (dataset.rows(Columns::All), BTreeMap::new());
    while let Some(row) = rows.next().await.unwrap() {
        assert_eq!(row.other["passes"], 3, "{:?}", row.failure);
        assert!(images.insert(row.key.clone(), decoded(&row, "output")).is_none(), "{} is there twice", row.key);
    }
    images
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_model_gives_the_same_images_whatever_the_batches_the_order_the_shards_and_kills() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    tiny_model(dir);
    // Two tiles each.
    let count = 72;
    let task = |i: u32| Some(["one", "two"][i as usize % 2]);
    let shuffled: Vec<u32> = (0..count).map(|i| i * 29 % count).collect();
    for (file, order) in [("in", (0..count).collect()), ("shuffled", shuffled)] {
        let keys: Vec<String> = order.iter().map(|i: &u32| format!("{i:03}")).collect();
        let keys: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
        let files: Vec<_> = order.iter().map(|i| png(&picture(*i, Size::new(44, 32)))).collect();
        let tasks: Vec<_> = order.iter().map(|i| task(*i)).collect();
        let columns = vec![("key", strings(&keys)), ("png", binaries(&files)), ("task", strings(&tasks))];
        write_parquet(&dir.join(file).with_extension("parquet"), columns);
    }
    let run = |out: &str, input: &str, batch: u32, workers: u32, more: &[&str]| {
        let text = format!(
            "source: {{ parquet: {{ path: {input}.parquet, columns: {{ task: task }}, rows_per_partition: 24 }} }}\n\
             restore: {{ lm4lv: {{ model: tiny, quantize: round, batch: {batch}, sizes: {{ tile: {{ overlap_px: 8 }} }}, \
             decoder: {{ parallel: {{ tolerance: 0, max_passes: 3 }} }} }} }}\n\
             sink: {{ dir: {out}, rows_per_part: 6 }}\nrun: {{ workers: {workers} }}\n"
        );
        std::fs::write(dir.join(format!("{out}.yaml")), text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lm4lv"));
        let quiet = std::process::Stdio::null;
        command.args(["run", &format!("{out}.yaml")]).args(more).current_dir(dir).stdout(quiet());
        command.spawn().unwrap()
    };
    assert!(run("singles", "in", 1, 1, &[]).wait().unwrap().success());
    for shard in ["0/2", "1/2"] {
        assert!(run("sevens", "shuffled", 7, 2, &["--shard", shard]).wait().unwrap().success());
    }
    let mut killed = run("killed", "shuffled", 32, 2, &[]);
    while common::parts(&dir.join("killed")).is_empty() && killed.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let there = rows(&dir.join("killed"), VOLATILE).len();
    assert!((6..count as usize).contains(&there), "killed too late: {there} rows");
    assert!(run("killed", "shuffled", 5, 1, &[]).wait().unwrap().success());

    let singles = restored_images(&dir.join("singles")).await;
    assert_eq!(singles.len(), count as usize);
    for out in ["sevens", "killed"] {
        expect(dir, &["verify", out, "--complete"], 0);
        let images = restored_images(&dir.join(out)).await;
        assert!(images.keys().eq(singles.keys()), "{out}");
        let pairs = || singles.values().zip(images.values()).flat_map(|(a, b)| a.as_bytes().iter().zip(b.as_bytes()));
        let far = pairs().filter(|(a, b)| a.abs_diff(**b) > 1).count();
        assert!(far * 1000 <= pairs().count(), "{out}: {far} of {} values", pairs().count());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_s_spoiled_photographs_are_restored_and_scored_against_their_references() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let sink = format!("sink.dir={}", out.display());
    expect(root(), &["run", "pipelines/restore.yaml", "--progress", "none", "--set", &sink], 0);
    let dataset = Dataset::open(Folder::Local(out.clone()), &out.display().to_string()).await.unwrap();
    let (mut rows, mut count, mut gain) = (dataset.rows(Columns::All), 0.0, 0.0);
    while let Some(row) = rows.next().await.unwrap() {
        assert!(row.failure.is_none(), "{:?}", row.failure);
        let score = |column: &str| row.score(&format!("{column}_psnr_lm4lv")).unwrap();
        let clean = decoded(&row, "target");
        for column in ["input", "output", "baseline"] {
            let found = lm4lv::score::score(lm4lv::score::ScoreName::PsnrLm4lv, &decoded(&row, column), &clean);
            assert_eq!(found, Some(score(column)), "{} {column}", row.key);
        }
        (count, gain) = (count + 1.0, gain + score("output") - score("input"));
    }
    assert!(count == 5.0 && gain / count > 3.0, "{gain} dB in {count} images");
}
