//! The demo model on a topic: what a stream of images is for.

use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::common::{photographs, root};
use crate::harness::{End, Outgoing};
use crate::job::{Job, wait_until};

/// The run's `/status`; null while it does not answer.
fn status(log: &str) -> Value {
    let address = log.lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["address"].as_str().map(str::to_owned)
    });
    let ask = |address: String| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = address.and_then(|address| ask(address).ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_default()
}

#[test]
fn messages_are_restored_each_by_its_own_task_until_nothing_lags() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("restore", 2);
    let job = Job::new(broker, &topic);
    let names = photographs(&job.path().join("photos"), 6, 112);
    let tasks = [Some("mask_4px_10pct"), Some("gaussian_noise_18"), None];
    let message = |(i, name): (usize, &String)| {
        let image = BASE64_STANDARD.encode(std::fs::read(job.path().join("photos").join(name)).unwrap());
        let value = json!({ "key": name, "inline": image, "task": tasks[i % 3] });
        Outgoing::new(name, value.to_string()).to(i as i32 % 2)
    };
    // The marker at a transaction's end is behind the last message, and lags nobody.
    broker.transaction(&topic, names.iter().enumerate().map(message), End::Commit);
    let model = root().join("models/lm4lv-mini");
    job.endless().set(json!({
        "restore": { "lm4lv": { "model": model, "task": "gaussian_noise_18" } },
        "http": { "listen": "127.0.0.1:0" },
        "run": { "log": "json" },
    }));
    let mut worker = job.start("worker");
    wait_until(120, || worker.log(), || status(&worker.log())["lag"] == 0);
    worker.term();
    worker.expect(143, 30);
    let rows = job.rows();
    for (i, name) in names.iter().enumerate() {
        let row = &rows[name];
        assert_eq!((&*row["status"], &*row["model"]), ("success", "lm4lv-mini"), "{row:?}");
        assert_eq!(row["task"], tasks[i % 3].unwrap_or("gaussian_noise_18"));
        assert_ne!(row["output"], "null");
    }
    assert_eq!(rows.len(), names.len());
}
