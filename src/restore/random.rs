//! Weights that nobody trained: what a language model has learned is seen beside one that has learned nothing (the paper's figure 7),
//! and speed can be measured without any.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use crate::stream::Stream;

/// Standard deviation of the matrices, as LLaMA's and the autoencoder's `initializer_range` have it.
const DEVIATION: f32 = 0.02;

/// Every tensor that is asked for: matrices normal with a standard deviation of 0.02, vectors ones (as norms have them). The same
/// values for a seed and a name, whatever is asked for before.
#[derive(Debug, Clone, Copy)]
pub struct Random {
    /// Names the model among all random ones.
    pub seed: u64,
}

impl SimpleBackend for Random {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        if shape.rank() < 2 {
            return Tensor::ones(shape, dtype, device);
        }
        let mut values = vec![0.0; shape.elem_count()];
        Stream::new(self.seed, name, 0, "weights", "normal", 1).fill_normals(&mut values);
        for value in &mut values {
            *value *= DEVIATION;
        }
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("tensor {name}: random weights need a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
