//! Operations: what a running process answers over HTTP while its store fails and works, and `lm4lv status` beside it.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "common/mod.rs"]
#[expect(dead_code, reason = "each test file uses its own part")]
mod common;
#[path = "faults/s3.rs"]
#[expect(dead_code, reason = "each test file uses its own part")]
mod s3;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use common::{expect, photographs, root};
use s3::S3;

/// A run with an endpoint, killed where the test fails.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    /// Starts `file`, whose `http` section listens at port 0, and waits until the log tells the port.
    fn start(dir: &Path, file: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lm4lv"))
            .args(["run", file, "--log", "json", "--progress", "none"])
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            line["address"].as_str().map(|address| address.parse().unwrap())
        });
        // What it has to say more must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("the log tells the address") }
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    /// Asks until `told` holds of `/metrics`.
    fn until(&self, told: impl Fn(&Metrics) -> bool) -> Metrics {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let metrics = Metrics(self.get("/metrics").1);
            if told(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < limit, "{}", metrics.0);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ends(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A scrape.
struct Metrics(String);

impl Metrics {
    /// The value of the series written as `series`, labels and all; 0 where there is none.
    fn value(&self, series: &str) -> f64 {
        let of = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        self.0.lines().find_map(of).unwrap_or(0.0)
    }
}

/// A pipeline over photographs in a folder, of which one is broken, into the store.
fn pipeline(dir: &Path, s3: &S3) {
    photographs(&dir.join("photos"), 11, 32);
    std::fs::write(dir.join("photos/broken.jpg"), b"no image").unwrap();
    let text = format!(
        "{}source: {{ folder: {{ path: photos, rows_per_partition: 6 }} }}\n\
         degrade: {{ seed: 3, recipe: [ {{ gaussian_noise: {{ sigma: 25 }} }} ] }}\n\
         sink: {{ dir: \"s3://bucket/out\" }}\nhttp: {{ listen: \"127.0.0.1:0\" }}\nrun: {{ workers: 2 }}\n",
        s3.stores()
    );
    std::fs::write(dir.join("p.yaml"), text).unwrap();
}

#[test]
fn a_run_tells_what_it_waits_for_and_what_it_did() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start());
    pipeline(dir.path(), &s3);
    s3.fail(|_| Some(503));
    let run = Running::start(dir.path(), "p.yaml");

    // The store is out before there is a plan: alive, not ready.
    let metrics = run.until(|metrics| metrics.value("lm4lv_store_errors_total{kind=\"server_error\"}") > 0.0);
    assert_eq!(metrics.value("lm4lv_ready"), 0.0);
    assert_eq!(run.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(run.get("/readyz"), (503, "the plan is not read yet\n".to_owned()));
    assert_eq!(run.status()["waits_for"], "the plan is not read yet");

    // It plans, but cannot publish: ready, and the oldest record grows old.
    s3.fail(|request| request.starts_with("PUT out/data/").then_some(503));
    let rows = |metrics: &Metrics| metrics.value("lm4lv_rows_total");
    let metrics =
        run.until(|metrics| rows(metrics) == 12.0 && metrics.value("lm4lv_oldest_unpublished_age_seconds") > 0.3);
    assert_eq!(metrics.value("lm4lv_failed_rows_total{code=\"unknown_format\"}"), 1.0);
    assert_eq!(metrics.value("lm4lv_published_rows_total"), 0.0);
    assert_eq!(metrics.value("lm4lv_ready"), 1.0);
    assert_eq!(metrics.value("lm4lv_chain_end_offset{partition=\"00000-00001\"}"), 0.0);
    assert!(metrics.value("lm4lv_stage_busy_seconds_total{stage=\"degrade\"}") > 0.0);
    assert!(metrics.value("process_resident_memory_bytes") > 1e6);
    assert!(metrics.0.ends_with("# EOF\n"), "{}", metrics.0);
    assert_eq!(run.get("/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(run.get("/healthz").0, 200);
    assert_eq!(run.get("/nothing").0, 404);
    let status = run.status();
    assert_eq!((&status["rows"], &status["rows_total"]), (&12.into(), &12.into()));
    assert_eq!(status["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(status["partitions"][0]["end"], 0);
    assert!(status["oldest_unpublished_s"].as_f64().unwrap() > 0.3);
    assert_eq!(status["limiting"], "store");
    for key in ["paused", "queues", "published", "fetch_errors"] {
        assert!(status.get(key).is_some(), "{key} is not in {status}");
    }

    // Somebody who keeps a connection open does not keep the process.
    let (address, idle) = (run.address, TcpStream::connect(run.address).unwrap());
    s3.heal();
    assert_eq!(run.ends(), Some(0));
    assert!(TcpStream::connect(address).is_err(), "the endpoint ends with the run");
    drop(idle);

    let stores = s3.stores();
    let endpoint = stores.split('"').find(|text| text.starts_with("http://")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lm4lv"))
        .args(["status", "s3://bucket/out", "--rows", "--json"])
        .envs([("AWS_ENDPOINT_URL", endpoint), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")])
        .envs([("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["percent"], &status["total"]["rows"]["failed"]), (&100.0.into(), &1.into()));
}

#[test]
fn names_follow_the_conventions_and_dashboard_and_alerts_know_them() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3::start());
    pipeline(dir.path(), &s3);
    s3.fail(|request| request.starts_with("PUT out/data/").then_some(503));
    let run = Running::start(dir.path(), "p.yaml");
    let metrics = run.until(|metrics| metrics.value("lm4lv_rows_total") == 12.0);
    let mut known = BTreeSet::new();
    for line in metrics.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(["lm4lv_", "process_"].iter().any(|prefix| name.starts_with(prefix)), "{line}");
        assert!(!["_total", "_ms", "_mib"].iter().any(|end| name.ends_with(end)), "{line}");
        let help = metrics.0.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} "))).unwrap();
        assert!(help.len() > 8, "{name}: {help}");
        let ends: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        known.extend(ends.iter().map(|end| format!("{name}{end}")));
    }
    for line in metrics.0.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(known.contains(name), "{line}");
    }
    for file in ["docker/grafana/dashboards/lm4lv.json", "docker/prometheus/alerts.yml"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: BTreeSet<_> =
            words.filter(|word| word.starts_with("lm4lv_") || word.starts_with("process_")).collect();
        assert!(asked.len() > 3, "{file} asks for {asked:?}");
        for name in asked {
            assert!(known.contains(name), "{file} asks for {name}, which /metrics does not have");
        }
    }
    let board = std::fs::read_to_string(root().join("docker/grafana/dashboards/lm4lv.json")).unwrap();
    let board: Value = serde_json::from_str(&board).unwrap();
    assert!(board["panels"].as_array().unwrap().iter().all(|panel| panel["targets"][0]["expr"].is_string()));
}

/// What a container engine would complain about late, or not at all.
#[test]
fn the_containers_are_closed_pinned_and_find_their_files() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let compose = read("docker-compose.yml");
    let published: Vec<_> =
        compose.lines().map(str::trim).filter(|line| line.contains("_PORT:-") && line.starts_with("- \"")).collect();
    assert!(published.len() >= 5, "{published:?}");
    assert!(published.iter().all(|line| line.starts_with("- \"127.0.0.1:")), "{published:?}");
    for image in compose.lines().filter_map(|line| line.trim().strip_prefix("image: ")) {
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag != "latest"), "{image} is not pinned");
    }
    for mounted in compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next()) {
        assert!(root().join(mounted).exists(), "{mounted} is mounted and not there");
    }
    let channel = read("rust-toolchain.toml");
    let channel = channel.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(read("docker/Dockerfile").contains(&format!("ARG RUST={channel}\n")), "the image builds with another Rust");
}

#[test]
fn a_port_that_is_taken_stops_the_run() {
    let dir = tempfile::tempdir().unwrap();
    photographs(&dir.path().join("photos"), 1, 32);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = "source: { folder: { path: photos } }\nsink: { dir: out }\n";
    std::fs::write(dir.path().join("p.yaml"), text).unwrap();
    let output = expect(dir.path(), &["run", "p.yaml", "--set", &format!("http.listen={address}")], 2);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("http.listen") && said.contains(&address), "{said}");
    assert!(!dir.path().join("out").exists());
}

#[test]
fn status_tells_how_far_a_dataset_is() {
    let dir = tempfile::tempdir().unwrap();
    photographs(&dir.path().join("photos"), 11, 32);
    std::fs::write(dir.path().join("photos/broken.jpg"), b"no image").unwrap();
    let text =
        "source: { folder: { path: photos, rows_per_partition: 6 } }\nload: {}\nsink: { dir: out, rows_per_part: 4 }\n";
    std::fs::write(dir.path().join("p.yaml"), text).unwrap();
    let status = |more: &[&str]| {
        let output = expect(dir.path(), &[&["status", "out"], more].concat(), 0);
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |more: &[&str]| -> Value { serde_json::from_str(&status(&[&["--json"], more].concat())).unwrap() };
    let nothing = expect(dir.path(), &["status", "out"], 2);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("plan.json"));

    expect(dir.path(), &["run", "p.yaml", "--limit", "8"], 0);
    let half = json(&[]);
    assert_eq!((&half["total"]["done"], &half["total"]["planned"]), (&8.into(), &12.into()));
    assert_eq!((&half["complete"], &half["last_hour"]), (&1.into(), &8.into()));
    assert!((half["percent"].as_f64().unwrap() - 66.67).abs() < 0.01);
    assert_eq!((&half["total"]["parts"], &half["total"]["rows"]), (&3.into(), &Value::Null));
    let second = &half["partitions"][1];
    assert_eq!((&second["partition"], &second["end"], &second["parts"]), (&"00000-00001".into(), &2.into(), &1.into()));
    assert!(second["last"]["writer"].as_str().unwrap().contains('-') && second["last"]["age_s"].as_u64().unwrap() < 60);
    let shown = status(&[]);
    for part in ["out: 8 of 12 positions, 66.7 %", "1 complete, 1 in work, 0 not begun", "00000-00001", "33.3 %"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    expect(dir.path(), &["run", "p.yaml"], 0);
    let whole = json(&["--rows"]);
    assert_eq!((&whole["percent"], &whole["complete"]), (&100.0.into(), &2.into()));
    let rows = &whole["total"]["rows"];
    assert_eq!((&rows["rows"], &rows["failed"], &rows["skipped"]), (&12.into(), &1.into(), &0.into()));
    assert_eq!(whole["notes"].as_array().unwrap().len(), 0);
    assert!(status(&["--rows"]).contains("12, 1 failed"));

    // A part that is gone from the middle, and one that is none.
    let part = |name: &str| dir.path().join("out/data/00000-00000").join(name);
    std::fs::rename(part("00000000000000000004.parquet"), part("00000000000000000005.parquet")).unwrap();
    let broken = json(&["--rows"])["notes"].to_string();
    assert!(broken.contains("the chain is broken before it") && broken.contains("its name at 5"), "{broken}");
}
