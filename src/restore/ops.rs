//! The element-wise steps of the models and their attention, on the CPU as kernels of our own, elsewhere as candle's.
//!
//! On the CPU candle leaves these on one thread, with an exponential a value at a time, and writes every intermediate tensor
//! out; here each is one pass over the rows, spread over the threads, in f32. Matrix products stay candle's. Attention takes
//! queries, keys and values where the projections left them, a head a thread, so no score matrix larger than one head's exists and
//! nothing is transposed.
//!
//! (long because each step stands beside its kernel and its form of candle's operations)

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail,
};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::kernels;

/// What is learned of `x · weightᵀ + bias`.
#[derive(Debug)]
pub(super) struct Affine {
    /// `[out, in]`.
    pub(super) weight: Tensor,
    /// `[out]`.
    pub(super) bias: Tensor,
}

impl Affine {
    /// Loads `weight`, `[out, in]`, and `bias`.
    pub(super) fn new(inside: usize, outside: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: vb.get((outside, inside), "weight")?, bias: vb.get(outside, "bias")? })
    }

    /// `[…, in]` → `[…, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let (outside, inside) = self.weight.dims2()?;
        let made = product(&x.reshape(((), inside))?, &self.weight)?.broadcast_add(&self.bias)?;
        if let Some(last) = shape.last_mut() {
            *last = outside;
        }
        made.reshape(shape)
    }
}

/// Rows up to which a product is bound by reading its weights.
const FEW: usize = 16;

/// A product with few rows: large matrix products' way of packing their operands would take longer than the arithmetic.
struct FewRows;

impl CustomOp2 for FewRows {
    fn name(&self) -> &'static str {
        "few-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inside), (outside, _)) = (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        let (x, weight) = (values(x, x_layout)?, values(weight, weight_layout)?);
        let part = outside.div_ceil(rayon::current_num_threads() * 4).next_multiple_of(2);
        let mut turned = vec![0.0; outside * rows];
        turned.par_chunks_mut(part * rows).zip(weight.par_chunks(part * inside)).for_each(|(out, weight)| {
            kernels::few_rows(x, weight, inside, out);
        });
        let out = (0..rows * outside).map(|at| turned[at % outside * rows + at / outside]).collect();
        Ok((CpuStorage::F32(out), (rows, outside).into()))
    }
}

/// `x · weightᵀ`: `[N, in]` with `weight` `[out, in]` → `[N, out]`.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match ours(x) && x.dim(0)? <= FEW {
        true => x.apply_op2_no_bwd(weight, &FewRows),
        false => x.matmul(&weight.t()?),
    }
}

/// Rows that a thread takes at least, so that small tensors are not scattered.
const ROWS: usize = 8;

/// The contiguous f32 values of a CPU tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((from, to)) = layout.contiguous_offsets() else { bail!("the kernel takes contiguous tensors") };
    Ok(&storage.as_slice::<f32>()?[from..to])
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((from, to)) = layout.contiguous_offsets() else { bail!("the kernel takes contiguous tensors") };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[from..to]),
        other => bail!("the kernel takes f32, not {:?}", other.dtype()),
    }
}

/// Whether our kernels can take `x`: f32 on the CPU.
fn ours(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

struct LayerNorm(f32);

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(x, x_layout)?, values(weight, weight_layout)?, values(bias, bias_layout)?);
        let width = weight.len();
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(width * ROWS).zip(x.par_chunks(width * ROWS)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                kernels::layer_norm(x, weight, bias, self.0, out);
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// `(x − mean) / √(variance + eps) · weight + bias` over the last dimension.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    match ours(x) {
        true => x.apply_op3_no_bwd(weight, bias, &LayerNorm(eps as f32)),
        false => candle_nn::ops::layer_norm(x, weight, bias, eps as f32),
    }
}

struct RmsNorm(f32);

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (values(x, x_layout)?, values(weight, weight_layout)?);
        let width = weight.len();
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(width * ROWS).zip(x.par_chunks(width * ROWS)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                kernels::rms_norm(x, weight, self.0, out);
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// `x / √(mean(x²) + eps) · weight` over the last dimension.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    match ours(x) {
        true => x.apply_op2_no_bwd(weight, &RmsNorm(eps as f32)),
        false => candle_nn::ops::rms_norm(x, weight, eps as f32),
    }
}

struct BiasGelu;

impl CustomOp2 for BiasGelu {
    fn name(&self) -> &'static str {
        "bias-gelu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (values(x, x_layout)?, values(bias, bias_layout)?);
        let width = bias.len();
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(width * ROWS).zip(x.par_chunks(width * ROWS)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                kernels::bias_gelu(x, bias, out);
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// `gelu(x + bias)`, the one with erf.
pub(super) fn bias_gelu(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    match ours(x) {
        true => x.apply_op2_no_bwd(bias, &BiasGelu),
        false => x.broadcast_add(bias)?.gelu_erf(),
    }
}

struct GateUp;

impl CustomOp1 for GateUp {
    fn name(&self) -> &'static str {
        "silu-gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout)?;
        let (rows, both) = layout.shape().dims2()?;
        let width = both / 2;
        let mut out = vec![0.0; rows * width];
        out.par_chunks_mut(width * ROWS).zip(x.par_chunks(both * ROWS)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(both)) {
                let (gate, up) = x.split_at(width);
                kernels::silu_gate(gate, up, out);
            }
        });
        Ok((CpuStorage::F32(out), (rows, width).into()))
    }
}

/// `silu(gate) · up`, where each row of `x`, `[N, 2 · W]`, holds both: `[N, W]`.
pub(super) fn silu_gate(x: &Tensor) -> Result<Tensor> {
    if ours(x) {
        return x.apply_op1_no_bwd(&GateUp);
    }
    let width = x.dim(1)? / 2;
    x.narrow(1, 0, width)?.silu()? * x.narrow(1, width, width)?
}

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

impl Attention {
    /// `queries`: `[B · T, heads.row()]`; `cache`: rows that hold keys and values. `[B · T, heads.query_row()]`.
    fn compute(&self, rows: &[f32], cache: &[f32], batch: usize) -> Vec<f32> {
        let Heads { queries, keys, width } = self.heads;
        let length = rows.len() / self.heads.row() / batch;
        let mut out = vec![0.0; batch * length * self.heads.query_row()];
        let per_sequence = cache.len() / batch;
        // A head of a sequence is a thread's work; its output lies apart until all are done.
        let made: Vec<Vec<f32>> = (0..batch * queries)
            .into_par_iter()
            .map_init(Vec::new, |scores, index| {
                let (sequence, head) = (index / queries, index % queries);
                let group = head / (queries / keys);
                let cache = &cache[sequence * per_sequence..][..per_sequence];
                let (stride, first) = self.keys;
                kernels::attend(
                    kernels::Rows {
                        data: &rows[sequence * length * self.heads.row() + head * width..],
                        stride: self.heads.row(),
                        count: length,
                    },
                    kernels::Rows { data: &cache[first + group * width..], stride, count: self.seen },
                    kernels::Rows { data: &cache[first + (keys + group) * width..], stride, count: self.seen },
                    width,
                    self.causal_at,
                    scores,
                )
            })
            .collect();
        let row = self.heads.query_row();
        out.par_chunks_mut(length * row).enumerate().for_each(|(sequence, out)| {
            for (head, made) in made[sequence * queries..][..queries].iter().enumerate() {
                for (out, made) in out.chunks_exact_mut(row).zip(made.chunks_exact(width)) {
                    out[head * width..][..width].copy_from_slice(made);
                }
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
