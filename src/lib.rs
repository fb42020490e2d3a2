//! lm4lv reads references to images, loads them, spoils or restores them, scores them, and writes one row per reference
//! (or per variant) to a Parquet dataset, each input position exactly once.
//!
//! ```text
//! source → load → degrade → restore → score → sink
//! Parquet  fetch  recipe    LM4LV,    PSNR    Parquet parts that
//! folder   decode seeded    MAE       SSIM    hold the progress
//! ```
//!
//! Words: a *record* is one input position, a *partition* a range of input rows, an *offset* the row's place in it, a
//! *sample* one variant of a record with its pixels, a *recipe* an ordered list of *degradations*, a *task* what a *restorer*
//! has learned to undo, a *part* one output Parquet file, a *stage* a step between source and sink.
//!
//! Modules, in the order of the flow: [`config`] (the pipeline file), [`pipeline`] (the only place that wires tasks and
//! channels), [`plan`], [`source`], [`load`], [`degrade`], [`restore`], [`score`], [`sink`], [`report`]; what
//! flows is in [`sample`], [`checkpoint`] and [`image`]; [`stream`] is the randomness, [`store`] folders and object stores,
//! [`kafka`] connections to brokers, [`http`] where a run can be watched, [`allocator`] where memory comes from.

pub mod allocator;
pub mod checkpoint;
pub mod config;
pub mod degrade;
pub mod error;
pub mod http;
pub mod image;
pub mod kafka;
pub mod load;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod restore;
pub mod sample;
pub mod score;
pub mod sink;
pub mod source;
pub mod stage;
pub mod store;
pub mod stream;

mod vectors;

pub use error::{Error, Result};
