//! When a run is over: all is read and published, or it is asked to stop and drains.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Ended, Intake};
use crate::checkpoint::{Checkpoint, Partition};
use crate::error::{Error, Result};
use crate::pipeline::Delivery;
use crate::sink::Chain;
use crate::source::Source;

/// `max_failed_share` is judged from this many rows on.
const JUDGED_FROM_ROWS: u64 = 200;
/// Between two looks at what other processes have done.
const LOOK: Duration = Duration::from_secs(1);

/// A run that is asked to stop, or has to.
pub(super) struct Drain {
    started: Instant,
    told_sink: bool,
    because: Option<Error>,
}

impl<S: Source> Intake<S> {
    /// False if all that was read is with the workers and nothing will be read.
    pub(super) fn may_have_more(&self) -> bool {
        let state = &self.state;
        let reads = !state.exhausted && state.drain.is_none();
        let waits = state.retry_at.is_some() || !state.recoveries.is_empty() || !state.waiting.is_empty();
        reads || waits || !state.pending.is_empty() || !state.fetches.is_empty()
    }

    /// Whether the run is over, and the last steps before it is.
    pub(super) async fn over(&mut self) -> Result<Option<Ended>> {
        // In this order: an item is counted as sent before it stops being counted as in work.
        let in_flight = self.in_flight();
        let sink = *self.sink_state.borrow();
        let flushed = sink.idle && sink.handled == self.flow.sent.load(Relaxed) && self.reports.is_empty();
        if let Some(drain) = &mut self.state.drain {
            let limit = Duration::from_secs(self.config.drain_s);
            let late = drain.started.elapsed() > limit.mul_f64(0.6);
            if !drain.told_sink {
                let waiting = !self.state.fetches.is_empty() || !self.state.handing.is_empty();
                if late || (!waiting && self.flow.working.load(Relaxed) == 0) {
                    drain.told_sink = true;
                    self.state.fetches.clear();
                    self.tell(Delivery::Drain).await?;
                }
                return Ok(None);
            }
            if flushed || drain.started.elapsed() > limit {
                if !flushed {
                    tracing::warn!(
                        "run.drain_s passed before the last part was published; the next run makes its rows again"
                    );
                }
                return match self.state.drain.take().and_then(|drain| drain.because) {
                    Some(error) => Err(error),
                    None => Ok(Some(Ended::Drained)),
                };
            }
            return Ok(None);
        }
        let read = self.has_read_all() && self.state.pending.is_empty() && self.state.recoveries.is_empty();
        let waiting = self.state.retry_at.is_some() || !self.state.waiting.is_empty();
        if !read || waiting || !self.state.fetches.is_empty() {
            return Ok(None);
        }
        // An open breaker has had every provisional row dropped.
        if !self.state.told_final && !self.storm.is_open() {
            // The source has ended with the breaker closed: what failed is the records' own fault.
            self.state.told_final = true;
            let ticket = self.storm.last_ticket();
            self.tell(Delivery::Settle(ticket)).await?;
            return Ok(None);
        }
        if in_flight > 0 || !flushed {
            return Ok(None);
        }
        if !self.state.exhausted && self.bounds.as_ref().is_some_and(|bounds| !bounds.is_empty()) {
            self.look_at_others();
            return Ok(None);
        }
        self.too_many_failed().map_or(Ok(Some(Ended::Done)), Err)
    }

    /// True if nothing more is to be read in this run of what is ours now.
    fn has_read_all(&self) -> bool {
        self.state.exhausted || (self.bounds.is_some() && self.state.lanes.values().all(|lane| lane.end.is_some()))
    }

    /// A run up to the end of a topic is over when every partition has come there, whoever reads it: until then this process
    /// stays, to take over what another leaves.
    fn look_at_others(&mut self) {
        let recent = self.state.looked.is_some_and(|at| at.elapsed() < LOOK);
        if recent || !self.state.looks.is_empty() {
            return;
        }
        self.state.looked = Some(Instant::now());
        let bounds = self.bounds.clone().unwrap_or_default();
        let (dataset, opened) = (Arc::clone(&self.dataset), Arc::clone(&self.opened));
        self.state.looks.push(Box::pin(async move {
            let mut ends = Checkpoint::new();
            for (partition, bound) in bounds {
                let start = opened.start_of(&partition).unwrap_or(0);
                let mut chain = Chain::recover(&dataset, &partition, start).await?;
                if chain.end() >= bound && dataset.events.is_some() {
                    // Nobody goes on behind that part, and its writer may have died before it told of it.
                    chain = Chain::take_over(&dataset, &partition, start, None).await?;
                }
                ends.insert(partition, chain.end());
            }
            Ok(ends)
        }));
    }

    pub(super) fn on_looked(&mut self, ends: Checkpoint) {
        ends.iter().for_each(|(partition, end)| self.reached(partition, *end));
    }

    /// The chain of a partition has come to `end`.
    pub(super) fn reached(&mut self, partition: &Partition, end: u64) {
        if let Some(bounds) = &mut self.bounds
            && bounds.get(partition).is_some_and(|bound| end >= *bound)
        {
            bounds.remove(partition);
        }
    }

    pub(super) fn begin_drain(&mut self, because: Option<Error>) {
        if self.state.drain.is_none() {
            tracing::info!(drain_s = self.config.drain_s, "stopping: publishing what is finished");
            self.state.pending.clear();
            self.state.recoveries.clear();
            self.state.drain = Some(Drain { started: Instant::now(), told_sink: false, because });
        }
    }

    pub(super) fn too_many_failed(&self) -> Option<Error> {
        let (rows, failed) = (self.meter.judged.load(Relaxed), self.meter.judged_failed.load(Relaxed));
        let many = rows >= JUDGED_FROM_ROWS && failed as f64 > self.config.max_failed_share * rows as f64;
        many.then_some(Error::TooManyFailed { failed, rows })
    }
}
