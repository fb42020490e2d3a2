//! The restorer that leaves images as they are: to try a pipeline without a model, and to measure what surrounds one.

use super::{Restored, Restorer, Stamp, TaskId, Trouble};
use crate::image::{Image, Planes};

/// Images a batch: enough to see batches, few enough to hold little.
const BATCH: usize = 16;

/// Gives back what it is given.
#[derive(Debug)]
pub(super) struct Identity {
    stamp: Stamp,
}

impl Identity {
    pub(super) fn new() -> Self {
        let stamp = Stamp {
            model: "identity".to_owned(),
            weights_sha256: String::new(),
            decoder: None,
            device: "cpu".to_owned(),
            dtype: "f32",
        };
        Self { stamp }
    }
}

impl Restorer for Identity {
    fn side(&self) -> Option<u32> {
        None
    }

    fn task(&self, _: &str) -> Option<TaskId> {
        None
    }

    fn tasks(&self) -> Vec<&str> {
        Vec::new()
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn restore(&self, _: TaskId, images: &[&Image]) -> Result<Vec<Restored>, Trouble> {
        let same = |image: &&Image| Restored { output: Planes::from_image(image), baseline: None, passes: None };
        Ok(images.iter().map(same).collect())
    }
}
