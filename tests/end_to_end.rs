//! The main job as a user runs it: the binary, files on disk, and the dataset that comes out.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{PLACE, VOLATILE, binaries, expect, lm4lv, parts, photographs, rows, strings, text, write_parquet};

const RECIPE: &str = "
degrade:
  seed: 7
  variants: 2
  recipe:
    - one_of:
        - { weight: 2, recipe: [ { gaussian_noise: { sigma: [5, 50] } } ] }
        - { recipe: [ { gaussian_blur: { k: 9, sigma: [0.3, 1.9] } } ] }
        - { recipe: [ { preset: lm4lv.derain } ] }
    - probability: { p: 0.5, recipe: [ { pepper: { p: [0.01, 0.1] } } ] }
    - jpeg: { quality: [30, 95] }
score: [psnr.lm4lv, ssim.lm4lv]
";

/// A pipeline file that reads `source` and writes to `out`.
fn pipeline(dir: &Path, name: &str, source: &str, out: &str, more: &str) {
    let text = format!(
        "source: {source}\nload: {{ crop: {{ random: {{ size: 40 }} }} }}\n{RECIPE}\nsink: {{ dir: {out}, rows_per_part: 30 }}\n{more}\n"
    );
    std::fs::write(dir.join(name), text).unwrap();
}

/// Starts a run of a pipeline file.
fn start(dir: &Path, file: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lm4lv"));
    command.args(["run", file]).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[cfg(unix)]
fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// `LM4LV_SEED`, or another one each time.
fn seed() -> u64 {
    let seed = std::env::var("LM4LV_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos())
    });
    eprintln!("LM4LV_SEED={seed}");
    seed
}

fn without_place() -> Vec<&'static str> {
    VOLATILE.iter().chain(PLACE).copied().collect()
}

#[test]
fn the_same_rows_for_any_workers_batch_shards_and_source() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = photographs(&dir.join("photos"), 60, 48);
    let references: Vec<_> = names.iter().map(|name| Some(name.as_str())).collect();
    write_parquet(&dir.join("photos/refs.parquet"), vec![("path", strings(&references))]);
    let bytes: Vec<_> = names.iter().map(|name| std::fs::read(dir.join("photos").join(name)).unwrap()).collect();
    write_parquet(&dir.join("inline.parquet"), vec![("key", strings(&references)), ("bytes", binaries(&bytes))]);

    let by_reference = "{ parquet: { path: photos/refs.parquet, rows_per_partition: 5 } }";
    pipeline(dir, "one.yaml", by_reference, "one", "run: { workers: 1, memory_mib: 64 }");
    pipeline(dir, "two.yaml", by_reference, "two", "run: { workers: 2 }");
    pipeline(dir, "shards.yaml", by_reference, "shards", "run: { workers: 2 }");
    pipeline(
        dir,
        "folder.yaml",
        "{ folder: { path: photos, include: [\"*.jpg\"], rows_per_partition: 5 } }",
        "folder",
        "",
    );
    pipeline(dir, "inline.yaml", "{ parquet: { path: inline.parquet, rows_per_partition: 7 } }", "inline", "");

    expect(dir, &["run", "one.yaml", "--set", "load.concurrency=1"], 0);
    let one = rows(&dir.join("one"), VOLATILE);
    assert_eq!(one.len(), 120);
    assert!(one.values().all(|row| row["status"] == "success"), "{one:?}");

    expect(dir, &["run", "two.yaml", "--set", "load.concurrency=64", "--set", "sink.rows_per_part=7"], 0);
    assert_eq!(rows(&dir.join("two"), VOLATILE), one);

    for shard in ["2/3", "0/3", "1/3"] {
        expect(dir, &["run", "shards.yaml", "--shard", shard], 0);
    }
    assert_eq!(rows(&dir.join("shards"), VOLATILE), one);
    for shard in ["one", "two", "shards", "folder", "inline"].iter().filter(|name| dir.join(name).exists()) {
        expect(dir, &["verify", shard, "--complete"], 0);
    }

    let elsewhere = rows(&dir.join("one"), &without_place());
    expect(dir, &["run", "folder.yaml"], 0);
    assert_eq!(rows(&dir.join("folder"), &without_place()), elsewhere);
    expect(dir, &["run", "inline.yaml"], 0);
    assert_eq!(rows(&dir.join("inline"), &without_place()), elsewhere);
}

#[test]
fn a_finished_run_says_so_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 4, 48);
    pipeline(dir, "p.yaml", "{ folder: { path: photos } }", "out", "");
    expect(dir, &["run", "p.yaml"], 0);
    let before: Vec<_> =
        parts(&dir.join("out")).iter().map(|part| std::fs::metadata(part).unwrap().modified().unwrap()).collect();
    let output = expect(dir, &["run", "p.yaml"], 0);
    let after: Vec<_> =
        parts(&dir.join("out")).iter().map(|part| std::fs::metadata(part).unwrap().modified().unwrap()).collect();
    assert_eq!(before, after);
    let said = String::from_utf8_lossy(&output.stdout).to_string() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("already") && said.contains("out"), "{said}");
}

#[cfg(unix)]
#[test]
fn sigterm_drains_and_the_next_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 900, 96);
    for out in ["calm", "stopped"] {
        pipeline(
            dir,
            &format!("{out}.yaml"),
            "{ folder: { path: photos, rows_per_partition: 75 } }",
            out,
            "run: { workers: 1 }",
        );
    }
    expect(dir, &["run", "calm.yaml"], 0);

    let mut child = start(dir, "stopped.yaml");
    let started = Instant::now();
    while parts(&dir.join("stopped")).is_empty() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-TERM");
    let code = child.wait().unwrap().code();
    let published = rows(&dir.join("stopped"), VOLATILE).len();
    assert_eq!((code, published < 1800), (Some(143), true), "{published} rows when it stopped");
    expect(dir, &["verify", "stopped"], 0);
    expect(dir, &["verify", "stopped", "--complete"], 3);

    expect(dir, &["run", "stopped.yaml"], 0);
    expect(dir, &["verify", "stopped", "--complete"], 0);
    assert_eq!(rows(&dir.join("stopped"), VOLATILE), rows(&dir.join("calm"), VOLATILE));
}

#[test]
fn killed_at_random_moments_every_row_is_there_once() {
    let seed = seed();
    let mut random = lm4lv::stream::Stream::new(seed, "kill", 0, "", "", 1);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 600, 96);
    let source = "{ folder: { path: photos, rows_per_partition: 100 } }";
    pipeline(dir, "calm.yaml", source, "calm", "run: { workers: 2 }");
    pipeline(dir, "killed.yaml", source, "killed", "run: { workers: 1 }");
    expect(dir, &["run", "calm.yaml"], 0);

    let (mut kills, mut with_parts) = (0, 0);
    loop {
        let mut child = start(dir, "killed.yaml");
        // Ever later, so that some come behind a published part.
        std::thread::sleep(Duration::from_millis(5 + random.below(60 + 10 * kills)));
        if kills < 20 && child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
            child.wait().unwrap();
            with_parts += u64::from(!parts(&dir.join("killed")).is_empty());
            continue;
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "after {kills} kills, seed {seed}");
        break;
    }
    assert!(with_parts > 0, "none of {kills} kills came between two parts, seed {seed}");
    expect(dir, &["verify", "killed", "--complete"], 0);
    assert_eq!(rows(&dir.join("killed"), VOLATILE), rows(&dir.join("calm"), VOLATILE), "{kills} kills, seed {seed}");
}

/// `scripts/kill.py` does this and the kills for longer.
#[cfg(unix)]
#[test]
fn two_at_one_shard_and_one_of_them_frozen_every_row_is_there_once() {
    let seed = seed();
    let mut random = lm4lv::stream::Stream::new(seed, "freeze", 0, "", "", 1);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 300, 96);
    let source = "{ folder: { path: photos, rows_per_partition: 50 } }";
    pipeline(dir, "calm.yaml", source, "calm", "run: { workers: 2 }");
    expect(dir, &["run", "calm.yaml"], 0);
    let (calm, all) = (rows(&dir.join("calm"), VOLATILE), parts(&dir.join("calm")).len() as u64);
    for round in 0..4 {
        let out = format!("frozen-{round}");
        pipeline(dir, "frozen.yaml", source, &out, "run: { workers: 1 }");
        let (mut frozen, mut other) = (start(dir, "frozen.yaml"), start(dir, "frozen.yaml"));
        let wait_for = |share: u64, child: &mut Child| {
            while (parts(&dir.join(&out)).len() as u64) < share && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let at = random.below(all * 3 / 4);
        wait_for(at, &mut other);
        signal(&frozen, "-STOP");
        // Until it is all done, or somewhat more is.
        wait_for(if round % 2 == 0 { u64::MAX } else { at + random.below(all - at) }, &mut other);
        signal(&frozen, "-CONT");
        let codes = (frozen.wait().unwrap().code(), other.wait().unwrap().code());
        assert_eq!(codes, (Some(0), Some(0)), "round {round}, seed {seed}");
        expect(dir, &["verify", &out, "--complete"], 0);
        assert_eq!(rows(&dir.join(&out), VOLATILE), calm, "round {round}, seed {seed}");
    }
}

#[test]
fn odd_files_are_rows_and_the_rest_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let photos = dir.join("photos");
    photographs(&photos, 3, 64);
    let whole = std::fs::read(photos.join("0001.jpg")).unwrap();
    std::fs::write(photos.join("truncated.jpg"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(photos.join("empty.png"), b"").unwrap();
    std::fs::write(photos.join("text.png"), b"this is not a picture\n").unwrap();
    std::fs::write(photos.join("bomb.png"), png_header(50_000, 50_000)).unwrap();
    let references = [
        Some("0000.jpg"),
        Some("truncated.jpg"),
        Some("empty.png"),
        Some("text.png"),
        Some("bomb.png"),
        Some("missing.jpg"),
        None,
        Some("0002.jpg"),
    ];
    let ids: Vec<_> = (0..references.len()).map(|i| format!("id-{i}")).collect();
    let ids: Vec<_> = ids.iter().map(|id| Some(id.as_str())).collect();
    write_parquet(&photos.join("refs.parquet"), vec![("id", strings(&ids)), ("path", strings(&references))]);
    std::fs::write(
        dir.join("p.yaml"),
        "source: { parquet: { path: photos/refs.parquet } }\ndegrade: { recipe: [ { preset: lm4lv.denoise } ] }\nscore: [psnr.lm4lv]\nsink: { dir: out }\n",
    )
    .unwrap();
    let output = expect(dir, &["run", "p.yaml"], 0);
    let found: Vec<_> = rows(&dir.join("out"), &[]).into_values().map(|row| row["error_code"].clone()).collect();
    assert_eq!(
        found,
        ["null", "corrupt", "empty", "unknown_format", "too_many_pixels", "not_found", "null_reference", "null"]
    );
    let said = String::from_utf8_lossy(&output.stdout).to_string() + &String::from_utf8_lossy(&output.stderr);
    for code in ["corrupt", "empty", "unknown_format", "too_many_pixels", "not_found", "null_reference"] {
        assert!(said.contains(code), "{code} is not in\n{said}");
    }
    let batch = first_batch(&dir.join("out"));
    assert_eq!(text(&batch, "status", 1), "failed");
}

#[test]
fn mistakes_in_the_pipeline_file_name_line_column_and_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 1, 48);
    let good = "source: { folder: { path: photos } }\nsink: { dir: out }\n";
    let cases = [
        (
            "misspelt",
            format!("{good}degrade:\n  recipe:\n    - gausian_noise: {{ sigma: 5 }}\n"),
            "5:7",
            "gaussian_noise",
        ),
        ("unit", format!("{good}load:\n  deadline_s: 10s\n"), "4:15", "deadline_s"),
        ("range", format!("{good}degrade:\n  recipe:\n    - jpeg: {{ quality: 300 }}\n"), "5:", "100"),
        ("key", format!("{good}load:\n  resise: none\n"), "4:3", "resize"),
        ("score", format!("{good}score: [psnr.lm4lw]\n"), "3:9", "psnr.lm4lv"),
    ];
    for (name, text, place, allowed) in cases {
        std::fs::write(dir.join(name), text).unwrap();
        let output = lm4lv(dir, &["run", name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(place) && said.contains(allowed), "{name}: {place} and {allowed} should be in\n{said}");
        assert!(!dir.join("out").exists(), "{name} wrote something");
    }
}

/// Told before a row is made, not by each row.
#[test]
fn a_column_without_numbers_is_no_parameter() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = photographs(&dir.join("photos"), 3, 48);
    let names: Vec<_> = names.iter().map(|name| Some(name.as_str())).collect();
    let sigmas = strings(&[Some("5"), Some("ten"), None]);
    write_parquet(&dir.join("photos/refs.parquet"), vec![("path", strings(&names)), ("sigma", sigmas)]);
    let text = "source: { parquet: { path: photos/refs.parquet, keep: [sigma] } }\n\
                degrade: { recipe: [ { gaussian_noise: { sigma: { column: sigma } } } ] }\nsink: { dir: out }\n";
    std::fs::write(dir.join("p.yaml"), text).unwrap();
    for command in ["check", "run"] {
        let said = String::from_utf8_lossy(&expect(dir, &[command, "p.yaml"], 2).stderr).into_owned();
        assert!(said.contains("`sigma`") && said.contains("Utf8") && said.contains("number"), "{said}");
    }
    assert!(!dir.join("out").exists());
}

#[test]
fn a_filter_that_matches_nothing_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = photographs(&dir.join("photos"), 3, 48);
    let names: Vec<_> = names.iter().map(|name| Some(name.as_str())).collect();
    write_parquet(&dir.join("photos/refs.parquet"), vec![("path", strings(&names))]);
    let text = "source: { parquet: { path: photos/refs.parquet, where: { path: [other.jpg] } } }\nsink: { dir: out }\n";
    std::fs::write(dir.join("p.yaml"), text).unwrap();
    let said = String::from_utf8_lossy(&expect(dir, &["run", "p.yaml"], 0).stdout).into_owned();
    assert!(said.contains("where matched none of 3 positions"), "{said}");
}

#[test]
fn check_refuses_what_run_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 2, 48);
    let base = "source: { folder: { path: photos } }\nload: { crop: { random: { size: 16 } } }\nsink: { dir: out }\n";
    std::fs::write(dir.join("p.yaml"), base).unwrap();
    let cases = [
        ("load.root=nowhere", "nowhere"),
        ("sink.dir=p.yaml", "p.yaml: is a file"),
        ("source.folder.path=''", "source.folder.path is empty"),
        ("source.folder.rows_per_partition=0", "a whole number from 1 up"),
    ];
    for (setting, said) in cases {
        for command in ["check", "run"] {
            let output = expect(dir, &[command, "p.yaml", "--set", setting], 2);
            let heard = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(heard.contains(said), "{command} {setting}: {heard}");
            assert!(command == "run" || !dir.join("out").exists(), "check wrote something");
        }
        std::fs::remove_dir_all(dir.join("out")).ok();
    }
    expect(dir, &["run", "p.yaml"], 0);
    expect(dir, &["check", "p.yaml"], 0);
    for command in ["check", "run"] {
        expect(dir, &[command, "p.yaml", "--set", "load.crop.random.size=8"], 2);
    }
}

/// What the folder listed are paths, whatever they look like.
#[cfg(unix)]
#[test]
fn files_whose_names_look_like_urls_are_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = photographs(&dir.join("photos"), 1, 48);
    let odd = ["http:x.png", "data:image,x.png", "file:x.png", "c:\\x.png", "x:y/s3:x.png"];
    for name in odd {
        let path = dir.join("photos").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(dir.join("photos").join(&names[0]), path).unwrap();
    }
    std::fs::write(dir.join("p.yaml"), "source: { folder: { path: photos } }\nload: {}\nsink: { dir: out }\n").unwrap();
    let said = String::from_utf8_lossy(&expect(dir, &["run", "p.yaml"], 0).stdout).into_owned();
    assert!(said.contains("failed  0"), "{said}");
    let batch = first_batch(&dir.join("out"));
    let keys = arrow::array::AsArray::as_string::<i32>(batch.column_by_name("key").unwrap());
    for name in odd {
        assert!(keys.iter().any(|key| key == Some(name)), "{name}");
    }
}

/// A PNG of `width` × `height` that has a header and nothing else.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    drop(encoder.write_header().unwrap());
    bytes
}

fn first_batch(dataset: &Path) -> arrow::array::RecordBatch {
    let part = parts(dataset).into_iter().next().unwrap();
    let file = std::fs::File::open(part).unwrap();
    parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
}

#[test]
fn vector_code_gives_the_bytes_of_plain_code() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    photographs(&dir.join("photos"), 3, 133);
    // Odd sizes too, so that every loop has a rest.
    for (i, (width, height)) in [(1, 1), (5, 200), (131, 97)].into_iter().enumerate() {
        let image = image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 5) as u8, (y * 3) as u8, ((x * y * 7) % 251) as u8])
        });
        image.save(dir.join(format!("photos/{i}.png"))).unwrap();
    }
    let steps = [
        "{ gaussian_noise: { sigma: 25 } }, { gaussian_blur: { sigma: 1.5 } }, { jpeg: { quality: 60 } }",
        "{ gaussian_noise: { sigma: 25, mode: gray } }, { gaussian_blur: { k: 9, sigma_x: 3, sigma_y: 1, theta: 30 } }",
        "{ gaussian_noise: { sigma: 25, mode: correlated } }, { jpeg: { quality: 40, subsampling: \"4:2:2\" } }",
        "{ rain: { value: 200 } }, { rotate: { angle: 17 } }, { jpeg: { quality: 40, subsampling: gray } }",
        "{ rain: { value: 200, blend: alpha } }, { rotate: { angle: 200, filter: bicubic, expand: true, fill: 90 } }",
        "{ rotate: { angle: 90 } }, { flip: {} }, { pepper: { p: 0.1 } }, { mask: { ratio: 0.2 } }",
        "{ rotate: { angle: 33, filter: nearest } }, { pepper: { p: 0.1, mode: per_channel } }, { mask: { shape: brush, fill: noise } }",
        "{ resample: { scale: 0.4 } }, { jpeg: { quality: 90, subsampling: \"4:4:4\" } }",
        "{ resample: { scale: 0.3, down: lanczos, up: box } }, { webp: { quality: 50 } }, { flip: { direction: transpose } }",
    ];
    let recipes: String = steps.iter().map(|steps| format!("      - {{ recipe: [ {steps} ] }}\n")).collect();
    let text = format!(
        "source: {{ folder: {{ path: photos }} }}\nload: {{ resize: {{ size: 90, mode: shortest_side }} }}\ndegrade:\n  variants: {}\n  recipe:\n    \
         - by_variant:\n{recipes}score: [psnr.lm4lv, ssim.lm4lv, psnr.basicsr_y, ssim.basicsr_y, ssim.skimage, ssim.torchmetrics]\n\
         sink: {{ dir: vectors, encoding_of: {{ input: {{ jpeg: {{ quality: 95 }} }}, target: {{ png: {{}} }} }} }}\n",
        steps.len()
    );
    std::fs::write(dir.join("all.yaml"), text).unwrap();
    expect(dir, &["run", "all.yaml"], 0);
    let vectors = rows(&dir.join("vectors"), VOLATILE);
    assert_eq!(vectors.len(), 6 * steps.len());
    assert!(vectors.values().all(|row| row["status"] == "success"), "{vectors:?}");
    for most in ["portable", "avx2"] {
        let plain = Command::new(env!("CARGO_BIN_EXE_lm4lv"))
            .args(["run", "all.yaml", "--set", &format!("sink.dir={most}")])
            .current_dir(dir)
            .env("LM4LV_VECTORS", most)
            .output()
            .unwrap();
        assert!(plain.status.success(), "{plain:?}");
        assert!(rows(&dir.join(most), VOLATILE) == vectors, "{most}");
    }
}
