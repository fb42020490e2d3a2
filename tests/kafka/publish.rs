//! `lm4lv publish`: every row exactly once in the topic, whatever stops it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use rdkafka::message::{Message, OwnedMessage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::{Broker, PASSWORD};
use crate::common::{binaries, expect, strings, write_parquet};
use crate::harness::{End, Outgoing, header, unique};
use crate::worker::Worker;

/// Two files of references, `rows` in all, with a column to keep.
fn references(rows: i64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("refs")).unwrap();
    for (file, range) in [("a", 0..rows / 3), ("b", rows / 3..rows)] {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(range.clone()));
        let urls: ArrayRef =
            Arc::new(StringArray::from_iter_values(range.clone().map(|i| format!("s3://photos/{i:08}.jpg"))));
        let labels: ArrayRef = Arc::new(StringArray::from_iter_values(range.map(|i| format!("label {}", i % 10))));
        write_parquet(
            &dir.path().join(format!("refs/{file}.parquet")),
            vec![("id", ids), ("url", urls), ("label", labels)],
        );
    }
    dir
}

/// The arguments that publish `refs` to `topic`.
fn arguments<'a>(broker: &'a str, topic: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["publish", "refs", "--brokers", broker, "--topic", topic][..], more].concat()
}

fn publish(broker: &Broker, dir: &Path, topic: &str, more: &[&str], code: i32) -> String {
    let output = expect(dir, &arguments(&broker.bootstrap(), topic, more), code);
    String::from_utf8(if code == 0 { output.stdout } else { output.stderr }).unwrap()
}

/// Each of `rows` rows is in the topic once, in its partition, in order.
fn assert_exactly_once(read: &BTreeMap<i32, Vec<OwnedMessage>>, partitions: i64, rows: i64) {
    for p in 0..partitions {
        let found: Vec<i64> = read.get(&(p as i32)).into_iter().flatten().map(row).collect();
        let wanted: Vec<i64> = (p..rows).step_by(partitions as usize).collect();
        assert!(found == wanted, "partition {p}: {} rows for {}", found.len(), wanted.len());
    }
}

fn row(message: &OwnedMessage) -> i64 {
    header(message, "lm4lv.row").unwrap().parse().unwrap()
}

#[test]
fn rows_become_messages_with_key_lineage_and_kept_columns() {
    let Some(broker) = Broker::shared() else { return };
    let dir = references(1000);
    let topic = unique("scratch");
    let said = publish(broker, dir.path(), &topic, &["--create", "7", "--keep", "label"], 0);
    assert!(said.starts_with(&format!("1,000 messages to {topic} (7 partitions)")), "{said}");
    let read = broker.read(&topic);
    assert_exactly_once(&read, 7, 1000);
    for message in read.values().flatten() {
        let row = row(message);
        let value: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        let url = format!("s3://photos/{row:08}.jpg");
        assert_eq!(value, json!({ "key": row.to_string(), "reference": url, "label": format!("label {}", row % 10) }));
        assert_eq!(message.key(), Some(row.to_string().as_bytes()));
        assert_eq!(header(message, "lm4lv.n").as_deref(), Some("7"));
        assert_eq!(header(message, "lm4lv.input").unwrap().len(), 64);
        assert_eq!(header(message, "content-type").as_deref(), Some("application/json"));
    }
    let said = publish(broker, dir.path(), &topic, &["--keep", "label"], 0);
    assert!(said.starts_with("all 1,000 rows are in"), "{said}");
    assert_exactly_once(&broker.read(&topic), 7, 1000);
}

#[test]
fn inline_images_are_messages_themselves() {
    let Some(broker) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = |i: u8| [&[0xff, 0xd8, 0xff, i][..], &vec![i; 100_000]].concat();
    let images: Vec<Vec<u8>> = (0..20).map(image).collect();
    let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
    let keys: Vec<Option<&str>> = keys.iter().map(|key| Some(key.as_str())).collect();
    std::fs::create_dir(dir.path().join("refs")).unwrap();
    write_parquet(&dir.path().join("refs/a.parquet"), vec![("key", strings(&keys)), ("bytes", binaries(&images))]);
    let topic = broker.topic("bytes", 3);
    publish(broker, dir.path(), &topic, &["--message", "bytes"], 0);
    let read = broker.read(&topic);
    assert_exactly_once(&read, 3, 20);
    for message in read.values().flatten() {
        let row = row(message) as u8;
        assert_eq!(message.payload(), Some(image(row).as_slice()));
        assert_eq!(message.key(), Some(format!("k{row}").as_bytes()));
        assert_eq!(header(message, "content-type").as_deref(), Some("image/jpeg"));
    }
    let said = publish(broker, dir.path(), &topic, &[], 2);
    assert!(said.contains("another --message"), "{said}");
}

#[test]
fn a_publisher_that_is_killed_is_gone_on_with() {
    let Some(broker) = Broker::shared() else { return };
    let rows = 300_000;
    let dir = references(rows);
    let topic = broker.topic("killed", 5);
    let bootstrap = broker.bootstrap();
    let seed = uuid::Uuid::new_v4().as_u128();
    let mut kills = 0;
    for round in 0.. {
        let mut worker = Worker::start(dir.path(), "publish", &arguments(&bootstrap, &topic, &["--progress", "none"]));
        let random = u64::from(blake3::hash(format!("{seed} {round}").as_bytes()).as_bytes()[0]);
        // While it sends, but for one round in four; ever later, since it must end some time.
        let begins = |log: String| log.matches("rows go to topic").count() as u64;
        let before = begins(worker.log());
        while round % 4 != 1 && begins(worker.log()) == before && worker.ended().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(random * 4 + round * 50));
        if worker.ended().is_some() {
            worker.expect(0, 1);
            break;
        }
        // One of three is asked to stop.
        if round % 3 == 2 {
            worker.term();
            let code = worker.wait(20);
            assert!(code == 143 || code == 0, "{}", worker.log());
        } else {
            worker.kill();
        }
        kills += 1;
    }
    assert_exactly_once(&broker.read(&topic), 5, rows);
    assert!(kills > 0, "it was never stopped half-way (seed {seed})");
}

#[test]
fn one_publisher_shuts_out_the_other() {
    let Some(broker) = Broker::shared() else { return };
    let rows = 200_000;
    let dir = references(rows);
    let bootstrap = broker.bootstrap();
    let topic = broker.topic("two", 4);
    let arguments = arguments(&bootstrap, &topic, &["--progress", "none"]);
    let mut first = Worker::start(dir.path(), "first", &arguments);
    std::thread::sleep(Duration::from_millis(700));
    // Frozen in the middle of a transaction, replaced, and thawed when the other is done.
    first.stop();
    let mut second = Worker::start(dir.path(), "second", &arguments);
    second.expect(0, 60);
    first.cont();
    let code = first.wait(30);
    // It may have been done before it was frozen.
    assert!(code == 2 && first.log().contains("shut out") || code == 0, "{code}: {}", first.log());
    assert_exactly_once(&broker.read(&topic), 4, rows);

    // Started at the same moment.
    let topic = broker.topic("race", 4);
    let arguments = super::publish::arguments(&bootstrap, &topic, &["--progress", "none"]);
    let mut workers = ["left", "right"].map(|name| Worker::start(dir.path(), name, &arguments));
    let codes = workers.each_mut().map(|worker| worker.wait(60));
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 2].contains(code)), "{codes:?}");
    assert_exactly_once(&broker.read(&topic), 4, rows);
}

#[test]
fn another_input_another_partition_count_and_foreign_messages_are_refused() {
    let Some(broker) = Broker::shared() else { return };
    let (dir, other) = (references(100), references(200));
    let topic = broker.topic("refused", 3);
    publish(broker, dir.path(), &topic, &[], 0);
    let said = publish(broker, other.path(), &topic, &[], 2);
    assert!(said.contains("ends with rows of another input"), "{said}");
    let said = publish(broker, dir.path(), &topic, &["--keep", "label"], 2);
    assert!(said.contains("with other columns"), "{said}");
    broker.add_partitions(&topic, 4);
    let said = publish(broker, dir.path(), &topic, &[], 2);
    assert!(said.contains("has 4 partitions and had 3"), "{said}");

    // Behind messages of others, of which aborted ones are none; and exactly once there, too.
    let topic = broker.topic("foreign", 2);
    broker.transaction(&topic, (0..50).map(|i| Outgoing::new("k", "aborted").to(i % 2)), End::Abort);
    publish(broker, dir.path(), &topic, &[], 0);
    broker.produce(&topic, (0..200).map(|_| Outgoing::new("k", "foreign").to(1)));
    broker.transaction(&topic, (0..50).map(|_| Outgoing::new("k", "aborted").to(1)), End::Abort);
    let said = publish(broker, dir.path(), &topic, &[], 2);
    assert!(said.contains("did not write") && said.contains("partition 1"), "{said}");
    let said = publish(broker, dir.path(), &topic, &["--append"], 0);
    assert!(said.starts_with("all 100 rows"), "{said}");
    publish(broker, other.path(), &topic, &["--append"], 0);
    let read = broker.read(&topic);
    let of = |rows: usize| read.values().flatten().filter(|m| header(m, "lm4lv.row").is_some()).count() == rows;
    assert!(of(300));
}

#[test]
fn retention_does_not_make_rows_come_twice() {
    let Some(broker) = Broker::shared() else { return };
    let dir = references(100);
    let topic = broker.topic("retention", 2);
    publish(broker, dir.path(), &topic, &[], 0);
    let (_, high) = broker.watermarks(&topic, 0);
    broker.delete_records(&topic, 0, high);
    let said = publish(broker, dir.path(), &topic, &[], 0);
    assert!(said.starts_with("all 100 rows"), "{said}");
    let (_, high) = broker.watermarks(&topic, 1);
    broker.delete_records(&topic, 1, high);
    let said = publish(broker, dir.path(), &topic, &[], 3);
    assert!(said.contains("retention has taken all messages of partition 0"), "{said}");
}

#[test]
fn what_cannot_be_published_to_is_said() {
    let Some(broker) = Broker::shared() else { return };
    let dir = references(100);
    let said = publish(broker, dir.path(), "missing", &[], 2);
    assert!(said.contains("there is no topic missing") && said.contains("--create"), "{said}");
    let topic = broker.topic("small", 1);
    let said = publish(broker, dir.path(), &topic, &["--property", "acks=1"], 2);
    assert!(said.contains("acks: is always all"), "{said}");
    let said = publish(broker, dir.path(), &topic, &["--property", "no.such=1"], 2);
    assert!(said.contains("no.such"), "{said}");
    let said = publish(broker, dir.path(), &topic, &["--reference", "nothing"], 2);
    assert!(said.contains("no column nothing"), "{said}");
    // Nobody listens there.
    let nowhere = ["publish", "refs", "--brokers", "127.0.0.1:9", "--topic", "t"];
    expect(dir.path(), &nowhere, 75);
}

#[test]
fn sasl_over_tls_with_right_and_wrong_credentials() {
    let Some(broker) = Broker::shared() else { return };
    let dir = references(100);
    let topic = broker.topic("secure", 2);
    let bootstrap = broker.tls_bootstrap();
    let secure = |password: &str, code: i32| {
        let properties = broker.tls_properties(password);
        let properties: Vec<String> = properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let properties: Vec<&str> = properties.iter().flat_map(|pair| ["--property", pair.as_str()]).collect();
        let output = expect(dir.path(), &arguments(&bootstrap, &topic, &properties), code);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = secure("wrong", 2);
    assert!(said.contains("refuse") && !said.contains("wrong"), "{said}");
    secure(PASSWORD, 0);
    assert_exactly_once(&broker.read(&topic), 2, 100);
}

#[test]
#[ignore = "a measurement: run it alone, and look at what it prints"]
fn two_million_small_messages() {
    let Some(broker) = Broker::shared() else { return };
    let dir = references(2_000_000);
    for more in [&[][..], &["--keep", "label"]] {
        let topic = broker.topic("speed", 12);
        let said = publish(broker, dir.path(), &topic, more, 0);
        std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).unwrap();
    }
}
