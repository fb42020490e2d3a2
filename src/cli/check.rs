//! `lm4lv check`: what a pipeline file would make, without making it.
//!
//! Local inputs are looked at (names, sizes, Parquet footers); remote ones only with `--online`. Sizes are guesses from the
//! pixels that are known beforehand; with `--online` size and time come from some rows that were really made.
//!
//! (long because what a run would make is told twice: in words and as JSON)

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use lm4lv::config::{Pipeline, ReportConfig};
use lm4lv::load::Loader;
use lm4lv::load::config::{Crop, ResizeMode};
use lm4lv::pipeline::{self, Meter, Options};
use lm4lv::plan::{Opened, content_hash};
use lm4lv::report::summary::StageShare;
use lm4lv::restore;
use lm4lv::sample::FailureCode;
use lm4lv::sink::config::ColumnEncoding;
use lm4lv::sink::{Columns, ImageColumn};
use lm4lv::source::{Discovery, Look, SourceConfig, discover};
use lm4lv::store::Folder;
use lm4lv::{Error, Result};
use serde::Serialize;

use super::{PipelineArgs, bytes, duration, print, print_json, table, thousands};

const MORE: &str = "\
Examples:
  lm4lv check pipelines/quickstart.yaml
  lm4lv check job.yaml --set degrade.variants=4 --json
  lm4lv check job.yaml --online            also ask remote sources and stores

Exits with 2 where `run` would refuse the file, with line, column and what is allowed there, or the dataset that stands there.
";

/// Positions that are tried.
const TRIAL: u64 = 20;
/// Seconds that a trial waits for a host that fails.
const TRIAL_PATIENCE_S: u64 = 30;
/// Bytes that a pixel of a photograph takes; noise costs more, blur less.
const PNG_BYTES: f64 = 2.0;
const WEBP_BYTES: f64 = 1.6;
const JPEG_BYTES: f64 = 0.5;
/// Pixels that a byte of an input file holds, where nothing else is known: a JPEG file of everyday quality.
const PIXELS_A_BYTE: f64 = 4.0;

/// Arguments of `lm4lv check`.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Also ask remote sources and the remote dataset's folder, and make the first 20 positions in a temporary folder, to
    /// estimate size and time
    #[arg(long)]
    online: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What `run` would do.
#[derive(Debug, Serialize)]
struct Outlook {
    /// Where the dataset goes.
    dir: String,
    /// `new`, `stands` (a plan is there, made with these settings), `differs` (with others), or `unknown` (remote, not asked).
    dataset: &'static str,
    /// The plan's inputs; `None` where they are remote and were not asked.
    source: Option<Inputs>,
    /// Rows for each input position.
    variants: u16,
    /// Rows that the finished dataset has.
    rows: Option<u64>,
    /// Its bytes, roughly; `None` where the images' sizes can't be guessed.
    estimated_bytes: Option<u64>,
    /// Seconds for all of them on this machine, from the trial.
    estimated_s: Option<f64>,
    /// What the first positions came to; only with `--online`.
    trial: Option<Trial>,
    /// The output's columns; kept input columns are missing where the source was not asked.
    columns: Vec<Column>,
    /// BLAKE3 of `content`, hex.
    content_hash: String,
    /// What makes a row, presets expanded.
    content: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct Inputs {
    /// Names of topics; absent for files.
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<String>>,
    positions: u64,
    bytes: u64,
    partitions: u64,
    reference: Option<String>,
    key: Option<String>,
    target: Option<String>,
    task: Option<String>,
    keep: Vec<String>,
    /// What was left out, for people.
    notes: Vec<String>,
}

/// The first positions, really made, in a temporary folder.
#[derive(Debug, Serialize)]
struct Trial {
    rows: u64,
    failed: BTreeMap<FailureCode, u64>,
    bytes_a_row: f64,
    seconds_a_row: f64,
    limiting: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Checks a pipeline file.
pub(crate) async fn run(args: CheckArgs) -> Result<ExitCode> {
    let pipeline = args.pipeline.read()?;
    let folder = pipeline.stores.folder(&pipeline.sink.dir)?;
    let standing = match &folder {
        Folder::Remote { .. } if !args.online => None,
        _ => Some(Opened::read(&folder).await?),
    };
    let remote = match &pipeline.source {
        SourceConfig::Parquet(parquet) => parquet.path.0.iter().any(|path| is_remote(path)),
        SourceConfig::Folder(folder) => is_remote(&folder.path),
        SourceConfig::Kafka(_) => true,
    };
    let discovery = match remote && !args.online {
        true => None,
        false => {
            let known = standing.as_ref().and_then(Option::as_ref);
            let look = Look {
                config: &pipeline.source,
                stores: &pipeline.stores,
                sink: Some(&folder),
                known,
                reserved: Columns::reserved(pipeline.restore.is_some()),
            };
            Some(discover(look).await?)
        }
    };
    if let Some(load) = &pipeline.load {
        // A root that is no folder; where images are fetched from without one is known once there is a plan.
        Loader::new(load, &pipeline.stores, None, 0)?;
    }
    let mut outlook = outlook(&pipeline, standing.as_ref(), discovery.as_ref())?;
    if args.online {
        let trial = try_out(&pipeline).await?;
        outlook.estimated_bytes = outlook.rows.map(|rows| (trial.bytes_a_row * rows as f64) as u64);
        outlook.estimated_s = outlook.rows.map(|rows| trial.seconds_a_row * rows as f64);
        outlook.trial = Some(trial);
    }
    match args.json {
        true => print_json(&outlook)?,
        false => print(&text(&outlook))?,
    }
    Ok(if outlook.dataset == "differs" { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// Makes the first positions into a folder that is thrown away: fetches, scores and sizes as they will be.
async fn try_out(pipeline: &Pipeline) -> Result<Trial> {
    let folder = tempfile::tempdir().map_err(|e| Error::disk(std::env::temp_dir(), e))?;
    let mut pipeline = pipeline.clone();
    pipeline.sink.dir = folder.path().join("trial").display().to_string();
    pipeline.sink.scratch = "auto".to_owned();
    pipeline.report = ReportConfig::None;
    pipeline.run.storm.give_up_s = pipeline.run.storm.give_up_s.min(TRIAL_PATIENCE_S);
    let meter = Arc::new(Meter::new(pipeline.run.workers.count()));
    let options = Options { limit: Some(TRIAL), ..Options::default() };
    let (summary, _) = pipeline::run(&pipeline, &options, meter, std::future::pending()).await?;
    let rows = summary.rows.max(1) as f64;
    // The workers' own time: what opening and closing the trial took does not grow with the rows.
    let in_stages = |stage: &&StageShare| !matches!(stage.stage, "fetch" | "sink");
    let computing: f64 = summary.stages.iter().filter(in_stages).map(|stage| stage.busy).sum();
    let share = if summary.limiting == Some("fetch") { 1.0 } else { computing.min(1.0) };
    Ok(Trial {
        rows: summary.rows,
        bytes_a_row: summary.bytes as f64 / rows,
        seconds_a_row: summary.elapsed_s * share / rows,
        failed: summary.failed,
        limiting: summary.limiting,
    })
}

fn is_remote(place: &str) -> bool {
    place.contains("://") && !place.starts_with("file://")
}

fn outlook(pipeline: &Pipeline, standing: Option<&Option<Opened>>, discovery: Option<&Discovery>) -> Result<Outlook> {
    let columns = pipeline.columns(discovery)?;
    let weights = pipeline.restore.as_ref().map(restore::weights_sha256).transpose()?.unwrap_or_default();
    let content = pipeline.content(&weights);
    let hash = content_hash(&content);
    let dataset = match standing {
        None => "unknown",
        Some(None) => "new",
        Some(Some(opened)) if opened.content_hash == hash && opened.plan.schema_hash == columns.hash() => "stands",
        Some(Some(_)) => "differs",
    };
    let source = discovery.map(|discovery| inputs(pipeline, discovery));
    let rows = source
        .as_ref()
        .filter(|source| source.topics.is_none())
        .map(|source| source.positions * u64::from(columns.variants));
    let estimated = source.as_ref().and_then(|source| bytes_a_row(pipeline, source, &columns.images));
    Ok(Outlook {
        dir: pipeline.sink.dir.clone(),
        dataset,
        source,
        variants: columns.variants,
        rows,
        estimated_s: None,
        trial: None,
        estimated_bytes: estimated.zip(rows).map(|(bytes, rows)| (bytes * rows as f64) as u64),
        columns: columns
            .schema()
            .fields()
            .iter()
            .map(|field| Column { name: field.name().clone(), kind: field.data_type().to_string() })
            .collect(),
        content_hash: hash,
        content,
    })
}

fn inputs(pipeline: &Pipeline, discovery: &Discovery) -> Inputs {
    let names = discovery.columns();
    let per_partition = pipeline.source.rows_per_partition().get();
    Inputs {
        positions: discovery.rows(),
        bytes: discovery.bytes(),
        partitions: discovery.rows().div_ceil(per_partition),
        reference: names.map(|names| names.reference.clone()),
        key: names.and_then(|names| names.key.clone()),
        target: names.and_then(|names| names.target.clone()),
        task: names.and_then(|names| names.task.clone()),
        keep: names.map(|names| names.keep.clone()).unwrap_or_default(),
        topics: discovery.topic_names(),
        notes: discovery.notes().to_vec(),
    }
}

/// Bytes of a row's images, roughly; `None` where nothing tells how large they are.
fn bytes_a_row(pipeline: &Pipeline, inputs: &Inputs, images: &[ImageColumn]) -> Option<f64> {
    let from_files = || {
        // A Parquet file of references says nothing about the images.
        let is_folder = matches!(pipeline.source, SourceConfig::Folder(_));
        (is_folder && inputs.positions > 0).then(|| inputs.bytes as f64 / inputs.positions as f64)
    };
    let Some(load) = &pipeline.load else { return from_files() };
    let pixels = match (&load.crop, &load.resize) {
        (Crop::Centre(crop), _) => f64::from(crop.size.width) * f64::from(crop.size.height),
        (Crop::Random(crop), _) => f64::from(crop.size.width) * f64::from(crop.size.height),
        (Crop::None, Some(resize)) => {
            let area = f64::from(resize.size.width) * f64::from(resize.size.height);
            match resize.mode {
                ResizeMode::Exact => area,
                // Photographs are 4:3 more often than not.
                ResizeMode::ShortestSide => area * 4.0 / 3.0,
                ResizeMode::LongestSide => area * 3.0 / 4.0,
            }
        }
        (Crop::None, None) => from_files()? * PIXELS_A_BYTE,
    };
    let bytes_of = |column: &ImageColumn| match pipeline.sink.encoding_of(*column) {
        ColumnEncoding::Png(_) => PNG_BYTES,
        ColumnEncoding::Webp(_) => WEBP_BYTES,
        ColumnEncoding::Jpeg(_) => JPEG_BYTES,
        ColumnEncoding::Original => 1.0 / PIXELS_A_BYTE,
    };
    Some(images.iter().map(bytes_of).sum::<f64>() * pixels)
}

fn text(outlook: &Outlook) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let state = match outlook.dataset {
        "new" => "nothing is there yet",
        "stands" => "a plan stands there, made with these settings: run goes on with it",
        "differs" => "a plan stands there, made with other settings: run would name them and refuse",
        _ => "remote: --online asks it",
    };
    row("dataset", format!("{} ({state})", outlook.dir));
    match &outlook.source {
        None => row("source", "remote: --online asks it".to_owned()),
        Some(source) => {
            if let Some(topics) = &source.topics {
                row("source", format!("topics {}", topics.join(", ")));
            } else {
                row("source", format!("{} positions, {}", thousands(source.positions), bytes(source.bytes)));
                row("partitions", thousands(source.partitions));
            }
            if let Some(reference) = &source.reference {
                let none = || "none".to_owned();
                let mut words = vec![
                    format!("reference {reference}"),
                    format!("key {}", source.key.clone().unwrap_or_else(|| "the reference itself".to_owned())),
                    format!("target {}", source.target.clone().unwrap_or_else(none)),
                ];
                if !source.keep.is_empty() {
                    words.push(format!("kept {}", source.keep.join(" ")));
                }
                row("read", words.join(", "));
            }
            for note in &source.notes {
                row("note", note.clone());
            }
        }
    }
    if let Some(n) = outlook.rows {
        row("rows", format!("{} ({} for each position)", thousands(n), outlook.variants));
    }
    if let Some(n) = outlook.estimated_bytes {
        row("size", format!("about {}", bytes(n)));
    }
    if let Some(trial) = &outlook.trial {
        let failed: Vec<_> = trial.failed.iter().map(|(code, n)| format!("{n} {}", code.as_str())).collect();
        let failed =
            if failed.is_empty() { "none failed".to_owned() } else { format!("failed: {}", failed.join(", ")) };
        row("trial", format!("{} rows, {failed}, {} a row", thousands(trial.rows), bytes(trial.bytes_a_row as u64)));
        if let Some(seconds) = outlook.estimated_s {
            let limits = trial.limiting.map_or(String::new(), |stage| format!(" ({stage} limits)"));
            row("time", format!("about {}{limits}", duration(seconds)));
        }
    }
    row("hash", outlook.content_hash.clone());
    let mut out = table(&rows, &[1]);
    out.push_str("\nWhat makes a row\n");
    if let Some(sections) = outlook.content.as_object() {
        let lines = sections.iter().filter(|(_, value)| !value.is_null());
        out.push_str(&table(
            &lines.map(|(name, value)| vec![name.clone(), value.to_string()]).collect::<Vec<_>>(),
            &[1],
        ));
    }
    out.push_str("\nColumns\n");
    let columns = outlook.columns.iter().map(|column| vec![column.name.clone(), column.kind.clone()]);
    out.push_str(&table(&columns.collect::<Vec<_>>(), &[1]));
    out
}
