//! Records that were read and are not fetched yet, and the bytes that they hold; and since when records wait to be durable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

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

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// True if there is room for more: fewer than `records`, which hold less than `bytes`.
    pub(crate) fn is_hungry(&self, records: usize, bytes: u64) -> bool {
        self.records.len() < records && self.bytes < bytes
    }
}

/// Between two marks of a partition, the precision of [`Unpublished::oldest`].
const BETWEEN: Duration = Duration::from_secs(1);

/// When a partition's records that are not durable yet were admitted: a mark a second, not one for each record.
#[derive(Debug, Default)]
pub(crate) struct Unpublished {
    /// Offsets ascending.
    marks: VecDeque<(u64, Instant)>,
    last: u64,
}

impl Unpublished {
    /// The record at `offset` is admitted. Behind a restart records come again; they count from when they came first.
    pub(crate) fn admit(&mut self, offset: u64, now: Instant) {
        if self.marks.back().is_none_or(|(last, at)| offset > *last && now.duration_since(*at) >= BETWEEN) {
            self.marks.push_back((offset, now));
        }
        self.last = self.last.max(offset);
    }

    /// Everything below `end` is durable.
    pub(crate) fn durable(&mut self, end: u64) {
        let mut since = None;
        while let Some((_, at)) = self.marks.pop_front_if(|(offset, _)| *offset < end) {
            since = Some(at);
        }
        // Those behind `end` that came within a second of the mark that goes.
        if let Some(at) = since
            && self.last >= end
            && self.marks.front().is_none_or(|(offset, _)| *offset > end)
        {
            self.marks.push_front((end, at));
        }
    }

    /// Since when the oldest record waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.marks.front().map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_record_is_known_to_a_second() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut waiting = Unpublished::default();
        assert_eq!(waiting.oldest(), None);
        // Ten a second for five seconds.
        (0..50).for_each(|n| waiting.admit(n, at(n * 100)));
        assert!(waiting.marks.len() <= 6);
        for end in 1..50 {
            waiting.durable(end);
            let (oldest, truth) = (waiting.oldest().unwrap(), at(end * 100));
            assert!(oldest <= truth && truth - oldest <= Duration::from_secs(2), "{end}: {:?}", truth - oldest);
        }
        waiting.durable(50);
        assert_eq!(waiting.oldest(), None);
    }

    #[test]
    fn a_record_that_comes_again_counts_from_the_first_time() {
        let start = Instant::now();
        let mut waiting = Unpublished::default();
        waiting.admit(5, start);
        waiting.admit(5, start + Duration::from_secs(9));
        assert_eq!(waiting.oldest(), Some(start));
        waiting.durable(6);
        assert_eq!(waiting.oldest(), None);
    }
}
