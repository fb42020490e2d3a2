//! Brokers that die, come back, or want to know who asks.

use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::broker::{Broker, PASSWORD, Setup};
use crate::job::{Job, small, wait_until};

#[test]
fn a_broker_that_is_killed_and_comes_back_is_waited_for() {
    let Some(broker) = Broker::start(Setup::default()) else { return };
    let topic = broker.topic("outage", 4);
    let job = Job::new(&broker, &topic);
    job.endless();
    broker.produce(&topic, small(4, 50));
    let mut workers = [job.start("a"), job.start("b")];
    job.wait_for_rows(200);
    for round in 2..4 {
        broker.produce(&topic, small(4, 50));
        broker.kill(0);
        for worker in &workers {
            wait_until(20, || worker.log(), || worker.log().matches("WARN").count() >= round - 1);
        }
        std::thread::sleep(std::time::Duration::from_secs(2));
        broker.restart(0);
        broker.wait();
        broker.produce(&topic, small(4, 50));
        job.wait_for_rows(200 * (2 * round - 1));
        for worker in &workers {
            wait_until(20, || worker.log(), || worker.log().matches("answer again").count() >= round - 1);
        }
    }
    for worker in &mut workers {
        worker.term();
        worker.expect(143, 20);
        let log = worker.log();
        assert!(log.contains("Kafka") && log.contains("answer again"), "{log}");
        // Nor is it said over and over.
        assert!(log.lines().count() < 200, "{log}");
    }
    job.is_whole(4, 250);
    // One that is asked to stop while the broker is away stops.
    let mut worker = job.start("c");
    wait_until(20, || worker.log(), || broker.members(&job.group) == 1);
    broker.kill(0);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let began = Instant::now();
    worker.term();
    worker.expect(143, 30);
    assert!(began.elapsed().as_secs() < 26, "{:?}", began.elapsed());
}

#[test]
fn the_leader_of_three_brokers_may_die() {
    let Some(broker) = Broker::start(Setup { three: true, ..Setup::default() }) else { return };
    let topic = broker.topic("leader", 3);
    let job = Job::new(&broker, &topic);
    job.endless();
    broker.produce(&topic, small(3, 50));
    let mut worker = job.start("worker");
    job.wait_for_rows(150);
    let leader = broker.leader(&topic, 0);
    broker.kill(leader);
    broker.produce(&topic, small(3, 50));
    job.wait_for_rows(300);
    broker.restart(leader);
    broker.wait();
    broker.produce(&topic, small(3, 50));
    job.wait_for_rows(450);
    worker.term();
    worker.expect(143, 20);
    // One broker of three is no reason to cry all the time.
    let log = worker.log();
    assert!(log.lines().filter(|line| !line.contains("part published")).count() < 40, "{log}");
    job.is_whole(3, 150);
}

#[test]
fn sasl_over_tls_works_and_wrong_credentials_end_the_run_soon() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("secure", 2);
    broker.produce(&topic, small(2, 20));
    let job = Job::new(broker, &topic);
    let with = |password: &str, more: Value| {
        let properties = broker.tls_properties(password);
        let properties: Map<String, Value> =
            properties.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        job.kafka(json!({ "brokers": broker.tls_bootstrap(), "properties": properties }))
            .kafka(json!({ "properties": more }));
    };
    with("wrong", json!({}));
    let began = Instant::now();
    let said = job.run(2);
    assert!(said.contains("credentials") && !said.contains("wrong"), "{said}");
    // A certificate of somebody else.
    with(PASSWORD, json!({ "ssl.ca.location": null }));
    let said = job.run(2);
    assert!(said.contains("CA"), "{said}");
    assert!(began.elapsed().as_secs() < 40, "{:?}", began.elapsed());
    with(PASSWORD, json!({}));
    let said = job.run(0);
    assert!(!said.contains(PASSWORD), "{said}");
    job.is_whole(2, 20);
}
