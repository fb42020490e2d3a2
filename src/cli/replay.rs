//! `lm4lv replay`: a row made again from what it recorded, and compared to the byte.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lm4lv::checkpoint::{Partition, Position};
use lm4lv::config::Pipeline;
use lm4lv::report::replay::{ReplayOptions, Replayed, Verdict, replay};
use lm4lv::report::rows::{Address, Dataset};
use lm4lv::{Error, Result};

use super::{dataset, print, print_json, thousands};

/// Exit code where the row is not what its record makes.
const DIFFERS: u8 = 3;

const MORE: &str = "\
Fetches the row's source again, applies the operations with the parameters and the seed that the row recorded (not the recipe),
encodes, and compares every image to the byte and every score.

Exits with 0 if all is equal, with 3 if something differs or the source changed or has gone.

Examples:
  lm4lv replay out/quickstart coffee.jpg --variant 2
  lm4lv replay out/quickstart --at 00000-00000:17 -o again.png
  lm4lv replay out/crawl KEY --pipeline pipelines/crawl.yaml      headers, allowed hosts and stores from there
";

/// Arguments of `lm4lv replay`.
#[derive(Debug, Args)]
#[command(after_help = format!("{MORE}\n{}", dataset::REMOTE))]
pub(crate) struct ReplayArgs {
    /// The dataset
    dir: String,
    /// The row's key
    #[arg(value_name = "KEY", required_unless_present = "at", conflicts_with = "at")]
    key: Option<String>,
    /// The row's position, as columns `partition` and `offset` have it
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = position)]
    at: Option<Position>,
    /// Which of the position's rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    variant: u16,
    /// Where relative references start now, if the files were moved
    #[arg(long, value_name = "DIR")]
    root: Option<String>,
    /// Take stores, headers, allowed hosts and root from this pipeline file
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Write the input image made again to this file (in the dataset's encoding)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// `partition:offset`.
fn position(text: &str) -> Result<Position, String> {
    let parts = text.rsplit_once(':').filter(|(partition, _)| !partition.is_empty());
    let offset = parts.and_then(|(_, offset)| offset.parse().ok());
    match (parts, offset) {
        (Some((partition, _)), Some(offset)) => Ok(Position { partition: Partition::new(partition), offset }),
        _ => Err("not a position such as 00000-00000:17".to_owned()),
    }
}

/// Runs it.
pub(crate) async fn run(args: ReplayArgs) -> Result<ExitCode> {
    let mut options = ReplayOptions { root: args.root.clone(), ..ReplayOptions::default() };
    if let Some(file) = &args.pipeline {
        let pipeline = Pipeline::from_file(file, &[])?;
        options.stores = pipeline.stores;
        options.load = pipeline.load;
    }
    let dataset = dataset::open(&args.dir).await?;
    let at = find(&dataset, &args).await?;
    let replayed = replay(&dataset, at, &options).await?;
    if let Some(output) = &args.output
        && let Some(image) = replayed.images.iter().find(|image| image.column == "input")
    {
        std::fs::write(output, &image.rebuilt).map_err(|e| Error::disk(output, e))?;
    }
    match args.json {
        true => print_json(&replayed)?,
        false => print(&text(&replayed))?,
    }
    Ok(if replayed.verdict == Verdict::Equal { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

/// The row asked for.
async fn find(dataset: &Dataset, args: &ReplayArgs) -> Result<Address> {
    let (found, what) = match (&args.key, &args.at) {
        (_, Some(position)) => (dataset.find_position(position, Some(args.variant)).await?, position.to_string()),
        (Some(key), None) => (dataset.find_key(key, Some(args.variant), 1).await?, format!("key `{key}`")),
        (None, None) => return Err(Error::Config("name a row: KEY, or --at PARTITION:OFFSET".to_owned())),
    };
    found
        .first()
        .copied()
        .ok_or_else(|| Error::Config(format!("{}: no row with {what} and variant {}", dataset.place(), args.variant)))
}

fn text(replayed: &Replayed) -> String {
    let Replayed { key, variant, at, .. } = replayed;
    let mut text = format!("{key} (variant {variant}, {at})\n");
    for op in &replayed.ops {
        text.push_str(&format!("  {op}\n"));
    }
    for note in &replayed.notes {
        text.push_str(&format!("  {note}\n"));
    }
    for image in &replayed.images {
        let bytes = thousands(image.stored_bytes as u64);
        text.push_str(&match (image.equal, image.pixels) {
            (true, _) => format!("  {}: the same {bytes} bytes\n", image.column),
            (false, Some((0, _))) => format!("  {}: other bytes, the same pixels\n", image.column),
            (false, Some((pixels, most))) => {
                let pixels = thousands(pixels);
                format!("  {}: {pixels} pixels differ, by up to {most} grey levels\n", image.column)
            }
            (false, None) => format!("  {}: another image\n", image.column),
        });
    }
    for score in &replayed.scores_differ {
        text.push_str(&format!("  {score}: another value\n"));
    }
    text.push_str(match replayed.verdict {
        Verdict::Equal => "equal\n",
        Verdict::Differs => "differs\n",
        Verdict::SourceChanged => "source changed\n",
        Verdict::SourceGone => "source gone\n",
    });
    text
}
