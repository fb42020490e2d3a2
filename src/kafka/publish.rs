//! Rows of Parquet files into a topic, each exactly once, without a state file: what the topic holds says where to go on.
//!
//! Row `r` (counted over the ordered files) goes to partition `r mod n`, where `n` is the number of partitions, and rows of a
//! partition go in order. Each message says in its headers where it comes from (`lm4lv.input`, `lm4lv.row`, `lm4lv.n`), so
//! the last message of each partition names the row to go on with.
//!
//! One publisher at a time: an idempotent producer alone would not do. Two that are started by accident, or one that was
//! frozen, replaced and thawed, read the same last messages and both send what comes next, and the brokers take both. So
//! messages are sent in transactions under a `transactional.id` that the topic's name makes: whoever registers it last is the
//! only one that the brokers take messages from, and only then does it read what the last messages are. (The input is not in
//! that id: publishers of two inputs would mix their rows.) The price is that a publisher that is killed leaves an aborted
//! transaction behind, at most `COMMIT_EVERY` of messages that readers with `isolation.level=read_uncommitted` (the default
//! of the Java client, not of librdkafka, nor ours) see and should not; and that the topic's offsets have gaps, where the
//! brokers write their marks. A transaction holds rows next to each other, of all partitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Connection, Hearing};
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::plan::{Opened, PlannedPartition, content_hash};
use crate::source::{Discovery, Event, Look, ParquetConfig, Source, SourceConfig, discover, open};
use crate::store::Stores;

mod lineage;
mod message;
mod sender;
mod topic;

pub use message::Form;

use lineage::{Lineage, resume};
use message::Message;
use sender::Sender;
use topic::Topic;

/// How long a transaction stays open: readers see its messages when it is done.
const COMMIT_EVERY: Duration = Duration::from_millis(500);

/// What to publish, and where.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `host:port`, several with commas between.
    pub brokers: String,
    /// librdkafka's properties.
    pub properties: BTreeMap<String, String>,
    /// The topic.
    pub topic: String,
    /// Make the topic with so many partitions if it does not exist.
    pub create: Option<u32>,
    /// The files and their columns.
    pub input: ParquetConfig,
    /// What a message holds.
    pub form: Form,
    /// Go on behind messages of others: then the topic is searched backwards for the last of this input.
    pub append: bool,
}

/// What others see of a publisher while it works, and how they stop it.
#[derive(Debug, Default)]
pub struct Watch {
    rows: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    hearing: Arc<Hearing>,
}

impl Watch {
    /// Rows of the input, once they are known.
    pub fn rows(&self) -> Option<u64> {
        Some(self.rows.load(Ordering::Relaxed)).filter(|rows| *rows > 0)
    }

    /// Rows that were sent, by earlier publishers too.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Why no broker answers, if none does.
    pub fn waits(&self) -> Option<String> {
        self.hearing
            .waits()
            .map(|(since, reason)| format!("no broker answers for {:.0} s: {reason}", since.as_secs_f64()))
    }

    /// Asks it to finish its transaction and stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// Rows of the input.
    pub rows: u64,
    /// Rows that were in the topic before.
    pub before: u64,
    /// Messages that this publisher added.
    pub messages: u64,
    /// Partitions of the topic.
    pub partitions: u64,
    /// Seconds spent sending.
    pub seconds: f64,
}

impl Published {
    /// Whether rows are left, since it was stopped.
    pub fn is_complete(&self) -> bool {
        self.before + self.messages == self.rows
    }
}

/// Sends the rows that the topic does not hold yet, until all are there or `watch` says stop. It blocks its thread while
/// brokers are slow: run it where that harms nobody.
///
/// `Error::Config`: there is nothing to read, the topic is missing or holds something else, the brokers refuse us, or another
/// publisher has taken over. `Error::DataLoss`: nothing says what was published, or an input changed. `Error::Unavailable`:
/// no broker answers. In each case the next publisher goes on where this one stopped.
pub async fn publish(wanted: Wanted, watch: &Watch) -> Result<Published> {
    let input = Input::find(&wanted).await?;
    let rows = input.opened.rows();
    watch.rows.store(rows, Ordering::Relaxed);
    let connection = Connection { section: "publish", brokers: &wanted.brokers, properties: &wanted.properties };
    let topic = Topic::open(&connection, &wanted.topic, wanted.create, &watch.hearing).await?;
    // First become the only one, then look how far the others came.
    let mut sender = Sender::take_over(&connection, &wanted.topic, wanted.form, &watch.hearing)?;
    let ours = Lineage { input: input.identity.clone(), row: 0, n: topic.partitions };
    let next = resume(&topic, &ours, wanted.append)?;
    drop(topic);
    let n = ours.n;
    // Of the rows from 0 on that are `p mod n`, those below `next`.
    let before = (0..).zip(&next).map(|(p, &next)| (next.min(rows) + n - 1).saturating_sub(p) / n).sum::<u64>();
    watch.done.store(before, Ordering::Relaxed);
    match rows - before {
        0 => {}
        left => tracing::info!(
            "{left} of {rows} rows go to topic {}, from row {} on",
            wanted.topic,
            next.iter().min().unwrap_or(&0)
        ),
    }
    let started = Instant::now();
    let mut messages = 0;
    let outcome = send(input, &next, &mut sender, &ours, watch, &mut messages).await;
    // What was sent is right, whatever stopped us.
    let committed = sender.commit();
    outcome?;
    committed?;
    Ok(Published { rows, before, messages, partitions: n, seconds: started.elapsed().as_secs_f64() })
}

/// Sends all rows at or above their partition's `next`.
async fn send(
    input: Input,
    next: &[u64],
    sender: &mut Sender,
    lineage: &Lineage,
    watch: &Watch,
    messages: &mut u64,
) -> Result<()> {
    let first = next.iter().copied().min().unwrap_or(0);
    // Rows of the input before each of its partitions.
    let mut starts: HashMap<Partition, u64> = HashMap::new();
    let mut before = 0;
    let mut left: Vec<PlannedPartition> = Vec::new();
    for partition in input.opened.partitions(None, None) {
        let start = before;
        before += partition.rows;
        if before > first {
            starts.insert(partition.partition.clone(), start);
            left.push(partition);
        }
    }
    let start_of = |partition: &Partition| {
        starts.get(partition).copied().ok_or_else(|| Error::Bug(format!("{partition} was not asked for")))
    };
    let mut source = open(input.discovery, &input.opened, left)?;
    let mut headers = lineage.template();
    let mut message = Message::new(input.form);
    while !watch.is_stopped()
        && let Some(event) = source.next(true).await?
    {
        match event {
            Event::Assigned { partition, .. } => {
                let at = first.saturating_sub(start_of(&partition)?);
                source.start(partition, 0, at)?;
            }
            Event::Records { records, .. } => {
                let start = records.first().map_or(Ok(0), |record| start_of(&record.position.partition))?;
                let sent = *messages;
                for record in &records {
                    let row = start + record.position.offset;
                    let partition = row % lineage.n;
                    if next.get(partition as usize).is_none_or(|next| row < *next) {
                        continue;
                    }
                    message.fill(record, row)?;
                    sender.send(
                        partition as i32,
                        &record.key,
                        message.payload(),
                        headers.of(row, message.content_type()),
                    )?;
                    *messages += 1;
                }
                watch.done.fetch_add(*messages - sent, Ordering::Relaxed);
            }
            Event::End { .. } | Event::Gap { .. } | Event::Revoked { .. } => {}
        }
        if sender.age() >= COMMIT_EVERY {
            sender.commit()?;
        }
    }
    Ok(())
}

/// The files, in order.
struct Input {
    discovery: Discovery,
    opened: Opened,
    identity: String,
    form: Form,
}

impl Input {
    async fn find(wanted: &Wanted) -> Result<Self> {
        let stores = Stores::default();
        let config = SourceConfig::Parquet(wanted.input.clone());
        let look = Look {
            config: &config,
            stores: &stores,
            sink: None,
            known: None,
            reserved: |name| message::OWN.contains(&name),
        };
        let discovery = discover(look).await?;
        let opened = Opened::unwritten(&discovery, config.rows_per_partition().get())?;
        let identity = identity(&discovery, &opened, wanted.form);
        Ok(Self { discovery, opened, identity, form: wanted.form })
    }
}

/// What tells the messages of this input from those of another: the files in their order, by what they are and not where they
/// are, and how their rows become messages.
fn identity(discovery: &Discovery, opened: &Opened, form: Form) -> String {
    let files = opened.inputs.iter().map(|input| json!([input.size, input.version, input.rows])).collect::<Vec<_>>();
    let columns = discovery
        .columns()
        .map(|names| json!({ "reference": names.reference, "key": names.key, "task": names.task, "keep": names.keep }));
    content_hash(&json!({ "files": files, "columns": columns, "message": form.name() }))
}
