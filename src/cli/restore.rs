//! `lm4lv restore`: a folder of images without a pipeline file. It writes one and runs it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lm4lv::config::{LogKind, Pipeline, ProgressKind};
use lm4lv::pipeline::Options;
use lm4lv::report::export::{self, ExportOptions, export};
use lm4lv::restore::config::DeviceName;
use lm4lv::store::Stores;
use lm4lv::{Error, Result};

use super::{DTYPES, counted, dataset, print, run};

/// The pipeline file, in the dataset's folder: where a dataset may hold files of its own before it has a plan.
const FILE: &str = ".lm4lv/pipeline.yaml";
/// The dataset, below the mirrored folder.
const ROWS: &str = ".lm4lv/rows";

const MORE: &str = "\
Run again, it goes on where it stopped; once all is there, it says so and writes nothing. The pipeline file that it \
writes and runs is OUT/.lm4lv/pipeline.yaml (with --format folder below OUT/.lm4lv/rows): copy it for more than this does.

Examples:
  lm4lv restore photos -o out --model models/lm4lv-mini --task gaussian_noise_18
  lm4lv restore photos -o out --model models/lm4lv-mini --task gaussian_noise_18 --format folder
  lm4lv restore photos -o out --model models/lm4lv-mini --restorer mae_r
  lm4lv restore refs.parquet -o out --model M --task T --set source.parquet.columns.target=clean --set score=[psnr.lm4lv]

Exit codes are those of `lm4lv run`.
";

/// Arguments of `lm4lv restore`.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct RestoreArgs {
    /// A folder of images (a path or a URL), or a Parquet file that names images or holds them
    path: String,
    /// Where the restored images go
    #[arg(short, long, value_name = "OUT")]
    output: String,
    /// The model folder
    #[arg(long, required_unless_present = "restorer")]
    model: Option<PathBuf>,
    /// Which of the model's tasks
    #[arg(long)]
    task: Option<String>,
    /// How tokens are generated [default: parallel]
    #[arg(long, value_enum)]
    decoder: Option<DecoderName>,
    /// What restores
    #[arg(long, value_enum, default_value = "lm4lv")]
    restorer: RestorerName,
    /// Where the model computes: auto, cpu, cuda or cuda:1 [default: auto]
    #[arg(long)]
    device: Option<DeviceName>,
    /// The type that it computes in [default: auto]
    #[arg(long, value_parser = DTYPES)]
    dtype: Option<String>,
    /// How the restored images are written
    #[arg(long, value_enum, default_value = "parquet")]
    format: Format,
    /// Override a key of the pipeline file: `--set restore.lm4lv.baseline=true`; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The form of log lines on stderr
    #[arg(long, value_enum)]
    log: Option<LogKind>,
    /// How progress is shown on stderr
    #[arg(long, value_enum)]
    progress: Option<ProgressKind>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum DecoderName {
    /// All tokens at once, pass after pass, until they stay where they are
    Parallel,
    /// One token after the other, as the paper does
    Autoregressive,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum RestorerName {
    /// Encoder, adapter, frozen language model, de-adapter, decoder
    Lm4lv,
    /// The same with a randomly initialised language model
    RandomLlm,
    /// One forward pass of the language model
    VitLlm,
    /// The adapters without a language model
    Linear,
    /// The masked autoencoder alone
    MaeR,
    /// Nothing
    Identity,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// A dataset: Parquet parts with input, output, and how it was made
    Parquet,
    /// PNG files with the names and sub-folders of the input
    Folder,
}

/// Writes the pipeline file, runs it, and copies what came out.
pub(crate) async fn run(args: RestoreArgs) -> Result<ExitCode> {
    let out = args.output.trim_end_matches('/');
    let dir = match args.format {
        Format::Parquet => args.output.clone(),
        Format::Folder => {
            refuse_mirror(&args.path, out)?;
            format!("{out}/{ROWS}")
        }
    };
    let text = pipeline_file(&args, &dir);
    let name = format!("{}/{FILE}", dir.trim_end_matches('/'));
    let pipeline = Pipeline::parse(&name, &text, &args.set, &|variable| std::env::var(variable).ok())?;
    let folder = Stores::default().folder(&dir)?;
    let written = folder.get(FILE).await?;
    if written.is_none() {
        folder.put(FILE, text.clone().into()).await?;
    }
    let (summary, stopped) = run::execute(&pipeline, &Options::default(), args.log, args.progress).await?;
    if written.is_some_and(|written| written != text) {
        // Another device, say: what makes a row is the same, or the dataset's plan would have refused it.
        folder.put(FILE, text.into()).await?;
    }
    super::summary::show(&summary, args.json)?;
    if let Some(code) = stopped {
        return Ok(ExitCode::from(code));
    }
    if args.format == Format::Folder {
        let options = ExportOptions { format: export::Format::Mirror, shard_rows: 1 };
        let done = export(&dataset::open(&dir).await?, Path::new(out), options).await?;
        if !args.json {
            let images = counted(done.written + done.kept, "image");
            print(&format!("  look at it  {images} in {out}, {} of them written now\n", done.written))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A mirror must not lie in what it mirrors, nor around it: files of equal names would meet.
fn refuse_mirror(path: &str, out: &str) -> Result<()> {
    let remote = |place: &str| place.contains("://");
    if remote(out) {
        return Err(Error::Config(format!("-o {out}: --format folder writes a local folder; --format parquet any")));
    }
    if remote(path) {
        return Ok(());
    }
    std::fs::create_dir_all(out).map_err(|e| Error::disk(out, e))?;
    let real = |place: &str| std::fs::canonicalize(place).map_err(|e| Error::disk(place, e));
    let (from, to) = (real(path)?, real(out)?);
    if from.is_dir() && (from.starts_with(&to) || to.starts_with(&from)) {
        return Err(Error::Config(format!("-o {out}: one of it and {path} lies in the other: choose a folder apart")));
    }
    Ok(())
}

/// The pipeline file's text: what the flags say, with defaults left out.
fn pipeline_file(args: &RestoreArgs, dir: &str) -> String {
    let kind = if args.path.ends_with(".parquet") { "parquet" } else { "folder" };
    let restorer = args.restorer.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut text = String::from("# Written by `lm4lv restore`.\n");
    // Writing to a String cannot fail.
    for set in &args.set {
        writeln!(text, "# with --set {}", set.replace(['\n', '\r'], " ")).ok();
    }
    write!(text, "source: {{ {kind}: {{ path: {} }} }}\nrestore:\n  {restorer}:", quoted(&args.path)).ok();
    let mut keys = Vec::new();
    keys.extend(args.model.as_ref().map(|model| ("model", quoted(&model.to_string_lossy()))));
    keys.extend(args.task.as_ref().map(|task| ("task", quoted(task))));
    keys.extend(args.decoder.map(|decoder| match decoder {
        DecoderName::Parallel => ("decoder", "{ parallel: {} }".to_owned()),
        DecoderName::Autoregressive => ("decoder", "autoregressive".to_owned()),
    }));
    keys.extend(args.device.map(|device| ("device", quoted(&device.to_string()))));
    keys.extend(args.dtype.clone().map(|dtype| ("dtype", dtype)));
    if keys.is_empty() {
        text.push_str(" {}");
    }
    for (key, value) in keys {
        write!(text, "\n    {key}: {value}").ok();
    }
    let images = if args.format == Format::Folder { ", images: [output]" } else { "" };
    writeln!(text, "\nsink: {{ dir: {}{images} }}", quoted(dir)).ok();
    text
}

/// A YAML string, in which nothing is a variable.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace("${", "${{")
}
