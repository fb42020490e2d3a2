//! `lm4lv status`: how far a dataset is.

use std::process::ExitCode;

use clap::Args;
use lm4lv::Result;
use lm4lv::report::status::{Input, PartitionStatus, Progress, Status, status};
use lm4lv::store::Stores;

use super::{bytes, counted, dataset, duration, print, print_json, table, thousands};

/// Lines of each kind that fit a screen; JSON has all.
const SHOWN: usize = 24;

const MORE: &str = "\
Reads the plan, a listing and one footer for each partition: it takes no lock and disturbs no run. Positions are records of the
input; --rows counts rows and failures, from the footer of every part. --json has every partition.
";

/// Arguments of `lm4lv status`.
#[derive(Debug, Args)]
#[command(after_help = format!("{MORE}\n{}", dataset::REMOTE))]
pub(crate) struct StatusArgs {
    /// The dataset
    dir: String,
    /// Also count rows and failed rows: reads the footer of every part
    #[arg(long)]
    rows: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(args: StatusArgs) -> Result<ExitCode> {
    let status = status(&Stores::default().folder(&args.dir)?, args.rows).await?;
    match args.json {
        true => print_json(&status)?,
        false => print(&text(&args.dir, &status))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(dir: &str, status: &Status) -> String {
    let Status { total, .. } = status;
    let mut text = match (total.planned, status.percent) {
        (Some(planned), Some(percent)) => {
            format!("{dir}: {} of {}, {}\n", thousands(total.done), counted(planned, "position"), share(percent))
        }
        _ => format!("{dir}: {}\n", counted(total.done, "position")),
    };
    text.push_str(&table(&figures(status), &[1]));
    let work: Vec<_> = status.partitions.iter().filter(|partition| is_in_work(partition)).collect();
    if !work.is_empty() {
        text.push('\n');
        text.push_str(&table(&lines(&work), &[]));
        more(&mut text, work.len(), "partitions in work");
    }
    if !status.notes.is_empty() {
        text.push('\n');
        status.notes.iter().take(SHOWN).for_each(|note| text.push_str(&format!("note: {note}\n")));
        more(&mut text, status.notes.len(), "notes");
    }
    text
}

fn more(text: &mut String, count: usize, what: &str) {
    if count > SHOWN {
        text.push_str(&format!("  … and {} more {what}: --json has all\n", thousands((count - SHOWN) as u64)));
    }
}

/// `99.9 %`, and 100 only where all is done.
fn share(percent: f64) -> String {
    format!("{:.1} %", if percent < 100.0 { percent.min(99.9) } else { percent })
}

fn is_in_work(partition: &PartitionStatus) -> bool {
    let Progress { planned, parts, .. } = partition.progress;
    planned.map_or(parts > 0, |planned| parts > 0 && partition.end < planned)
}

fn figures(status: &Status) -> Vec<Vec<String>> {
    let Status { total, inputs, partitions, .. } = status;
    let mut rows = vec![vec!["dataset".to_owned(), status.dataset.clone()]];
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    for Input { name, positions } in inputs.iter().take(4) {
        row("input", positions.map_or(name.clone(), |n| format!("{name} ({})", counted(n, "position"))));
    }
    if inputs.len() > 4 {
        row("", format!("… and {} more", inputs.len() - 4));
    }
    let work = partitions.iter().filter(|partition| is_in_work(partition)).count() as u64;
    row(
        "partitions",
        match total.planned {
            Some(_) => {
                let left = partitions.len() as u64 - work - status.complete;
                format!(
                    "{} complete, {} in work, {} not begun",
                    thousands(status.complete),
                    thousands(work),
                    thousands(left)
                )
            }
            None => thousands(partitions.len() as u64),
        },
    );
    row("parts", format!("{} with {}", thousands(total.parts), bytes(total.bytes)));
    if let Some(rows) = &total.rows {
        let skipped = match rows.skipped {
            0 => String::new(),
            n => format!(", {} without rows", counted(n, "position")),
        };
        row("rows", format!("{}, {} failed{skipped}", thousands(rows.rows), thousands(rows.failed)));
    }
    row("last hour", counted(status.last_hour, "position"));
    if let Some(last) = &total.last {
        row("newest", format!("{}, {} old", last.part, duration(last.age_s as f64)));
        row("", format!("by {}", last.writer));
    }
    rows
}

fn lines(partitions: &[&PartitionStatus]) -> Vec<Vec<String>> {
    let header = ["partition", "next", "of", "done", "parts", "size", "last part"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for partition in partitions.iter().take(SHOWN) {
        let Progress { done, planned, parts, bytes: size, last, .. } = &partition.progress;
        let percent = |planned: u64| share(100.0 * *done as f64 / planned.max(1) as f64);
        rows.push(vec![
            partition.partition.to_string(),
            thousands(partition.end),
            planned.map_or("–".to_owned(), thousands),
            planned.map_or(thousands(*done), percent),
            thousands(*parts),
            bytes(*size),
            last.as_ref().map_or(String::new(), |last| format!("{} ago", duration(last.age_s as f64))),
        ]);
    }
    rows
}
