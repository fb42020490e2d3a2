//! Looks whether a range of a partition holds any message, with a consumer of its own that joins no group.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::ANSWER;

/// How to reach the brokers.
pub(super) struct Probe {
    pub(super) client: ClientConfig,
}

impl Probe {
    /// True if no message that may be read lies in `from..to`.
    pub(super) fn is_empty(&self, topic: &str, partition: i32, from: u64, to: u64) -> KafkaResult<bool> {
        let consumer: BaseConsumer = self.client.create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX)))?;
        consumer.assign(&list)?;
        let begun = Instant::now();
        while begun.elapsed() < ANSWER {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => return Ok(message.offset().unsigned_abs() >= to),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
                Some(Err(_)) | None => {}
            }
        }
        Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
    }
}
