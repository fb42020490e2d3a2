//! The Kafka source against librdkafka's mock cluster, which needs no Java: what it has (no topic ids, no transactions).

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};
use serde_json::json;
use tempfile::TempDir;

use common::{expect, rows};
use worker::Worker;

#[expect(dead_code, reason = "each test file uses its own part")]
mod common;
#[path = "kafka/guard.rs"]
mod guard;
#[path = "kafka/worker.rs"]
#[expect(dead_code, reason = "each test file uses its own part")]
mod worker;

const TOPIC: &str = "photographs";
const PARTITIONS: i32 = 4;

/// A cluster of one broker with the topic, and a pipeline file that reads it.
struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    dir: TempDir,
}

impl Mock {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
        Self { cluster, dir: tempfile::tempdir().unwrap() }
    }

    /// Sends so many messages to each partition.
    fn produce(&self, count: i64) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.cluster.bootstrap_servers()).create().unwrap();
        for n in 0..count {
            for partition in 0..PARTITIONS {
                let reference = format!("{n}.jpg");
                producer.send(BaseRecord::<str, str>::to(TOPIC).partition(partition).payload(&reference)).unwrap();
            }
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    }

    fn start(&self, name: &str, until: &str) -> Worker {
        let pipeline = json!({
            "source": { "kafka": {
                "brokers": self.cluster.bootstrap_servers(),
                "topic": TOPIC,
                "group": "group",
                "until": until,
                "properties": { "session.timeout.ms": 3000, "heartbeat.interval.ms": 300 },
            } },
            "sink": { "dir": "out", "rows_per_part": 50, "max_age_s": 1 },
            "run": { "progress": "none", "workers": 1 },
        });
        Worker::run(self.dir.path(), name, &pipeline.to_string())
    }

    /// By partition the offsets of all rows.
    fn offsets(&self) -> BTreeMap<String, Vec<i64>> {
        let mut offsets: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for row in rows(&self.dir.path().join("out"), &[]).into_values() {
            offsets.entry(row["topic_partition"].clone()).or_default().push(row["offset"].parse().unwrap());
        }
        offsets.values_mut().for_each(|offsets| offsets.sort_unstable());
        offsets
    }

    fn is_whole(&self, end: i64) {
        expect(self.dir.path(), &["verify", "out"], 0);
        let wanted = (0..PARTITIONS).map(|partition| (partition.to_string(), (0..end).collect())).collect();
        assert_eq!(self.offsets(), wanted);
    }

    fn wait_for_rows(&self, wanted: usize, worker: &Worker) {
        wait_until(worker, || self.offsets().values().map(Vec::len).sum::<usize>() >= wanted);
    }
}

fn wait_until(worker: &Worker, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(50), "{}", worker.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn several_partitions_are_read_to_their_ends() {
    let mock = Mock::new();
    mock.produce(120);
    mock.start("first", "end").expect(0, 60);
    mock.is_whole(120);
    mock.produce(30);
    mock.start("second", "end").expect(0, 60);
    mock.is_whole(150);
}

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let mock = Mock::new();
    mock.produce(60);
    let mut worker = mock.start("worker", "never");
    mock.wait_for_rows(240, &worker);
    mock.cluster.broker_down(1).unwrap();
    wait_until(&worker, || worker.log().contains("WARN"));
    mock.cluster.broker_up(1).unwrap();
    mock.produce(60);
    mock.wait_for_rows(480, &worker);
    worker.term();
    worker.expect(143, 30);
    mock.is_whole(120);
}

#[test]
fn answers_that_are_errors_are_asked_for_again() {
    let mock = Mock::new();
    mock.produce(100);
    for (api, errors) in [
        (Api::Metadata, &[Answer::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE][..]),
        (Api::FindCoordinator, &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 2]),
        (Api::JoinGroup, &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 2]),
        (Api::SyncGroup, &[Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS]),
        (Api::ListOffsets, &[Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 2]),
        (Api::OffsetFetch, &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS]),
        (Api::Fetch, &[Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, Answer::RD_KAFKA_RESP_ERR__TRANSPORT]),
        (Api::OffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR; 2]),
        (Api::Heartbeat, &[Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]),
    ] {
        mock.cluster.request_errors(api, errors);
    }
    mock.start("worker", "end").expect(0, 90);
    mock.is_whole(100);
}
