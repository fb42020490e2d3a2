//! A pipeline file that reads a topic, and the dataset that its workers write.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::Broker;
use crate::common::{parts, rows};
use crate::harness::{Outgoing, offsets, unique, verify};
use crate::worker::Worker;

/// By default: to the topic's end, without loading, in small parts, with short timeouts.
pub(crate) struct Job {
    dir: TempDir,
    pipeline: RefCell<Value>,
    pub(crate) group: String,
}

impl Job {
    /// A job on this topic, with a group and a folder of its own.
    pub(crate) fn new(broker: &Broker, topic: &str) -> Self {
        let group = unique("group");
        let pipeline = json!({
            "source": { "kafka": {
                "brokers": broker.bootstrap(),
                "topic": topic,
                "group": group,
                "until": "end",
                "properties": { "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "topic.metadata.refresh.interval.ms": 1000 },
            } },
            "sink": { "dir": "out", "rows_per_part": 50, "max_age_s": 1 },
            "run": { "progress": "none", "workers": 1 },
        });
        Self { dir: tempfile::tempdir().unwrap(), pipeline: RefCell::new(pipeline), group }
    }

    /// Puts sections or keys into the pipeline file; null takes one out.
    pub(crate) fn set(&self, more: Value) -> &Self {
        merge(&mut self.pipeline.borrow_mut(), more);
        self
    }

    /// The same in `source.kafka`.
    pub(crate) fn kafka(&self, more: Value) -> &Self {
        self.set(json!({ "source": { "kafka": more } }))
    }

    /// The same, to be read for ever.
    pub(crate) fn endless(&self) -> &Self {
        self.kafka(json!({ "until": "never" }))
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join(self.pipeline.borrow()["sink"]["dir"].as_str().unwrap())
    }

    /// Starts a worker.
    pub(crate) fn start(&self, name: &str) -> Worker {
        Worker::run(self.path(), name, &self.pipeline.borrow().to_string())
    }

    /// Starts one with more arguments.
    pub(crate) fn start_with(&self, name: &str, more: &[&str]) -> Worker {
        let file = self.path().join(format!("{name}.yaml"));
        std::fs::write(&file, self.pipeline.borrow().to_string()).unwrap();
        Worker::start(self.path(), name, &[&["run", &file.display().to_string()], more].concat())
    }

    /// Runs one worker to its end, with this exit code; gives its log.
    pub(crate) fn run(&self, code: i32) -> String {
        self.run_with(code, &[])
    }

    pub(crate) fn run_with(&self, code: i32, more: &[&str]) -> String {
        let mut worker = self.start_with(&unique("run"), more);
        worker.expect(code, 60);
        worker.log()
    }

    /// Waits until the dataset has this many rows.
    pub(crate) fn wait_for_rows(&self, wanted: usize) {
        wait_until(60, || format!("{} of {wanted} rows\n{}", self.count(), self.logs()), || self.count() >= wanted);
    }

    /// What all workers wrote.
    pub(crate) fn logs(&self) -> String {
        let files = std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| format!("{}:\n{}\n", path.display(), std::fs::read_to_string(&path).unwrap())).collect()
    }

    /// Rows in the dataset.
    pub(crate) fn count(&self) -> usize {
        let rows = |part: &PathBuf| reader(part).metadata().file_metadata().num_rows();
        parts(&self.out()).iter().map(rows).sum::<i64>() as usize
    }

    /// Every row as column → text, by key.
    pub(crate) fn rows(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        rows(&self.out(), &[]).into_iter().map(|((key, ..), row)| (key, row)).collect()
    }

    /// The dataset is sound and has exactly these offsets, each once, in order.
    pub(crate) fn has_exactly(&self, wanted: impl IntoIterator<Item = (i32, Vec<Range<i64>>)>) {
        verify(&self.out());
        let wanted: BTreeMap<i32, Vec<i64>> =
            wanted.into_iter().map(|(partition, ranges)| (partition, ranges.into_iter().flatten().collect())).collect();
        let found = offsets(&self.out());
        for partition in wanted.keys().chain(found.keys()) {
            let (found, wanted) = (found.get(partition), wanted.get(partition));
            let none = Vec::new();
            let (found, wanted) = (found.unwrap_or(&none), wanted.unwrap_or(&none));
            let differs = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
            assert!(
                found == wanted,
                "partition {partition}: {} rows for {}, first found and wanted that differ: {differs:?}",
                found.len(),
                wanted.len()
            );
        }
    }

    /// The same where each of so many partitions has the offsets from 0 to `end`.
    pub(crate) fn is_whole(&self, partitions: i32, end: i64) {
        self.has_exactly((0..partitions).map(|partition| (partition, vec![0..end])));
    }

    /// The parts' footers, see `lm4lv verify`.
    pub(crate) fn footers(&self) -> Vec<BTreeMap<String, String>> {
        parts(&self.out()).iter().map(|part| footer(part)).collect()
    }
}

fn reader(part: &Path) -> SerializedFileReader<std::fs::File> {
    SerializedFileReader::new(std::fs::File::open(part).unwrap()).unwrap()
}

fn footer(part: &Path) -> BTreeMap<String, String> {
    let reader = reader(part);
    let pairs = reader.metadata().file_metadata().key_value_metadata().unwrap();
    pairs
        .iter()
        .filter_map(|pair| Some((pair.key.trim_start_matches("lm4lv.").to_owned(), pair.value.clone()?)))
        .collect()
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                match value {
                    Value::Null => drop(into.remove(&key)),
                    value => merge(into.entry(key).or_insert(Value::Null), value),
                }
            }
        }
        (into, more) => *into = more,
    }
}

/// Waits for something; panics with `said` if it does not come.
pub(crate) fn wait_until(seconds: u64, said: impl Fn() -> String, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(seconds), "after {seconds} s: {}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `count` JSON messages for each of the first so many partitions.
pub(crate) fn small(partitions: i32, count: i64) -> impl Iterator<Item = Outgoing> {
    (0..count).flat_map(move |n| {
        (0..partitions).map(move |partition| {
            Outgoing::new("k", format!(r#"{{"reference": "photos/{partition}/{n}.jpg"}}"#)).to(partition)
        })
    })
}
