//! `lm4lv export`: a dataset in a layout that other tools read.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lm4lv::report::export::{ExportOptions, Format, export};
use lm4lv::{Error, Result};

use super::{dataset, print, print_json, thousands};

/// Arguments of `lm4lv export`.
#[derive(Debug, Args)]
#[command(after_help = dataset::REMOTE)]
pub(crate) struct ExportArgs {
    /// The dataset
    dir: String,
    /// The local folder to export into; an interrupted export goes on, a finished one writes nothing again
    #[arg(long, value_name = "OUT")]
    to: String,
    /// The layout
    #[arg(long, value_enum)]
    format: Layout,
    /// Rows in each shard (webdataset)
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    shard_rows: u64,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Layout {
    /// OUT/input/…, OUT/target/… with the sub-folders of the keys, and metadata.jsonl (reads as a Hugging Face imagefolder)
    Folder,
    /// OUT/….png: the restored images alone, with the names and sub-folders of the keys, and metadata.jsonl
    Mirror,
    /// OUT/shard-000000.tar …, each sample as <key>.input.png, <key>.target.png, <key>.json
    Webdataset,
    /// OUT/lq/… and OUT/gt/… with equal names, and meta_info.txt
    Basicsr,
}

/// Runs it.
pub(crate) async fn run(args: ExportArgs) -> Result<ExitCode> {
    if args.to.contains("://") {
        return Err(Error::Config(format!("--to {}: exports go to a local folder; copy it from there", args.to)));
    }
    let format = match args.format {
        Layout::Folder => Format::Folder,
        Layout::Mirror => Format::Mirror,
        Layout::Webdataset => Format::Webdataset,
        Layout::Basicsr => Format::Basicsr,
    };
    let dataset = dataset::open(&args.dir).await?;
    let options = ExportOptions { format, shard_rows: args.shard_rows };
    let done = export(&dataset, &PathBuf::from(&args.to), options).await?;
    if args.json {
        print_json(&done)?;
        return Ok(ExitCode::SUCCESS);
    }
    let unit = if format == Format::Webdataset { "shards" } else { "files" };
    let mut text = match done.written {
        0 => format!("all done already: {} rows are in {}; nothing was written\n", thousands(done.rows), args.to),
        written => {
            let kept = if done.kept > 0 { format!(", {} were there", thousands(done.kept)) } else { String::new() };
            format!("{} rows in {}: {} {unit} written{kept}\n", thousands(done.rows), args.to, thousands(written))
        }
    };
    for (count, what) in [
        (done.failed, "rows failed and were left out"),
        (done.without_images, "rows lack an image that this layout needs and were left out"),
        (done.renamed, "rows have a name that an earlier row has, and got ~<partition>-<offset> behind it"),
    ] {
        if count > 0 {
            text.push_str(&format!("{} {what}\n", thousands(count)));
        }
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
