//! Reference → bytes → pixels.

use bytes::Bytes;

use crate::error::Result;
use crate::sample::{Record, Sample};
use crate::stage::Fault;
use crate::store::Stores;

/// The pipeline file's `load` section.
#[derive(Debug, Clone)]
pub struct LoadConfig {}

/// Fetches the bytes behind references.
pub struct Loader {}

/// What a fetch gave.
pub struct Fetched {
    /// The image file's bytes.
    pub input: Result<Bytes, Fault>,
    /// The same for the record's target, if it names one.
    pub target: Option<Result<Bytes, Fault>>,
    /// Tries, of the one that took more.
    pub attempts: u32,
    /// The host or store that was asked, if any: whom a storm is blamed on.
    pub host: Option<String>,
    /// True if that host was asked with credentials.
    pub credentials: bool,
    /// Milliseconds from admission to here.
    pub fetch_ms: f32,
}

impl Loader {
    /// `default_root` is where relative references start when `load.root` is `auto`; `budget` bounds the bytes of bodies
    /// in flight.
    pub fn new(_config: &LoadConfig, _stores: &Stores, _default_root: Option<&str>, _budget: u64) -> Result<Self> {
        todo!()
    }

    /// Fetches what `record` names. Never longer than the deadline.
    pub async fn fetch(&self, _record: &Record) -> Fetched {
        todo!()
    }
}

/// Decodes, resizes and crops: bytes → samples. CPU work.
pub struct Prepare {}

impl Prepare {
    /// `seed` and `variants` are the `degrade` section's.
    pub fn new(_config: &LoadConfig, _seed: u64, _variants: u16) -> Self {
        todo!()
    }

    /// Peak bytes that [`Self::samples`] and the stages behind it will hold for these files, from their headers alone.
    pub fn working_bytes(&self, _fetched: &Fetched) -> u64 {
        todo!()
    }

    /// One sample for each variant, failed ones included.
    pub fn samples(&self, _record: &Record, _fetched: Fetched) -> Result<Vec<Sample>> {
        todo!()
    }
}
