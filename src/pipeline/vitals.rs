//! What operations want to know of a run beyond its progress: whether it turns, what waits where, what goes wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Meter;
use crate::checkpoint::Partition;
use crate::report::figures::{Figures, Histogram, Place, PublishedFigures, Queues};
use crate::sample::FailureCode;

/// What [`Meter`] counts for those who watch a run from outside.
#[derive(Debug)]
pub(super) struct Vitals {
    /// When the intake last turned, nanoseconds since the meter's start; 0 while it does not run.
    turned: AtomicU64,
    failed: [AtomicU64; FailureCode::ALL.len()],
    seldom: Mutex<Seldom>,
}

/// What changes a few times a second at most.
#[derive(Debug)]
struct Seldom {
    waits_for: Option<&'static str>,
    now: Now,
    places: BTreeMap<Partition, (u64, Option<u64>)>,
    epochs: u64,
    foreign_parts: u64,
    source_errors: u64,
    batch_sizes: Histogram,
    part_bytes: Histogram,
}

/// What the intake tells at every tick.
#[derive(Debug, Clone, Default)]
pub(super) struct Now {
    pub(super) queues: Queues,
    pub(super) oldest: Option<Instant>,
    pub(super) fetch_errors: BTreeMap<FailureCode, u64>,
    /// Who outside the stages is waited for: the source, or the store.
    pub(super) limiting: Option<&'static str>,
}

impl Default for Vitals {
    fn default() -> Self {
        let seldom = Seldom {
            waits_for: Some("the plan is not read yet"),
            now: Now::default(),
            places: BTreeMap::new(),
            epochs: 0,
            foreign_parts: 0,
            source_errors: 0,
            batch_sizes: Histogram::new((0..10).map(|n| f64::from(1 << n))),
            part_bytes: Histogram::new((8..15).map(|n| 4_f64.powi(n))),
        };
        Self { turned: AtomicU64::new(0), failed: [const { AtomicU64::new(0) }; _], seldom: Mutex::new(seldom) }
    }
}

impl Vitals {
    fn seldom(&self) -> MutexGuard<'_, Seldom> {
        self.seldom.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row failed.
    pub(super) fn failed(&self, code: FailureCode) {
        self.failed[code as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn batch(&self, pieces: usize) {
        self.seldom().batch_sizes.observe(pieces as f64);
    }

    pub(super) fn part(&self, bytes: u64) {
        self.seldom().part_bytes.observe(bytes as f64);
    }

    /// A partition was started in a new epoch.
    pub(super) fn epoch(&self) {
        self.seldom().epochs += 1;
    }

    pub(super) fn foreign_part(&self) {
        self.seldom().foreign_parts += 1;
    }

    pub(super) fn source_error(&self) {
        self.seldom().source_errors += 1;
    }

    pub(super) fn tell(&self, now: Now) {
        self.seldom().now = now;
    }

    pub(super) fn limiting(&self) -> Option<&'static str> {
        self.seldom().now.limiting
    }

    /// The partition is in work, and its chain ends here.
    pub(super) fn reached(&self, partition: &Partition, end: u64) {
        let mut seldom = self.seldom();
        let place = seldom.places.entry(partition.clone()).or_default();
        place.0 = place.0.max(end);
    }

    /// Of all partitions in work, `None` if none has one.
    pub(super) fn lag(&self) -> Option<u64> {
        self.seldom().places.values().filter_map(|(_, lag)| *lag).reduce(u64::saturating_add)
    }

    /// The partition is no longer in work here: another process may tell of it now.
    pub(super) fn left(&self, partition: &Partition) {
        self.seldom().places.remove(partition);
    }
}

impl Meter {
    /// The main loop turned, now; `None`: it is over.
    pub(super) fn turned(&self, now: Option<Instant>) {
        let at = now.map_or(0, |now| now.duration_since(self.started).as_nanos() as u64);
        self.vitals.turned.store(at, Relaxed);
    }

    /// The plan is read; what is missing is a partition.
    pub(super) fn set_planned(&self) {
        self.vitals.seldom().waits_for = Some("the source has assigned no partition yet");
    }

    /// The source has answered with what there is to do, be it nothing.
    pub fn set_ready(&self) {
        self.vitals.seldom().waits_for = None;
    }

    /// The source has `lag` records of `partition` behind the chain's end. Counts for partitions in work only, so that of two
    /// processes the one that has it tells.
    pub fn set_lag(&self, partition: &Partition, lag: u64) {
        if let Some(place) = self.vitals.seldom().places.get_mut(partition) {
            place.1 = Some(lag);
        }
    }

    /// All that is counted, as it stands now.
    pub fn figures(&self) -> Figures {
        let snapshot = self.snapshot();
        let (rows, skipped, parts, bytes) = self.published_so_far();
        let turned = Some(self.vitals.turned.load(Relaxed)).filter(|at| *at > 0).map(Duration::from_nanos);
        let codes = FailureCode::ALL.iter().map(|code| (*code, self.vitals.failed[*code as usize].load(Relaxed)));
        let seldom = self.vitals.seldom();
        let place = |(partition, (end, lag)): (&Partition, &(u64, Option<u64>))| Place {
            partition: partition.clone(),
            end: *end,
            lag: *lag,
        };
        Figures {
            waits_for: seldom.waits_for,
            silent: turned.map(|at| self.started.elapsed().saturating_sub(at)),
            workers: self.workers,
            failed_by_code: codes.filter(|(_, n)| *n > 0).collect(),
            published: PublishedFigures { rows, skipped, parts, bytes },
            busy_s: self.busy_s(),
            queues: seldom.now.queues,
            oldest_unpublished_s: seldom.now.oldest.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            partitions: seldom.places.iter().map(place).collect(),
            epochs: seldom.epochs,
            foreign_parts: seldom.foreign_parts,
            store_errors: crate::store::errors(),
            fetch_errors: seldom.now.fetch_errors.clone(),
            source_errors: seldom.source_errors,
            batch_sizes: seldom.batch_sizes.clone(),
            part_bytes: seldom.part_bytes.clone(),
            snapshot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_partitions_in_work_have_a_lag() {
        let (meter, partition) = (Meter::new(1), Partition::new("images-0"));
        meter.set_lag(&partition, 7);
        assert!(meter.figures().partitions.is_empty());
        meter.vitals.reached(&partition, 10);
        meter.set_lag(&partition, 5);
        meter.vitals.reached(&partition, 12);
        assert_eq!(meter.figures().partitions, [Place { partition: partition.clone(), end: 12, lag: Some(5) }]);
        meter.vitals.left(&partition);
        assert!(meter.figures().partitions.is_empty());
    }

    #[test]
    fn silence_is_measured_while_the_loop_runs() {
        let meter = Meter::new(1);
        assert_eq!(meter.figures().silent, None);
        meter.turned(Some(Instant::now()));
        std::thread::sleep(Duration::from_millis(5));
        assert!(meter.figures().silent.is_some_and(|silent| silent >= Duration::from_millis(5)));
        meter.turned(None);
        assert_eq!(meter.figures().silent, None);
    }

    #[test]
    fn sizes_fall_into_the_bucket_that_holds_them() {
        let vitals = Vitals::default();
        [1, 2, 3, 1024].into_iter().for_each(|pieces| vitals.batch(pieces));
        let sizes = vitals.seldom().batch_sizes.clone();
        assert_eq!(sizes.buckets[..3], [(1.0, 1), (2.0, 1), (4.0, 1)]);
        assert_eq!((sizes.buckets.last().map(|(_, n)| *n), sizes.sum, sizes.count), (Some(1), 1030.0, 4));
    }
}
