//! Workers of one group: they share the partitions, and whoever is killed, frozen, asked to leave or started anew, every offset is
//! in the dataset once.

use std::time::{Duration, Instant};

use rdkafka::Message as _;
use serde_json::json;

use crate::broker::Broker;
use crate::harness::verify;
use crate::job::{Job, small, wait_until};
use crate::worker::Worker;

/// A job whose frozen workers are thrown out soon.
fn shared(broker: &Broker, topic: &str) -> Job {
    let job = Job::new(broker, topic);
    let properties = json!({ "session.timeout.ms": 2000, "heartbeat.interval.ms": 300 });
    job.endless().kafka(json!({ "properties": properties, "revoke_grace_ms": 1000 }));
    job
}

fn partitions_of(worker: &Worker) -> usize {
    worker.log().lines().filter(|line| line.contains("assigned")).count()
}

#[test]
fn workers_that_are_killed_frozen_and_started_anew_write_every_offset_once() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("group", 6);
    let job = shared(broker, &topic);
    broker.produce(&topic, small(6, 50));
    let mut workers: Vec<Worker> = ["a", "b", "c"].iter().map(|name| job.start(name)).collect();
    job.wait_for_rows(300);
    wait_until(20, || workers[0].log(), || broker.members(&job.group) == 3);
    broker.produce(&topic, small(6, 50));
    workers[0].kill();
    workers[1].stop();
    broker.produce(&topic, small(6, 50));
    workers.push(job.start("d"));
    // Past the session timeout.
    job.wait_for_rows(900);
    workers[1].cont();
    broker.produce(&topic, small(6, 50));
    wait_until(20, || workers[1].log(), || broker.members(&job.group) == 3);
    job.wait_for_rows(1200);
    // A commit that the group did not take in the middle of all this is sent again.
    let committed = || broker.committed(&job.group, &topic);
    wait_until(
        20,
        || format!("{:?}\n{}", committed(), job.logs()),
        || committed() == (0..6).map(|partition| (partition, 200)).collect(),
    );
    for worker in &mut workers[1..] {
        worker.term();
    }
    for worker in &mut workers[1..] {
        worker.expect(143, 20);
    }
    job.is_whole(6, 200);
}

#[test]
fn whoever_leaves_publishes_commits_and_lets_the_next_go_on_at_once() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("leave", 4);
    let job = Job::new(broker, &topic);
    // Parts stay open until somebody closes them, and nobody is thrown out meanwhile.
    let properties = json!({ "session.timeout.ms": 45000, "heartbeat.interval.ms": 1000 });
    job.endless().kafka(json!({ "properties": properties }));
    job.set(json!({ "sink": { "rows_per_part": 100_000, "max_age_s": 300 } }));
    broker.produce(&topic, small(4, 100));
    let mut first = job.start("first");
    wait_until(20, || first.log(), || partitions_of(&first) == 4);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(job.count(), 0);
    first.term();
    first.expect(143, 10);
    job.is_whole(4, 100);
    assert_eq!(broker.committed(&job.group, &topic), (0..4).map(|partition| (partition, 100)).collect());
    assert_eq!(broker.members(&job.group), 0);
    broker.produce(&topic, small(4, 50));
    job.set(json!({ "sink": { "rows_per_part": 50 } }));
    let began = Instant::now();
    let mut second = job.start("second");
    job.wait_for_rows(600);
    // Well under any session timeout, also where others use the processors.
    assert!(began.elapsed() < Duration::from_secs(8), "it went on after {:?}", began.elapsed());
    // To one that joins, some partitions are given with what was open in them.
    broker.produce(&topic, small(4, 30));
    std::thread::sleep(Duration::from_secs(1));
    let mut third = job.start("third");
    wait_until(20, || third.log(), || partitions_of(&third) == 2);
    assert!(second.log().contains("revoked"));
    wait_until(10, || second.log(), || job.count() >= 660);
    second.kill();
    third.term();
    third.expect(143, 10);
    verify(&job.out());
}

#[test]
fn the_other_ways_to_share_partitions_work_too() {
    let Some(broker) = Broker::shared() else { return };
    for properties in [
        json!({ "partition.assignment.strategy": "range" }),
        json!({ "partition.assignment.strategy": "roundrobin" }),
        json!({ "group.protocol": "consumer", "session.timeout.ms": null, "heartbeat.interval.ms": null }),
    ] {
        let topic = broker.topic("protocol", 4);
        let job = shared(broker, &topic);
        job.kafka(json!({ "properties": properties }));
        broker.produce(&topic, small(4, 50));
        let mut first = job.start("first");
        job.wait_for_rows(200);
        let mut second = job.start("second");
        wait_until(30, || second.log(), || partitions_of(&second) >= 2);
        broker.produce(&topic, small(4, 50));
        job.wait_for_rows(400);
        first.term();
        first.expect(143, 20);
        broker.produce(&topic, small(4, 50));
        job.wait_for_rows(600);
        second.term();
        second.expect(143, 20);
        job.is_whole(4, 150);
    }
}

#[test]
fn static_members_come_back_to_their_partitions_and_a_second_of_one_name_is_refused() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("static", 2);
    let job = shared(broker, &topic);
    job.kafka(json!({ "properties": { "group.instance.id": "one" } }));
    broker.produce(&topic, small(2, 50));
    let mut first = job.start("first");
    job.wait_for_rows(100);
    first.kill();
    broker.produce(&topic, small(2, 50));
    let mut second = job.start("second");
    job.wait_for_rows(200);
    let mut third = job.start("third");
    second.expect(2, 30);
    assert!(second.log().contains("group.instance.id"), "{}", second.log());
    broker.produce(&topic, small(2, 50));
    job.wait_for_rows(300);
    third.term();
    third.expect(143, 20);
    job.is_whole(2, 150);
}

#[test]
fn three_runs_to_the_end_wait_for_each_other() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("bounded", 6);
    broker.produce(&topic, small(6, 100));
    let job = shared(broker, &topic);
    job.kafka(json!({ "until": "end" }));
    let mut workers = ["a", "b", "c"].map(|name| job.start(name));
    std::thread::sleep(Duration::from_millis(700));
    workers[0].kill();
    for worker in &mut workers[1..] {
        worker.expect(0, 60);
    }
    job.is_whole(6, 100);
}

#[test]
fn events_come_at_least_once_and_repeats_carry_their_key() {
    let Some(broker) = Broker::shared() else { return };
    for per in ["part", "row"] {
        let (topic, results) = (broker.topic("told-of", 3), broker.topic("results", 2));
        let job = shared(broker, &topic);
        job.set(json!({ "events": { "kafka": { "brokers": broker.bootstrap(), "topic": results, "per": per } } }));
        job.set(json!({ "sink": { "rows_per_part": 10 } }));
        // Also over a hole, which is a part without rows and without events.
        job.kafka(json!({ "on_data_loss": "record" }));
        broker.produce(&topic, small(3, 50));
        broker.delete_records(&topic, 2, 20);
        job.kafka(json!({ "start": { "offsets": { format!("{topic}-2"): 10 } } }));
        for round in 0..4 {
            let mut worker = job.start("worker");
            let wanted = job.count() + 20;
            wait_until(30, || worker.log(), || job.count() >= wanted);
            worker.kill();
            if round == 1 {
                broker.produce(&topic, small(3, 50));
            }
        }
        job.kafka(json!({ "until": "end" })).run(0);
        job.has_exactly([(0, vec![0..100]), (1, vec![0..100]), (2, vec![20..100])]);
        let mut told = std::collections::BTreeMap::new();
        let mut order: std::collections::BTreeMap<String, Vec<u64>> = Default::default();
        for message in broker.read(&results).values().flatten() {
            let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
            let value: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            if per == "part" {
                let partition = value["partition"].as_str().unwrap().to_owned();
                order.entry(partition).or_default().push(value["from"].as_u64().unwrap());
            }
            // A repeat says the same.
            let before = told.insert(key, value.clone());
            assert!(before.is_none_or(|before| before == value), "{value}");
        }
        let footers = job.footers();
        let with_rows: Vec<_> = footers.iter().filter(|footer| footer["rows"] != "0").collect();
        assert_eq!(footers.len(), with_rows.len() + 1);
        match per {
            "part" => {
                assert_eq!(told.len(), with_rows.len());
                for footer in with_rows {
                    let found = told.values().find(|value| {
                        value["partition"] == footer["partition"].as_str()
                            && value["from"].as_u64() == footer["from"].parse().ok()
                    });
                    let found = found.unwrap_or_else(|| panic!("nothing of {footer:?}"));
                    for column in ["end", "rows", "failed"] {
                        assert_eq!(found[column].to_string(), footer[column]);
                    }
                    let file = job.out().join(found["part"].as_str().unwrap());
                    assert_eq!(found["bytes"].as_u64(), Some(file.metadata().unwrap().len()));
                    assert_eq!(found["schema_hash"], footer["schema_hash"].as_str());
                }
            }
            _ => {
                assert_eq!(told.len(), 280);
                assert!(told.values().all(|value| value["status"] == "success" && !value["key"].is_null()));
            }
        }
    }
}

#[test]
fn a_part_whose_writer_died_before_its_event_is_announced_by_whoever_goes_on() {
    let Some(broker) = Broker::shared() else { return };
    // A broker of its own for the results, which can be away.
    let Some(results) = Broker::start(crate::broker::Setup::default()) else { return };
    let (topic, told) = (broker.topic("dying", 1), results.topic("results", 1));
    let job = shared(broker, &topic);
    job.set(json!({ "events": { "kafka": { "brokers": results.bootstrap(), "topic": told } } }));
    job.set(json!({ "sink": { "rows_per_part": 10 } }));
    let mut worker = job.start("worker");
    wait_until(20, || worker.log(), || broker.members(&job.group) == 1);
    results.pause(0);
    broker.produce(&topic, small(1, 50));
    job.wait_for_rows(10);
    // The part stands, its event does not: so the next part does not either.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(job.count(), 10);
    worker.kill();
    results.resume(0);
    // Who goes on tells of it also where nothing is left to be written.
    broker.produce(&topic, small(1, 10));
    job.kafka(json!({ "until": "end" })).run(0);
    job.is_whole(1, 60);
    let mut froms: Vec<u64> = Vec::new();
    for message in &results.read(&told)[&0] {
        let value: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        froms.push(value["from"].as_u64().unwrap());
    }
    froms.dedup();
    assert_eq!(froms, [0, 10, 20, 30, 40, 50]);

    // Nor is the last part of all left out where the group has not noticed yet that its writer is dead.
    let (topic, told) = (broker.topic("dying", 2), results.topic("results", 1));
    let job = shared(broker, &topic);
    job.kafka(json!({ "properties": { "session.timeout.ms": 45000 } }));
    job.set(json!({ "events": { "kafka": { "brokers": results.bootstrap(), "topic": told } } }));
    let mut worker = job.start("worker");
    wait_until(20, || worker.log(), || partitions_of(&worker) == 2);
    results.pause(0);
    broker.produce(&topic, small(2, 20));
    job.wait_for_rows(40);
    worker.kill();
    results.resume(0);
    job.kafka(json!({ "until": "end" })).run(0);
    job.is_whole(2, 20);
    let partitions: std::collections::BTreeSet<String> = results.read(&told)[&0]
        .iter()
        .map(|message| {
            let value: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            value["partition"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(partitions.len(), 2);
    let job = Job::new(broker, &topic);
    job.set(json!({ "events": { "kafka": { "brokers": broker.bootstrap(), "topic": "no-such-topic" } } }));
    let said = job.run(2);
    assert!(said.contains("no-such-topic"), "{said}");
}
