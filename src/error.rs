//! What stops a run: [`Error`], one variant for each way out, with the exit code that the shell sees.

use std::io;
use std::path::PathBuf;

/// The run is bad (not one record of it: that is a [`Failure`](crate::sample::Failure)).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pipeline file, a flag or the dataset's plan does not allow this run. Exit 2.
    #[error("{0}")]
    Config(String),
    /// Going on could lose or double rows: the input or the output is not what the plan says. Exit 3.
    #[error("{0}")]
    DataLoss(String),
    /// More rows failed than `run.max_failed_share` allows. Exit 4.
    #[error(
        "{failed} of {rows} rows failed, more than run.max_failed_share allows: look at error_code in the rows written so far"
    )]
    TooManyFailed {
        /// Failed rows of this run.
        failed: u64,
        /// All rows of this run.
        rows: u64,
    },
    /// A local disk refused a read or a write. Exit 74.
    #[error("{path}: {source}")]
    Disk {
        /// The file or folder at fault.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A store, a host or a network would not answer for `run.storm.give_up_s`; a later run goes on where this stopped. Exit 75.
    #[error("{what}: {reason}")]
    Unavailable {
        /// The host, store or object at fault.
        what: String,
        /// The last thing that it answered.
        reason: String,
    },
    /// A promise inside this program did not hold. Exit 1.
    #[error("{0} (this is a bug in lm4lv: please report it)")]
    Bug(String),
}

/// The result of anything that can stop a run.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A local I/O error on `path`.
    pub fn disk(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Disk { path: path.into(), source }
    }

    /// The process's exit code, as `lm4lv run --help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bug(_) => 1,
            Self::Config(_) => 2,
            Self::DataLoss(_) => 3,
            Self::TooManyFailed { .. } => 4,
            Self::Disk { .. } => 74,
            Self::Unavailable { .. } => 75,
        }
    }
}
