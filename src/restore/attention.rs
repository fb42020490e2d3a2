//! Attention as the models use it: rotary embedding, the cache of keys and values, and soft-max over scores; on the CPU as kernels of our
//! own, elsewhere as candle's operations.
//!
//! It takes queries, keys and values where the projections left them, a block of queries a thread, so that no more scores exist than
//! stay in a core's cache, and nothing is transposed.

use std::ops::RangeInclusive;

use candle_core::{CpuStorage, CustomOp2, DType, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::kernels;
use super::ops::{ROWS, ours, values, values_mut};

/// How the heads lie in the rows of a projection's output, and of a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) queries: usize,
    /// Key and value heads; each serves `queries / keys` query heads.
    pub(super) keys: usize,
    /// Width of a head.
    pub(super) width: usize,
}

impl Heads {
    /// Values in a row of queries.
    pub(super) fn query_row(self) -> usize {
        self.queries * self.width
    }

    /// Values in a row of keys and values, which is a row of the cache.
    pub(super) fn cache_row(self) -> usize {
        2 * self.keys * self.width
    }

    /// Values in a row of queries, keys and values.
    pub(super) fn row(self) -> usize {
        self.query_row() + self.cache_row()
    }
}

/// Rows `[B · T, queries · width + 2 · keys · width]`, where each row's queries and keys are turned by the angles of its
/// position: row `t` of a sequence by row `t` of `angles`, `[T, width]`: half cosines, half sines.
struct Rope(Heads);

impl InplaceOp2 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        rows: &mut CpuStorage,
        rows_layout: &Layout,
        angles: &CpuStorage,
        angles_layout: &Layout,
    ) -> Result<()> {
        let Heads { queries, keys, width } = self.0;
        let (rows, angles) = (values_mut(rows, rows_layout)?, values(angles, angles_layout)?);
        let length = angles.len() / width;
        rows.par_chunks_mut(self.0.row()).with_min_len(ROWS).enumerate().for_each(|(index, row)| {
            let (cosines, sines) = angles[index % length * width..][..width].split_at(width / 2);
            for head in row[..(queries + keys) * width].chunks_exact_mut(width) {
                kernels::rotate(head, cosines, sines);
            }
        });
        Ok(())
    }
}

/// Copies the keys and values of rows `[B · T, …]` into the cache, `[B, L, 2 · keys · width]`, from position `.1` on.
struct Keep(Heads, usize);

impl InplaceOp2 for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, cache_layout: &Layout, rows: &CpuStorage, layout: &Layout) -> Result<()> {
        let (batch, length, kept) = cache_layout.shape().dims3()?;
        let (cache, rows) = (values_mut(cache, cache_layout)?, values(rows, layout)?);
        let (row, skip) = (self.0.row(), self.0.query_row());
        let new = rows.len() / row / batch;
        cache.par_chunks_mut(length * kept).zip(rows.par_chunks(new * row)).for_each(|(cache, rows)| {
            for (cache, row) in cache[self.1 * kept..].chunks_exact_mut(kept).zip(rows.chunks_exact(row)) {
                cache.copy_from_slice(&row[skip..]);
            }
        });
        Ok(())
    }
}

/// Turns the queries and keys of `rows`, `[B · T, heads.row()]`, and keeps keys and values in the cache, `[B, L,
/// heads.cache_row()]`, at positions `at` to `at + T`. `angles` are those positions', `[T, width]`. The rows with turned queries.
pub(super) fn rope_and_keep(rows: Tensor, angles: &Tensor, cache: &Tensor, at: usize, heads: Heads) -> Result<Tensor> {
    if ours(&rows) {
        rows.inplace_op2(angles, &Rope(heads))?;
        cache.inplace_op2(&rows, &Keep(heads, at))?;
        return Ok(rows);
    }
    let Heads { queries, keys, width } = heads;
    let (batch, length) = (cache.dim(0)?, angles.dim(0)?);
    let turned = rows.narrow(1, 0, (queries + keys) * width)?.reshape((batch, length, queries + keys, width))?;
    let [cosines, sines] = [0, 1].map(|half| angles.narrow(1, half * width / 2, width / 2));
    let turned =
        candle_nn::rotary_emb::rope_thd(&turned.contiguous()?, &cosines?.contiguous()?, &sines?.contiguous()?)?;
    let turned = turned.reshape((batch * length, (queries + keys) * width))?;
    let values = rows.narrow(1, (queries + keys) * width, keys * width)?;
    let rows = Tensor::cat(&[&turned, &values], 1)?;
    let kept = rows.narrow(1, heads.query_row(), heads.cache_row())?.contiguous()?;
    cache.slice_set(&kept.reshape((batch, length, heads.cache_row()))?, 1, at)?;
    Ok(rows)
}

/// Attention of rows' queries to keys and values.
struct Attention {
    heads: Heads,
    /// Position of the first query; query `t` sees the positions up to `at + t`. `None`: every query sees all.
    causal_at: Option<usize>,
    /// Positions of the keys that there are.
    seen: usize,
    /// Values from one position's keys to the next's, and where in them the keys begin.
    keys: (usize, usize),
}

/// Queries that are attended at once: their scores stay in a core's cache.
const BLOCK: RangeInclusive<usize> = 16..=96;

impl Attention {
    /// `queries`: `[B · T, heads.row()]`; `cache`: rows that hold keys and values. `[B · T, heads.query_row()]`.
    fn compute(&self, rows: &[f32], cache: &[f32], batch: usize) -> Vec<f32> {
        let Heads { queries, keys, width } = self.heads;
        let (row, out_row) = (self.heads.row(), self.heads.query_row());
        let length = rows.len() / row / batch;
        let mut out = vec![0.0; batch * length * out_row];
        let per_sequence = cache.len() / batch;
        // Blocks of one size where they are cut for the cache: a short last one would cost more than its share.
        let parts = (4 * rayon::current_num_threads()).div_ceil(batch).max(length.div_ceil(*BLOCK.end()));
        let block = length.div_ceil(parts).max(*BLOCK.start());
        let blocks = out.par_chunks_mut(length * out_row).enumerate().flat_map(|(sequence, out)| {
            out.par_chunks_mut(block * out_row).enumerate().map(move |(index, out)| (sequence, index * block, out))
        });
        let (stride, first) = self.keys;
        blocks.for_each_init(Vec::new, |scores, (sequence, from, out)| {
            let cache = &cache[sequence * per_sequence..][..per_sequence];
            let part = |data| kernels::Rows { data, stride, count: self.seen };
            for head in 0..queries {
                let group = head / (queries / keys);
                let data = &rows[(sequence * length + from) * row + head * width..];
                kernels::attend(
                    kernels::Rows { data, stride: row, count: out.len() / out_row },
                    part(&cache[first + group * width..]),
                    part(&cache[first + (keys + group) * width..]),
                    width,
                    self.causal_at.map(|at| at + from),
                    scores,
                    (&mut out[head * width..], out_row),
                );
            }
        });
        out
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        cache: &CpuStorage,
        cache_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, batch) = (values(rows, rows_layout)?, cache_layout.dims()[0]);
        let out = self.compute(rows, values(cache, cache_layout)?, batch);
        let shape = (out.len() / self.heads.query_row(), self.heads.query_row()).into();
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Causal attention of `rows`, `[B · T, heads.row()]`, whose first position is `at`, to the cache `[B, L, heads.cache_row()]`,
/// in which they were kept: `[B · T, heads.query_row()]`.
pub(super) fn causal_attention(rows: &Tensor, cache: &Tensor, at: usize, heads: Heads) -> Result<Tensor> {
    let (batch, _, kept) = cache.dims3()?;
    let length = rows.dim(0)? / batch;
    let seen = at + length;
    if ours(rows) {
        let op = Attention { heads, causal_at: Some(at), seen, keys: (kept, 0) };
        return rows.apply_op2_no_bwd(cache, &op);
    }
    let mask: Vec<f32> =
        (0..length).flat_map(|t| (0..seen).map(move |s| if s <= at + t { 0.0 } else { f32::NEG_INFINITY })).collect();
    let mask = Tensor::from_vec(mask, (length, seen), rows.device())?;
    let cache = cache.narrow(1, 0, seen)?;
    let rows = rows.narrow(1, 0, heads.query_row())?.reshape((batch, length, heads.query_row()))?;
    attention_of(&rows, &cache, heads, (length > 1).then_some(&mask))
}

/// Attention of every row to every row of its sequence, for `rows` `[B · T, heads.row()]`: `[B · T, heads.query_row()]`.
pub(super) fn full_attention(rows: &Tensor, batch: usize, heads: Heads) -> Result<Tensor> {
    let length = rows.dim(0)? / batch;
    let rows = rows.reshape((batch, length, heads.row()))?;
    if ours(&rows) {
        let op = Attention { heads, causal_at: None, seen: length, keys: (heads.row(), heads.query_row()) };
        return rows.reshape((batch, length * heads.row()))?.apply_op2_no_bwd(&rows, &op);
    }
    let queries = rows.narrow(2, 0, heads.query_row())?;
    attention_of(&queries, &rows.narrow(2, heads.query_row(), heads.cache_row())?, heads, None)
}

/// The same by candle's operations: `queries` `[B, T, …]`, `cache` `[B, S, …]`, `mask` `[T, S]` f32.
fn attention_of(queries: &Tensor, cache: &Tensor, heads: Heads, mask: Option<&Tensor>) -> Result<Tensor> {
    let Heads { queries: all, keys, width } = heads;
    let (batch, length, _) = queries.dims3()?;
    let seen = cache.dim(1)?;
    let group = all / keys;
    // [B, keys, group · T, width]: the queries of a group are rows against the same keys.
    let queries = queries.reshape((batch, length, keys, group, width))?.permute((0, 2, 3, 1, 4))?;
    let queries = queries.contiguous()?.reshape((batch, keys, group * length, width))?;
    let part = |from| cache.narrow(2, from, keys * width)?.reshape((batch, seen, keys, width))?.transpose(1, 2);
    let scores = (queries.matmul(&part(0)?.transpose(2, 3)?.contiguous()?)? * (width as f64).powf(-0.5))?;
    let mut scores = scores.to_dtype(DType::F32)?.reshape((batch, keys, group, length, seen))?;
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(queries.dtype())?;
    let out = weights.reshape((batch, keys, group * length, seen))?.matmul(&part(keys * width)?.contiguous()?)?;
    let out = out.reshape((batch, keys, group, length, width))?.permute((0, 3, 1, 2, 4))?;
    out.contiguous()?.reshape((batch * length, heads.query_row()))
}
