//! Where records come from: the [`Source`] trait, its events, and the pipeline file's `source` section.
//!
//! A start goes: [`discover()`] what is there, [`Plan::open_or_create`](crate::plan::Plan::open_or_create) with it, take
//! [`Opened::partitions`], then [`open`] the source over them.

use std::future::Future;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Partition};
use crate::error::Result;
use crate::plan::{Opened, PlannedPartition};
use crate::sample::Record;

mod config;
mod discover;
pub(crate) mod files;
mod folder;
pub(crate) mod listing;
mod memory;
mod parquet;
mod planned;

pub use config::{ColumnChoice, ColumnsConfig, FolderConfig, ParquetConfig, Paths, Scalar, SourceConfig, Values};
pub(crate) use discover::Frozen;
pub use discover::{Discovery, Look, discover};
pub use memory::MemorySource;
pub use parquet::ColumnNames;

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
    /// again). Waits while it has nothing to say. Cancel-safe. After an `Err` it may be asked again, which tries again.
    fn next(&mut self) -> impl Future<Output = Result<Option<Event>>> + Send;

    /// Reads partition `p` from offset `at`, stamping `epoch`; answers `Assigned`, and seeks again after a conflict.
    fn start(&mut self, p: Partition, epoch: u64, at: u64) -> Result<()>;

    /// Progress that is durable now: a hint.
    fn commit(&mut self, upto: &Checkpoint);
}

/// Any source that a pipeline file can name.
pub struct AnySource(Kind);

enum Kind {
    Parquet(planned::Planned<parquet::ParquetRows>),
    Folder(planned::Planned<folder::FolderRows>),
}

/// Says whether a reference is short enough to be fetched.
pub(crate) type Fits = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The source over `partitions` of the plan `opened`, which was made or checked with `discovery`.
pub fn open(discovery: Discovery, opened: &Opened, partitions: Vec<PlannedPartition>) -> Result<AnySource> {
    open_where(discovery, opened, partitions, Arc::new(|_| true))
}

/// As [`open`]; of references that are too long to be fetched, as `fits` says, only the start is kept.
pub(crate) fn open_where(
    discovery: Discovery,
    opened: &Opened,
    partitions: Vec<PlannedPartition>,
    fits: Fits,
) -> Result<AnySource> {
    Ok(AnySource(match discovery.into_files() {
        Some((files, columns)) => {
            Kind::Parquet(planned::Planned::new(parquet::ParquetRows::new(files, columns, opened, fits)?, partitions))
        }
        None => Kind::Folder(planned::Planned::new(folder::FolderRows::new(opened, &partitions)?, partitions)),
    }))
}

impl Source for AnySource {
    async fn next(&mut self) -> Result<Option<Event>> {
        match &mut self.0 {
            Kind::Parquet(source) => source.next().await,
            Kind::Folder(source) => source.next().await,
        }
    }

    fn start(&mut self, p: Partition, epoch: u64, at: u64) -> Result<()> {
        match &mut self.0 {
            Kind::Parquet(source) => source.start(p, epoch, at),
            Kind::Folder(source) => source.start(p, epoch, at),
        }
    }

    fn commit(&mut self, upto: &Checkpoint) {
        match &mut self.0 {
            Kind::Parquet(source) => source.commit(upto),
            Kind::Folder(source) => source.commit(upto),
        }
    }
}

/// Runs file work of some milliseconds without holding up the other tasks of this thread. (Elsewhere tasks would do; in this
/// program only the pipeline spawns.)
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
