//! The topic that is published to, and a reader of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{Error, Result};
use crate::kafka::{ANSWER, Connection, Hearing, failed, words};

/// A new topic's partitions have leaders by then.
const NEW_TOPIC: Duration = Duration::from_secs(30);

/// How long one call waits, between looks at what the brokers say.
pub(super) const CALL: Duration = Duration::from_secs(1);

/// A consumer that takes part in no group still needs a name for it.
const FIXED: &[(&str, &str)] = &[
    ("group.id", "lm4lv-publish"),
    ("isolation.level", "read_committed"),
    ("enable.auto.commit", "false"),
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
];

/// Little is read: the last messages of each partition, which may be large.
const DEFAULTS: &[(&str, &str)] = &[("fetch.wait.max.ms", "100"), ("queued.max.messages.kbytes", "32768")];

/// The topic as it is at the start.
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) partitions: u64,
    pub(super) consumer: BaseConsumer<Ears>,
}

/// Hears for all of a publisher's clients.
#[derive(Clone)]
pub(super) struct Ears(pub(super) Arc<Hearing>);

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ConsumerContext for Ears {}

impl Topic {
    /// Finds the topic; makes it with `create` partitions if it does not exist.
    pub(super) async fn open(
        connection: &Connection<'_>,
        name: &str,
        create: Option<u32>,
        hearing: &Arc<Hearing>,
    ) -> Result<Self> {
        let ears = Ears(hearing.clone());
        let config = connection.config(DEFAULTS, FIXED)?;
        let made = BaseConsumer::from_config_and_context(&config, ears.clone());
        let consumer = made.map_err(|error| wrong(&error))?;
        let mut topic = Self { name: name.to_owned(), partitions: 0, consumer };
        if let Some(partitions) = topic.count()? {
            topic.partitions = partitions;
            return Ok(topic);
        }
        let Some(partitions) = create else {
            return Err(Error::Config(format!(
                "there is no topic {name} at {}: create it, or have it made with --create and a number of partitions",
                connection.brokers
            )));
        };
        let admin = AdminClient::from_config_and_context(&config, ears).map_err(|error| wrong(&error))?;
        let wanted = i32::try_from(partitions).unwrap_or(i32::MAX);
        // -1: the broker's default.
        let new = NewTopic::new(name, wanted, TopicReplication::Fixed(-1));
        let answer = admin.create_topics([&new], &AdminOptions::new().operation_timeout(Some(ANSWER))).await;
        for made in answer.map_err(|error| topic.failed(&error))? {
            match made {
                // Another made it meanwhile: as good.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => {
                    return Err(Error::Config(format!(
                        "topic {name} cannot be made with {partitions} partitions: {code}"
                    )));
                }
            }
        }
        let asked = Instant::now();
        loop {
            match topic.count()? {
                Some(partitions) => {
                    topic.partitions = partitions;
                    return Ok(topic);
                }
                None if asked.elapsed() > NEW_TOPIC => {
                    let reason = format!("it was made, but the brokers do not know it after {} s", NEW_TOPIC.as_secs());
                    return Err(Error::Unavailable { what: format!("topic {name}"), reason });
                }
                None => drop(topic.consumer.poll(Duration::from_millis(100))),
            }
        }
    }

    /// The number of partitions; `None` if there is no such topic.
    fn count(&self) -> Result<Option<u64>> {
        let metadata = self.ask(|| self.consumer.fetch_metadata(Some(&self.name), CALL))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == self.name) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None if topic.partitions().is_empty() => Ok(None),
            None => Ok(Some(topic.partitions().len() as u64)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::LeaderNotAvailable) => Ok(None),
            Some(code) => Err(failed(&format!("topic {}", self.name), &KafkaError::MetadataFetch(code))),
        }
    }

    /// Where partition `p` begins and ends.
    pub(super) fn watermarks(&self, p: i32) -> Result<(i64, i64)> {
        self.ask(|| self.consumer.fetch_watermarks(&self.name, p, CALL))
    }

    /// Asks again and again, until there is an answer or no hope for one.
    fn ask<T>(&self, question: impl Fn() -> Result<T, KafkaError>) -> Result<T> {
        let asked = Instant::now();
        loop {
            match question() {
                Ok(answer) => return Ok(answer),
                Err(error) if asked.elapsed() > ANSWER => return Err(self.failed(&error)),
                Err(error) => {
                    let failed = self.failed(&error);
                    if !matches!(failed, Error::Unavailable { .. }) {
                        return Err(failed);
                    }
                }
            }
        }
    }

    /// What it means that a question failed.
    pub(super) fn failed(&self, error: &KafkaError) -> Error {
        // What librdkafka has to say besides is heard on polling.
        while self.consumer.poll(Duration::from_millis(20)).is_some() {}
        self.refused().err().unwrap_or_else(|| failed(&format!("topic {}", self.name), error))
    }

    /// `Error::Config` if the brokers refuse us.
    pub(super) fn refused(&self) -> Result<()> {
        refused(&self.consumer.context().0)
    }
}

/// `Error::Config` if the brokers refuse us.
pub(super) fn refused(hearing: &Hearing) -> Result<()> {
    match hearing.refusal() {
        Some(reason) => Err(Error::Config(format!("the Kafka brokers refuse us: {reason}"))),
        None => Ok(()),
    }
}

/// A client that cannot be made.
pub(super) fn wrong(error: &KafkaError) -> Error {
    Error::Config(format!("the properties for Kafka do not go together: {}", words(error)))
}
