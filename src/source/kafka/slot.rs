//! One partition as a member of the group has it, and the records read of it that were not handed on yet.

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::Timestamp;
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use serde_json::Value;

use super::message::{Reader, Said};
use crate::checkpoint::{Partition, Position};
use crate::sample::{Message, Record, Reference};
use crate::source::Committed;

/// A partition.
pub(super) struct Slot {
    pub(super) topic: Arc<str>,
    pub(super) number: i32,
    pub(super) partition: Partition,
    /// The group gave it to us.
    pub(super) owned: bool,
    /// We told librdkafka to read it.
    pub(super) assigned: bool,
    pub(super) paused: bool,
    /// The driver holds nothing of it any more.
    pub(super) released: bool,
    pub(super) reading: Option<Reading>,
    /// What the group knew when it gave the partition to us.
    pub(super) committed: Option<Committed>,
    /// Where this run ends.
    pub(super) bound: Option<u64>,
    /// Behind the newest message, as far as is known.
    pub(super) high: u64,
    /// All below was given; behind the last message lie positions without one.
    pub(super) drained: Option<u64>,
    records: Vec<Record>,
    /// The kept fields of those.
    kept: Vec<Vec<Value>>,
    bytes: u64,
}

/// From where on a partition is read.
pub(super) struct Reading {
    pub(super) epoch: u64,
    /// Behind the last message taken.
    pub(super) next: u64,
    /// The driver was told that nothing more comes.
    pub(super) ended: bool,
}

impl Slot {
    pub(super) fn new(topic: &str, number: i32) -> Self {
        Self {
            topic: topic.into(),
            number,
            partition: Partition::of_topic(topic, number),
            owned: false,
            assigned: false,
            paused: false,
            released: false,
            reading: None,
            committed: None,
            bound: None,
            high: 0,
            drained: None,
            records: Vec::new(),
            kept: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn is(&self, topic: &str, number: i32) -> bool {
        self.number == number && *self.topic == *topic
    }

    pub(super) fn key(&self) -> (String, i32) {
        (self.topic.to_string(), self.number)
    }

    /// True if messages of it are wanted.
    pub(super) fn is_open(&self) -> bool {
        self.open_at().is_some()
    }

    /// The offset wanted next, if messages are wanted.
    pub(super) fn open_at(&self) -> Option<u64> {
        self.reading.as_ref().filter(|reading| self.owned && !reading.ended).map(|reading| reading.next)
    }

    /// Behind the newest message that is still to be read or was read last.
    pub(super) fn newest(&self) -> u64 {
        match &self.reading {
            Some(reading) if self.drained == Some(self.high) => reading.next,
            _ => self.high,
        }
    }

    /// Drops what was read under an epoch that is over.
    pub(super) fn forget(&mut self) {
        self.reading = None;
        self.records.clear();
        self.kept.clear();
        self.bytes = 0;
    }

    /// Takes a message whose turn it is; gives the bytes of its record.
    pub(super) fn push(&mut self, reader: &Reader, message: &BorrowedMessage<'_>) -> u64 {
        let offset = message.offset().unsigned_abs();
        let mut headers = Vec::new();
        let mut content_type = None;
        if let Some(given) = message.headers() {
            for header in given.iter() {
                if header.key.eq_ignore_ascii_case("content-type") {
                    content_type = header.value;
                }
                headers.push((header.key.to_owned(), header.value.map(Bytes::copy_from_slice)));
            }
        }
        let timestamp_us = match message.timestamp() {
            Timestamp::NotAvailable => None,
            Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms.checked_mul(1000),
        };
        let (Said { key, reference, task, kept }, raw) = match reader.read(message.payload(), content_type) {
            Ok(said) => (said, None),
            Err(why) => {
                let reference = Some(Reference::Unreadable(why));
                (Said { reference, ..Said::default() }, message.payload().map(Bytes::copy_from_slice))
            }
        };
        let key = key.unwrap_or_else(|| format!("{}/{}/{offset}", self.topic, self.number));
        let position = Position { partition: self.partition.clone(), offset };
        let mut record = Record::new(key, reference.unwrap_or(Reference::Missing), position);
        record.task = task;
        record.message = Some(Box::new(Message {
            topic: Arc::clone(&self.topic),
            partition: self.number,
            timestamp_us,
            key: message.key().map(Bytes::copy_from_slice),
            headers,
            raw,
        }));
        let bytes = record.bytes();
        self.bytes += bytes;
        self.records.push(record);
        self.kept.push(kept);
        if let Some(reading) = &mut self.reading {
            reading.next = offset + 1;
        }
        bytes
    }

    /// The records so far, their epoch and their bytes; `None` if there are none.
    pub(super) fn drain(&mut self, reader: &Reader) -> Option<(u64, Vec<Record>, u64)> {
        let epoch = self.reading.as_ref()?.epoch;
        if self.records.is_empty() {
            return None;
        }
        if let Some(batch) = reader.kept(&self.kept) {
            for (index, record) in self.records.iter_mut().enumerate() {
                record.kept = Some(batch.slice(index, 1));
            }
        }
        self.kept.clear();
        Some((epoch, std::mem::take(&mut self.records), std::mem::take(&mut self.bytes)))
    }
}
