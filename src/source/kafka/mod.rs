//! Messages of Kafka topics, read as a member of a consumer group.
//!
//! Where a partition goes on is the chain's to say: the group's commits are a hint for lag tools and for finding the chain's end
//! in a long listing. The consumer lives on a thread of its own (`poll/`).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::datatypes::FieldRef;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Event, Fits, Source, blocking};
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::kafka::words;
use crate::plan::Opened;

mod config;
mod message;
mod poll;
mod probe;
mod slot;
mod topics;

pub use config::{JsonMessage, KafkaConfig, KeptType, MessageFormat, OnDataLoss, Start, Until};
pub use message::reference_schema;
pub(crate) use topics::{Topics, look};

use message::Reader;
use poll::{Backlog, Command, Context, Poller, Told};

/// How long leaving the group may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How a source is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing comes, where that is somebody's fault.
    pub trouble: Option<String>,
    /// The group has given us its first partitions, or none of them.
    pub ready: bool,
    /// Of each partition that is ours, the offset behind the newest message.
    pub ends: BTreeMap<Partition, u64>,
}

/// A [`Source`] over Kafka topics.
pub(crate) struct KafkaSource {
    events: UnboundedReceiver<Told>,
    changes: UnboundedReceiver<Told>,
    // house: the polling thread is part of this source; librdkafka cannot wait in a task.
    commands: std::sync::mpsc::Sender<Command>,
    backlog: Arc<Backlog>,
    health: Arc<Mutex<Health>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl KafkaConfig {
    /// The columns of kept message fields.
    pub fn kept_fields(&self) -> Vec<FieldRef> {
        Reader::new(&self.message, Arc::new(|_| true)).fields()
    }
}

pub(crate) fn recreated(topic: &str) -> Error {
    Error::DataLoss(format!(
        "topic {topic} was deleted and made anew since the plan was made: its offsets begin again. Start a new sink.dir and a new \
         source.kafka.group"
    ))
}

impl KafkaSource {
    /// Joins the group. `limit`: end after so many records.
    pub(crate) fn open(
        config: &KafkaConfig,
        topics: Topics,
        opened: &Opened,
        fits: Fits,
        limit: Option<u64>,
    ) -> Result<Self> {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let client = config.client()?;
        let failed = |error| Error::Config(format!("source.kafka: {}", words(&error)));
        let consumer: BaseConsumer<Context> = client.create_with_context(Context::default()).map_err(failed)?;
        let names: Vec<&str> = config.topic.0.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(failed)?;
        let (told, events) = unbounded_channel();
        let (changed, changes) = unbounded_channel();
        // house: see `KafkaSource::commands`.
        let (commands, obeyed) = std::sync::mpsc::channel();
        let (backlog, health) = (Arc::new(Backlog::default()), Arc::new(Mutex::new(Health::default())));
        let poller = Poller {
            consumer: Arc::new(consumer),
            reader: Reader::new(&config.message, fits),
            ids: opened.plan.topics.iter().map(|topic| (topic.name.clone(), topic.id.clone())).collect(),
            bounds: topics.bounds,
            limit,
            on_data_loss: config.on_data_loss,
            grace: Duration::from_millis(config.revoke_grace_ms),
            probe: probe::Probe { client },
            dataset: opened.plan.dataset.clone(),
            commands: obeyed,
            events: told,
            told_changes: changed,
            backlog: Arc::clone(&backlog),
            health: Arc::clone(&health),
            state: poll::State::default(),
        };
        // house: see `KafkaSource::commands`.
        let thread = std::thread::Builder::new().name("kafka".to_owned());
        let thread = thread
            .spawn(move || poller.run())
            .map_err(|error| Error::Bug(format!("cannot start a thread: {error}")))?;
        Ok(Self { events, changes, commands, backlog, health, thread: Some(thread) })
    }

    fn command(&self, command: Command) {
        // A thread that is gone has said why.
        self.commands.send(command).ok();
    }
}

impl Source for KafkaSource {
    async fn next(&mut self, hungry: bool) -> Result<Option<Event>> {
        // What the group says goes before what is to be read: a partition that was taken needs no more records.
        let told = tokio::select! {
            biased;
            told = self.changes.recv() => told,
            told = self.events.recv(), if hungry => told,
        };
        let Some((event, bytes)) = told else { return Err(Error::Bug("the polling thread has gone".into())) };
        self.backlog.taken.fetch_add(1, Relaxed);
        if let Ok(Some(Event::Records { records, .. })) = &event {
            self.backlog.records.fetch_sub(records.len() as u64, Relaxed);
            self.backlog.bytes.fetch_sub(bytes, Relaxed);
        }
        event
    }

    fn start(&mut self, partition: Partition, epoch: u64, at: u64) -> Result<()> {
        self.command(Command::Start { partition, epoch, at });
        Ok(())
    }

    fn commit(&mut self, partition: &Partition, from: u64, end: u64) {
        self.command(Command::Commit { partition: partition.clone(), from, end });
    }

    fn release(&mut self, partition: &Partition) {
        self.command(Command::Released(partition.clone()));
    }

    fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Leaves the group, so that others go on at once.
impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.command(Command::Stop);
        self.events.close();
        let Some(thread) = self.thread.take() else { return };
        blocking(|| {
            let begun = Instant::now();
            while !thread.is_finished() && begun.elapsed() < LEAVE_WITHIN {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }
}
