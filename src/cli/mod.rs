//! The command line: one file for each subcommand, and what they share (arguments, logging, printing).
//!
//! Results go to stdout, everything else to stderr. A closed stdout (`lm4lv ops | head`) is not an error.

mod bench;
mod check;
mod completions;
mod dataset;
mod export;
pub(crate) mod logging;
mod model;
mod ops;
pub(crate) mod progress;
mod publish;
mod replay;
mod restore;
mod run;
mod schema;
mod sheet;
mod status;
pub(crate) mod summary;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lm4lv::config::Pipeline;
pub(crate) use lm4lv::report::sheet::{counted, thousands};
use lm4lv::restore::config::DeviceName;
use lm4lv::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  lm4lv run pipelines/quickstart.yaml            make a dataset; again: go on where it stopped
  lm4lv restore photos -o out --model MODEL --task TASK    restore a folder of images
  lm4lv check pipelines/quickstart.yaml          what would run make, without making it
  lm4lv status out/quickstart                    how far is it
  lm4lv verify out/quickstart --pixels           is every row there, once, and right
  lm4lv sheet out/quickstart -o sheet.png        look at it
  lm4lv ops                                      degradations and presets for `degrade.recipe`
";

/// Image references in, degraded and scored pairs out: every parameter recorded, the same bytes whenever it is run again.
#[derive(Debug, Parser)]
#[command(name = "lm4lv", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the dataset that a pipeline file describes, or go on with it
    Run(run::RunArgs),
    /// Restore a folder of images without a pipeline file
    Restore(restore::RestoreArgs),
    /// Check a pipeline file and show what it would make
    Check(check::CheckArgs),
    /// How far a dataset is, from the dataset alone
    Status(status::StatusArgs),
    /// Walk every chain of a dataset: each row there, exactly once
    Verify(verify::VerifyArgs),
    /// Rebuild a row from what it recorded and compare
    Replay(replay::ReplayArgs),
    /// Send the rows of Parquet files to a Kafka topic, each exactly once
    Publish(publish::PublishArgs),
    /// Copy a dataset into folders or WebDataset shards
    Export(export::ExportArgs),
    /// Draw a contact sheet of a dataset
    Sheet(sheet::SheetArgs),
    /// Time a model on this machine
    #[command(subcommand)]
    Bench(bench::BenchArgs),
    /// Make model folders and explain them
    Model(model::ModelArgs),
    /// Print the JSON Schema of pipeline files, or the columns of results
    Schema(schema::SchemaArgs),
    /// List degradations and presets with their parameters
    Ops(ops::OpsArgs),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
}

impl Cli {
    /// Runs the subcommand. An `Err` is not printed yet.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(args) => Box::pin(run::run(args)).await,
            Command::Restore(args) => Box::pin(restore::run(args)).await,
            Command::Check(args) => Box::pin(check::run(args)).await,
            Command::Status(args) => Box::pin(status::run(args)).await,
            Command::Verify(args) => Box::pin(verify::run(args)).await,
            Command::Replay(args) => Box::pin(replay::run(args)).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Export(args) => Box::pin(export::run(args)).await,
            Command::Sheet(args) => Box::pin(sheet::run(args)).await,
            Command::Bench(args) => bench::run(&args),
            Command::Model(args) => model::run(args),
            Command::Schema(args) => schema::run(&args),
            Command::Ops(args) => ops::run(&args),
            Command::Completions(args) => completions::run(&args),
        }
    }
}

/// A pipeline file and what overrides it.
#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    /// The pipeline file (YAML)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Override a key: `--set sink.dir=out`, `--set degrade.recipe.0.gaussian_noise.sigma=25`; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where the model computes: auto, cpu, cuda or cuda:1; short for --set restore.….device
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceName>,
    /// The type that it computes in; short for --set restore.….dtype
    #[arg(long, value_name = "DTYPE", value_parser = DTYPES)]
    dtype: Option<String>,
}

/// The values of `--dtype`.
pub(crate) const DTYPES: [&str; 3] = ["auto", "f32", "bf16"];

impl PipelineArgs {
    /// Reads the file. `Error::Config` says where it is wrong.
    pub(crate) fn read(&self) -> Result<Pipeline> {
        let pipeline = Pipeline::from_file(&self.file, &self.set)?;
        let device = self.device.map(|device| ("device", device.to_string()));
        let short: Vec<_> = device.into_iter().chain(self.dtype.clone().map(|dtype| ("dtype", dtype))).collect();
        let Some((flag, _)) = short.first() else { return Ok(pipeline) };
        let restore = pipeline.restore.as_ref().filter(|restore| restore.model().is_some()).ok_or_else(|| {
            Error::Config(format!("--{flag}: {} has no section `restore` with a model", self.file.display()))
        })?;
        let short = short.iter().map(|(key, value)| format!("restore.{}.{key}={value}", restore.name()));
        Pipeline::from_file(&self.file, &self.set.iter().cloned().chain(short).collect::<Vec<_>>())
    }
}

/// Writes a result to stdout. A reader that went away is fine.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::disk("stdout", error)),
        _ => Ok(()),
    }
}

/// Writes a result to stdout as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Bug(format!("cannot write JSON: {e}")))?;
    print(&(text + "\n"))
}

/// Bytes in the unit that suits them, such as `1.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{n} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// Seconds as people say them, such as `0.4 s`, `2 min 5 s`, `3 h 20 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 59.5 => format!("{:.1} s", seconds.max(0.0)),
        0..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..172_800 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} days {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// Lines up the columns of a table: the first to the left, the others to the right unless `left` says so.
pub(crate) fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (index, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[index] - cell.chars().count());
            match index == 0 || left.contains(&index) {
                true => line.push_str(&format!(" {cell}{pad} ")),
                false => line.push_str(&format!(" {pad}{cell} ")),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(duration(0.44), "0.4 s");
        assert_eq!(duration(59.6), "1 min 0 s");
        assert_eq!(duration(12_000.0), "3 h 20 min");
        assert_eq!(duration(1e6), "11 days 13 h");
    }
}
