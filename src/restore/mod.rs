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
mod model;
pub mod pack;
mod parts;
pub mod tokens;
pub mod weights;

mod kernels;
mod ops;
pub mod random;

use crate::error::{Error, Result};
use crate::image::{Image, Planes};

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

/// What every row of a run records of its restorer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The model's name, from its manifest.
    pub model: String,
    /// SHA-256 over the hashes of the model's files, hex; empty where there are none.
    pub weights_sha256: String,
    /// `parallel` or `autoregressive`; `None` where nothing is generated.
    pub decoder: Option<&'static str>,
    /// Such as `cpu` or `cuda:0 NVIDIA H200`.
    pub device: String,
    /// The type that the model computes in: `f32` or `bf16`.
    pub dtype: &'static str,
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
