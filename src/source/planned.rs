//! The part that all sources over a plan share: which partition is assigned, started, read and ended, and in which order.
//!
//! A source itself only knows how to read rows of one partition ([`Rows`]). A read in progress is a boxed future that
//! lives in the source, not in [`Source::next`], so that a `next` that is dropped half-way (it stands in the driver's
//! `select!`) loses neither records nor the time already spent on a fetch.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Event, Source};
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::plan::PlannedPartition;
use crate::sample::Record;

/// Partitions assigned ahead of the one being read, so that the ends of their chains are known when their turn comes.
const AHEAD: usize = 4;

/// Some records of one partition.
pub(crate) struct Batch {
    /// Offsets ascending; may be empty (nothing passed the filter).
    pub(crate) records: Vec<Record>,
    /// Every position below was given or has no row; greater than the offset asked for.
    pub(crate) next: u64,
}

/// Reads rows of partitions.
pub(crate) trait Rows: Send + Sync + 'static {
    /// What is kept from one read to the next: an open file, say. Reading starts with the default.
    type Cursor: Default + Send + 'static;

    /// Some records from offset `at` on, which is below the partition's rows.
    fn read(
        &self,
        cursor: &mut Self::Cursor,
        partition: &PlannedPartition,
        at: u64,
    ) -> impl Future<Output = Result<Batch>> + Send;
}

enum State {
    /// Not announced yet.
    Planned,
    /// Announced, not started.
    Assigned,
    /// To be read from `next` on.
    Started { epoch: u64, next: u64 },
    /// All was said.
    Ended,
}

struct Slot {
    planned: Arc<PlannedPartition>,
    state: State,
}

struct Reading<C> {
    slot: usize,
    epoch: u64,
    future: BoxFuture<'static, (C, Result<Batch>)>,
}

/// A [`Source`] over planned partitions.
pub(crate) struct Planned<R: Rows> {
    rows: Arc<R>,
    slots: Vec<Slot>,
    by_name: HashMap<Partition, usize>,
    /// The first slot that is not announced yet.
    announced: usize,
    /// Announced and not ended.
    open: usize,
    started: BTreeSet<usize>,
    reading: Option<Reading<R::Cursor>>,
    cursor: R::Cursor,
}

impl<R: Rows> Planned<R> {
    pub(crate) fn new(rows: R, partitions: Vec<PlannedPartition>) -> Self {
        let slots: Vec<_> =
            partitions.into_iter().map(|planned| Slot { planned: Arc::new(planned), state: State::Planned }).collect();
        let by_name = slots.iter().enumerate().map(|(i, slot)| (slot.planned.partition.clone(), i)).collect();
        Self {
            rows: Arc::new(rows),
            slots,
            by_name,
            announced: 0,
            open: 0,
            started: BTreeSet::new(),
            reading: None,
            cursor: R::Cursor::default(),
        }
    }

    /// Begins to read the first started partition that has rows left; `Some` if one has ended instead.
    fn begin(&mut self) -> Option<Event> {
        let &slot = self.started.first()?;
        let State::Started { epoch, next } = self.slots[slot].state else { return None };
        let planned = self.slots[slot].planned.clone();
        if next >= planned.rows {
            self.slots[slot].state = State::Ended;
            self.started.remove(&slot);
            self.open -= 1;
            return Some(Event::End { partition: planned.partition.clone(), epoch, next });
        }
        let rows = self.rows.clone();
        let mut cursor = std::mem::take(&mut self.cursor);
        let future = async move {
            let batch = rows.read(&mut cursor, &planned, next).await;
            (cursor, batch)
        };
        self.reading = Some(Reading { slot, epoch, future: future.boxed() });
        None
    }
}

impl<R: Rows> Source for Planned<R> {
    async fn next(&mut self, hungry: bool) -> Result<Option<Event>> {
        if !hungry {
            return std::future::pending().await;
        }
        loop {
            if self.announced < self.slots.len() && self.open <= AHEAD {
                let slot = &mut self.slots[self.announced];
                slot.state = State::Assigned;
                self.announced += 1;
                self.open += 1;
                return Ok(Some(Event::Assigned { partition: slot.planned.partition.clone(), committed: None }));
            }
            if let Some(reading) = &mut self.reading {
                let (cursor, batch) = (&mut reading.future).await;
                let (slot, epoch) = (reading.slot, reading.epoch);
                self.reading = None;
                self.cursor = cursor;
                let batch = batch?;
                self.slots[slot].state = State::Started { epoch, next: batch.next };
                if !batch.records.is_empty() {
                    return Ok(Some(Event::Records { epoch, records: batch.records }));
                }
            } else if let Some(ended) = self.begin() {
                return Ok(Some(ended));
            } else if self.reading.is_none() {
                if self.open == 0 {
                    return Ok(None);
                }
                // Only `start` can change that, which needs this future dropped first.
                return std::future::pending().await;
            }
        }
    }

    fn start(&mut self, p: Partition, epoch: u64, at: u64) -> Result<()> {
        let slot = self.by_name.get(&p).copied().filter(|&slot| slot < self.announced);
        let slot = slot.ok_or_else(|| Error::Bug(format!("partition {p} was started but never assigned")))?;
        if self.reading.as_ref().is_some_and(|reading| reading.slot == slot) {
            self.reading = None;
        }
        if matches!(self.slots[slot].state, State::Ended) {
            self.open += 1;
        }
        self.slots[slot].state = State::Started { epoch, next: at };
        self.started.insert(slot);
        Ok(())
    }

    fn commit(&mut self, _: &Partition, _: u64, _: u64) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::Position;
    use crate::sample::Reference;

    /// Three rows at a time, each read taking 35 ms in steps; the first try of offset 6 fails.
    struct Slow(std::sync::Mutex<bool>);

    impl Rows for Slow {
        type Cursor = ();

        async fn read(&self, _: &mut (), partition: &PlannedPartition, at: u64) -> Result<Batch> {
            for _ in 0..7 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if at == 6 && std::mem::take(&mut *self.0.lock().unwrap()) {
                return Err(Error::Unavailable { what: "store".into(), reason: "down".into() });
            }
            let next = partition.rows.min(at + 3);
            let record = |offset: u64| {
                Record::new(
                    offset.to_string(),
                    Reference::Missing,
                    Position { partition: partition.partition.clone(), offset },
                )
            };
            Ok(Batch { records: (at..next).map(record).collect(), next })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_next_loses_nothing_and_an_error_can_be_tried_again() {
        let planned = |i: usize| PlannedPartition {
            partition: Partition::of_file(0, i),
            input: 0,
            path: "a".into(),
            first_row: 0,
            rows: 10,
            planned_rows: 10,
        };
        let mut source = Planned::new(Slow(true.into()), (0..2).map(planned).collect());
        let (mut offsets, mut errors) = (Vec::new(), 0);
        loop {
            // As the driver's select does it: given up long before a read is done.
            let Ok(event) = tokio::time::timeout(Duration::from_millis(3), source.next(true)).await else { continue };
            match event {
                Ok(Some(Event::Assigned { partition, .. })) => source.start(partition, 0, 0).unwrap(),
                Ok(Some(Event::Records { records, .. })) => offsets.extend(records.iter().map(|r| r.position.offset)),
                Ok(Some(Event::End { next, .. })) => assert_eq!(next, 10),
                Ok(Some(other)) => panic!("{other:?}"),
                Ok(None) => break,
                Err(_) => errors += 1,
            }
        }
        assert_eq!(offsets, (0..10).chain(0..10).collect::<Vec<_>>());
        assert_eq!(errors, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_start() {
        let partition = Partition::of_file(0, 0);
        let planned = PlannedPartition {
            partition: partition.clone(),
            input: 0,
            path: "a".into(),
            first_row: 0,
            rows: 1,
            planned_rows: 1,
        };
        let mut source = Planned::new(Slow(false.into()), vec![planned]);
        assert!(matches!(source.next(true).await, Ok(Some(Event::Assigned { .. }))));
        assert!(tokio::time::timeout(Duration::from_secs(60), source.next(true)).await.is_err());
        source.start(partition, 3, 0).unwrap();
        assert!(matches!(source.next(true).await, Ok(Some(Event::Records { epoch: 3, .. }))));
    }
}
