//! Where a run begins, where it ends, and what it refuses to pass over in silence.

use std::time::Duration;

use serde_json::json;

use crate::broker::Broker;
use crate::common::expect;
use crate::harness::{End, Outgoing, verify};
use crate::job::{Job, small, wait_until};

#[test]
fn a_run_to_the_end_ends_and_the_next_goes_on_where_it_was() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("end", 3);
    broker.produce(&topic, small(3, 120));
    let job = Job::new(broker, &topic);
    job.run(0);
    job.is_whole(3, 120);
    // No part has more rows than it may.
    assert!(job.footers().iter().all(|footer| footer["rows"].parse::<u64>().unwrap() <= 50));
    assert_eq!(broker.committed(&job.group, &topic), [(0, 120), (1, 120), (2, 120)].into());
    let parts = job.footers().len();
    job.run(0);
    assert_eq!(job.footers().len(), parts);
    broker.produce(&topic, small(3, 30));
    job.run(0);
    job.is_whole(3, 150);
}

#[test]
fn an_empty_topic_ends_with_nothing_and_an_unknown_one_is_named() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("empty", 2);
    let job = Job::new(broker, &topic);
    job.run(0);
    assert_eq!(job.count(), 0);
    broker.produce(&topic, small(1, 10));
    job.run(0);
    job.is_whole(1, 10);
    let said = Job::new(broker, "no-such-topic").run(2);
    assert!(said.contains("no-such-topic"), "{said}");
}

#[test]
fn a_limit_is_kept_to_the_record() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("limit", 4);
    broker.produce(&topic, small(4, 100));
    let job = Job::new(broker, &topic);
    job.endless();
    for wanted in [37, 74] {
        job.run_with(0, &["--limit", "37"]);
        verify(&job.out());
        assert_eq!(job.count(), wanted);
    }
    job.kafka(json!({ "until": "end" })).run(0);
    job.is_whole(4, 100);
    let said = job.run_with(2, &["--shard", "0/2"]);
    assert!(said.contains("--shard"), "{said}");
}

#[test]
fn where_a_dataset_begins_is_decided_once() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("latest", 2);
    broker.produce(&topic, small(2, 20));
    let job = Job::new(broker, &topic);
    job.kafka(json!({ "start": "latest" })).run(0);
    assert_eq!(job.count(), 0);
    // To one that begins at the newest now these would be lost.
    broker.produce(&topic, small(2, 10));
    job.run(0);
    job.has_exactly([(0, vec![20..30]), (1, vec![20..30])]);

    std::thread::sleep(Duration::from_millis(50));
    let time = chrono::Utc::now().to_rfc3339();
    std::thread::sleep(Duration::from_millis(50));
    broker.produce(&topic, small(1, 10));
    let job = Job::new(broker, &topic);
    job.kafka(json!({ "start": { "timestamp": time } })).run(0);
    job.has_exactly([(0, vec![30..40])]);

    let job = Job::new(broker, &topic);
    let offsets = |n: u64| json!({ "start": { "offsets": { format!("{topic}-0"): n } } });
    job.kafka(offsets(35)).run(0);
    job.has_exactly([(0, vec![35..40]), (1, vec![0..30])]);
    let job = Job::new(broker, &topic);
    let said = job.kafka(offsets(41)).run(2);
    assert!(said.contains("41 is behind the partition's end, which is 40"), "{said}");
    // Up to a time.
    let job = Job::new(broker, &topic);
    job.kafka(json!({ "until": { "timestamp": time } })).run(0);
    job.has_exactly([(0, vec![0..30]), (1, vec![0..30])]);
}

#[test]
fn partitions_that_are_added_are_read_from_their_first_message() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("added", 1);
    broker.produce(&topic, small(1, 10));
    let job = Job::new(broker, &topic);
    job.kafka(json!({ "start": "latest" })).run(0);
    broker.add_partitions(&topic, 2);
    broker.produce(&topic, small(2, 5));
    job.run(0);
    job.has_exactly([(0, vec![10..15]), (1, vec![0..5])]);
    // While it runs.
    let mut worker = job.endless().start("endless");
    wait_until(20, || worker.log(), || broker.members(&job.group) == 1);
    broker.add_partitions(&topic, 3);
    broker.produce(&topic, small(3, 5));
    job.wait_for_rows(25);
    worker.term();
    worker.expect(143, 20);
    job.has_exactly([(0, vec![10..20]), (1, vec![0..10]), (2, vec![0..5])]);
}

#[test]
fn several_topics_make_one_dataset() {
    let Some(broker) = Broker::shared() else { return };
    let (left, right) = (broker.topic("left", 2), broker.topic("right", 3));
    broker.produce(&left, small(2, 30));
    broker.produce(&right, small(3, 20));
    // What ends with a control record makes a reader look once more, of each topic.
    broker.transaction(&right, small(3, 5), End::Abort);
    let job = Job::new(broker, &left);
    job.kafka(json!({ "topic": [left, right] })).run(0);
    verify(&job.out());
    assert_eq!(job.count(), 120);
}

#[test]
fn a_topic_that_was_made_anew_stops_the_run() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("anew", 1);
    broker.produce(&topic, small(1, 20));
    let job = Job::new(broker, &topic);
    job.run(0);
    broker.delete(&topic);
    broker.create(&topic, 1, &[]);
    broker.produce(&topic, small(1, 40));
    let said = job.run(3);
    assert!(said.contains("was deleted and made anew"), "{said}");
    job.is_whole(1, 20);
}

#[test]
fn a_topic_that_is_made_anew_while_it_is_read_stops_the_run() {
    let Some(broker) = Broker::shared() else { return };
    for more in [5, 40] {
        let topic = broker.topic("anew-running", 1);
        broker.produce(&topic, small(1, 20));
        let job = Job::new(broker, &topic);
        let mut worker = job.endless().start("worker");
        job.wait_for_rows(20);
        broker.delete(&topic);
        broker.create(&topic, 1, &[]);
        broker.produce(&topic, small(1, more));
        worker.expect(3, 60);
        assert!(worker.log().contains("was deleted and made anew"), "{}", worker.log());
        job.is_whole(1, 20);
    }
}

#[test]
fn what_retention_took_stops_the_run_or_is_recorded() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("retention", 2);
    broker.produce(&topic, small(2, 40));
    let job = Job::new(broker, &topic);
    job.run(0);
    broker.produce(&topic, small(2, 60));
    broker.delete_records(&topic, 1, 70);
    let said = job.run(3);
    assert!(said.contains("deleted offsets 40 to 70") && said.contains("on_data_loss: record"), "{said}");
    job.kafka(json!({ "on_data_loss": "record" })).run(0);
    job.has_exactly([(0, vec![0..100]), (1, vec![0..40, 70..100])]);
    let empty: Vec<_> = job.footers().into_iter().filter(|footer| footer["rows"] == "0").collect();
    assert_eq!(empty.len(), 1);
    assert_eq!((&*empty[0]["from"], &*empty[0]["end"]), ("40", "70"));
    assert!(empty[0]["reason"].contains("retention"), "{:?}", empty[0]);
    // Everything gone is a hole, too.
    broker.produce(&topic, small(2, 10));
    broker.delete_records(&topic, 0, 110);
    job.run(0);
    job.has_exactly([(0, vec![0..100]), (1, vec![0..40, 70..110])]);
}

#[test]
fn what_retention_took_from_a_frozen_worker_is_noticed_too() {
    let Some(broker) = Broker::shared() else { return };
    for (mode, code) in [("record", 143), ("fail", 3)] {
        for strategy in ["cooperative-sticky", "range"] {
            let topic = broker.topic("retention-running", 2);
            broker.produce(&topic, small(2, 40));
            let job = Job::new(broker, &topic);
            let properties = json!({ "partition.assignment.strategy": strategy });
            job.endless().kafka(json!({ "on_data_loss": mode, "properties": properties }));
            let mut worker = job.start("worker");
            job.wait_for_rows(80);
            worker.stop();
            // The fetch that it had asked for ends empty.
            std::thread::sleep(Duration::from_secs(1));
            broker.produce(&topic, small(2, 60));
            broker.delete_records(&topic, 1, 70);
            worker.cont();
            if code == 143 {
                job.wait_for_rows(170);
                worker.term();
            }
            worker.expect(code, 30);
            assert!(worker.log().contains("deleted offsets 40 to 70"), "{}", worker.log());
            match mode {
                "record" => job.has_exactly([(0, vec![0..100]), (1, vec![0..40, 70..100])]),
                _ => verify(&job.out()),
            }
        }
    }
}

#[test]
fn a_dataset_that_was_moved_and_a_group_of_two_datasets_stop_the_run() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("moved", 2);
    broker.produce(&topic, small(2, 20));
    let job = Job::new(broker, &topic);
    job.run(0);
    let said = job.set(json!({ "sink": { "dir": "elsewhere" } })).run(3);
    assert!(said.contains("the consumer group has come to offset 20"), "{said}");
    // Another dataset of the same topic, which has come as far, and then less far than the group.
    let other = Job::new(broker, &topic);
    other.run(0);
    broker.produce(&topic, small(2, 20));
    job.set(json!({ "sink": { "dir": "out" } })).run(0);
    let said = other.kafka(json!({ "group": job.group })).run(3);
    assert!(said.contains("for another dataset") && said.contains("a group of its own"), "{said}");
    other.is_whole(2, 20);
    other.kafka(json!({ "group": other.group })).run(0);
    other.is_whole(2, 40);
}

#[test]
fn aborted_messages_and_control_records_are_no_holes() {
    let Some(broker) = Broker::shared() else { return };
    // 0: ends with an aborted transaction; 1: with a control record; 2: in the middle; 3: nothing but aborted.
    let topic = broker.topic("transactions", 4);
    let some = |partition: i32, count: i64| {
        (0..count).map(move |n| Outgoing::new("k", format!("{n}.jpg")).to(partition)).collect::<Vec<_>>()
    };
    broker.produce(&topic, some(0, 10));
    broker.transaction(&topic, some(0, 10), End::Abort);
    broker.produce(&topic, some(1, 5));
    broker.transaction(&topic, some(1, 10), End::Commit);
    broker.produce(&topic, some(2, 5));
    broker.transaction(&topic, some(2, 10), End::Abort);
    broker.transaction(&topic, some(2, 10), End::Commit);
    broker.produce(&topic, some(2, 5));
    broker.transaction(&topic, some(3, 10), End::Abort);
    let wanted = || [(0, vec![0..10]), (1, vec![0..15]), (2, vec![0..5, 16..26, 27..32])];
    let job = Job::new(broker, &topic);
    job.run(0);
    job.has_exactly(wanted());
    // Nothing is left, also of what has no rows.
    let parts = job.footers().len();
    job.run(0);
    assert_eq!(job.footers().len(), parts);
    assert_eq!(broker.committed(&job.group, &topic), [(0, 21), (1, 16), (2, 32), (3, 11)].into());
    // Behind them it goes on, bounded or not.
    broker.produce(&topic, some(0, 5));
    broker.transaction(&topic, some(3, 5), End::Commit);
    let behind = || [(0, vec![0..10, 21..26]), (1, vec![0..15]), (2, vec![0..5, 16..26, 27..32]), (3, vec![11..16])];
    job.run(0);
    job.has_exactly(behind());
    let endless = Job::new(broker, &topic);
    let mut worker = endless.endless().start("worker");
    endless.wait_for_rows(55);
    worker.term();
    worker.expect(143, 20);
    endless.has_exactly(behind());
}

#[test]
fn an_open_transaction_is_waited_for_by_nobody() {
    let Some(broker) = Broker::shared() else { return };
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let topic = broker.topic("open", 1);
    broker.produce(&topic, small(1, 10));
    let producer: BaseProducer = broker.config().set("transactional.id", &topic).create().unwrap();
    producer.init_transactions(Duration::from_secs(20)).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<str, str>::to(&topic).partition(0).payload("a.jpg")).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    let job = Job::new(broker, &topic);
    job.run(0);
    job.is_whole(1, 10);
    producer.commit_transaction(Duration::from_secs(20)).unwrap();
    job.run(0);
    job.is_whole(1, 11);
}

#[test]
fn what_cannot_work_is_refused_before_anybody_is_asked() {
    let Some(broker) = Broker::shared() else { return };
    let cases = [
        (json!({ "partition.assignment.strategy": "cooperative-sticky,range" }), ""),
        (json!({ "partition.assignment.strategy": "foo" }), ""),
        (json!({ "max.poll.interval.ms": 9000, "session.timeout.ms": 10_000 }), ""),
        (json!({ "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512" }), ""),
        (json!({ "enable.auto.commit": true }), "enable.auto.commit"),
        (json!({ "auto.offset.reset": "latest" }), "auto.offset.reset"),
        (json!({ "enable.partition.eof": false }), "enable.partition.eof"),
        (json!({ "group.id": "x" }), "group.id"),
        (json!({ "bootstrap.servers": "x" }), "bootstrap.servers"),
        (json!({ "no.such.thing": 1 }), "no.such.thing"),
        (json!({ "fetch.min.bytes": "many" }), "fetch.min.bytes"),
        (json!({ "group.protocol": "consumer" }), "session.timeout.ms"),
    ];
    for (properties, name) in cases {
        let job = Job::new(broker, "t");
        // Nobody listens there.
        job.kafka(json!({ "brokers": "127.0.0.1:9", "properties": &properties }));
        job.start("refused").expect(2, 20);
        let output = expect(job.path(), &["check", "refused.yaml"], 2);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let dot = if name.is_empty() { "" } else { "." };
        assert!(said.contains(&format!("source.kafka.properties{dot}{name}")), "{properties}: {said}");
    }
    let cases = [
        (json!({ "start": { "offsets": { "other-0": 1 } } }), "`other-0` is no partition of ours"),
        (
            json!({ "revoke_grace_ms": 60_000, "properties": { "max.poll.interval.ms": 60_000 } }),
            "four fifths of max.poll.interval.ms (60000)",
        ),
    ];
    for (more, wanted) in cases {
        let job = Job::new(broker, "t");
        job.kafka(more);
        job.start("refused").expect(2, 20);
        let output = expect(job.path(), &["check", "refused.yaml"], 2);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wanted), "{said}");
    }
}
