//! Random streams: the same bytes for a seed, key, variant, step and operation, whatever the batch, order, machine or CPU.
//!
//! Stream = ChaCha8 seeded by BLAKE3 over (run seed, record key, variant, step path, operation, its version). The recipe
//! is not in it, so a sweep over a parameter shares its noise.

/// A stream of random numbers for one step of one sample.
pub struct Stream {}

impl Stream {
    /// The stream of operation `op` (at `version`) standing at `step` of the recipe.
    pub fn new(_seed: u64, _key: &str, _variant: u16, _step: &str, _op: &str, _version: u16) -> Self {
        todo!()
    }

    /// A whole number in `0..n`, unbiased. `n` must not be 0.
    pub fn below(&mut self, _n: u64) -> u64 {
        todo!()
    }
}
