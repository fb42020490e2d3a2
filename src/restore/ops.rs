//! The steps of the models beside attention: products with learned matrices, norms, and what follows attention in a block.
//!
//! On the CPU candle leaves element-wise steps on one thread or on threads of its own that wait by spinning beside rayon's, takes an
//! exponential a value at a time, and writes every intermediate tensor out. Here a step's rows are cut into blocks, one a thread at a
//! time: all that happens to a row happens while it is in that core's cache, in f32, and sums are made in place. Elsewhere the same is
//! said in candle's operations.
//!
//! (long because each step stands beside its form of candle's operations)

use std::cell::RefCell;
use std::ops::Deref;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::kernels::{self, Product, Rows};

/// Rows up to which a product is bound by reading its weights: large products' way of packing their operands would take longer than the
/// arithmetic.
const FEW: usize = 16;

/// Rows that a thread takes at least, so that small tensors are not scattered.
pub(super) const ROWS: usize = 8;

/// Rows of a block: enough to read the weights for, few enough for a cache.
const BLOCK: std::ops::RangeInclusive<usize> = 48..=384;

/// The contiguous f32 values of a CPU tensor.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((from, to)) = layout.contiguous_offsets() else { bail!("the kernel takes contiguous tensors") };
    Ok(&storage.as_slice::<f32>()?[from..to])
}

pub(super) fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((from, to)) = layout.contiguous_offsets() else { bail!("the kernel takes contiguous tensors") };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[from..to]),
        other => bail!("the kernel takes f32, not {:?}", other.dtype()),
    }
}

/// Whether our kernels can take `x`: f32 on the CPU.
pub(super) fn ours(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// A tensor whose values are being read.
struct Held<'a> {
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage: Box::new(storage), layout }
    }

    fn values(&self) -> Result<&[f32]> {
        match &**self.storage {
            Storage::Cpu(storage) => values(storage, self.layout),
            _ => bail!("the kernel takes tensors on the CPU"),
        }
    }
}

/// What is learned of `x · weightᵀ + bias`.
#[derive(Debug)]
pub(super) struct Affine {
    /// `[in, out]` for our kernels, which read it in this order, else `[out, in]`.
    weight: Tensor,
    /// `[out]`.
    bias: Option<Tensor>,
    inside: usize,
    outside: usize,
}

impl Affine {
    /// Of a weight `[out, in]`.
    pub(super) fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outside, inside) = weight.dims2()?;
        let weight = match ours(weight) {
            true => {
                let (held, mut turned) = (Held::of(weight), vec![0.0; outside * inside]);
                kernels::transpose(held.values()?, inside, &mut turned);
                Tensor::from_vec(turned, (inside, outside), weight.device())?
            }
            false => weight.clone(),
        };
        Ok(Self { weight, bias, inside, outside })
    }

    /// Loads `weight`, `[out, in]`, and `bias`.
    pub(super) fn load(inside: usize, outside: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Self::new(&vb.get((outside, inside), "weight")?, Some(vb.get(outside, "bias")?))
    }

    /// `[…, in]` → `[…, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let made = self.behind(None, &x.reshape(((), self.inside))?)?;
        if let Some(last) = shape.last_mut() {
            *last = self.outside;
        }
        made.reshape(shape)
    }

    /// `[N, in]` → `[N, out]`, of what `norm` makes of `x`.
    pub(super) fn behind(&self, norm: Option<&Norm>, x: &Tensor) -> Result<Tensor> {
        if !ours(x) {
            let made = match norm {
                Some(norm) => norm.forward(x)?.matmul(&self.weight.t()?)?,
                None => x.matmul(&self.weight.t()?)?,
            };
            return match &self.bias {
                Some(bias) => made.broadcast_add(bias),
                None => Ok(made),
            };
        }
        let rows = x.dim(0)?;
        let (held, weights) = (Held::of(x), HeldAffine::of(self));
        let norm = norm.map(HeldNorm::of);
        let (x, affine, norm) = (held.values()?, weights.view()?, norm.as_ref().map(HeldNorm::view).transpose()?);
        let mut out = vec![0.0; rows * self.outside];
        let (block, alone) = blocks(rows);
        out.par_chunks_mut(block * self.outside).zip(x.par_chunks(block * self.inside)).for_each(
            |(out, x)| match norm {
                Some(norm) => with_scratch([x.len()], |[normed]| {
                    norm.apply(x, normed);
                    affine.apply(Rows::of(normed, self.inside), false, out, alone);
                }),
                None => affine.apply(Rows::of(x, self.inside), false, out, alone),
            },
        );
        Tensor::from_vec(out, (rows, self.outside), &candle_core::Device::Cpu)
    }
}

/// Runs `compute` on one of the threads that kernels are spread over: from another, every kernel would be handed over and waited for.
pub(super) fn among_kernels<T: Send>(compute: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| compute())
}

/// Adds `[1, T, width]` to each of `x`, `[B, T, width]`; on the CPU where it lies.
pub(super) fn add_to_each(x: Tensor, part: &Tensor) -> Result<Tensor> {
    if ours(&x) {
        x.inplace_op1(&AddToEach(part))?;
        return Ok(x);
    }
    x.broadcast_add(part)
}

struct AddToEach<'a>(&'a Tensor);

impl InplaceOp1 for AddToEach<'_> {
    fn name(&self) -> &'static str {
        "add-to-each"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let held = Held::of(self.0);
        let part = held.values()?;
        values_mut(x, layout)?.par_chunks_mut(part.len()).for_each(|x| {
            for (x, part) in x.iter_mut().zip(part) {
                *x += part;
            }
        });
        Ok(())
    }
}

/// Rows of a block, and whether it is the only one: then its products have all threads.
fn blocks(rows: usize) -> (usize, bool) {
    let threads = rayon::current_num_threads();
    if rows < threads * BLOCK.start() || threads == 1 {
        return (rows.clamp(1, if threads == 1 { *BLOCK.end() } else { usize::MAX }), threads > 1);
    }
    // As many for each thread.
    let count = rows.div_ceil(*BLOCK.end()).next_multiple_of(threads);
    (rows.div_ceil(count), false)
}

/// Lends scratch of these lengths, which a thread keeps: what is in it is left from before.
fn with_scratch<const N: usize>(lengths: [usize; N], f: impl FnOnce([&mut [f32]; N])) {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    // Taken, not borrowed: a thread that waits for a product may be given another block meanwhile.
    let mut scratch = SCRATCH.take();
    let all = lengths.iter().sum();
    if scratch.len() < all {
        scratch.resize(all, 0.0);
    }
    let mut rest = &mut scratch[..];
    f(lengths.map(|length| {
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(length);
        rest = behind;
        part
    }));
    SCRATCH.replace(scratch);
}

struct HeldAffine<'a> {
    weight: Held<'a>,
    bias: Option<Held<'a>>,
    of: &'a Affine,
}

impl<'a> HeldAffine<'a> {
    fn of(of: &'a Affine) -> Self {
        Self { weight: Held::of(&of.weight), bias: of.bias.as_ref().map(Held::of), of }
    }

    fn view(&self) -> Result<AffineView<'_>> {
        let Affine { inside, outside, .. } = *self.of;
        let bias = self.bias.as_ref().map(Held::values).transpose()?;
        Ok(AffineView { weight: Rows { data: self.weight.values()?, stride: outside, count: inside }, bias, outside })
    }
}

#[derive(Clone, Copy)]
struct AffineView<'a> {
    /// `[in, out]`.
    weight: Rows<'a>,
    bias: Option<&'a [f32]>,
    outside: usize,
}

impl AffineView<'_> {
    /// Writes `x · weight + bias` to `out`, or adds it if `add`; on all threads, or this one.
    fn apply(self, x: Rows<'_>, add: bool, out: &mut [f32], all_threads: bool) {
        let Self { weight, bias, outside } = self;
        if let Some(bias) = bias {
            for out in out.chunks_exact_mut(outside) {
                match add {
                    true => out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias),
                    false => out.copy_from_slice(bias),
                }
            }
        }
        let add = add || bias.is_some();
        if x.count > FEW {
            let product = Product { left: x, right: weight, turned: false, width: outside, scale: 1.0 };
            return product.write((out, outside), add, all_threads);
        }
        if !add {
            out.fill(0.0);
        }
        // Each thread has columns of its own.
        let parts = if all_threads { rayon::current_num_threads() } else { 1 };
        let width = outside.div_ceil(parts).next_multiple_of(16);
        let sums = (0..outside.div_ceil(width)).into_par_iter().with_max_len(1).map(|part| {
            let columns = part * width..((part + 1) * width).min(outside);
            let mut sums = vec![0.0; x.count * columns.len()];
            kernels::add_few_rows(x, weight, columns.clone(), &mut sums);
            (columns, sums)
        });
        let sums: Vec<_> = sums.collect();
        for (columns, sums) in sums {
            for (out, sums) in out.chunks_exact_mut(outside).zip(sums.chunks_exact(columns.len())) {
                out[columns.clone()].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        }
    }
}

/// A norm over the last dimension.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    /// With it `(x − mean) / √(variance + eps) · weight + bias`, without `x / √(mean(x²) + eps) · weight`.
    bias: Option<Tensor>,
    eps: f32,
}

impl Norm {
    /// Loads `weight` and `bias` of a layer norm.
    pub(super) fn layer(width: usize, eps: f64, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: vb.get(width, "weight")?, bias: Some(vb.get(width, "bias")?), eps: eps as f32 })
    }

    /// Loads `weight` of a root mean square norm.
    pub(super) fn root_mean_square(width: usize, eps: f64, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: vb.get(width, "weight")?, bias: None, eps: eps as f32 })
    }

    /// `[N, width]` → the same.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !ours(x) {
            return match &self.bias {
                Some(bias) => candle_nn::ops::layer_norm(x, &self.weight, bias, self.eps),
                None => candle_nn::ops::rms_norm(x, &self.weight, self.eps),
            };
        }
        let (held, norm) = (Held::of(x), HeldNorm::of(self));
        let (values, norm) = (held.values()?, norm.view()?);
        let mut out = vec![0.0; values.len()];
        let rows = ROWS * norm.weight.len();
        out.par_chunks_mut(rows).zip(values.par_chunks(rows)).for_each(|(out, x)| norm.apply(x, out));
        Tensor::from_vec(out, x.shape(), x.device())
    }
}

struct HeldNorm<'a> {
    weight: Held<'a>,
    bias: Option<Held<'a>>,
    eps: f32,
}

impl<'a> HeldNorm<'a> {
    fn of(of: &'a Norm) -> Self {
        Self { weight: Held::of(&of.weight), bias: of.bias.as_ref().map(Held::of), eps: of.eps }
    }

    fn view(&self) -> Result<NormView<'_>> {
        let bias = self.bias.as_ref().map(Held::values).transpose()?;
        Ok(NormView { weight: self.weight.values()?, bias, eps: self.eps })
    }
}

#[derive(Clone, Copy)]
struct NormView<'a> {
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
}

impl NormView<'_> {
    fn apply(self, x: &[f32], out: &mut [f32]) {
        let Self { weight, bias, eps } = self;
        for (out, x) in out.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
            match bias {
                Some(bias) => kernels::layer_norm(x, weight, bias, eps, out),
                None => kernels::rms_norm(x, weight, eps, out),
            }
        }
    }
}

/// What a feed-forward network does between its matrices.
#[derive(Debug, Clone, Copy)]
pub(super) enum Activation {
    /// `gelu(x)`, the one with erf.
    Gelu,
    /// `silu(gate) · up` of rows that hold both side by side.
    SiluGate,
}

/// What follows attention in a block: its projection is added to what came in, then a feed-forward network's of the norm of that.
#[derive(Debug)]
pub(super) struct AfterAttention {
    pub(super) attended: Affine,
    pub(super) norm: Norm,
    pub(super) inner: Affine,
    pub(super) activation: Activation,
    pub(super) outer: Affine,
}

impl AfterAttention {
    /// `x`, `[N, width]`, which came into the block, and what attention found. On the CPU `x` is added to where it lies.
    pub(super) fn forward(&self, x: Tensor, attended: &Tensor) -> Result<Tensor> {
        if ours(&x) {
            x.inplace_op1(&Added { block: self, attended })?;
            return Ok(x);
        }
        let x = (x + self.attended.forward(attended)?)?;
        let inner = self.inner.behind(Some(&self.norm), &x)?;
        let inner = match self.activation {
            Activation::Gelu => inner.gelu_erf()?,
            Activation::SiluGate => {
                let width = inner.dim(1)? / 2;
                (inner.narrow(1, 0, width)?.silu()? * inner.narrow(1, width, width)?)?
            }
        };
        x + self.outer.forward(&inner)?
    }
}

struct Added<'a> {
    block: &'a AfterAttention,
    attended: &'a Tensor,
}

impl InplaceOp1 for Added<'_> {
    fn name(&self) -> &'static str {
        "after-attention"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let AfterAttention { attended, norm, inner, activation, outer } = self.block;
        let found = Held::of(self.attended);
        let [attended, inner, outer] = [attended, inner, outer].map(HeldAffine::of);
        let norm = HeldNorm::of(norm);
        let (found, norm) = (found.values()?, norm.view()?);
        let (attended, inner, outer) = (attended.view()?, inner.view()?, outer.view()?);
        let (width, wide, inside) = (attended.outside, inner.outside, attended.weight.count);
        let x = values_mut(x, layout)?;
        let (block, alone) = blocks(x.len() / width);
        x.par_chunks_mut(block * width).zip(found.par_chunks(block * inside)).for_each(|(x, found)| {
            let rows = x.len() / width;
            attended.apply(Rows::of(found, inside), true, x, alone);
            with_scratch([x.len(), rows * wide], |[normed, between]| {
                norm.apply(x, normed);
                inner.apply(Rows::of(normed, width), false, between, alone);
                match activation {
                    Activation::Gelu => kernels::gelu(between),
                    Activation::SiluGate => between.chunks_exact_mut(wide).for_each(|row| {
                        let (gate, up) = row.split_at_mut(wide / 2);
                        kernels::silu_gate(gate, up);
                    }),
                }
                outer.apply(Rows { data: between, stride: wide, count: rows }, true, x, alone);
            });
        });
        Ok(())
    }
}
