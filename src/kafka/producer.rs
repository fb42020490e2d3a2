//! Sends messages to a topic and waits until the brokers have them.

use std::time::Duration;

use futures::future::try_join_all;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::brokers::Brokers;
use super::{Connection, Hearing, check_topic, failed, words};
use crate::error::{Error, Result};

/// Written once although sent again: the broker drops repeats of one producer, and all replicas in sync have a message before
/// it counts as sent.
const FIXED: &[(&str, &str)] = &[("enable.idempotence", "true"), ("acks", "all")];

/// A message without headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
}

/// Sends to one topic.
pub(crate) struct Producer {
    producer: FutureProducer<Hearing>,
    topic: String,
}

impl Producer {
    /// What [`Self::open`] would refuse without asking a broker.
    pub(crate) fn check(connection: Connection<'_>, topic: &str) -> Result<()> {
        check_topic(&format!("{}.topic", connection.section), topic)?;
        Self::connect(connection).map(drop)
    }

    fn connect(connection: Connection<'_>) -> Result<FutureProducer<Hearing>> {
        // So long is tried before a message counts as not sent, which the caller may try again.
        let defaults =
            [("client.id", "lm4lv"), ("message.timeout.ms", "30000"), ("linger.ms", "5"), ("compression.type", "zstd")];
        let producer =
            FutureProducer::from_config_and_context(&connection.config(&defaults, FIXED)?, Hearing::default());
        producer.map_err(|error| Error::Config(format!("{}.properties: {}", connection.section, words(&error))))
    }

    /// Connects, and looks whether the topic is there (`Error::Config` if not). Blocks for some seconds at most.
    pub(crate) fn open(connection: Connection<'_>, topic: &str) -> Result<Self> {
        let plain = connection.config(&[("client.id", "lm4lv")], &[])?;
        // Properties of producers are unknown to a consumer, which then only warns.
        Brokers::connect(&plain)?.partitions(topic)?;
        Ok(Self { producer: Self::connect(connection)?, topic: topic.to_owned() })
    }

    /// Sends all, in order, and returns when every one has been acknowledged. `Error::Unavailable` if one was not: then any of
    /// them may be sent again.
    pub(crate) async fn send(&self, messages: &[Outgoing]) -> Result<()> {
        let sent = messages.iter().map(|message| {
            let record = FutureRecord::to(&self.topic).key(&message.key).payload(&message.value);
            self.producer.send(record, Duration::from_secs(30))
        });
        let refused = |(error, _): (KafkaError, _)| failed(&format!("events to topic {}", self.topic), &error);
        try_join_all(sent).await.map(drop).map_err(refused)
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic).finish_non_exhaustive()
    }
}
