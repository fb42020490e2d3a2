//! What a run is doing: counters that every thread adds to, read by the progress display and the table at the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::vitals::Vitals;
use crate::checkpoint::Partition;
use crate::plan::PlannedPartition;
use crate::report::summary::{Batches, Snapshot, StageShare, Summary};
use crate::sink::{Outcomes, Published};

/// The stages in the order of the flow; `fetch` is the time that workers waited while fetches were under way.
const STAGES: &[&str] = &["fetch", MEMORY, "decode", "degrade", RESTORE, "score", "encode", "sink"];
/// The time that workers waited until others needed less of `run.memory_mib`; not shown where none did.
pub(super) const MEMORY: &str = "memory";
/// The stage with a thread of its own; not shown where nothing is restored.
const RESTORE: &str = "restore";
/// Rates and shares of late cover this.
const OF_LATE: Duration = Duration::from_secs(10);
/// A wait of this share of the workers' time means that something else limits.
const WAITING: f64 = 0.2;

/// Counters of one run. All methods may be called from any thread.
#[derive(Debug)]
pub struct Meter {
    pub(super) started: Instant,
    pub(super) workers: usize,
    rows: AtomicU64,
    /// When the first and the last row so far were finished, nanoseconds since the start; 0 before there is one.
    first_row: AtomicU64,
    last_row: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Rows that `max_failed_share` is judged by: not those that a storm may still take back.
    pub(super) judged: AtomicU64,
    /// Failed rows among them.
    pub(super) judged_failed: AtomicU64,
    pub(super) fetching: AtomicU64,
    busy: [AtomicU64; STAGES.len()],
    slow: Mutex<Slow>,
    pub(super) vitals: Vitals,
}

/// What changes rarely or is read rarely.
#[derive(Debug, Default)]
struct Slow {
    variants: u64,
    positions: BTreeMap<Partition, u64>,
    /// `None` for a stream.
    rows_total: Option<u64>,
    rows_before: u64,
    rows_done: u64,
    published: u64,
    skipped: u64,
    /// Where each chain is known to end.
    ends: BTreeMap<Partition, u64>,
    outcomes: Outcomes,
    parts: u64,
    bytes: u64,
    paused: Option<String>,
    restoring: Option<Restoring>,
    history: VecDeque<(Instant, Totals)>,
}

/// The batches so far.
#[derive(Debug)]
struct Restoring {
    first: Instant,
    last: Instant,
    busy: Duration,
    batches: u64,
    pieces: u64,
}

impl Slow {
    /// A chain has come to `end`, by our doing or another's.
    fn reach(&mut self, partition: &Partition, end: u64, ours: bool) {
        let here = self.positions.get(partition).copied().unwrap_or(0);
        let known = self.ends.entry(partition.clone()).or_default();
        let more = end.min(here).saturating_sub(*known);
        *known += more;
        self.rows_done += self.variants * more;
        if !ours {
            self.rows_before += self.variants * more;
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    rows: u64,
    busy_ns: [u64; STAGES.len()],
}

impl Meter {
    /// Zero, for a run with `workers` CPU threads.
    pub fn new(workers: usize) -> Self {
        Self {
            started: Instant::now(),
            workers,
            rows: AtomicU64::new(0),
            first_row: AtomicU64::new(0),
            last_row: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            judged: AtomicU64::new(0),
            judged_failed: AtomicU64::new(0),
            fetching: AtomicU64::new(0),
            busy: Default::default(),
            slow: Mutex::default(),
            vitals: Vitals::default(),
        }
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker finished `rows` rows.
    pub(super) fn add_rows(&self, rows: u64) {
        let now = self.started.elapsed().as_nanos() as u64;
        if self.rows.fetch_add(rows, Relaxed) == 0 {
            self.first_row.store(now, Relaxed);
        }
        self.last_row.fetch_max(now, Relaxed);
    }

    /// A thread spent `time` in `stage`.
    pub(super) fn add_busy(&self, stage: &str, time: Duration) {
        if let Some(index) = STAGES.iter().position(|name| *name == stage) {
            self.busy[index].fetch_add(time.as_nanos() as u64, Relaxed);
        }
    }

    /// The restorer was busy from `started` to `ended` with a batch of `pieces` images or tiles.
    pub(super) fn add_batch(&self, started: Instant, ended: Instant, pieces: usize) {
        let busy = ended.duration_since(started);
        self.add_busy(RESTORE, busy);
        self.vitals.batch(pieces);
        let mut slow = self.slow();
        let none = Restoring { first: started, last: ended, busy: Duration::ZERO, batches: 0, pieces: 0 };
        let restoring = slow.restoring.get_or_insert(none);
        restoring.last = ended;
        restoring.busy += busy;
        restoring.batches += 1;
        restoring.pieces += pieces as u64;
    }

    /// This run has these positions to do, `variants` rows each.
    pub(crate) fn plan_for(&self, partitions: &[PlannedPartition], variants: u16) {
        let mut slow = self.slow();
        slow.variants = u64::from(variants);
        slow.rows_total = Some(slow.variants * partitions.iter().map(|partition| partition.rows).sum::<u64>());
        slow.positions = partitions.iter().map(|partition| (partition.partition.clone(), partition.rows)).collect();
        drop(slow);
        self.set_planned();
    }

    /// A chain was found to have come to `end`, by an earlier run or another writer.
    pub(super) fn found(&self, partition: &Partition, end: u64) {
        self.slow().reach(partition, end, false);
    }

    /// Says why nothing is read, or that it is read again.
    pub(super) fn set_paused(&self, why: Option<String>) {
        self.slow().paused = why;
    }

    /// A part of this run is durable.
    pub(super) fn published(&self, part: &Published) {
        self.vitals.part(part.bytes);
        let mut slow = self.slow();
        slow.parts += 1;
        slow.bytes += part.bytes;
        slow.published += part.rows;
        slow.skipped += part.skipped;
        slow.reach(&part.partition, part.end, true);
        slow.outcomes.merge(&part.outcomes);
    }

    /// Rows, positions without rows, parts and bytes that this process published.
    pub(super) fn published_so_far(&self) -> (u64, u64, u64, u64) {
        let slow = self.slow();
        (slow.published, slow.skipped, slow.parts, slow.bytes)
    }

    /// Seconds that threads were busy with each stage so far.
    pub(super) fn busy_s(&self) -> Vec<(&'static str, f64)> {
        STAGES.iter().zip(&self.busy).map(|(stage, ns)| (*stage, ns.load(Relaxed) as f64 / 1e9)).collect()
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals { rows: self.rows.load(Relaxed), ..Totals::default() };
        for (total, busy) in totals.busy_ns.iter_mut().zip(&self.busy) {
            *total = busy.load(Relaxed);
        }
        totals
    }

    /// Each stage's share of all workers' time between two totals (`sink`, `restore`: of their one thread's).
    fn shares(&self, from: &Totals, to: &Totals, seconds: f64) -> Vec<StageShare> {
        STAGES
            .iter()
            .enumerate()
            .filter(|(index, stage)| ![RESTORE, MEMORY].contains(stage) || to.busy_ns[*index] > 0)
            .map(|(index, stage)| {
                let threads = if ["sink", RESTORE].contains(stage) { 1 } else { self.workers };
                let busy = (to.busy_ns[index] - from.busy_ns[index]) as f64 / 1e9;
                StageShare { stage, busy: (busy / (seconds * threads as f64).max(1e-9)).min(1.0) }
            })
            .collect()
    }

    /// Where the run stands.
    pub fn snapshot(&self) -> Snapshot {
        let (now, totals) = (Instant::now(), self.totals());
        let mut slow = self.slow();
        slow.history.push_back((now, totals));
        while slow.history.len() > 2 && slow.history.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= OF_LATE) {
            slow.history.pop_front();
        }
        let (since, from) = match slow.history.front() {
            Some((at, from)) if *at < now => (*at, *from),
            _ => (self.started, Totals::default()),
        };
        let seconds = now.duration_since(since).as_secs_f64();
        let stages = self.shares(&from, &totals, seconds);
        Snapshot {
            rows: totals.rows,
            rows_total: slow.rows_total.map(|total| total.saturating_sub(slow.rows_before)),
            failed: self.failed.load(Relaxed),
            elapsed_s: self.started.elapsed().as_secs_f64(),
            rows_per_s: (totals.rows - from.rows) as f64 / seconds.max(1e-9),
            limiting: self.vitals.limiting().or_else(|| limiting(&stages)),
            stages,
            lag: self.vitals.lag(),
            paused: slow.paused.clone(),
        }
    }

    /// What the run did, once it is over; the caller adds what only it knows.
    pub(crate) fn summary(&self) -> Summary {
        let totals = self.totals();
        let slow = self.slow();
        let elapsed_s = self.started.elapsed().as_secs_f64();
        let stages = self.shares(&Totals::default(), &totals, elapsed_s);
        let at = |ns: &AtomicU64| Some(ns.load(Relaxed)).filter(|ns| *ns > 0).map(|ns| ns as f64 / 1e9);
        Summary {
            rows: slow.published,
            skipped: slow.skipped,
            rows_before: slow.rows_before,
            rows_left: slow.rows_total.map(|total| total.saturating_sub(slow.rows_done)),
            failed: slow.outcomes.failures.clone(),
            parts: slow.parts,
            bytes: slow.bytes,
            elapsed_s,
            first_row_s: at(&self.first_row),
            last_row_s: at(&self.last_row),
            rows_per_s: slow.published as f64 / elapsed_s.max(1e-9),
            limiting: limiting(&stages),
            stages,
            scores: slow.outcomes.scores.clone(),
            batches: slow.restoring.as_ref().map(|restoring| Batches {
                count: restoring.batches,
                pieces: restoring.pieces,
                busy: restoring.busy.as_secs_f64() / (restoring.last - restoring.first).as_secs_f64().max(1e-9),
            }),
            ..Summary::default()
        }
    }
}

/// The stage that the others wait for, `None` while nothing happened: fetches or memory if workers wait for them, else what takes
/// most of the workers' time.
fn limiting(stages: &[StageShare]) -> Option<&'static str> {
    if stages.iter().all(|stage| stage.busy < 0.01) {
        return None;
    }
    let share = |name| stages.iter().find(|stage| stage.stage == name).map_or(0.0, |stage| stage.busy);
    // Before the fetches: workers that have nothing to fetch for a busy restorer wait, too.
    if share(RESTORE) > 1.0 - WAITING {
        return Some(RESTORE);
    }
    for waited in ["fetch", MEMORY] {
        if share(waited) > WAITING {
            return Some(waited);
        }
    }
    if share("sink") > 1.0 - WAITING {
        return Some("sink");
    }
    stages.iter().filter(|stage| stage.busy > 0.0).max_by(|a, b| a.busy.total_cmp(&b.busy)).map(|stage| stage.stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_wait_for_limits() {
        let limits = |busy: &[(&'static str, f64)]| {
            limiting(&busy.iter().map(|&(stage, busy)| StageShare { stage, busy }).collect::<Vec<_>>())
        };
        assert_eq!(limits(&[("fetch", 0.001), ("degrade", 0.002)]), None);
        assert_eq!(limits(&[("fetch", 0.1), ("memory", 0.1), ("degrade", 0.5), ("encode", 0.3)]), Some("degrade"));
        assert_eq!(limits(&[("fetch", 0.0), ("memory", 0.48), ("degrade", 0.5)]), Some("memory"));
        assert_eq!(limits(&[("fetch", 0.3), ("degrade", 0.7)]), Some("fetch"));
        assert_eq!(limits(&[("memory", 0.4), ("decode", 0.1), ("restore", 0.9)]), Some("restore"));
        assert_eq!(limits(&[("degrade", 0.6), ("sink", 0.9)]), Some("sink"));
    }
}
