//! Where a run stands: partitions, positions in them, and for each the offset to read next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a partition: `<file:05>-<range:05>` for a range of rows of an input file, `<topic>-<n>` for Kafka.
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(Arc<str>);

impl Partition {
    /// The partition called `name`, which is also its folder below `data/`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Row range `range` of input file `file`, both counted from 0.
    pub fn of_file(file: usize, range: usize) -> Self {
        Self::new(format!("{file:05}-{range:05}"))
    }

    /// Partition `number` of Kafka topic `topic`.
    pub fn of_topic(topic: &str, number: i32) -> Self {
        Self::new(format!("{topic}-{number}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One input record's place: its partition and the offset in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The partition.
    pub partition: Partition,
    /// Counts from 0 at the partition's first row (files), or the message's own (Kafka).
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// For each partition the offset to read next.
pub type Checkpoint = BTreeMap<Partition, u64>;
