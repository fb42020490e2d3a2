//! `lm4lv run`.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::MultiProgress;
use lm4lv::Result;
use lm4lv::config::{LogKind, Pipeline, ProgressKind};
use lm4lv::pipeline::{self, Ended, Meter, Options};
use lm4lv::report::summary::Summary;

use super::PipelineArgs;
use super::progress::Progress;

const MORE: &str = "\
Run again with the same file, it goes on where it stopped; once all is there, it says so and writes nothing. \
Stop it whenever you like: SIGINT or SIGTERM finish what is in work (run.drain_s), a second one stops at once.

Examples:
  lm4lv run pipelines/quickstart.yaml
  lm4lv run job.yaml --set sink.dir=s3://bucket/out --set degrade.seed=7
  lm4lv run job.yaml --limit 100 --set sink.dir=out/try     look at the first hundred
  lm4lv run job.yaml --shard 0/4                             one of four machines, with the same file on each
  lm4lv run job.yaml --log json --json > summary.json        for programs

Exit codes:
    0  done (failed rows allowed: see the table, and error_code in the rows)
    1  a bug in lm4lv
    2  the pipeline file, a flag, or a dataset made from other settings
    3  going on could lose or double rows: the input or the output is not what the plan says
    4  more rows failed than run.max_failed_share allows
   64  wrong usage of the command line
   74  the local disk refused a read or a write
   75  a store, host or network did not answer for run.storm.give_up_s: try again later
  130  drained after SIGINT with work left
  143  drained after SIGTERM with work left
";

/// Arguments of `lm4lv run`.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// Do only the partitions k with k mod N = I (I from 0): one of N machines that run the same file
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<Shard>,
    /// Do only the first N positions in plan order; with --shard, this shard's of them
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Add input files that appeared since the dataset was planned
    #[arg(long)]
    pub(crate) extend: bool,
    /// Go on although what makes a row has changed; N is the change's number, from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) accept_change: Option<u32>,
    /// The form of log lines on stderr [default: run.log of the file]
    #[arg(long, value_enum)]
    pub(crate) log: Option<LogKind>,
    /// How progress is shown on stderr [default: run.progress of the file]
    #[arg(long, value_enum)]
    pub(crate) progress: Option<ProgressKind>,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One of n shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    /// From 0, below `of`.
    pub(crate) index: usize,
    /// At least 1.
    pub(crate) of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            Some((_, 0)) => Err("there must be at least one shard".to_owned()),
            Some((_, of)) => Err(format!("shards are counted from 0: the last of {of} is {}/{of}", of - 1)),
            None => Err("write it as I/N, such as 0/4".to_owned()),
        }
    }
}

/// How often the progress is drawn.
pub(super) const FRAME: Duration = Duration::from_millis(200);

/// Runs a pipeline.
pub(crate) async fn run(args: RunArgs) -> Result<ExitCode> {
    let pipeline = args.pipeline.read()?;
    let options = Options {
        shard: args.shard.map(|shard| (shard.index as u64, shard.of as u64)),
        limit: args.limit,
        extend: args.extend,
        accept_change: args.accept_change,
    };
    let (summary, code) = execute(&pipeline, &options, args.log, args.progress).await?;
    super::summary::show(&summary, args.json)?;
    Ok(code.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Runs `pipeline` with log lines and progress on stderr, until it is done or a signal comes; with what the exit code is of a
/// run that was stopped with work left.
pub(crate) async fn execute(
    pipeline: &Pipeline,
    options: &Options,
    log: Option<LogKind>,
    progress: Option<ProgressKind>,
) -> Result<(Summary, Option<u8>)> {
    let bars = MultiProgress::new();
    super::logging::init(log.unwrap_or(pipeline.run.log), &bars);
    let meter = Arc::new(Meter::new(pipeline.run.workers.count()));
    let mut progress = Progress::new(progress.unwrap_or(pipeline.run.progress), &bars);
    let signals = Signals::default();
    let outcome = {
        let run = pipeline::run(pipeline, options, Arc::clone(&meter), signals.first());
        let mut run = std::pin::pin!(run);
        let mut frames = tokio::time::interval(FRAME);
        loop {
            tokio::select! {
                outcome = &mut run => break outcome,
                _ = frames.tick() => progress.show(&meter.snapshot()),
            }
        }
    };
    progress.finish();
    let (summary, ended) = outcome?;
    let stopped = ended == Ended::Drained && summary.rows_left != Some(0);
    Ok((summary, stopped.then(|| signals.exit_code())))
}

/// The first SIGINT or SIGTERM asks the run to drain, the second ends the process at once.
#[derive(Default)]
pub(super) struct Signals {
    received: AtomicU8,
}

impl Signals {
    /// Waits for the first signal.
    pub(super) async fn first(&self) {
        let code = signal().await;
        self.received.store(code, Ordering::Relaxed);
        // house: it listens beside the run, which is busy draining.
        tokio::spawn(async {
            let code = signal().await;
            super::logging::say("stopped at once: what was not published is made again by the next run\n");
            // house: at once is at once.
            std::process::exit(i32::from(code));
        });
    }

    /// 128 and the signal's number, as shells have it.
    pub(super) fn exit_code(&self) -> u8 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Waits for SIGINT or SIGTERM and gives its exit code.
async fn signal() -> u8 {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = tokio::signal::ctrl_c() => 130,
                _ = terminate.recv() => 143,
            };
        }
    }
    // Without a way to listen there is nothing to wait for: the system's own handling ends the process.
    match tokio::signal::ctrl_c().await {
        Ok(()) => 130,
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_counted_from_zero() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, of: 3 }));
        for wrong in ["3/3", "0/0", "1", "a/b", "-1/2", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
