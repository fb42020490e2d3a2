//! What tests do to topics, and what they read back from topics and datasets.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::broker::Broker;
use crate::common::{expect, parts};

/// How long any of this may take.
const WHILE: Duration = Duration::from_secs(30);

/// A message to send. `Outgoing::default()` has neither key nor value.
#[derive(Clone, Default)]
pub(crate) struct Outgoing {
    /// `None`: by the key's hash.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<String>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Outgoing {
    /// A message with a key and a value.
    pub(crate) fn new(key: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), payload: Some(payload.into()), ..Self::default() }
    }

    /// For this partition.
    pub(crate) fn to(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    Commit,
    Abort,
}

/// A name that no other test has.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

impl Broker {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    /// A new topic; gives its name, which begins with `name`.
    pub(crate) fn topic(&self, name: &str, partitions: i32) -> String {
        let name = unique(name);
        self.create(&name, partitions, &[]);
        name
    }

    /// Creates a topic and waits until it has leaders.
    pub(crate) fn create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let began = Instant::now();
        // One that is being deleted stands in the way for a moment.
        loop {
            let made = block_on(self.admin().create_topics([&topic], &options())).unwrap().remove(0);
            match made {
                Ok(_) => break,
                Err((_, code)) => assert!(began.elapsed() < WHILE, "{name}: {code}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.wait_for_leaders(name, partitions as usize);
    }

    /// Deletes a topic and waits until it is gone.
    pub(crate) fn delete(&self, name: &str) {
        block_on(self.admin().delete_topics(&[name], &options())).unwrap().remove(0).unwrap();
        let client: BaseConsumer = self.config().create().unwrap();
        let began = Instant::now();
        while client.fetch_metadata(None, WHILE).unwrap().topics().iter().any(|topic| topic.name() == name) {
            assert!(began.elapsed() < WHILE, "{name} is still there");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes a topic have `partitions` in all.
    pub(crate) fn add_partitions(&self, name: &str, partitions: usize) {
        let new = NewPartitions::new(name, partitions);
        block_on(self.admin().create_partitions([&new], &options())).unwrap().remove(0).unwrap();
        self.wait_for_leaders(name, partitions);
    }

    /// Deletes a partition's messages below offset `before`, as retention does.
    pub(crate) fn delete_records(&self, name: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(name, partition, Offset::Offset(before)).unwrap();
        block_on(self.admin().delete_records(&list, &options())).unwrap();
        let began = Instant::now();
        while self.watermarks(name, partition).0 < before {
            assert!(began.elapsed() < WHILE, "{name}: messages below {before} are still there");
        }
    }

    fn wait_for_leaders(&self, name: &str, partitions: usize) {
        let client: BaseConsumer = self.config().create().unwrap();
        let began = Instant::now();
        loop {
            let metadata = client.fetch_metadata(Some(name), WHILE).unwrap();
            let found = metadata.topics()[0].partitions();
            if found.len() == partitions && found.iter().all(|p| p.leader() >= 0 && p.error().is_none()) {
                return;
            }
            assert!(began.elapsed() < WHILE, "{name} has no leaders");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The broker (index for [`Broker::kill`]) that leads a partition.
    pub(crate) fn leader(&self, name: &str, partition: i32) -> usize {
        let client: BaseConsumer = self.config().create().unwrap();
        let metadata = client.fetch_metadata(Some(name), WHILE).unwrap();
        let found = metadata.topics()[0].partitions().iter().find(|p| p.id() == partition).unwrap();
        found.leader() as usize - 1
    }

    /// Where a partition begins and ends.
    pub(crate) fn watermarks(&self, name: &str, partition: i32) -> (i64, i64) {
        let client: BaseConsumer = self.config().create().unwrap();
        client.fetch_watermarks(name, partition, WHILE).unwrap()
    }

    /// The number of partitions.
    pub(crate) fn partitions(&self, name: &str) -> i32 {
        let client: BaseConsumer = self.config().create().unwrap();
        client.fetch_metadata(Some(name), WHILE).unwrap().topics()[0].partitions().len() as i32
    }

    /// What a group has committed, by partition.
    pub(crate) fn committed(&self, group: &str, name: &str) -> BTreeMap<i32, i64> {
        let client: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions(name) {
            list.add_partition(name, partition);
        }
        let found = client.committed_offsets(list, WHILE).unwrap();
        let offsets = found.elements();
        offsets
            .iter()
            .filter_map(|e| Some((e.partition(), e.offset().to_raw().filter(|offset| *offset >= 0)?)))
            .collect()
    }

    /// Members of a group, as the brokers see them.
    pub(crate) fn members(&self, group: &str) -> usize {
        let client: BaseConsumer = self.config().create().unwrap();
        // A broker that has just started does not know its groups yet.
        let list = client.fetch_group_list(Some(group), WHILE);
        list.map_or(0, |list| list.groups().first().map_or(0, |group| group.members().len()))
    }

    /// Sends messages and waits until the brokers have them.
    pub(crate) fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Outgoing>) {
        let producer: BaseProducer = self.producer().create().unwrap();
        send(&producer, topic, messages);
        producer.flush(WHILE).unwrap();
    }

    /// Sends messages in a transaction.
    pub(crate) fn transaction(&self, topic: &str, messages: impl IntoIterator<Item = Outgoing>, end: End) {
        let producer: BaseProducer = self.producer().set("transactional.id", unique("test")).create().unwrap();
        producer.init_transactions(WHILE).unwrap();
        producer.begin_transaction().unwrap();
        send(&producer, topic, messages);
        producer.flush(WHILE).unwrap();
        match end {
            End::Commit => producer.commit_transaction(WHILE).unwrap(),
            End::Abort => producer.abort_transaction(WHILE).unwrap(),
        }
    }

    fn producer(&self) -> rdkafka::ClientConfig {
        let mut config = self.config();
        config.set("linger.ms", "20").set("message.max.bytes", "12000000").set("enable.idempotence", "true");
        config
    }

    /// Every message of a topic that was not aborted, by partition.
    pub(crate) fn read(&self, topic: &str) -> BTreeMap<i32, Vec<OwnedMessage>> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        let mut left = self.partitions(topic);
        for partition in 0..left {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut read: BTreeMap<i32, Vec<OwnedMessage>> = BTreeMap::new();
        let mut heard = Instant::now();
        while left > 0 {
            match consumer.poll(Duration::from_millis(500)) {
                Some(Ok(message)) => read.entry(message.partition()).or_default().push(message.detach()),
                Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => {
                    assert!(heard.elapsed() < WHILE, "{topic}: nothing comes");
                    continue;
                }
            }
            heard = Instant::now();
        }
        read
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(WHILE)).request_timeout(Some(WHILE))
}

fn send(producer: &BaseProducer, topic: &str, messages: impl IntoIterator<Item = Outgoing>) {
    for message in messages {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
        record.partition = message.partition;
        record.key = message.key.as_deref().map(str::as_bytes);
        record.payload = message.payload.as_deref();
        while let Err((error, back)) = producer.send(record) {
            let is_full = error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull);
            assert!(is_full, "{topic}: {error}");
            record = back;
            producer.poll(Duration::from_millis(5));
        }
    }
}

/// A message's header as text.
pub(crate) fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let found = message.headers()?.iter().find(|header| header.key == name)?;
    Some(String::from_utf8(found.value?.to_vec()).unwrap())
}

/// `lm4lv verify` finds nothing wrong with the dataset.
pub(crate) fn verify(dataset: &Path) {
    expect(dataset, &["verify", "."], 0);
}

/// The offsets of a Kafka dataset's rows, in the order of the parts, by topic partition.
pub(crate) fn offsets(dataset: &Path) -> BTreeMap<i32, Vec<i64>> {
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for part in parts(dataset) {
        let file = std::fs::File::open(&part).unwrap();
        let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let columns = parquet::arrow::ProjectionMask::columns(builder.parquet_schema(), ["topic_partition", "offset"]);
        for batch in builder.with_projection(columns).build().unwrap() {
            let batch = batch.unwrap();
            let partitions = batch.column_by_name("topic_partition").unwrap().as_primitive::<Int32Type>().values();
            let rows = batch.column_by_name("offset").unwrap().as_primitive::<Int64Type>().values();
            for (partition, offset) in partitions.iter().zip(rows) {
                offsets.entry(*partition).or_default().push(*offset);
            }
        }
    }
    offsets
}
