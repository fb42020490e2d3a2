//! Which records are in work: how many at once, what their fetches give, and the storm breaker.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;

use bytes::Bytes;

use super::Intake;
use super::partitions::Lane;
use crate::checkpoint::Partition;
use crate::error::Result;
use crate::load::Fetched;
use crate::load::storm::{Outcome, Verdict};
use crate::pipeline::Delivery;
use crate::pipeline::workers::Work;
use crate::sample::Record;
use crate::source::Source;
use crate::stage::Fault;

/// What a record is taken to hold until its fetch says more, bytes.
const UNKNOWN_RECORD: u64 = 512 << 10;
/// Records handed on together where nothing is loaded, and their bytes.
const TOGETHER: usize = 500;
const BYTES_TOGETHER: u64 = 4 << 20;

/// A record in work.
pub(super) struct Admitted {
    record: Arc<Record>,
    epoch: u64,
    seq: u64,
    /// What the record holds, while it is fetched.
    _weight: Weight,
}

/// Bytes that count while this lives.
struct Weight {
    total: Arc<AtomicU64>,
    bytes: u64,
}

impl Weight {
    fn new(total: &Arc<AtomicU64>, bytes: u64) -> Self {
        total.fetch_add(bytes, Relaxed);
        Self { total: Arc::clone(total), bytes }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Relaxed);
    }
}

impl<S: Source> Intake<S> {
    /// Starts fetches while there is room.
    pub(super) fn admit(&mut self) {
        if self.state.drain.is_some() || self.state.retry_at.is_some() {
            return;
        }
        let Some(loader) = self.loader.clone() else { return self.pass_on() };
        let concurrency = if self.storm.is_open() { 1 } else { self.concurrency };
        let limit = self.config.memory();
        while self.state.fetches.len() + self.state.handing.len() < concurrency {
            let known = self.state.fetching.load(Relaxed);
            let unknown = (self.state.fetches.len() as u64 + 1) * UNKNOWN_RECORD + known;
            if self.flow.held.total() + unknown > limit && self.in_flight() > 0 {
                return;
            }
            if self.flow.held.queued.load(Relaxed) > self.max_queued {
                return;
            }
            let Some((record, epoch, seq)) = self.state.next_record() else { return };
            let _weight = Weight::new(&self.state.fetching, record.bytes());
            let admitted = Admitted { record: Arc::new(record), epoch, seq, _weight };
            let loader = Arc::clone(&loader);
            self.state.fetches.push(Box::pin(async move {
                let fetched = loader.fetch(&admitted.record).await;
                (admitted, fetched)
            }));
        }
    }

    /// Where nothing is loaded, hands records on as they came, many at a time: inline bytes pass by inside the record.
    fn pass_on(&mut self) {
        let limit = self.config.memory();
        while self.state.handing.is_empty()
            && (self.flow.held.total() <= limit || self.in_flight() == 0)
            && self.flow.held.queued.load(Relaxed) <= self.max_queued
        {
            let (mut works, mut bytes) = (Vec::new(), 0);
            while works.len() < TOGETHER
                && bytes < BYTES_TOGETHER
                && let Some((record, epoch, seq)) = self.state.next_record()
            {
                bytes += record.bytes();
                let fetched = Fetched::from_bytes(Bytes::new());
                works.push(Work { record: Arc::new(record), epoch, seq, fetched, provisional: None });
            }
            if works.is_empty() {
                return;
            }
            self.hand_over(works, bytes);
        }
    }

    fn hand_over(&mut self, works: Vec<Work>, bytes: u64) {
        self.flow.held.add(bytes);
        self.flow.working.fetch_add(works.len() as u64, Relaxed);
        self.flow.ahead.fetch_add(works.len() as u64, Relaxed);
        if let Err(refused) = self.work.try_send(works) {
            let (works, sender) = (refused.into_inner(), self.work.clone());
            self.state.handing.push(Box::pin(async move {
                // Closed only when the run is over.
                drop(sender.send(works).await);
            }));
        }
    }

    pub(super) fn in_flight(&self) -> u64 {
        (self.state.fetches.len() + self.state.handing.len()) as u64 + self.flow.working.load(Acquire)
    }

    pub(super) async fn on_fetched(&mut self, admitted: Admitted, fetched: Fetched) -> Result<()> {
        if self.state.lanes.get(&admitted.record.position.partition).is_none_or(|lane| lane.epoch != admitted.epoch) {
            return Ok(());
        }
        if let Some(Fault::Run(_)) = fetched.fault() {
            return fetched.into_error().map_or(Ok(()), Err);
        }
        let failure = match fetched.fault() {
            Some(Fault::Record(code, message)) => Some((*code, message.as_str())),
            _ => None,
        };
        let position = &admitted.record.position;
        let outcome = Outcome { host: fetched.host.as_deref(), credentials: fetched.credentials, position, failure };
        let provisional = match self.storm.observe(&outcome, Instant::now()) {
            Verdict::Pass => None,
            Verdict::Provisional(ticket) => Some(ticket),
            Verdict::Opened => return self.weather_storm().await,
        };
        let bytes = fetched.len() + admitted.record.bytes();
        let work = Work { record: admitted.record, epoch: admitted.epoch, seq: admitted.seq, fetched, provisional };
        self.hand_over(vec![work], bytes);
        Ok(())
    }

    /// The breaker opened: nothing in flight may be written; every partition starts anew after a wait. (A run that is stopping
    /// only takes no more: what stands before the record that opened it is still published.)
    async fn weather_storm(&mut self) -> Result<()> {
        if self.state.drain.is_some() {
            self.state.fetches.clear();
            return Ok(());
        }
        let wait = self.storm.wait(Instant::now())?.unwrap_or_default();
        self.state.retry_at = Some(Instant::now() + wait);
        self.state.pending.clear();
        self.state.fetches.clear();
        // A partition whose chain is still looked for holds nothing yet.
        let begun = |(partition, lane): (&Partition, &Lane)| lane.begun.then(|| partition.clone());
        let partitions: Vec<_> = self.state.lanes.iter().filter_map(begun).collect();
        for partition in partitions {
            self.new_epoch(&partition);
            self.tell(Delivery::Restart(partition)).await?;
        }
        Ok(())
    }
}
