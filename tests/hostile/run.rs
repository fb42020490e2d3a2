//! All of it at once, through the binary: one row each, nothing on stderr but what is meant, memory within bounds.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{expect, root, rows, strings, write_parquet};
use crate::serve::{Reply, Server};
use crate::{H, W, bombs, files, jpeg, png_file};

/// What a run over hostile input may take, whatever the input holds: `run.memory_mib` and what lies outside it (code, threads,
/// one image in work, one value of a Parquet page).
const MOST_MIB: u64 = 500;

/// What the binary said, and the most memory that it ever held.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    peak_mib: u64,
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    let (out, err) = (dir.join("stdout"), dir.join("stderr"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_lm4lv"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(std::fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let mut peak_kib = 0;
    let status = loop {
        // A high-water mark: it misses no moment but the very last.
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kib = mark.and_then(|mark| mark.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(peak_kib);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    Ran { code: status.code(), stdout: read(&out), stderr: read(&err), peak_mib: peak_kib >> 10 }
}

/// Hostile files, by name, and the code of the row of each; `null` for those that are only odd.
fn hostile_files(folder: &Path) -> Vec<(String, &'static str)> {
    std::fs::create_dir_all(folder).unwrap();
    let mut made: Vec<(String, &'static str)> = Vec::new();
    let mut write = |name: String, bytes: &[u8], code| {
        std::fs::write(folder.join(&name), bytes).unwrap();
        made.push((name, code));
    };
    for (extension, bomb) in bombs() {
        write(format!("bomb.{extension}"), &bomb, "too_many_pixels");
    }
    for (number, (kind, file)) in files().into_iter().enumerate() {
        write(format!("cut-{number}.jpg"), &file[..file.len() / 128 * 64], "corrupt");
        // Every kind under the name of another.
        write(format!("called-{number}.{}", if kind.contains("JPEG") { "png" } else { "jpg" }), &file, "null");
    }
    write("empty.jpg".into(), b"", "empty");
    write("page.jpg".into(), b"<!DOCTYPE html><html><title>404</title></html>", "unknown_format");
    let fixtures = root().join("tests/fixtures/load");
    for name in ["animated.gif", "animated.webp", "cmyk.jpg", "cmyk.tif", "grey-16.png", "grey-16.tif"] {
        write(name.into(), &std::fs::read(fixtures.join(name)).unwrap(), "null");
    }
    std::fs::File::create(folder.join("sparse.jpg")).unwrap().set_len(3 << 30).unwrap();
    made.push(("sparse.jpg".into(), "too_large"));
    for (name, to, code) in [
        ("link-out.jpg", "/etc/passwd", "forbidden_path"),
        ("link-zero.jpg", "/dev/zero", "forbidden_path"),
        ("link-round.jpg", "link-round.jpg", "io"),
        ("link-nowhere.jpg", "nowhere.jpg", "not_found"),
    ] {
        symlink(to, folder.join(name)).unwrap();
        made.push((name.into(), code));
    }
    if Command::new("mkfifo").arg(folder.join("fifo.jpg")).status().is_ok_and(|status| status.success()) {
        made.push(("fifo.jpg".into(), "not_a_file"));
    }
    made
}

fn check(ran: &Ran) {
    let Ran { code, stdout, stderr, peak_mib } = ran;
    assert_eq!(*code, Some(0), "{stdout}\n{stderr}");
    assert!(!stderr.contains("bug") && !stderr.contains("panicked") && !stderr.contains("ERROR"), "{stderr}");
    eprintln!("peak memory {peak_mib} MiB");
    assert!(*peak_mib < MOST_MIB, "{peak_mib} MiB");
}

/// (key, code) of each row, sorted.
fn codes(dataset: &Path) -> Vec<(String, String)> {
    let rows = rows(dataset, &[]);
    for row in rows.values() {
        assert_eq!(row["status"] == "success", row["error_code"] == "null", "{row:?}");
        assert_eq!(row["status"] == "failed", row["input"] == "null", "{row:?}");
        assert!(row["error_message"].len() < 1000, "{row:?}");
    }
    rows.into_values().map(|row| (row["key"].clone(), row["error_code"].clone())).collect()
}

#[test]
fn a_folder_of_hostile_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut expected = hostile_files(&dir.join("files"));
    // A name that is not UTF-8 has no reference: it is a row all the same.
    std::fs::write(dir.join("files").join(OsStr::from_bytes(b"caf\xe9.jpg")), jpeg(false)).unwrap();
    expected.push(("caf\u{fffd}.jpg".into(), "not_found"));
    std::fs::write(
        dir.join("p.yaml"),
        "source: { folder: { path: files, include: [\"**\"] } }\ndegrade: { recipe: [ { gaussian_noise: { sigma: 25 } } ] }\n\
         sink: { dir: out }\nrun: { memory_mib: 64, workers: 2, progress: none }\n",
    )
    .unwrap();
    check(&run(dir, &["run", "p.yaml"]));
    let mut expected: Vec<_> = expected.into_iter().map(|(name, code)| (name, code.to_owned())).collect();
    expected.sort();
    assert_eq!(codes(&dir.join("out")), expected);
    expect(dir, &["verify", "out", "--complete", "--pixels"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parquet_file_of_hostile_references() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let secret = Server::start_at(Ipv4Addr::new(127, 0, 0, 2), 0, |_| Reply::ok("secret")).await;
    let closed = secret.address;
    let server = Server::start(move |request| match request.path.as_str() {
        "/drip" => Reply::Drip(1000, Duration::from_secs(1)),
        "/endless" => Reply::Endless,
        "/lies" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: 9000000000\r\n".to_owned(), vec![]),
        "/short" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: 5000\r\n".to_owned(), vec![1; 4999]),
        "/loop" => Reply::redirect("/loop"),
        "/in" => Reply::redirect(&format!("http://{closed}/")),
        "/mapped" => Reply::redirect(&format!("http://[::ffff:127.0.0.2]:{}/", closed.port())),
        "/meta" => Reply::redirect("http://169.254.169.254/latest/meta-data/"),
        "/private" => Reply::redirect("http://10.0.0.1/"),
        _ => Reply::ok("<html>not a picture</html>"),
    })
    .await;
    let mut references: Vec<(Option<String>, &str)> =
        hostile_files(&dir.join("files")).into_iter().map(|(name, code)| (Some(name), code)).collect();
    let mut add = |reference: &str, code| references.push((Some(reference.to_owned()), code));
    for (path, code) in [
        ("/drip", "timeout"),
        ("/endless", "too_large"),
        ("/lies", "too_large"),
        ("/short", "bad_response"),
        ("/loop", "http_status"),
        ("/in", "forbidden_address"),
        ("/mapped", "forbidden_address"),
        ("/meta", "forbidden_address"),
        ("/private", "forbidden_address"),
        ("/page.jpg", "unknown_format"),
    ] {
        add(&server.url(path), code);
    }
    for (reference, code) in [
        ("http://[fe80::1]/x.jpg", "forbidden_address"),
        ("http://0x7f000002/x.jpg", "forbidden_address"),
        ("../stdout", "forbidden_path"),
        ("/etc/passwd", "forbidden_path"),
        ("file:///dev/zero", "forbidden_path"),
        ("nul\0.jpg", "bad_reference"),
        ("ftp://host/x.jpg", "bad_reference"),
        ("", "bad_reference"),
        ("data:image/png;base64,AAAA", "unknown_format"),
        // The same file again, and again under the same key as before.
        ("called-0.png", "null"),
        ("called-0.png", "null"),
    ] {
        add(reference, code);
    }
    add(&"very/".repeat(1 << 20), "bad_reference");
    add(&format!("data:image/png;base64,{}", "A".repeat(100 << 20)), "too_large");
    add(&format!("data:,{}", "%41".repeat(100 << 18)), "too_large");
    references.push((None, "null_reference"));
    let keys: Vec<_> = (0..references.len()).map(|i| format!("{i:03}")).collect();
    let mut keys: Vec<_> = keys.iter().map(|key| Some(key.as_str())).collect();
    let twice = references.iter().rposition(|(r, _)| r.as_deref() == Some("called-0.png")).unwrap();
    keys[twice] = keys[twice - 1];
    let urls: Vec<_> = references.iter().map(|(reference, _)| reference.as_deref()).collect();
    write_parquet(&dir.join("files/refs.parquet"), vec![("id", strings(&keys)), ("url", strings(&urls))]);
    std::fs::write(
        dir.join("p.yaml"),
        "source: { parquet: { path: files/refs.parquet } }\n\
         load: { max_mib: 16, deadline_s: 6, retries: 0, allow: [127.0.0.1] }\n\
         degrade: { recipe: [ { gaussian_noise: { sigma: 25 } } ] }\n\
         sink: { dir: out }\nrun: { memory_mib: 64, workers: 2, progress: none }\n",
    )
    .unwrap();
    let here = dir.to_owned();
    check(&tokio::task::spawn_blocking(move || run(&here, &["run", "p.yaml"])).await.unwrap());
    let mut expected: Vec<_> =
        keys.iter().zip(&references).map(|(key, (_, code))| (key.unwrap().to_owned(), (*code).to_owned())).collect();
    expected.sort();
    assert_eq!(codes(&dir.join("out")), expected);
    expect(dir, &["verify", "out", "--complete"], 0);
    assert_eq!(secret.connections(), 0, "nobody ever knocked");
    // What is shown of the long ones is short.
    let part = crate::common::parts(&dir.join("out")).remove(0);
    assert!(std::fs::metadata(part).unwrap().len() < 8 << 20);
}

/// Images that stand in the rows, of which none is one.
#[test]
fn a_parquet_file_of_hostile_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut images: Vec<(Vec<u8>, &str)> = bombs().into_iter().map(|(_, bomb)| (bomb, "too_many_pixels")).collect();
    images.extend([(vec![], "empty"), (b"<html>".to_vec(), "unknown_format"), (vec![0; 20 << 20], "too_large")]);
    images.extend([(png_file(), "null"), (png_file(), "null")]);
    let bytes: Vec<_> = images.iter().map(|(bytes, _)| bytes.clone()).collect();
    write_parquet(&dir.join("bytes.parquet"), vec![("bytes", crate::common::binaries(&bytes))]);
    std::fs::write(
        dir.join("p.yaml"),
        "source: { parquet: { path: bytes.parquet } }\nload: { max_mib: 16 }\nsink: { dir: out }\n\
         run: { memory_mib: 64, workers: 2, progress: none }\n",
    )
    .unwrap();
    check(&run(dir, &["run", "p.yaml"]));
    let mut found: Vec<_> = codes(&dir.join("out")).into_iter().map(|(_, code)| code).collect();
    let mut expected: Vec<_> = images.iter().map(|(_, code)| (*code).to_owned()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    // The same bytes have the same key, and are two rows.
    let rows = rows(&dir.join("out"), &[]);
    let twins: Vec<_> =
        rows.values().filter(|row| row["width"] == W.to_string() && row["height"] == H.to_string()).collect();
    assert_eq!((twins.len(), &twins[0]["key"]), (2, &twins[1]["key"]));
}

/// Pipeline files and Parquet files that are none, or are meant to do harm: exit 2, one message, little memory.
#[test]
fn what_is_no_pipeline_or_input_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut laughs = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (from, to) in "abcdefghijk".chars().zip("bcdefghijkl".chars()) {
        laughs.push_str(&format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(", ")));
    }
    std::fs::write(dir.join("laughs.yaml"), laughs).unwrap();
    std::fs::write(dir.join("controls.yaml"), "source: \x1b[2J\x07\u{9b}31m\n").unwrap();
    std::fs::write(dir.join("latin.yaml"), b"source: \xe9\n").unwrap();
    std::fs::write(dir.join("empty.yaml"), "").unwrap();
    let sparse = |name: &str| std::fs::File::create(dir.join(name)).unwrap().set_len(3 << 30).unwrap();
    sparse("sparse.yaml");
    let refused = |ran: &Ran, name: &str| {
        assert_eq!(ran.code, Some(2), "{name}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.len() < 2000, "{name}: {}", ran.stderr);
        assert!(!ran.stderr.chars().any(|c| c.is_control() && c != '\n'), "{name}: {:?}", ran.stderr);
        assert!(ran.peak_mib < 100, "{name}: {} MiB", ran.peak_mib);
    };
    for name in ["laughs.yaml", "controls.yaml", "latin.yaml", "empty.yaml", "sparse.yaml", "/dev/zero", "."] {
        refused(&run(dir, &["check", name]), name);
    }
    sparse("sparse.parquet");
    std::fs::write(dir.join("empty.parquet"), "").unwrap();
    let mut footer = io::Cursor::new(b"PAR1".to_vec());
    footer.set_position(4);
    footer.write_all(&u32::MAX.to_le_bytes()).unwrap();
    footer.write_all(b"PAR1").unwrap();
    std::fs::write(dir.join("footer.parquet"), footer.into_inner()).unwrap();
    std::fs::write(dir.join("page.parquet"), "<html>").unwrap();
    for name in ["sparse.parquet", "empty.parquet", "footer.parquet", "page.parquet", "/dev/zero"] {
        let text = format!("source: {{ parquet: {{ path: {name} }} }}\nsink: {{ dir: out }}\n");
        std::fs::write(dir.join("p.yaml"), text).unwrap();
        refused(&run(dir, &["run", "p.yaml"]), name);
        assert!(!dir.join("out").exists());
    }
}
