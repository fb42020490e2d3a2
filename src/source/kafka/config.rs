//! The pipeline file's `source.kafka`.

use std::collections::BTreeMap;

use chrono::DateTime;
use rdkafka::consumer::BaseConsumer;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::kafka::{Connection, Hearing, check_topic, words};
use crate::source::config::{OneOrMany, Scalar};

/// `source.kafka`: messages of one or more topics, each naming or holding an image, read as a member of a consumer group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several with commas between. Required.
    pub brokers: String,
    /// A topic or a list of topics. Required.
    pub topic: OneOrMany,
    /// The consumer group: processes in one group share the partitions. One group for each dataset. Required.
    pub group: String,
    /// Where a new dataset begins in each partition; decided once, when its plan is made. Default: `earliest`.
    #[serde(default)]
    pub start: Start,
    /// Where a run ends. Default: `never`.
    #[serde(default)]
    pub until: Until,
    /// What a message's value is. Default: `auto`.
    #[serde(default)]
    pub message: MessageFormat,
    /// When the topic has deleted messages that were not read yet: stop (exit 3), or go on behind them and record the gap in
    /// the dataset. Default: `fail`.
    #[serde(default)]
    pub on_data_loss: OnDataLoss,
    /// Milliseconds for which a partition that goes to another member is held back, so that its open part can be published.
    /// Default: 3000.
    #[serde(default = "revoke_grace_ms")]
    pub revoke_grace_ms: u64,
    /// Any property of librdkafka, by its own names: TLS, SASL, static membership, `group.protocol`. Default: none.
    #[serde(default, deserialize_with = "as_texts")]
    #[schemars(with = "BTreeMap<String, Scalar>")]
    pub properties: BTreeMap<String, String>,
}

/// `source.kafka.start`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the oldest message that the topic still has.
    #[default]
    Earliest,
    /// Behind the newest.
    Latest,
    /// At the first message of this time or later, such as `2026-11-01T00:00:00Z`.
    Timestamp(String),
    /// At these offsets, by `<topic>-<partition>`; partitions not named begin at their oldest message.
    Offsets(BTreeMap<String, u64>),
}

/// `source.kafka.until`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// It does not end.
    #[default]
    Never,
    /// When every partition of the topic, whoever reads it, has come to where it ended when this process started.
    End,
    /// The same up to the first message of this time or later.
    Timestamp(String),
}

/// `source.kafka.message`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// By the header `content-type` (`application/json`, `image/…`, `text/…`); without one, what begins with `{` is JSON, what
    /// begins like an image file is one, and any other text is a path or URI.
    #[default]
    Auto,
    /// A path or URI.
    Uri,
    /// The image file itself.
    Bytes,
    /// A JSON object.
    Json(JsonMessage),
}

/// `source.kafka.message.json`: where things stand in the object, as JSON pointers (`/a/b` is `b` in `a`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JsonMessage {
    /// Names the row in the output and seeds its randomness. Absent in a message: `<topic>/<partition>/<offset>`. Default:
    /// `/key`.
    pub key: String,
    /// A path or URI. Default: `/reference`.
    pub reference: String,
    /// The image file, base64; goes before `reference`. Default: `/inline`.
    pub inline: String,
    /// The task that restores it. Default: `/task`.
    pub task: String,
    /// Fields copied into the rows: the column's name, which is also the field's (`a/b` for `b` in `a`), and its type. Default:
    /// none.
    pub keep: BTreeMap<String, KeptType>,
}

impl Default for JsonMessage {
    fn default() -> Self {
        Self {
            key: "/key".into(),
            reference: "/reference".into(),
            inline: "/inline".into(),
            task: "/task".into(),
            keep: BTreeMap::new(),
        }
    }
}

/// The type of a kept field, in JSON Schema's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeptType {
    /// Text; any other value is kept as JSON.
    String,
    /// A whole number of 64 bits.
    Integer,
    /// A number, `float64`.
    Number,
    /// `true` or `false`.
    Boolean,
}

/// `source.kafka.on_data_loss`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDataLoss {
    /// Stop (exit 3).
    #[default]
    Fail,
    /// Go on behind the gap; a part without rows says so.
    Record,
}

fn revoke_grace_ms() -> u64 {
    3000
}

/// YAML's numbers and booleans are texts to librdkafka.
fn as_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let scalars = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
    let text = |scalar| match scalar {
        Scalar::Null => String::new(),
        Scalar::Bool(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::Float(value) => value.to_string(),
        Scalar::Text(value) => value,
    };
    Ok(scalars.into_iter().map(|(key, scalar)| (key, text(scalar))).collect())
}

/// Progress is the chain's, not the group's; a gap and the end of a partition must be seen.
pub(super) const FIXED: &[(&str, &str)] = &[
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
];

/// With `group.protocol=consumer` the broker decides these, and librdkafka refuses them.
const BROKER_S: &[&str] =
    &["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"];

/// librdkafka's own `max.poll.interval.ms`.
const MAX_POLL_INTERVAL_MS: u64 = 300_000;

impl KafkaConfig {
    /// Looks for what cannot work; `Error::Config` names the key.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, why: String| Err(Error::Config(format!("source.kafka.{key}: {why}")));
        for (index, topic) in self.topic.0.iter().enumerate() {
            check_topic("source.kafka.topic", topic)?;
            if self.topic.0[..index].contains(topic) {
                return wrong("topic", format!("`{topic}` is named twice"));
            }
        }
        if self.group.trim().is_empty() {
            return wrong("group", "is empty: name the consumer group of this dataset".into());
        }
        self.start_ms()?;
        if let Start::Offsets(offsets) = &self.start {
            let of_ours = |partition: &str| {
                let (topic, number) = partition.rsplit_once('-')?;
                (self.topic.0.iter().any(|ours| ours == topic) && number.parse::<u32>().is_ok()).then_some(())
            };
            if let Some(partition) = offsets.keys().find(|partition| of_ours(partition).is_none()) {
                let ours = &self.topic.0[0];
                return wrong("start.offsets", format!("`{partition}` is no partition of ours: write it as {ours}-0"));
            }
        }
        if let Until::Timestamp(text) = &self.until {
            milliseconds("until.timestamp", text)?;
        }
        if let MessageFormat::Json(json) = &self.message {
            let pointers =
                [("key", &json.key), ("reference", &json.reference), ("inline", &json.inline), ("task", &json.task)];
            for (key, pointer) in pointers {
                if !pointer.starts_with('/') || pointer.len() < 2 {
                    return wrong(
                        &format!("message.json.{key}"),
                        format!("`{pointer}` is no JSON pointer: write /name, or /outer/name"),
                    );
                }
            }
        }
        let interval =
            self.properties.get("max.poll.interval.ms").and_then(|ms| ms.parse().ok()).unwrap_or(MAX_POLL_INTERVAL_MS);
        if self.revoke_grace_ms > interval / 5 * 4 {
            let why = format!(
                "is over four fifths of max.poll.interval.ms ({interval}): the group would throw this member out meanwhile"
            );
            return wrong("revoke_grace_ms", why);
        }
        let new_protocol =
            self.properties.get("group.protocol").is_some_and(|value| value.eq_ignore_ascii_case("consumer"));
        if new_protocol && let Some(key) = BROKER_S.iter().find(|key| self.properties.contains_key(**key)) {
            let key = format!("properties.{key}");
            return wrong(&key, "cannot be set with group.protocol=consumer, where the broker decides it".into());
        }
        if self.properties.contains_key("group.id") {
            return wrong("properties.group.id", "is given by source.kafka.group: leave it out".into());
        }
        // What contradicts what, only a client knows; none is asked anything.
        let client: std::result::Result<BaseConsumer<Hearing>, _> =
            self.client()?.create_with_context(Hearing::default());
        client.map(drop).map_err(|error| Error::Config(format!("source.kafka.properties: {}", words(&error))))
    }

    /// How the brokers are reached.
    pub(crate) fn connection(&self) -> Connection<'_> {
        Connection { section: "source.kafka", brokers: &self.brokers, properties: &self.properties }
    }

    /// The configuration of a member of the group.
    pub(super) fn client(&self) -> Result<rdkafka::ClientConfig> {
        let mut defaults = vec![
            ("client.id", "lm4lv"),
            ("isolation.level", "read_committed"),
            // What is fetched ahead lies outside `run.memory_mib`.
            ("queued.max.messages.kbytes", "16384"),
            ("fetch.message.max.bytes", "4194304"),
            // Once that is full; librdkafka's own second would leave us idle for most of it.
            ("fetch.queue.backoff.ms", "10"),
            ("topic.metadata.refresh.interval.ms", "60000"),
        ];
        if self.properties.get("group.protocol").is_none_or(|protocol| !protocol.eq_ignore_ascii_case("consumer")) {
            defaults.push(("partition.assignment.strategy", "cooperative-sticky"));
        }
        let mut config = self.connection().config(&defaults, FIXED)?;
        config.set("group.id", &self.group);
        Ok(config)
    }

    /// Milliseconds since 1970 at which a new dataset begins, where a time was given.
    pub(super) fn start_ms(&self) -> Result<Option<i64>> {
        match &self.start {
            Start::Timestamp(text) => milliseconds("start.timestamp", text).map(Some),
            _ => Ok(None),
        }
    }

    /// Milliseconds since 1970 at which a run ends, where a time was given.
    pub(super) fn until_ms(&self) -> Result<Option<i64>> {
        match &self.until {
            Until::Timestamp(text) => milliseconds("until.timestamp", text).map(Some),
            _ => Ok(None),
        }
    }
}

fn milliseconds(key: &str, text: &str) -> Result<i64> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(time.timestamp_millis()),
        Err(error) => Err(Error::Config(format!(
            "source.kafka.{key}: `{text}` is no time ({error}): write it as 2026-11-01T00:00:00Z"
        ))),
    }
}
