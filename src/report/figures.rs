//! What a run counts, for those who watch it from outside: plain data, which `/metrics` and `/status` show.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::summary::Snapshot;
use crate::checkpoint::Partition;
use crate::sample::FailureCode;

/// All that a run counts. Counters begin with the process; bytes, seconds and records are whole units.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Where the run stands.
    #[serde(flatten)]
    pub snapshot: Snapshot,
    /// Why the run is not ready: the plan is not read yet, or no partition was assigned so far. `None`: it is.
    pub waits_for: Option<&'static str>,
    /// Since when the main loop has not turned; `None` before it begins and once it is over.
    #[serde(skip)]
    pub silent: Option<Duration>,
    /// CPU threads.
    pub workers: usize,
    /// Failed rows by code, published or not.
    pub failed_by_code: BTreeMap<FailureCode, u64>,
    /// What this process published.
    pub published: PublishedFigures,
    /// Seconds that threads were busy with each stage.
    #[serde(skip)]
    pub busy_s: Vec<(&'static str, f64)>,
    /// What is on its way.
    pub queues: Queues,
    /// Seconds since the oldest record that is not in a published part was admitted (to within a second); 0 if all are.
    pub oldest_unpublished_s: f64,
    /// The partitions in work.
    pub partitions: Vec<Place>,
    /// Times that a partition was started, or started anew.
    pub epochs: u64,
    /// Parts of other writers that this process found where its own should have stood.
    pub foreign_parts: u64,
    /// Failed requests to the stores of the output and of listed or planned inputs, by kind.
    pub store_errors: BTreeMap<&'static str, u64>,
    /// Tries to fetch an image that failed in a way that may pass, by code; those that are tried again included.
    pub fetch_errors: BTreeMap<FailureCode, u64>,
    /// Times that the source did not answer.
    pub source_errors: u64,
    /// Images and tiles in a batch of the restorer.
    #[serde(skip)]
    pub batch_sizes: Histogram,
    /// Bytes of published parts.
    #[serde(skip)]
    pub part_bytes: Histogram,
}

/// Published by this process.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct PublishedFigures {
    /// Rows.
    pub rows: u64,
    /// Positions without rows.
    pub skipped: u64,
    /// Parts.
    pub parts: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What lies between the source and the store.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Queues {
    /// Records that were read and are not fetched yet.
    pub pending_records: u64,
    /// Records being fetched.
    pub fetching_records: u64,
    /// Records with the workers or the restorer, or waiting for them.
    pub working_records: u64,
    /// Bytes of records on their way to the sink, without pixels.
    pub records_bytes: u64,
    /// Bytes of rows in the sink: in windows and open row groups.
    pub rows_bytes: u64,
    /// Bytes of closed parts on the local disk that wait for the store.
    pub parts_bytes: u64,
}

/// A partition in work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its name.
    pub partition: Partition,
    /// Where its chain is known to end: the next offset to publish.
    pub end: u64,
    /// Records in the source behind the chain's end, where the source tells.
    pub lag: Option<u64>,
}

/// Values counted by size.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// Upper bounds, ascending, each with the values above the bound before it.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all values.
    pub sum: f64,
    /// How many there are.
    pub count: u64,
}

impl Histogram {
    /// No value yet; what lies above the last of `bounds` is counted, too.
    pub fn new(bounds: impl IntoIterator<Item = f64>) -> Self {
        let buckets = bounds.into_iter().chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        Self { buckets, sum: 0.0, count: 0 }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        if let Some((_, n)) = self.buckets.iter_mut().find(|(bound, _)| value <= *bound) {
            *n += 1;
        }
        self.sum += value;
        self.count += 1;
    }
}
