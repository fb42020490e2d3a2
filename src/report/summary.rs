//! What a run says of itself: [`Snapshot`] while it works, [`Summary`] when it ends. Plain data; the command line draws them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sample::FailureCode;
use crate::sink::ScoreMean;

/// Where a run stands; cheap to take several times a second.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Rows finished by this process in this run, failed ones included, published or not.
    pub rows: u64,
    /// Rows that this process has to do in this run; `None` where nobody knows (a stream).
    pub rows_total: Option<u64>,
    /// Failed rows among `rows`.
    pub failed: u64,
    /// Seconds since the start.
    pub elapsed_s: f64,
    /// Rows a second of late (the last ten seconds or so).
    pub rows_per_s: f64,
    /// What each stage's threads did of late.
    pub stages: Vec<StageShare>,
    /// The stage that the others wait for, if one stands out; `source` where there is nothing to do, `store` where finished parts
    /// wait to be taken.
    pub limiting: Option<&'static str>,
    /// Records of a stream that lie behind the ends of this process's chains, `None` where the source is no stream.
    pub lag: Option<u64>,
    /// Set while intake is paused: why, such as `storm: photos.example answers 403`.
    pub paused: Option<String>,
}

/// How busy a stage was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageShare {
    /// The stage's name.
    pub stage: &'static str,
    /// Of the CPU time of all workers, 0 to 1; for `restore` and `sink`, of the one thread that each has.
    pub busy: f64,
}

/// What the restorer did in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Batches {
    /// Batches, those included that were too large for the device's memory.
    pub count: u64,
    /// Images and tiles in them.
    pub pieces: u64,
    /// Of the time between the start of the first and the end of the last, the share in which the restorer was busy, 0 to 1.
    pub busy: f64,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The dataset, as `sink.dir` names it.
    pub dir: String,
    /// Rows published by this run.
    pub rows: u64,
    /// Positions that this run passed by without rows: `where` left them out.
    pub skipped: u64,
    /// Rows that were published before it, in the partitions of this process.
    pub rows_before: u64,
    /// Rows that are still to do in the partitions of this process; `None` where nobody knows.
    pub rows_left: Option<u64>,
    /// Failed rows among `rows`, by code.
    pub failed: BTreeMap<FailureCode, u64>,
    /// Failed rows of the whole dataset, by code; only looked up where this run found everything done in a local folder.
    pub failed_before: Vec<(String, u64)>,
    /// Files found under the source that the plan does not hold: `--extend` would add them.
    pub new_inputs: u64,
    /// Parts published by this run.
    pub parts: u64,
    /// Bytes of these parts.
    pub bytes: u64,
    /// Seconds from start to end.
    pub elapsed_s: f64,
    /// Seconds from start until the first row was finished, published or not; `None` without rows.
    pub first_row_s: Option<f64>,
    /// The same for the last row.
    pub last_row_s: Option<f64>,
    /// Rows a second over the whole run.
    pub rows_per_s: f64,
    /// How busy each stage was over the whole run, in the order of the flow.
    pub stages: Vec<StageShare>,
    /// The stage that the others waited for, if one stood out.
    pub limiting: Option<&'static str>,
    /// Each score column of this run's rows.
    pub scores: Vec<ScoreMean>,
    /// What the restorer did; `None` where nothing was restored.
    pub batches: Option<Batches>,
    /// The contact sheet, if one was drawn.
    pub sheet: Option<String>,
}

impl Summary {
    /// True if this run found everything done.
    pub fn was_done(&self) -> bool {
        self.rows == 0 && self.skipped == 0 && self.rows_left == Some(0) && !self.had_nothing_to_do()
    }

    /// True if there was no position for this run: an empty input, shard or limit.
    pub fn had_nothing_to_do(&self) -> bool {
        self.rows == 0 && self.skipped == 0 && self.rows_before == 0 && self.rows_left == Some(0)
    }

    /// Failed rows of this run.
    pub fn failed_rows(&self) -> u64 {
        self.failed.values().sum()
    }
}
