//! The CPU threads: bytes in, encoded rows out, one record at a time through every stage while it is in the cache. Where the
//! pipeline restores, some threads do what comes before that and others what comes behind it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;

use super::meter::MEMORY;
use super::restore::{Arrivals, Cutter, Halfway, Piece};
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
    /// Stages before and behind the restorer; without one they follow each other.
    pub(crate) stages: [Vec<Box<dyn Stage>>; 2],
    pub(crate) pixels: Arc<Pixels>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) flow: Arc<Flow>,
}

/// Bytes of decoded pixels allowed at once. A record that needs more than all of them runs alone.
pub(crate) struct Pixels {
    limit: u64,
    used: Mutex<u64>,
    freed: Condvar,
    /// Workers that wait.
    waiting: AtomicUsize,
}

impl Pixels {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::new(0), freed: Condvar::new(), waiting: AtomicUsize::new(0) })
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `bytes`; if there is a wait, `before` is called first. A worker holds nothing else that another could wait
    /// for, and records on their way to the restorer, which hold pixels too, wait for nothing but the sink once `before` has
    /// told it to hurry: so this cannot deadlock.
    pub(super) fn take(self: &Arc<Self>, bytes: u64, before: impl FnOnce()) -> Taken {
        let mut used = self.used();
        let full = |used: &mut u64| *used > 0 && *used + bytes > self.limit;
        if full(&mut used) {
            self.waiting.fetch_add(1, SeqCst);
            before();
            used = self.freed.wait_while(used, full).unwrap_or_else(PoisonError::into_inner);
            self.waiting.fetch_sub(1, SeqCst);
        }
        *used += bytes;
        Taken { pixels: Arc::clone(self), bytes }
    }

    /// True while a worker waits for pixels that others hold.
    pub(crate) fn are_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }
}

/// Bytes of pixels, given back when it is dropped.
pub(crate) struct Taken {
    pixels: Arc<Pixels>,
    bytes: u64,
}

impl Taken {
    /// Holds `bytes` from here on. Never waits: more than was taken may be too much for a while.
    pub(crate) fn change_to(&mut self, bytes: u64) {
        let mut used = self.pixels.used();
        *used = *used - self.bytes + bytes;
        self.bytes = bytes;
        drop(used);
        self.pixels.freed.notify_all();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.pixels.used() -= self.bytes;
        self.pixels.freed.notify_all();
    }
}

/// What a worker makes of a record.
enum Made {
    /// A finished position.
    Item(Item),
    /// One with images to restore.
    Pieces(Halfway, Vec<Piece>),
    /// One that is to be finished by the other threads, since these go on decoding.
    Nothing(Halfway),
}

/// Where a worker's records go on to: the restorer, and the threads behind it.
pub(crate) struct Onward {
    pub(crate) cutter: Arc<Cutter>,
    pub(crate) arrivals: Arrivals,
    pub(crate) behind: async_channel::Sender<Halfway>,
}

impl Crew {
    /// A worker's life: until the intake drops its half of `work`, or nobody takes what it makes. Without `onward` it finishes
    /// what it begins.
    pub(crate) fn work(
        &self,
        work: &async_channel::Receiver<Vec<Work>>,
        onward: Option<&Onward>,
        deliveries: &mpsc::Sender<Delivery>,
        reports: &mpsc::UnboundedSender<Report>,
    ) {
        loop {
            let waiting = Instant::now();
            let Ok(works) = work.recv_blocking() else { return };
            if self.meter.fetching.load(Relaxed) > 0 {
                self.meter.add_busy("fetch", waiting.elapsed());
            }
            let mut items = Vec::with_capacity(works.len());
            let mut go_on = true;
            for work in works {
                go_on &= self.one(work, onward, &mut items, reports);
            }
            if !(items.is_empty() || self.deliver(items, deliveries)) || !go_on {
                return;
            }
        }
    }

    /// Takes one record as far as these threads do; what is finished then is added to `items`. False if the run is over.
    fn one(
        &self,
        work: Work,
        onward: Option<&Onward>,
        items: &mut Vec<Item>,
        reports: &mpsc::UnboundedSender<Report>,
    ) -> bool {
        let record = Arc::clone(&work.record);
        let held = work.fetched.len() + record.bytes();
        // A stage that panics must end the run with a message, not leave the window waiting for the item for ever.
        let made = catch_unwind(AssertUnwindSafe(|| self.process(work, onward)))
            .unwrap_or_else(|_| Err(Error::Bug(format!("a stage panicked on record {:?}", record.key))));
        // The sink wants it for itself, to drop what no column needs.
        drop(record);
        self.flow.held.release(held);
        match made {
            Ok(Made::Item(item)) => {
                items.push(item);
                true
            }
            Ok(Made::Pieces(halfway, pieces)) => onward.is_some_and(|on| on.arrivals.send(halfway, pieces)),
            Ok(Made::Nothing(halfway)) => onward.is_some_and(|on| {
                on.arrivals.pass_by();
                on.behind.send_blocking(halfway).is_ok()
            }),
            // Nobody listening means that the run is over already.
            Err(error) => reports.send(Report::Stopped(error)).is_ok(),
        }
    }

    /// The life of a worker behind the restorer: until the restorer and the workers before it have ended, or nobody takes what
    /// it makes.
    pub(crate) fn finish(
        &self,
        cutter: &Cutter,
        halfway: &async_channel::Receiver<Halfway>,
        deliveries: &mpsc::Sender<Delivery>,
        reports: &mpsc::UnboundedSender<Report>,
    ) {
        while let Ok(halfway) = halfway.recv_blocking() {
            let key = halfway.key();
            let finished = catch_unwind(AssertUnwindSafe(|| {
                // Its pixels are held until it is encoded.
                let (mut item, _pixels) = cutter.join(halfway)?;
                self.run(&[&self.stages[1]], &mut item)?;
                Ok(self.count(item))
            }));
            let finished = finished.unwrap_or_else(|_| Err(Error::Bug(format!("a stage panicked on record {key:?}"))));
            let taken = match finished {
                Ok(item) => self.deliver(vec![item], deliveries),
                Err(error) => reports.send(Report::Stopped(error)).is_ok(),
            };
            if !taken {
                return;
            }
        }
    }

    /// Hands `items` to the sink; false if that is gone.
    fn deliver(&self, items: Vec<Item>, deliveries: &mpsc::Sender<Delivery>) -> bool {
        self.flow.held.add(items.iter().map(Item::bytes).sum());
        self.flow.sent.fetch_add(1, Relaxed);
        let count = items.len() as u64;
        let taken = deliveries.blocking_send(Delivery::Items(items)).is_ok();
        self.flow.working.fetch_sub(count, Release);
        taken
    }

    fn process(&self, work: Work, onward: Option<&Onward>) -> Result<Made> {
        let Work { record, epoch, seq, fetched, provisional } = work;
        let attempts = fetched.attempts;
        let [before, behind] = &self.stages;
        let Some(prepare) = &self.prepare else {
            let samples = vec![Sample { failure: record.unreadable(), ..Sample::default() }];
            let mut item = Item { record, epoch, seq, samples, attempts, provisional };
            self.run(&[before, behind], &mut item)?;
            return Ok(Made::Item(self.count(item)));
        };
        let mut waiting = None;
        let pixels = self.pixels.take(prepare.working_bytes(&fetched), || {
            waiting = Some(Instant::now());
            if let Some(onward) = onward {
                onward.arrivals.nudge();
            }
        });
        if let Some(waiting) = waiting {
            self.meter.add_busy(MEMORY, waiting.elapsed());
        }
        let started = Instant::now();
        let samples = prepare.samples(&record, fetched)?;
        self.meter.add_busy("decode", started.elapsed());
        let mut item = Item { record, epoch, seq, samples, attempts, provisional };
        let Some(onward) = onward else {
            self.run(&[before, behind], &mut item)?;
            return Ok(Made::Item(self.count(item)));
        };
        self.run(&[before], &mut item)?;
        let (halfway, pieces) = onward.cutter.cut(item, pixels);
        Ok(if pieces.is_empty() { Made::Nothing(halfway) } else { Made::Pieces(halfway, pieces) })
    }

    /// Takes the samples that have not failed, one after the other, through `stages`.
    fn run(&self, stages: &[&[Box<dyn Stage>]], item: &mut Item) -> Result<()> {
        for sample in &mut item.samples {
            for stage in stages.iter().copied().flatten() {
                if sample.failure.is_some() {
                    break;
                }
                let started = Instant::now();
                let done = stage.process(&item.record, sample);
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
        Ok(())
    }

    /// Counts the finished rows.
    fn count(&self, item: Item) -> Item {
        self.meter.add_rows(item.samples.len() as u64);
        let failures = item.samples.iter().filter_map(|sample| sample.failure.as_ref());
        let failed = failures.inspect(|failure| self.meter.vitals.failed(failure.code)).count();
        self.meter.failed.fetch_add(failed as u64, Relaxed);
        if item.provisional.is_none() {
            self.meter.judged.fetch_add(item.samples.len() as u64, Relaxed);
            self.meter.judged_failed.fetch_add(failed as u64, Relaxed);
        }
        item
    }
}

#[cfg(test)]
impl Pixels {
    pub(super) fn used_bytes(&self) -> u64 {
        *self.used()
    }
}

#[cfg(test)]
impl Taken {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
