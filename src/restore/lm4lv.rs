//! LM4LV (Zheng, Gu, Li, Dong, arXiv 2405.15734): visual tokens of a degraded image behind an adapter, a frozen language model, and a
//! de-adapter that reads the restored image's tokens from its hidden states.
//!
//! The sequence of an image is `before | its tokens | between | task tokens | after`, then the generated tokens; the three texts are the
//! prompt's. A generated token is the de-adapter of the hidden state before it and, behind the adapter, the input after it.
//!
//! *Autoregressive* is the paper's: a token a step. *Parallel* finds the same tokens as the fixed point of a causal pass over all of
//! them: from any guess, k passes make the first k exact, and from the degraded image's own tokens, which are the answer plus what the
//! task removes, one or two are close to all.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::config::Parallel;
use super::llama::Llama;
use super::ops::Affine;

/// What was learned for one task.
#[derive(Debug)]
pub struct Adapter {
    /// Features → embeddings.
    inward: Affine,
    /// Hidden states → features.
    outward: Affine,
    /// `[1, n, hidden]`.
    task_tokens: Tensor,
    /// `[1, tokens, hidden]`: what stands in place of generated tokens for `vit_llm`; zeros where the file has none.
    queries: Tensor,
}

impl Adapter {
    /// Loads the tensors that the authors' adapters have (`adapter.*`, `deadapter.*`, `learnable_task_token`), for `tokens` visual tokens of
    /// width `features`, and `query` if it is there.
    pub fn new(features: usize, hidden: usize, tokens: usize, task_tokens: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let query = "query";
        let queries = match vb.contains_tensor(query) {
            true => vb.get((1, tokens, hidden), query)?,
            false => Tensor::zeros((1, tokens, hidden), vb.dtype(), vb.device())?,
        };
        Ok(Self {
            inward: Affine::load(features, hidden, &vb.pp("adapter"))?,
            outward: Affine::load(hidden, features, &vb.pp("deadapter"))?,
            task_tokens: vb.get((1, task_tokens, hidden), "learnable_task_token")?,
            queries,
        })
    }

    /// Number of task tokens.
    pub fn task_tokens(&self) -> usize {
        self.task_tokens.dims()[1]
    }

    /// De-adapter of adapter, without a language model between them: features `[B, tokens, features]` → the same.
    pub fn linear(&self, features: &Tensor) -> Result<Tensor> {
        self.outward.forward(&self.inward.forward(features)?)
    }
}

/// The language model with the prompt's embeddings.
#[derive(Debug)]
pub struct Prompted {
    /// The model.
    pub llm: Llama,
    /// Before the image's tokens, `[1, n, hidden]`.
    pub before: Tensor,
    /// Between the image's tokens and the task's.
    pub between: Tensor,
    /// Behind the task's tokens.
    pub after: Tensor,
}

impl Prompted {
    /// The embeddings of all that stands before the generated tokens, `[B, P, hidden]`.
    fn prompt(&self, adapter: &Adapter, features: &Tensor) -> Result<Tensor> {
        let (batch, _, _) = features.dims3()?;
        let image = adapter.inward.forward(features)?;
        let same = |part: &Tensor| part.broadcast_as((batch, part.dim(1)?, part.dim(2)?));
        let parts = [same(&self.before)?, image, same(&self.between)?, same(&adapter.task_tokens)?, same(&self.after)?];
        Tensor::cat(&parts, 1)
    }

    /// Features `[B, tokens, width]` of degraded images → tokens of the restored ones, the same shape, a step for each token.
    pub fn autoregressive(&self, adapter: &Adapter, features: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = features.dims3()?;
        let prompt = self.prompt(adapter, features)?;
        let start = prompt.dim(1)?;
        let cache = self.llm.cache(batch, start + tokens - 1)?;
        let mut hidden = self.llm.forward(&prompt, &cache, 0)?.narrow(1, start - 1, 1)?.contiguous()?;
        let mut made = Vec::with_capacity(tokens);
        for step in 0..tokens {
            let token = adapter.outward.forward(&hidden)?;
            if step + 1 < tokens {
                hidden = self.llm.forward(&adapter.inward.forward(&token)?, &cache, start + step)?;
            }
            made.push(token);
        }
        Tensor::cat(&made, 1)
    }

    /// The same by passes over all tokens, and the passes that each image took: until a pass moved its tokens by less than the tolerance
    /// (root of the mean squared difference), or `max_passes`. An image that is done leaves the batch, so its tokens depend on no other's.
    pub fn parallel(&self, adapter: &Adapter, features: &Tensor, how: Parallel) -> Result<(Tensor, Vec<u32>)> {
        let (batch, tokens, _) = features.dims3()?;
        let prompt = self.prompt(adapter, features)?;
        let start = prompt.dim(1)?;
        let mut cache = self.llm.cache(batch, start + tokens - 1)?;
        let behind = |guess: &Tensor| adapter.inward.forward(&guess.narrow(1, 0, tokens - 1)?.contiguous()?);

        let mut images: Vec<u32> = (0..batch as u32).collect();
        let mut passes = vec![0; batch];
        let (mut done, mut finished): (Vec<u32>, Vec<Tensor>) = (Vec::new(), Vec::new());
        let mut guess = features.clone();
        for pass in 1..=how.max_passes {
            let made = if pass == 1 {
                let hidden = self.llm.forward(&Tensor::cat(&[&prompt, &behind(&guess)?], 1)?, &cache, 0)?;
                adapter.outward.forward(&hidden.narrow(1, start - 1, tokens)?.contiguous()?)?
            } else {
                // The prompt's keys and values are in the cache, and the first token hangs on the prompt alone.
                let hidden = self.llm.forward(&behind(&guess)?, &cache, start)?;
                Tensor::cat(&[guess.narrow(1, 0, 1)?, adapter.outward.forward(&hidden)?], 1)?
            };
            let (mut still, mut ready) = (Vec::new(), Vec::new());
            if pass == how.max_passes {
                ready.extend(0..images.len() as u32);
            } else if how.tolerance > 0.0 {
                let moved = (&made - &guess)?.to_dtype(DType::F32)?.sqr()?.mean((1, 2))?.sqrt()?.to_vec1::<f32>()?;
                for (row, moved) in (0u32..).zip(moved) {
                    if moved < how.tolerance { ready.push(row) } else { still.push(row) }
                }
            }
            guess = made;
            if ready.is_empty() {
                continue;
            }
            for row in &ready {
                let image = images[*row as usize];
                passes[image as usize] = pass;
                done.push(image);
            }
            let rows = |rows: &[u32]| guess.index_select(&Tensor::new(rows, guess.device())?, 0);
            finished.push(rows(&ready)?);
            if still.is_empty() {
                break;
            }
            guess = rows(&still)?;
            cache = cache.select(&still)?;
            images = still.iter().map(|row| images[*row as usize]).collect();
        }
        // Back from the order in which they were done.
        let mut order = vec![0u32; batch];
        for (at, image) in (0..).zip(&done) {
            order[*image as usize] = at;
        }
        let all = Tensor::cat(&finished, 0)?;
        Ok((all.index_select(&Tensor::new(order, all.device())?, 0)?, passes))
    }

    /// All tokens at once from the outputs at the positions of the adapter's queries (the paper's figure 5).
    pub fn at_queries(&self, adapter: &Adapter, features: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = features.dims3()?;
        let prompt = self.prompt(adapter, features)?;
        let start = prompt.dim(1)?;
        let queries = adapter.queries.broadcast_as((batch, tokens, prompt.dim(2)?))?;
        let cache = self.llm.cache(batch, start + tokens)?;
        let hidden = self.llm.forward(&Tensor::cat(&[&prompt, &queries], 1)?, &cache, 0)?;
        adapter.outward.forward(&hidden.narrow(1, start, tokens)?.contiguous()?)
    }
}
