//! Where records come from: the [`Source`] trait, its events, and the pipeline file's `source` section.
//!
//! A start goes: [`discover()`] what is there, [`Plan::open_or_create`](crate::plan::Plan::open_or_create) with it, take
//! [`Opened::partitions`], then [`open`] the source over them.

use std::future::Future;
use std::sync::Arc;

use crate::checkpoint::Partition;
use crate::error::Result;
use crate::plan::{Opened, PlannedPartition};
use crate::sample::Record;

use discover::Inputs;

mod config;
mod discover;
pub(crate) mod files;
mod folder;
pub(crate) mod kafka;
pub(crate) mod listing;
mod memory;
mod parquet;
mod planned;

pub use config::{ColumnChoice, ColumnsConfig, FolderConfig, OneOrMany, ParquetConfig, Scalar, SourceConfig, Values};
pub(crate) use discover::Frozen;
pub use discover::{Discovery, Look, discover};
pub use kafka::{
    Health, JsonMessage, KafkaConfig, KeptType, MessageFormat, OnDataLoss, Start, Until, reference_schema,
};
pub use memory::MemorySource;
pub use parquet::ColumnNames;

/// What a source says.
#[derive(Debug)]
pub enum Event {
    /// A partition is ours from now on; answer with [`Source::start`].
    Assigned {
        /// The partition.
        partition: Partition,
        /// What is known of its progress besides the chain.
        committed: Option<Committed>,
    },
    /// Records of one partition, offsets ascending (gaps are positions without rows), read under `epoch`.
    Records {
        /// As given to [`Source::start`].
        epoch: u64,
        /// Never empty; all of one partition.
        records: Vec<Record>,
    },
    /// Positions that had records, which nobody can read any more.
    Gap {
        /// The partition.
        partition: Partition,
        /// As given to [`Source::start`].
        epoch: u64,
        /// The offset behind them; they begin behind the last record.
        next: u64,
        /// What became of them.
        reason: String,
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

/// What a consumer group knows of a partition's progress: a hint, since it is told after the fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The offset to go on at.
    pub offset: u64,
    /// The beginning of this dataset's last part, if it was this dataset's writer that said so.
    pub part: Option<u64>,
    /// True if it was another dataset's writer.
    pub foreign: bool,
}

/// A supplier of records in partitions.
pub trait Source: Send + 'static {
    /// The next event; `None` when every assigned partition has ended and none will come (a [`Source::start`] may wake it
    /// again). Waits while it has nothing to say, or while what it has are records and the driver is not `hungry` for more.
    /// Cancel-safe. After an `Err` it may be asked again, which tries again.
    fn next(&mut self, hungry: bool) -> impl Future<Output = Result<Option<Event>>> + Send;

    /// Reads partition `p` from offset `at`, stamping `epoch`; answers `Assigned`, and seeks again after a conflict.
    fn start(&mut self, p: Partition, epoch: u64, at: u64) -> Result<()>;

    /// The positions `from..end` are durable: a hint.
    fn commit(&mut self, partition: &Partition, from: u64, end: u64);

    /// Nothing that was read of a revoked partition is held any more.
    fn release(&mut self, _partition: &Partition) {}

    /// How the source is.
    fn health(&self) -> Health {
        Health::default()
    }
}

/// Any source that a pipeline file can name.
pub struct AnySource(Kind);

enum Kind {
    Parquet(planned::Planned<parquet::ParquetRows>),
    Folder(planned::Planned<folder::FolderRows>),
    Kafka(kafka::KafkaSource),
}

/// Says whether a reference is short enough to be fetched.
pub(crate) type Fits = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The source over `partitions` of the plan `opened`, which was made or checked with `discovery`; of topics, over those that the
/// group gives us.
pub fn open(discovery: Discovery, opened: &Opened, partitions: Vec<PlannedPartition>) -> Result<AnySource> {
    open_where(discovery, opened, partitions, Arc::new(|_| true), None)
}

/// As [`open`]; of references that are too long to be fetched, as `fits` says, only the start is kept. Of topics only the first
/// `limit` records are read.
pub(crate) fn open_where(
    discovery: Discovery,
    opened: &Opened,
    partitions: Vec<PlannedPartition>,
    fits: Fits,
    limit: Option<u64>,
) -> Result<AnySource> {
    Ok(AnySource(match discovery.into_inputs() {
        Inputs::Files { files, columns, .. } => {
            Kind::Parquet(planned::Planned::new(parquet::ParquetRows::new(files, *columns, opened, fits)?, partitions))
        }
        Inputs::Images { .. } => {
            Kind::Folder(planned::Planned::new(folder::FolderRows::new(opened, &partitions)?, partitions))
        }
        Inputs::Topics { config, topics, .. } => {
            Kind::Kafka(kafka::KafkaSource::open(&config, topics, opened, fits, limit)?)
        }
    }))
}

impl Source for AnySource {
    async fn next(&mut self, hungry: bool) -> Result<Option<Event>> {
        match &mut self.0 {
            Kind::Parquet(source) => source.next(hungry).await,
            Kind::Folder(source) => source.next(hungry).await,
            Kind::Kafka(source) => source.next(hungry).await,
        }
    }

    fn start(&mut self, p: Partition, epoch: u64, at: u64) -> Result<()> {
        match &mut self.0 {
            Kind::Parquet(source) => source.start(p, epoch, at),
            Kind::Folder(source) => source.start(p, epoch, at),
            Kind::Kafka(source) => source.start(p, epoch, at),
        }
    }

    fn commit(&mut self, partition: &Partition, from: u64, end: u64) {
        match &mut self.0 {
            Kind::Parquet(source) => source.commit(partition, from, end),
            Kind::Folder(source) => source.commit(partition, from, end),
            Kind::Kafka(source) => source.commit(partition, from, end),
        }
    }

    fn release(&mut self, partition: &Partition) {
        if let Kind::Kafka(source) = &mut self.0 {
            source.release(partition);
        }
    }

    fn health(&self) -> Health {
        match &self.0 {
            Kind::Parquet(source) => source.health(),
            Kind::Folder(source) => source.health(),
            Kind::Kafka(source) => source.health(),
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
