//! The CPU threads: bytes in, encoded rows out, one record at a time through every stage while it is in the cache.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;

use super::{Delivery, Flow, Meter, Report};
use crate::error::{Error, Result};
use crate::load::{Fetched, Prepare};
use crate::sample::{Failure, Item, Record, Sample};
use crate::stage::{Fault, Stage};

/// A fetched record on its way to a worker.
pub(crate) struct Work {
    pub(crate) record: Arc<Record>,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) fetched: Fetched,
    pub(crate) provisional: Option<u64>,
}

/// What every worker shares.
pub(crate) struct Crew {
    /// Absent where the pipeline loads nothing.
    pub(crate) prepare: Option<Prepare>,
    pub(crate) stages: Vec<Box<dyn Stage>>,
    pub(crate) pixels: Pixels,
    pub(crate) meter: Arc<Meter>,
    pub(crate) flow: Arc<Flow>,
}

/// Bytes of decoded pixels allowed at once. A record that needs more than all of them runs alone.
pub(crate) struct Pixels {
    limit: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

impl Pixels {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits for `bytes`. A worker holds nothing else that another could wait for, so this cannot deadlock.
    fn take(&self, bytes: u64) -> Taken<'_> {
        let used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut used = self
            .freed
            .wait_while(used, |used| *used > 0 && *used + bytes > self.limit)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *used += bytes;
        Taken { pixels: self, bytes }
    }
}

struct Taken<'a> {
    pixels: &'a Pixels,
    bytes: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.pixels.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner) -= self.bytes;
        self.pixels.freed.notify_all();
    }
}

impl Crew {
    /// A worker's life: until the intake drops its half of `work`, or nobody takes what it makes.
    pub(crate) fn work(
        &self,
        work: &async_channel::Receiver<Work>,
        deliveries: &mpsc::Sender<Delivery>,
        reports: &mpsc::UnboundedSender<Report>,
    ) {
        loop {
            let waiting = Instant::now();
            let Ok(work) = work.recv_blocking() else { return };
            if self.meter.fetching.load(Relaxed) > 0 {
                self.meter.add_busy("fetch", waiting.elapsed());
            }
            let key = work.record.key.clone();
            let held = work.fetched.len() + work.record.bytes();
            // A stage that panics must end the run with a message, not leave the window waiting for the item for ever.
            let item = catch_unwind(AssertUnwindSafe(|| self.process(work)))
                .unwrap_or_else(|_| Err(Error::Bug(format!("a stage panicked on record {key:?}"))));
            self.flow.held.release(held);
            match item {
                Ok(item) => {
                    self.flow.held.add(item.bytes());
                    self.flow.sent.fetch_add(1, Relaxed);
                    let taken = deliveries.blocking_send(Delivery::Item(item)).is_ok();
                    self.flow.working.fetch_sub(1, Release);
                    if !taken {
                        return;
                    }
                }
                Err(error) => {
                    // Nobody listening means that the run is over already.
                    if reports.send(Report::Stopped(error)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn process(&self, work: Work) -> Result<Item> {
        let Work { record, epoch, seq, fetched, provisional } = work;
        let _pixels = self.pixels.take(self.prepare.as_ref().map_or(0, |prepare| prepare.working_bytes(&fetched)));
        let attempts = fetched.attempts;
        let started = Instant::now();
        let mut samples = match &self.prepare {
            Some(prepare) => prepare.samples(&record, fetched)?,
            None => vec![Sample::default()],
        };
        self.meter.add_busy("decode", started.elapsed());
        for sample in &mut samples {
            for stage in &self.stages {
                if sample.failure.is_some() {
                    break;
                }
                let started = Instant::now();
                let done = stage.process(&record, sample);
                let took = started.elapsed();
                self.meter.add_busy(stage.name(), took);
                sample.timings.push((stage.name(), took.as_secs_f32() * 1e3));
                match done {
                    Ok(()) => {}
                    Err(Fault::Record(code, message)) => {
                        sample.failure = Some(Failure { code, message: format!("{}: {message}", stage.name()) });
                    }
                    Err(Fault::Run(error)) => return Err(error),
                }
            }
        }
        self.meter.add_rows(samples.len() as u64);
        let failed = samples.iter().filter(|sample| sample.failure.is_some()).count();
        self.meter.failed.fetch_add(failed as u64, Relaxed);
        if provisional.is_none() {
            self.meter.judged.fetch_add(samples.len() as u64, Relaxed);
            self.meter.judged_failed.fetch_add(failed as u64, Relaxed);
        }
        Ok(Item { record, epoch, seq, samples, attempts, provisional })
    }
}
