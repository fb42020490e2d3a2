//! What becomes of one message: JSON, a path, an image, or something that nobody can read.

use rdkafka::message::Timestamp;
use serde_json::json;

use crate::broker::Broker;
use crate::harness::Outgoing;
use crate::job::Job;

const JPEG: &[u8] = &[0xff, 0xd8, 0xff, 0xe0, 1, 2, 3];

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[test]
fn json_paths_and_images_come_out_as_rows_with_key_headers_and_timestamp() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("messages", 1);
    let typed = |kind: &str| vec![("content-type", kind.to_owned()), ("trace", "7".to_owned())];
    broker.produce(
        &topic,
        [
            Outgoing::new("first", r#"{"key": "a", "reference": "s3://b/a.jpg", "task": "mask"}"#),
            Outgoing { headers: typed("text/plain"), ..Outgoing::new("second", "s3://b/{b}.jpg") },
            Outgoing { headers: typed("image/jpeg"), ..Outgoing::new("third", JPEG) },
            Outgoing { key: None, ..Outgoing::new("", JPEG) },
            Outgoing::new("fifth", r#"{"key": 5, "inline": "/9j/4AECAw==", "reference": "e.jpg"}"#),
        ],
    );
    let job = Job::new(broker, &topic);
    job.run(0);
    job.is_whole(1, 5);
    let rows = job.rows();
    let at = |offset: i64| format!("{topic}/0/{offset}");
    let cell = |key: &str, column: &str| rows[key][column].clone();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), {
        let mut keys = vec!["a".into(), "5".into(), at(1), at(2), at(3)];
        keys.sort();
        keys
    });
    assert_eq!((cell("a", "url"), cell(&at(1), "url")), ("s3://b/a.jpg".into(), "s3://b/{b}.jpg".into()));
    for (key, kafka_key) in [("a", &b"first"[..]), (&at(1), b"second"), ("5", b"fifth")] {
        assert_eq!(cell(key, "kafka_key"), hash(kafka_key), "{key}");
    }
    assert_eq!(cell(&at(3), "kafka_key"), "null");
    for key in [&at(2), &at(3), "5"] {
        assert!(cell(key, "input").ends_with(&hash(JPEG)), "{key}: {}", cell(key, "input"));
    }
    assert!(cell(&at(2), "headers").contains("content-type") && cell(&at(2), "headers").contains("trace"));
    let read = broker.read(&topic);
    let Timestamp::CreateTime(ms) = rdkafka::Message::timestamp(&read[&0][0]) else { panic!("no time") };
    let time = chrono::DateTime::from_timestamp_millis(ms).unwrap().format("%Y-%m-%d %H:%M:%S").to_string();
    assert!(cell("a", "timestamp").starts_with(&time), "{} for {time}", cell("a", "timestamp"));
    for row in rows.values() {
        assert_eq!((&*row["topic"], &*row["topic_partition"], &*row["status"]), (&*topic, "0", "success"));
    }
}

#[test]
fn fields_are_kept_as_columns_of_their_types() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("kept", 2);
    let message = |n: i64| json!({ "meta": { "id": format!("k{n}") }, "img": "a.jpg", "label": "x", "n": n, "w": 0.5, "ok": true, "more": [1] });
    broker.produce(&topic, (0..20).map(|n| Outgoing::new("k", message(n).to_string()).to((n % 2) as i32)));
    broker.produce(&topic, [Outgoing::new("k", r#"{"n": "three"}"#).to(0)]);
    let job = Job::new(broker, &topic);
    let keep = json!({ "label": "string", "n": "integer", "w": "number", "ok": "boolean", "more": "string" });
    job.kafka(json!({ "message": { "json": { "key": "/meta/id", "reference": "/img", "keep": keep } } })).run(0);
    job.has_exactly([(0, vec![0..11]), (1, vec![0..10])]);
    let rows = job.rows();
    for n in 0..20 {
        let row = &rows[&format!("k{n}")];
        let cells = ["label", "n", "w", "ok", "more"].map(|column| row[column].clone());
        assert_eq!(cells, ["x", &n.to_string(), "0.5", "true", "[1]"].map(str::to_owned));
    }
    let bad = &rows[&format!("{topic}/0/10")];
    assert_eq!((&*bad["error_code"], &*bad["n"]), ("bad_message", "null"));
    assert!(bad["error_message"].contains("`n` is a text"), "{}", bad["error_message"]);
}

#[test]
fn a_message_that_cannot_be_read_is_a_failed_row_with_its_bytes() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("poison", 1);
    let poison: [&[u8]; 5] = [b"{\"key\": ", b"\xc3(x", b"   ", b"{\"inline\": \"?\"}", b"[1, 2"];
    let tombstone = Outgoing { payload: None, ..Outgoing::new("gone", "") };
    broker.produce(&topic, poison[..4].iter().map(|payload| Outgoing::new("k", *payload)));
    broker.produce(&topic, [tombstone, Outgoing::new("k", "fine.jpg")]);
    let job = Job::new(broker, &topic);
    job.run(0);
    job.is_whole(1, 6);
    let rows = job.rows();
    for (offset, payload) in poison[..4].iter().enumerate() {
        let row = &rows[&format!("{topic}/0/{offset}")];
        assert_eq!((&*row["status"], &*row["error_code"]), ("failed", "bad_message"), "{row:?}");
        assert_eq!((&row["raw"], &*row["input"]), (&hash(payload), "null"));
    }
    let row = &rows[&format!("{topic}/0/4")];
    assert_eq!((&*row["error_code"], &*row["raw"]), ("bad_message", "null"));
    assert!(row["error_message"].contains("tombstone") && row["kafka_key"] == hash(b"gone"));
    assert_eq!(rows[&format!("{topic}/0/5")]["status"], "success");
}

#[test]
fn messages_of_ten_megabytes_pass() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("large", 1);
    let image = |n: u8| [JPEG, &vec![n; 10_000_000]].concat();
    broker.produce(&topic, (0..12).map(|n| Outgoing::new(format!("{n}"), image(n))));
    let job = Job::new(broker, &topic);
    job.set(json!({ "run": { "memory_mib": 64 } })).run(0);
    job.is_whole(1, 12);
    let rows = job.rows();
    for n in 0..12 {
        assert!(rows[&format!("{topic}/0/{n}")]["input"].ends_with(&hash(&image(n))), "message {n}");
    }
}
