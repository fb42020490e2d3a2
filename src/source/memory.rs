//! Records from memory, for tests of what stands behind a source: the driver's, and those in `tests/`.

use crate::checkpoint::Partition;
use crate::error::Result;
use crate::plan::PlannedPartition;
use crate::sample::Record;
use crate::source::planned::{Batch, Planned, Rows};
use crate::source::{Event, Source};

/// Hands out records that it was given. For tests.
pub struct MemorySource(Planned<Memory>);

struct Memory {
    records: Vec<Vec<Record>>,
    at_once: usize,
}

impl MemorySource {
    /// A partition for each list, in this order, `at_once` records (at least 1) in an event. Offsets must ascend within a
    /// list; a partition ends behind its last offset.
    pub fn new(partitions: Vec<(Partition, Vec<Record>)>, at_once: usize) -> Self {
        let planned = partitions.iter().enumerate().map(|(i, (partition, records))| {
            let rows = records.last().map_or(0, |record| record.position.offset + 1);
            let path = partition.as_str().into();
            PlannedPartition { partition: partition.clone(), input: i, path, first_row: 0, rows, planned_rows: rows }
        });
        let planned = planned.collect();
        let records = partitions.into_iter().map(|(_, records)| records).collect();
        Self(Planned::new(Memory { records, at_once: at_once.max(1) }, planned))
    }
}

impl Rows for Memory {
    type Cursor = ();

    async fn read(&self, _: &mut (), partition: &PlannedPartition, at: u64) -> Result<Batch> {
        let records = &self.records[partition.input];
        let from = records.partition_point(|record| record.position.offset < at);
        let records = records[from..].iter().take(self.at_once).cloned().collect::<Vec<_>>();
        let next = records.last().map_or(partition.rows, |record| record.position.offset + 1);
        Ok(Batch { records, next })
    }
}

impl Source for MemorySource {
    async fn next(&mut self, hungry: bool) -> Result<Option<Event>> {
        self.0.next(hungry).await
    }

    fn start(&mut self, p: Partition, epoch: u64, at: u64) -> Result<()> {
        self.0.start(p, epoch, at)
    }

    fn commit(&mut self, _: &Partition, _: u64, _: u64) {}
}
