//! The pipeline file's `degrade` section: spoils images by a recipe, records what was drawn, and does it again from a row.
//!
//! An operation is one file: a [`Spec`] that lists its parameters, and a struct of *drawn* values that implements
//! [`Degradation`]. [`OPERATIONS`] is the list of all. Drawing is apart from applying: a recipe's
//! [`Setting`](setting::Setting)s are drawn by one piece of code from the spec, the drawn values go into the row as JSON, and
//! [`replay`] applies what the row recorded without looking at the recipe. (So the trait has no `draw` of its own: every
//! operation draws alike, each parameter from its own stream, and the pixels' noise comes from yet another, which drawing
//! does not move.)
//!
//! To add one: its file, a `mod` line, a line in [`OPERATIONS`], a line in `tests/degradations.rs`.

pub mod catalogue;
pub mod presets;
pub mod recipe;
pub mod setting;
pub mod settings;
pub mod spec;

mod config;
mod filter;
mod flip;
mod gaussian_blur;
mod gaussian_noise;
mod jpeg;
mod mask;
mod maths;
mod pepper;
mod rain;
mod resample;
mod rotate;
mod webp;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::image::{Image, Pixels};
use crate::sample::{AppliedOp, FailureCode, Record, Sample};
use crate::stage::{Fault, Stage};
use crate::stream::Stream;

pub use catalogue::{Catalogue, catalogue};
pub use config::{DegradeConfig, Quantize, Target, When};
use settings::Place;
use spec::Spec;

/// An operation on pixels, its parameters drawn.
pub trait Degradation: Serialize + DeserializeOwned {
    /// Its name, version and parameters.
    const SPEC: Spec;

    /// Does it. `noise` is the operation's own stream at its beginning. `Err` says why it cannot be done to this image.
    fn apply(&self, image: &mut Pixels, noise: &mut Stream) -> Result<(), String>;
}

/// An entry of [`OPERATIONS`].
#[derive(Debug)]
pub struct Operation {
    /// Its name, version and parameters.
    pub spec: Spec,
    /// Applies it with these drawn parameters and gives them back as JSON, as a row records them.
    apply: fn(Value, &mut Pixels, &mut Stream) -> Result<String, String>,
}

impl Operation {
    const fn of<D: Degradation>() -> Self {
        Self { spec: D::SPEC, apply: apply::<D> }
    }
}

fn apply<D: Degradation>(params: Value, image: &mut Pixels, noise: &mut Stream) -> Result<String, String> {
    let drawn: D = serde_json::from_value(params).map_err(|e| format!("{}: {e}", D::SPEC.name))?;
    drawn.apply(image, noise).map_err(|e| format!("{}: {e}", D::SPEC.name))?;
    serde_json::to_string(&drawn).map_err(|e| format!("{}: {e}", D::SPEC.name))
}

/// Every operation that a recipe can name.
pub static OPERATIONS: &[Operation] = &[
    Operation::of::<gaussian_noise::GaussianNoise>(),
    Operation::of::<gaussian_blur::GaussianBlur>(),
    Operation::of::<rain::Rain>(),
    Operation::of::<pepper::Pepper>(),
    Operation::of::<mask::Mask>(),
    Operation::of::<rotate::Rotate>(),
    Operation::of::<flip::Flip>(),
    Operation::of::<jpeg::Jpeg>(),
    Operation::of::<webp::Webp>(),
    Operation::of::<resample::Resample>(),
];

/// The operation called `name` in recipes.
pub(crate) fn operation(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.spec.name == name)
}

/// The stage `degrade`.
///
/// Takes the clean image from `sample.image`; leaves there what the column `input` will hold, and in `sample.target` what
/// the column `target` will hold. A target that the source named stays, but for [`Target::Geometry`], which turns it as
/// the image was turned.
#[derive(Debug)]
pub struct Degrade {
    /// Presets expanded.
    config: DegradeConfig,
}

impl Degrade {
    /// The stage for this section. `Err` as [`DegradeConfig::check`].
    pub fn new(config: &DegradeConfig) -> Result<Self, String> {
        config.check()?;
        Ok(Self { config: config.expanded()? })
    }
}

impl Stage for Degrade {
    fn name(&self) -> &'static str {
        "degrade"
    }

    fn process(&self, record: &Record, sample: &mut Sample) -> Result<(), Fault> {
        let Some(clean) = sample.image.take() else {
            return Ok(());
        };
        if self.config.target == Target::Degraded && sample.target.is_some() {
            let message = "degrade.target `degraded` makes the target from the source, but the source names one: \
                           set source's columns.target to none, or degrade.target to source";
            return Err(Fault::Record(FailureCode::Degrade, message.into()));
        }
        let place = Place { seed: self.config.seed, record, variant: sample.variant, step: "" };
        let clean = Arc::new(clean);
        let mut work = Work::new(clean.clone(), self.config.quantize);
        recipe::walk(&self.config.recipe, "", &place, &mut |settings, here| {
            let spec = settings.spec;
            let drawn = settings.draw(here)?;
            let mut noise = here.stream(spec.name, spec.version);
            work.apply(recipe::recorded(spec.name), here.step, drawn, &mut noise).map_err(|e| here.fault(e))
        })?;
        let (degraded, ops) = work.finish();
        let (input, target) = self
            .config
            .pair(clean, degraded, sample.target.take(), &ops)
            .map_err(|e| Fault::Record(FailureCode::Degrade, e))?;
        sample.image = Some(input);
        sample.target = Some(target);
        sample.target_edited = self.config.target != Target::Source && !ops.is_empty();
        sample.ops.extend(ops);
        Ok(())
    }
}

impl DegradeConfig {
    /// What the columns `input` and `target` hold. `given` is the target that the source named.
    fn pair(
        &self,
        clean: Arc<Image>,
        degraded: Option<Image>,
        given: Option<Arc<Image>>,
        ops: &[AppliedOp],
    ) -> Result<(Image, Arc<Image>), String> {
        // An image that no operation touched is the clean one itself.
        Ok(match self.target {
            Target::Degraded => {
                let degraded = degraded.map_or_else(|| clean.clone(), Arc::new);
                (Arc::unwrap_or_clone(clean), degraded)
            }
            Target::Source => {
                let target = given.unwrap_or_else(|| clean.clone());
                (degraded.unwrap_or_else(|| Arc::unwrap_or_clone(clean)), target)
            }
            Target::Geometry => {
                let upright = given.unwrap_or_else(|| clean.clone());
                let target = turned(&upright, ops, self.quantize)?.map_or(upright, Arc::new);
                (degraded.unwrap_or_else(|| Arc::unwrap_or_clone(clean)), target)
            }
        })
    }
}

/// An image under a recipe.
struct Work {
    pixels: Pixels,
    quantize: Quantize,
    ops: Vec<AppliedOp>,
}

impl Work {
    fn new(clean: Arc<Image>, quantize: Quantize) -> Self {
        Self { pixels: Pixels::Levels(clean), quantize, ops: Vec::new() }
    }

    fn apply(
        &mut self,
        operation: Result<&'static Operation, String>,
        step: &str,
        params: Value,
        noise: &mut Stream,
    ) -> Result<(), String> {
        let operation = operation?;
        let params = (operation.apply)(params, &mut self.pixels, noise)?;
        if let Pixels::Fractions(planes) = &self.pixels {
            // A level that is no number would become black without a word.
            debug_assert!(planes.data().iter().all(|level| level.is_finite()), "{}: {params}", operation.spec.name);
            if self.quantize.when == When::EachStep {
                self.pixels = Pixels::Levels(Arc::new(planes.to_image(self.quantize.how)));
            }
        }
        let Spec { name, version, .. } = operation.spec;
        self.ops.push(AppliedOp { step: step.to_owned(), op: name.to_owned(), version, params });
        Ok(())
    }

    /// What was done, and the 8-bit image; `None` if no operation touched it.
    fn finish(self) -> (Option<Image>, Vec<AppliedOp>) {
        let touched = !self.ops.is_empty();
        (touched.then(|| self.pixels.into_image(self.quantize.how)), self.ops)
    }
}

/// `upright` after the flips and rotations among `ops`; `None` if there are none.
fn turned(upright: &Arc<Image>, ops: &[AppliedOp], quantize: Quantize) -> Result<Option<Image>, String> {
    let mut work = Work::new(upright.clone(), quantize);
    for op in ops {
        let operation = recipe::recorded(&op.op)?;
        if operation.spec.geometry {
            let params = serde_json::from_str(&op.params).map_err(|e| format!("step {}: {e}", op.step))?;
            // Moving pixels draws nothing: any stream will do.
            let mut noise = Stream::new(0, "", 0, &op.step, &op.op, op.version);
            work.apply(Ok(operation), &op.step, params, &mut noise)?;
        }
    }
    Ok(work.finish().0)
}

/// The columns `input` and `target` of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The column `input`.
    pub input: Image,
    /// The column `target`.
    pub target: Arc<Image>,
}

/// Makes a row's pair again from what the row recorded: `ops` with their parameters, `seed`, `key` and `variant`, and the
/// image as loaded (`clean`; and the target that the source named, if it did). Of `config` only `quantize` and `target`
/// count. Operations whose step begins with `load.` are skipped: `clean` has them already.
///
/// `Err` if the row records an operation, version or parameter that this program does not know or allow.
pub fn replay(
    config: &DegradeConfig,
    ops: &[AppliedOp],
    seed: u64,
    key: &str,
    variant: u16,
    clean: &Image,
    given: Option<Arc<Image>>,
) -> Result<Pair, String> {
    let clean = Arc::new(clean.clone());
    let mut work = Work::new(clean.clone(), config.quantize);
    for op in ops.iter().filter(|op| !op.step.starts_with("load.")) {
        let operation = recipe::recorded(&op.op)?;
        let spec = &operation.spec;
        let place = |e: String| format!("step {} ({}): {e}", op.step, op.op);
        if op.version != spec.version {
            let (theirs, ours) = (op.version, spec.version);
            return Err(place(format!("the row was made by version {theirs} of it, this program has {ours}")));
        }
        let params: Value = serde_json::from_str(&op.params).map_err(|e| place(e.to_string()))?;
        for (name, value) in params.as_object().into_iter().flatten() {
            if let Some(param) = spec.params.iter().find(|param| param.name == name) {
                param.require_value(spec.name, value).map_err(place)?;
            }
        }
        let mut noise = Stream::new(seed, key, variant, &op.step, &op.op, op.version);
        work.apply(Ok(operation), &op.step, params, &mut noise).map_err(place)?;
    }
    let (degraded, ops) = work.finish();
    let (input, target) = config.pair(clean, degraded, given, &ops)?;
    Ok(Pair { input, target })
}
