//! `lm4lv sheet`: a contact sheet of a dataset as a PNG file, or its failed rows.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use lm4lv::report::Order;
use lm4lv::report::failures::failures;
use lm4lv::report::sheet::{MAX_RECORDS, SheetOptions, make};
use lm4lv::{Error, Result};

use super::{dataset, print, print_json};

/// Where `run` draws the sheet of its `report` section, too.
const SHEET: &str = "report/sheet.png";

/// Arguments of `lm4lv sheet`.
#[derive(Debug, Args)]
#[command(after_help = dataset::REMOTE)]
pub(crate) struct SheetArgs {
    /// The dataset
    dir: String,
    /// Records to show, each with up to 8 variants; with --failures: failed rows to list
    #[arg(short = 'n', long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=MAX_RECORDS as u64))]
    rows: u64,
    /// Show the records with the lowest values of this score column first, such as input_psnr_lm4lv; without it: records
    /// from all over the dataset
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// With --sort: highest values first
    #[arg(long, requires = "sort")]
    descending: bool,
    /// List the failed rows instead: how many of each code, and the first with their messages
    #[arg(long, conflicts_with_all = ["sort", "descending"])]
    failures: bool,
    /// With --failures: print JSON
    #[arg(long, requires = "failures", conflicts_with = "output")]
    json: bool,
    /// The PNG file to write [default: report/sheet.png in the dataset; with --failures: text on the terminal]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs it.
pub(crate) async fn run(args: SheetArgs) -> Result<ExitCode> {
    let dataset = dataset::open(&args.dir).await?;
    if args.failures {
        let failures = failures(&dataset, args.rows as usize).await?;
        match &args.output {
            Some(output) => write(output, &failures.png()?)?,
            None if args.json => print_json(&failures)?,
            None => print(&failures.text())?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let order = match args.sort {
        None => Order::Spread,
        Some(column) if args.descending => Order::Descending(column),
        Some(column) => Order::Ascending(column),
    };
    let sheet = make(&dataset, &SheetOptions { records: args.rows as usize, order }).await?;
    match &args.output {
        Some(output) => write(output, &sheet)?,
        None => {
            dataset.folder().put(SHEET, sheet.into()).await?;
            print(&format!("{}\n", dataset.folder().place(SHEET)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a picture and says where it is.
fn write(path: &Path, png: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Error::disk(folder, e))?;
    }
    std::fs::write(path, png).map_err(|e| Error::disk(path, e))?;
    print(&format!("{}\n", path.display()))
}
