//! `lm4lv verify`: is every row of a dataset there, once, and right.

use std::process::ExitCode;

use clap::Args;
use lm4lv::checkpoint::Partition;
use lm4lv::plan::Opened;
use lm4lv::report::pixels::{PixelReport, check};
use lm4lv::sink::verify::{Report, verify};
use lm4lv::{Error, Result};
use serde::Serialize;

use super::{counted, dataset, print, print_json, thousands};

/// Exit code where something is wrong with the data.
const FAULTY: u8 = 3;

const MORE: &str = "\
Walks every chain of parts: each begins where the one before it ends, every position has all its variants exactly once, and
footers tell the truth. With --pixels also decodes every image, compares width, height and SHA-256, and computes every score
again (to 1e-6; scores of images that are stored as JPEG cannot be, and are counted as skipped).

Exits with 0 if all is well, with 3 if not; every fault is named.
";

/// Arguments of `lm4lv verify`.
#[derive(Debug, Args)]
#[command(after_help = format!("{MORE}\n{}", dataset::REMOTE))]
pub(crate) struct VerifyArgs {
    /// The dataset
    dir: String,
    /// Every chain must reach the plan's end, too
    #[arg(long)]
    complete: bool,
    /// Also decode every image and compute its scores again
    #[arg(long)]
    pixels: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Findings {
    ok: bool,
    #[serde(flatten)]
    chains: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    pixels: Option<PixelReport>,
}

/// Runs it.
pub(crate) async fn run(args: VerifyArgs) -> Result<ExitCode> {
    let dataset = dataset::open(&args.dir).await?;
    let folder = dataset.folder();
    let plan = Opened::read(folder).await?.ok_or_else(|| {
        Error::Config(format!("{}: no .lm4lv/plan.json: only a dataset with its plan can be verified", args.dir))
    })?;
    if args.complete && !plan.plan.topics.is_empty() {
        return Err(Error::Config("--complete: a topic has no end that a dataset could have come to".into()));
    }
    let stream = |partition: &Partition| plan.start_of(partition);
    let chains = verify(folder, &plan.plan.dataset, &plan.partitions(None, None), &stream, args.complete).await?;
    let pixels = match args.pixels {
        true => Some(check(&dataset, Some(&plan)).await?),
        false => None,
    };
    let faults = chains.faults.len() + pixels.as_ref().map_or(0, |pixels| pixels.faults.len());
    let findings = Findings { ok: faults == 0, chains, pixels };
    match args.json {
        true => print_json(&findings)?,
        false => print(&text(&args.dir, &findings, faults))?,
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) })
}

fn text(dir: &str, findings: &Findings, faults: usize) -> String {
    let chains = &findings.chains;
    let mut text = format!(
        "{dir}: {} in {} of {}, {} failed\n",
        counted(chains.rows, "row"),
        counted(chains.parts, "part"),
        counted(chains.partitions, "partition"),
        thousands(chains.failed),
    );
    for (count, what) in [
        (chains.missing, "positions are not done yet"),
        (chains.skipped, "positions have no rows on purpose"),
        (chains.archived, "positions lie before the oldest part: archived or deleted"),
    ] {
        if count > 0 {
            text.push_str(&format!("{} {what}\n", thousands(count)));
        }
    }
    if let Some(pixels) = &findings.pixels {
        text.push_str(&format!(
            "{} images decoded, {} of them source files by their SHA-256; {} scores computed again, {} skipped\n",
            thousands(pixels.images),
            thousands(pixels.originals),
            thousands(pixels.scores),
            thousands(pixels.skipped_scores),
        ));
    }
    for fault in chains.faults.iter().chain(findings.pixels.iter().flat_map(|pixels| &pixels.faults)) {
        text.push_str(&format!("fault: {fault}\n"));
    }
    text.push_str(&match faults {
        0 if chains.missing + chains.archived > 0 => "what is there is sound, but not complete\n".to_owned(),
        0 => "sound and complete\n".to_owned(),
        1 => "1 fault\n".to_owned(),
        faults => format!("{} faults\n", thousands(faults as u64)),
    });
    text
}
