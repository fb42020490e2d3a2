//! The bodies of the fuzz targets: what must hold for any bytes whatever.
//!
//! `fuzz_targets/*.rs` hand them to libFuzzer (see `scripts/fuzz.sh`), and `tests/fuzz.rs` includes this file and runs them
//! over the corpus with the test command. A body panics where a promise does not hold. Nothing private is reached for: each
//! goes in through the door that the pipeline uses.

mod choices;
mod decode;
mod degrade;
mod footer;
mod memory;
mod pipeline;
mod plan;
mod reference;
mod resize;
mod weights;

pub use decode::decode;
pub use degrade::degrade;
pub use footer::footer;
pub use pipeline::pipeline;
pub use plan::plan;
pub use reference::reference;
pub use resize::resize;
pub use weights::weights;

use std::sync::{Arc, Once};

use bytes::Bytes;
use lm4lv::checkpoint::{Partition, Position};
use lm4lv::sample::{Record, Reference};
use lm4lv::store::Folder;
use object_store::memory::InMemory;
use object_store::path::Path;

/// A record that refers to `reference`.
fn record(reference: Reference) -> Record {
    Record::new("key", reference, Position { partition: Partition::of_file(0, 0), offset: 0 })
}

/// An empty folder in memory.
fn folder() -> Folder {
    Folder::Remote { store: Arc::new(InMemory::new()), prefix: Path::default(), url: "memory://folder".into() }
}

/// Waits for `future`. The clock jumps over pauses: a minute of patience costs nothing.
fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Puts `bytes` into `folder` as `name`.
async fn put(folder: &Folder, name: &str, bytes: impl Into<Bytes>) {
    folder.put(name, bytes.into()).await.unwrap();
}

/// A panic in the crate of a decoder or of Parquet is caught and becomes a row `corrupt`, or a fault in a report; libFuzzer
/// would end at it. In our own code it is a finding.
fn let_crates_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match panic.location() {
            Some(at) if at.file().contains("/registry/") => eprintln!("caught: {at}"),
            _ => hook(panic),
        }));
    });
}
