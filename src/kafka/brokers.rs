//! Questions to brokers: which topics there are, who they are, where they begin and end.

#![expect(
    unsafe_code,
    reason = "the ids of topics, by which a recreated one is known, are in librdkafka's C interface only"
)]

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use rdkafka_sys as sys;

use super::{ANSWER, Hearing, failed, words};
use crate::error::{Error, Result};

impl ConsumerContext for Hearing {}

/// What is listened to at once.
const HEARD: u32 = 100;

/// A client that only asks.
pub(crate) struct Brokers {
    consumer: BaseConsumer<Hearing>,
    /// The brokers as given, for complaints.
    name: String,
}

impl Brokers {
    /// Connects in the background.
    pub(crate) fn connect(config: &ClientConfig) -> Result<Self> {
        let consumer = config.create_with_context(Hearing::default());
        let consumer = consumer.map_err(|error| Error::Config(format!("Kafka: {}", words(&error))))?;
        Ok(Self { consumer, name: config.get("bootstrap.servers").unwrap_or_default().to_owned() })
    }

    /// Why the brokers refuse us, if they do.
    fn refusal(&self) -> Option<String> {
        // Serves what librdkafka has to say; a poll that served a log line answers nothing, like one that had nothing to serve.
        for _ in 0..HEARD {
            self.consumer.poll(Duration::from_millis(1));
        }
        self.consumer.client().context().refusal()
    }

    /// A failed answer, or the reason why there can be none: what the connection itself met says more than a timeout.
    fn error(&self, what: &str, error: &KafkaError) -> Error {
        if let Some(refusal) = self.refusal() {
            return Error::Config(format!(
                "{}: {refusal}: look at the credentials and the CA under properties",
                self.name
            ));
        }
        match self.consumer.client().context().waits() {
            Some((_, reason)) => Error::Unavailable { what: format!("Kafka at {}", self.name), reason },
            None => failed(what, error),
        }
    }

    /// The cluster's id; empty where brokers are too old to have one.
    pub(crate) fn cluster(&self) -> String {
        self.consumer.client().fetch_cluster_id(ANSWER).unwrap_or_default()
    }

    /// The number of partitions. `Error::Config` where there is no such topic.
    pub(crate) fn partitions(&self, topic: &str) -> Result<i32> {
        let begun = Instant::now();
        loop {
            let metadata = match self.consumer.fetch_metadata(Some(topic), ANSWER / 5) {
                Ok(metadata) => metadata,
                // A refusal is heard long before.
                Err(_) if begun.elapsed() < ANSWER && self.refusal().is_none() => continue,
                Err(error) => return Err(self.error(&format!("topic {topic}"), &error)),
            };
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let partitions = found.map_or(0, |found| found.partitions().len());
            let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
            match error {
                None if partitions > 0 => return Ok(i32::try_from(partitions).unwrap_or(i32::MAX)),
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    return Err(Error::Config(format!(
                        "topic {topic}: no permission to read it (its ACL lacks Describe or Read)"
                    )));
                }
                // A topic that was just made is not known to all brokers at once.
                _ if begun.elapsed() < ANSWER / 4 => std::thread::sleep(ANSWER / 50),
                None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                    return Err(Error::Config(format!("there is no topic {topic} at {}: create it first", self.name)));
                }
                Some(code) => return Err(failed(&format!("topic {topic}"), &KafkaError::MetadataFetch(code))),
            }
        }
    }

    /// The oldest offset that the topic has and the one behind the newest that may be read.
    pub(crate) fn span(&self, topic: &str, partition: i32) -> Result<(u64, u64)> {
        span(&self.consumer, topic, partition, ANSWER)
            .map_err(|error| self.error(&format!("{topic}-{partition}"), &error))
    }

    /// For each of the first `count` partitions the offset of the first message of this time (ms since 1970) or later; `None`
    /// where there is none yet.
    pub(crate) fn at_time(&self, topic: &str, count: i32, ms: i64) -> Result<Vec<Option<u64>>> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..count {
            asked.add_partition_offset(topic, partition, Offset::Offset(ms)).map_err(|error| failed(topic, &error))?;
        }
        let answer = self.consumer.offsets_for_times(asked, ANSWER).map_err(|error| self.error(topic, &error))?;
        let mut offsets = vec![None; usize::try_from(count).unwrap_or(0)];
        for element in answer.elements() {
            element.error().map_err(|error| failed(&format!("{topic}-{}", element.partition()), &error))?;
            if let (Ok(at), Offset::Offset(offset)) = (usize::try_from(element.partition()), element.offset()) {
                offsets[at] = u64::try_from(offset).ok();
            }
        }
        Ok(offsets)
    }

    /// The topic's id, see [`topic_id`].
    pub(crate) fn topic_id(&self, topic: &str) -> Result<Option<String>> {
        topic_id(self.consumer.client(), topic).map_err(|error| self.error(&format!("topic {topic}"), &error))
    }
}

/// See [`Brokers::span`].
pub(crate) fn span<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    within: Duration,
) -> Result<(u64, u64), KafkaError> {
    let (low, high) = consumer.fetch_watermarks(topic, partition, within)?;
    let whole = |offset: i64| u64::try_from(offset).unwrap_or(0);
    Ok((whole(low), whole(high)))
}

/// The offset behind the newest message, as the last fetch of an assigned partition saw it; asks nobody.
pub(crate) fn seen_end<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, partition: i32) -> Option<u64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client and the name outlive the call, which only writes the two numbers.
    let code = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| u64::try_from(high).ok()).flatten()
}

/// A topic's id, which another topic of the same name does not have; empty where brokers are too old to give ids, `None` where
/// there is no such topic.
pub(crate) fn topic_id<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<Option<String>, KafkaError> {
    use sys::rd_kafka_resp_err_t as Code;
    let unknown = || KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic);
    let name = CString::new(topic).map_err(|_| unknown())?;
    let failed = |code: Code| KafkaError::MetadataFetch(code.into());
    // One that answers; by itself librdkafka would wait for the controller, which may be away.
    let broker = client.fetch_metadata(Some(topic), ANSWER)?.orig_broker_id();
    // SAFETY: `client` outlives the call. Every object made here is destroyed once, behind its last use; pointers taken out of
    // the event are used while it lives; librdkafka takes null for "no such object" in all of its destructors here but the
    // queue's and the event's, which are checked.
    unsafe {
        let queue = sys::rd_kafka_queue_new(client.native_ptr());
        if queue.is_null() {
            return Err(failed(Code::RD_KAFKA_RESP_ERR__FAIL));
        }
        let mut names = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = sys::rd_kafka_AdminOptions_new(
            client.native_ptr(),
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        let ms = i32::try_from(ANSWER.as_millis()).unwrap_or(i32::MAX);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, ms, ptr::null_mut(), 0);
        sys::rd_kafka_AdminOptions_set_broker(options, broker, ptr::null_mut(), 0);
        sys::rd_kafka_DescribeTopics(client.native_ptr(), topics, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, ms + 1000);
        let found = if event.is_null() {
            Err(failed(Code::RD_KAFKA_RESP_ERR__TIMED_OUT))
        } else {
            let code = sys::rd_kafka_event_error(event);
            let found = if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR { described(event) } else { Err(failed(code)) };
            sys::rd_kafka_event_destroy(event);
            found
        };
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(topics);
        sys::rd_kafka_queue_destroy(queue);
        found
    }
}

/// The first topic's id in the answer to DescribeTopics.
///
/// # Safety
///
/// `event` must be such an answer.
unsafe fn described(event: *mut sys::rd_kafka_event_t) -> Result<Option<String>, KafkaError> {
    use sys::rd_kafka_resp_err_t as Code;
    let fail = |code: Code| KafkaError::MetadataFetch(code.into());
    // SAFETY: everything belongs to the event, which the caller keeps; each pointer is checked before it is followed.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let topics = if result.is_null() {
            ptr::null_mut()
        } else {
            sys::rd_kafka_DescribeTopics_result_topics(result, &mut count)
        };
        if topics.is_null() || count == 0 {
            return Err(fail(Code::RD_KAFKA_RESP_ERR__BAD_MSG));
        }
        let topic = *topics;
        match sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic)) {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC => return Ok(None),
            code => return Err(fail(code)),
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let is_zero = id.is_null()
            || (sys::rd_kafka_Uuid_most_significant_bits(id) == 0
                && sys::rd_kafka_Uuid_least_significant_bits(id) == 0);
        if is_zero {
            return Ok(Some(String::new()));
        }
        let text = sys::rd_kafka_Uuid_base64str(id);
        Ok((!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned()))
    }
}
