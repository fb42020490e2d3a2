//! `lm4lv bench`: times a model on this machine, beside what the machine could do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use lm4lv::restore::bench::{BatchFigures, Rates, SHAPES, Subject};
use lm4lv::restore::config::{DeviceName, DtypeName};
use lm4lv::restore::device::Place;
use lm4lv::{Error, Result};

use super::{bytes, print, print_json, table};

/// What to time.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchArgs {
    /// Time a model folder, or a shape with random weights: each step, and images a second
    Model(ModelArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The model folder; or give --shape
    #[arg(required_unless_present = "shape")]
    model: Option<PathBuf>,
    /// A shape with random weights
    #[arg(long, conflicts_with = "model", value_parser = SHAPES)]
    shape: Option<String>,
    /// Images a batch; several: one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    batch: Vec<usize>,
    /// Runs of which the median is shown
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// auto, cpu, cuda or cuda:1
    #[arg(long, default_value = "auto")]
    device: DeviceName,
    /// auto, f32 or bf16
    #[arg(long, default_value = "auto")]
    dtype: DtypeName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    let BenchArgs::Model(args) = args;
    if args.batch.contains(&0) || args.runs == 0 {
        return Err(Error::Config("--batch and --runs are at least 1".into()));
    }
    let place = Place::find(args.device, args.dtype)?;
    let subject = match (&args.model, &args.shape) {
        (_, Some(shape)) => Subject::random(shape, &place)?,
        (Some(model), None) => Subject::open(model, &place)?,
        (None, None) => return Err(Error::Config("a model folder, or --shape".into())),
    };
    let rates = subject.rates()?;
    let per_image = subject.bytes_per_image()?;
    let mut figures = Vec::with_capacity(args.batch.len());
    for batch in &args.batch {
        figures.push(subject.measure(*batch, args.runs, rates)?);
    }
    if args.json {
        print_json(&serde_json::json!({
            "device": place.name, "dtype": place.dtype_name(), "rates": rates, "bytes_per_image": per_image,
            "batches": figures,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Rates { gflops, gbytes } = rates;
    print(&format!(
        "{} ({}), {}: {gflops:.0} GFLOP/s in large matrix products, memory {gbytes:.0} GB/s; {} an image in a batch\n",
        place.name,
        place.why,
        place.dtype_name(),
        bytes(per_image)
    ))?;
    for figures in &figures {
        print(&format!("\nbatch {}\n{}", figures.batch, steps(figures)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn steps(figures: &BatchFigures) -> String {
    let cells = |cells: [String; 5]| cells.to_vec();
    let mut rows = vec![cells(["step", "ms", "floor ms", "of the floor", "bound by"].map(str::to_owned))];
    for step in &figures.steps {
        let share = format!("{:.0} %", 100.0 * step.floor_ms / step.ms);
        let (ms, floor) = (format!("{:.2}", step.ms), format!("{:.2}", step.floor_ms));
        rows.push(cells([step.step.to_owned(), ms, floor, share, step.bound.to_owned()]));
    }
    let [one, two] = figures.parallel_images_per_s;
    table(&rows, &[4])
        + &format!(
            "\n  images/s: parallel {one:.2} (one pass), {two:.2} (two); autoregressive {:.2}\n",
            figures.autoregressive_images_per_s
        )
}
