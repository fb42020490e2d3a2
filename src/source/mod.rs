//! Where records come from: the [`Source`] trait, its events, and the pipeline file's `source` section.

use std::future::Future;

use crate::checkpoint::{Checkpoint, Partition};
use crate::error::Result;
use crate::sample::Record;

/// What a source says.
#[derive(Debug)]
pub enum Event {
    /// A partition is ours from now on; answer with [`Source::start`].
    Assigned(Partition),
    /// Records of one partition, offsets ascending (gaps are positions without rows), read under `epoch`.
    Records {
        /// As given to [`Source::start`].
        epoch: u64,
        /// Never empty; all of one partition.
        records: Vec<Record>,
    },
    /// Nothing more will come of this partition in this run; every position below `next` was given or has no row.
    End {
        /// The partition.
        partition: Partition,
        /// As given to [`Source::start`].
        epoch: u64,
        /// The offset behind the last.
        next: u64,
    },
    /// A partition is no longer ours.
    Revoked {
        /// The partition.
        partition: Partition,
        /// True if it is somebody else's already.
        lost: bool,
    },
}

/// A supplier of records in partitions.
pub trait Source: Send + 'static {
    /// The next event; `None` when every assigned partition has ended and none will come (a [`Source::start`] may wake it
    /// again). Waits while it has nothing to say. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Event>>> + Send;

    /// Reads partition `p` from offset `at`, stamping `epoch`; answers `Assigned`, and seeks again after a conflict.
    fn start(&mut self, p: Partition, epoch: u64, at: u64) -> Result<()>;

    /// Progress that is durable now: a hint.
    fn commit(&mut self, upto: &Checkpoint);
}
