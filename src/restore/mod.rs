//! Restoring images in batches: the [`Restorer`] trait, what a restored image is, and which restorer a pipeline file asks for.
//!
//! A restorer takes square images of its own size and never sees a channel; cutting an image of another size into *tiles* and
//! blending them again is [`tile`]'s, filling batches is the driver's.

pub mod bench;
pub mod config;
pub mod device;
pub mod folder;
pub mod inspect;
pub mod llama;
pub mod lm4lv;
pub mod mae;
pub mod manifest;
pub mod pack;
pub mod random;
pub mod tile;
pub mod tokens;
pub mod weights;

mod attention;
mod identity;
mod kernels;
mod model;
mod ops;
mod parts;

use crate::error::{Error, Result};
use crate::image::{Image, Planes};

pub use crate::sample::Stamp;
pub use config::RestoreConfig;

/// A task of a model (what an adapter restores), as a number that batches are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub usize);

/// Restores batches of images.
pub trait Restorer: Send + Sync + 'static {
    /// The side in pixels of the square images that it takes; `None`: images of any size, each batch of one size.
    fn side(&self) -> Option<u32>;

    /// The task of that name; `None` if the model has no such task.
    fn task(&self, name: &str) -> Option<TaskId>;

    /// The names of all tasks, in the order of their numbers.
    fn tasks(&self) -> Vec<&str>;

    /// Images a batch should have where the pipeline file leaves it to the restorer.
    fn batch(&self) -> usize;

    /// What its rows record.
    fn stamp(&self) -> &Stamp;

    /// Restores `images`, all of one size (its [`side`](Self::side)), one answer each, in their order. An image's answer does not
    /// depend on its neighbours beyond float rounding.
    fn restore(&self, task: TaskId, images: &[&Image]) -> Result<Vec<Restored>, Trouble>;
}

/// A restored image.
#[derive(Debug, Clone)]
pub struct Restored {
    /// `[3, H, W]`, clipped to `[0, 1]`, not yet quantised.
    pub output: Planes,
    /// What the autoencoder alone makes of the input, the same shape; where it was asked for.
    pub baseline: Option<Planes>,
    /// Passes of the language model that the image took; `None` where there is none.
    pub passes: Option<u32>,
}

/// Why a batch was not restored.
#[derive(Debug)]
pub enum Trouble {
    /// The device's memory is too small for the batch: a smaller one may do. The device's own words.
    OutOfMemory(String),
    /// The run stops.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The restorer that `config` asks for. `Error::Config` for a model that cannot be read or a device that is not there.
pub fn open(config: &RestoreConfig) -> Result<Box<dyn Restorer>> {
    match config.model() {
        None => Ok(Box::new(identity::Identity::new())),
        Some(model) => Ok(Box::new(model::Model::open(config, model)?)),
    }
}

/// SHA-256 over the hashes of the files that `config`'s restorer computes with, hex, as its [`Stamp`] has it, without opening
/// it: for the content hash. Empty where there are no files. `Error::Config` for a model folder that cannot be read.
pub fn weights_sha256(config: &RestoreConfig) -> Result<String> {
    match config.model() {
        None => Ok(String::new()),
        Some(model) => Ok(folder::ModelFolder::open(&model.model)?.weights_sha256()),
    }
}
