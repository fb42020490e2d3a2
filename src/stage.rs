//! The step between source and sink: the [`Stage`] trait and the two ways it can fail.

use crate::error::Error;
use crate::sample::{FailureCode, Record, Sample};

/// Edits one sample in place. The driver skips samples that failed, measures the time, and names the stage in errors.
pub trait Stage: Send + Sync + 'static {
    /// The pipeline file's word for it, as shown in tables and in `*_ms` columns.
    fn name(&self) -> &'static str;

    /// Does the step. `Fault::Record` makes the sample a failed row, `Fault::Run` stops the run.
    fn process(&self, record: &Record, sample: &mut Sample) -> Result<(), Fault>;
}

/// What went wrong in a step.
#[derive(Debug)]
pub enum Fault {
    /// This row fails, with a code and a message for `error_code` and `error_message`.
    Record(FailureCode, String),
    /// The run stops.
    Run(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Run(error)
    }
}
