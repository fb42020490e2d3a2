//! Records that were read and are not fetched yet, and the bytes that they hold.

use std::collections::VecDeque;

use crate::checkpoint::Partition;
use crate::sample::Record;

/// A queue of records, each with the epoch under which it was read.
#[derive(Default)]
pub(crate) struct Pending {
    records: VecDeque<(u64, Record)>,
    bytes: u64,
}

impl Pending {
    pub(crate) fn extend(&mut self, epoch: u64, records: Vec<Record>) {
        self.bytes += records.iter().map(Record::bytes).sum::<u64>();
        self.records.extend(records.into_iter().map(|record| (epoch, record)));
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, Record)> {
        let (epoch, record) = self.records.pop_front()?;
        self.bytes -= record.bytes();
        Some((epoch, record))
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn remove(&mut self, partition: &Partition) {
        self.records.retain(|(_, record)| record.position.partition != *partition);
        self.bytes = self.records.iter().map(|(_, record)| record.bytes()).sum();
    }

    /// Records of `partition` that were read under `epoch`.
    pub(crate) fn count(&self, partition: &Partition, epoch: u64) -> u64 {
        let waits = |(of, record): &&(u64, Record)| *of == epoch && record.position.partition == *partition;
        self.records.iter().filter(waits).count() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// True if there is room for more: fewer than `records`, which hold less than `bytes`.
    pub(crate) fn is_hungry(&self, records: usize, bytes: u64) -> bool {
        self.records.len() < records && self.bytes < bytes
    }
}
