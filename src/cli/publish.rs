//! `lm4lv publish`.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use indicatif::MultiProgress;
use lm4lv::config::{LogKind, ProgressKind, expand_text};
use lm4lv::kafka::publish::{Form, Published, Wanted, Watch, publish};
use lm4lv::report::summary::Snapshot;
use lm4lv::source::{ColumnChoice, ColumnsConfig, OneOrMany, ParquetConfig};
use lm4lv::{Error, Result};

use super::progress::Progress;
use super::run::{FRAME, Signals};
use super::{counted, duration, print, thousands};

const MORE: &str = "\
Row r goes to partition r mod n, in order, and says so in its headers (lm4lv.input, lm4lv.row, lm4lv.n). Run it again and it
goes on behind the last message of each partition: stop it or kill it whenever you like, no row is missing and none is there
twice. A second publisher of the same topic shuts out the first. Messages are sent in transactions of half a second: consumers
read them with isolation.level=read_committed (the default of librdkafka, and what `lm4lv run` does).

A value of --property may name an environment variable or a file, so that a secret stays out of the list of processes:
--property 'sasl.password=${KAFKA_PASSWORD}', --property 'sasl.password=${file:/run/secrets/kafka}'.

Examples:
  lm4lv publish refs.parquet --brokers localhost:9092 --topic images --create 12
  lm4lv publish 's3://bucket/refs/*.parquet' --brokers b:9092 --topic images --keep caption --task-column task
  lm4lv publish photos.parquet --brokers b:9092 --topic photos --message bytes     the files themselves

Exit codes are those of `lm4lv run`; 2 also if the topic ends with other messages, or another publisher took over.
";

/// A unit of reading, nothing that is seen.
const ROWS_AT_ONCE: NonZeroU64 = const { NonZeroU64::new(20_000).unwrap() };

/// Arguments of `lm4lv publish`.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct PublishArgs {
    /// Parquet files, folders of them, globs or URLs, in this order
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
    /// Where brokers are; several with commas between
    #[arg(long, value_name = "HOST:PORT")]
    brokers: String,
    /// The topic
    #[arg(long)]
    topic: String,
    /// Make the topic with N partitions if it does not exist
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    create: Option<u32>,
    /// What a message holds: a JSON object with key, reference (or inline, base64), task and kept columns; or the image file
    #[arg(long, value_enum, default_value = "json")]
    message: MessageKind,
    /// The column that names or holds the images [default: detected]
    #[arg(long, value_name = "COLUMN")]
    reference: Option<String>,
    /// The column of keys [default: detected, else the reference, or the SHA-256 of inline bytes]
    #[arg(long, value_name = "COLUMN")]
    key_column: Option<String>,
    /// The column of tasks
    #[arg(long, value_name = "COLUMN")]
    task_column: Option<String>,
    /// A column to pass on; may be given again; `*`: all but images
    #[arg(long, value_name = "COLUMN")]
    keep: Vec<String>,
    /// A property of librdkafka, such as `security.protocol=SASL_SSL`; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,
    /// Go on although the topic ends with messages of others: search it backwards for the last of these rows
    #[arg(long)]
    append: bool,
    /// The form of log lines on stderr
    #[arg(long, value_enum, default_value = "text")]
    log: LogKind,
    /// How progress is shown on stderr
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressKind,
}

/// The values of `--message`.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum MessageKind {
    Json,
    Bytes,
}

impl PublishArgs {
    fn wanted(self) -> Result<Wanted> {
        let form = match self.message {
            MessageKind::Json => Form::Json,
            MessageKind::Bytes if self.task_column.is_none() && self.keep.is_empty() => Form::Bytes,
            MessageKind::Bytes => {
                return Err(Error::Config(
                    "--message bytes: such a message holds nothing but an image: leave out --task-column and --keep, or \
                     send JSON"
                        .to_owned(),
                ));
            }
        };
        let named = |column: Option<String>, default| column.map_or(default, ColumnChoice::Named);
        let columns = ColumnsConfig {
            reference: named(self.reference, ColumnChoice::Auto),
            key: named(self.key_column, ColumnChoice::Auto),
            target: ColumnChoice::None,
            task: named(self.task_column, ColumnChoice::None),
        };
        let input = ParquetConfig {
            path: OneOrMany(self.paths),
            columns,
            keep: self.keep,
            filter: BTreeMap::new(),
            rows_per_partition: ROWS_AT_ONCE,
        };
        let properties = self.property.iter().map(|text| property(text)).collect::<Result<_>>()?;
        Ok(Wanted {
            brokers: self.brokers,
            properties,
            topic: self.topic,
            create: self.create,
            input,
            form,
            append: self.append,
        })
    }
}

/// `key=value`, its variables replaced.
fn property(text: &str) -> Result<(String, String)> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| Error::Config(format!("--property {text}: write it as KEY=VALUE, such as linger.ms=100")))?;
    let value = expand_text(value).map_err(|why| Error::Config(format!("--property {key}: {why}")))?;
    Ok((key.to_owned(), value))
}

/// Publishes.
pub(crate) async fn run(args: PublishArgs) -> Result<ExitCode> {
    let bars = MultiProgress::new();
    super::logging::init(args.log, &bars);
    let mut progress = Progress::new(args.progress, &bars);
    let wanted = args.wanted()?;
    let topic = wanted.topic.clone();
    let watch = Arc::new(Watch::default());
    let signals = Signals::default();
    let outcome = {
        // librdkafka's calls wait; here they do so on a thread of their own, and the signals are heard.
        let (handle, watched) = (tokio::runtime::Handle::current(), Arc::clone(&watch));
        let mut work = tokio::task::spawn_blocking(move || handle.block_on(publish(wanted, &watched)));
        let mut stop = std::pin::pin!(signals.first());
        let mut frames = tokio::time::interval(FRAME);
        let mut pace = Pace::default();
        let mut is_stopped = false;
        loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                () = &mut stop, if !is_stopped => {
                    is_stopped = true;
                    watch.stop();
                }
                _ = frames.tick() => progress.show(&pace.snapshot(&watch)),
            }
        }
    };
    progress.finish();
    let published = outcome.map_err(|panic| Error::Bug(format!("publishing: {panic}")))??;
    print(&line(&topic, &published))?;
    Ok(if published.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(signals.exit_code()) })
}

/// When sending began.
#[derive(Default)]
struct Pace {
    began: Option<(Instant, u64)>,
}

impl Pace {
    fn snapshot(&mut self, watch: &Watch) -> Snapshot {
        let done = watch.done();
        let mut snapshot =
            Snapshot { rows: done, rows_total: watch.rows(), paused: watch.waits(), ..Snapshot::default() };
        match self.began {
            None if done > 0 => self.began = Some((Instant::now(), done)),
            None => {}
            Some((began, before)) => {
                snapshot.rows_per_s = (done - before) as f64 / began.elapsed().as_secs_f64().max(0.001);
            }
        }
        snapshot
    }
}

/// `12,000 messages to images (12 partitions) in 0.1 s: 150,000 a second; 3,000 rows were there before, 5 are left`.
fn line(topic: &str, published: &Published) -> String {
    let Published { rows, before, messages, partitions, seconds } = *published;
    let to = format!("{topic} ({})", counted(partitions, "partition"));
    if messages == 0 && published.is_complete() {
        return format!("all {} are in {to} already\n", counted(rows, "row"));
    }
    let rate = thousands((messages as f64 / seconds.max(0.001)).round() as u64);
    let mut line = format!("{} to {to} in {}: {rate} a second", counted(messages, "message"), duration(seconds));
    if before > 0 {
        line.push_str(&format!("; {} were there before", thousands(before)));
    }
    if !published.is_complete() {
        line.push_str(&format!("; {} are left: run it again to go on", thousands(rows - before - messages)));
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_was_done() {
        let mut published = Published { rows: 100, before: 0, messages: 100, partitions: 4, seconds: 0.5 };
        assert_eq!(line("t", &published), "100 messages to t (4 partitions) in 0.5 s: 200 a second\n");
        published = Published { before: 30, messages: 20, ..published };
        let said = "20 messages to t (4 partitions) in 0.5 s: 40 a second; 30 were there before; 50 are left: run it again to go on\n";
        assert_eq!(line("t", &published), said);
        published = Published { before: 100, messages: 0, ..published };
        assert_eq!(line("t", &published), "all 100 rows are in t (4 partitions) already\n");
    }

    #[test]
    fn properties_are_pairs() {
        assert_eq!(property("a.b=c=d").unwrap(), ("a.b".into(), "c=d".into()));
        assert!(property("a.b").is_err() && property("=x").is_err() && property("a=${file:}").is_err());
        let properties: BTreeMap<String, String> = ["a=1", "a=2"].iter().map(|text| property(text).unwrap()).collect();
        assert_eq!(properties["a"], "2");
    }
}
