//! The polling thread: one librdkafka consumer, polled whatever the rest of the run is waiting for.
//!
//! A member of a group that does not poll is thrown out, so nothing here waits for the store or the device: where the driver
//! falls behind, partitions are paused. Rebalance callbacks only note what they were told; the thread answers once the driver
//! knows where the chains end (assignment) or has published what was open (revocation).
//!
//! (long because it is one loop over one state: what the group says is answered in `group.rs`, where partitions begin and end
//! is found in `place.rs`)

mod group;
mod place;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;

pub(super) use self::group::Context;
use self::place::Waiting;
use super::message::Reader;
use super::slot::Slot;
use super::{Health, OnDataLoss, probe};
use crate::checkpoint::{Checkpoint, Partition};
use crate::error::Result;
use crate::source::Event;

/// A poll without messages.
const POLL: Duration = Duration::from_millis(20);
/// Records in all events that are made up at once, and their bytes.
const BATCH: usize = 1000;
const BATCH_BYTES: u64 = 4 << 20;
/// Records, and their bytes, that may wait for the driver.
const MAX_RECORDS: u64 = 20_000;
const MAX_BYTES: u64 = 48 << 20;
/// A driver that is behind and takes nothing for longer than this has its partitions paused.
const STALL: Duration = Duration::from_secs(1);

/// What the driver asks of the thread.
#[derive(Debug)]
pub(super) enum Command {
    Start {
        partition: Partition,
        epoch: u64,
        at: u64,
    },
    /// The part of these offsets is durable.
    Commit {
        partition: Partition,
        from: u64,
        end: u64,
    },
    Released(Partition),
    Stop,
}

/// What the driver has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Events taken so far.
    pub(super) taken: AtomicU64,
}

/// An event (`None`: nothing more will come), and the bytes of its records.
pub(super) type Told = (Result<Option<Event>>, u64);

pub(super) struct Poller {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) reader: Reader,
    /// Topic ids in the plan; those that are empty are not compared.
    pub(super) ids: BTreeMap<String, String>,
    pub(super) bounds: Option<Checkpoint>,
    /// Records that this process may still read.
    pub(super) limit: Option<u64>,
    pub(super) on_data_loss: OnDataLoss,
    pub(super) grace: Duration,
    pub(super) probe: probe::Probe,
    pub(super) dataset: String,
    pub(super) commands: std::sync::mpsc::Receiver<Command>,
    pub(super) events: UnboundedSender<Told>,
    /// Assignments, revocations and what stops the run.
    pub(super) told_changes: UnboundedSender<Told>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) health: Arc<Mutex<Health>>,
    pub(super) state: State,
}

/// What changes while the thread runs.
#[derive(Default)]
pub(super) struct State {
    slots: Vec<Slot>,
    by_name: HashMap<Partition, usize>,
    by_topic: HashMap<String, Vec<Option<usize>>>,
    /// Where the last message was from: the next is often from there too.
    last: Option<usize>,
    batched: usize,
    batched_bytes: u64,
    /// Assigned by the group, not by us yet.
    assigning: Option<(Instant, Vec<usize>)>,
    /// Taken by the group, not by us yet; and until when.
    revoking: Option<(Instant, Vec<usize>)>,
    waiting: Vec<Waiting>,
    /// The last part of each partition that is ours, and of which of them the group is to be told.
    published: BTreeMap<usize, (u64, u64)>,
    commits: BTreeMap<usize, (u64, u64)>,
    /// When it was told of all of them.
    committed_at: Option<Instant>,
    stalled: Option<Instant>,
    /// Events that the driver had taken when last looked at.
    taken: u64,
    paused: bool,
    /// Topics that are not there, and since when.
    gone: BTreeMap<String, Instant>,
    looked_at_ids: Option<Instant>,
    looked_at_ends: Option<Instant>,
    asked_for_ends: Option<Instant>,
    heard: Option<Instant>,
    stop: bool,
}

impl Poller {
    /// The thread's life: until it is told to stop or nobody listens.
    pub(super) fn run(mut self) {
        if let Err(error) = self.turn() {
            self.told_changes.send((Err(error), 0)).ok();
            // The driver stops for it, and says so.
            while !self.state.stop {
                let Ok(command) = self.commands.recv() else { break };
                self.note(command);
            }
        }
        // The last parts were published just before the driver left.
        while let Ok(command) = self.commands.try_recv() {
            self.note(command);
        }
        self.commit(CommitMode::Sync);
        self.consumer.context().close();
    }

    fn turn(&mut self) -> Result<()> {
        // A message borrows the consumer it came from.
        let consumer = Arc::clone(&self.consumer);
        while !self.state.stop && !self.events.is_closed() {
            self.obey()?;
            self.start_again()?;
            self.settle_assignment();
            self.settle_revocation();
            self.commit(CommitMode::Async);
            self.look()?;
            if self.is_behind() {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            self.pause();
            // Many messages to a turn: what comes before costs more than one of them.
            for _ in 0..BATCH {
                let wait = if self.state.batched > 0 { Duration::ZERO } else { POLL };
                match consumer.poll(wait) {
                    Some(Ok(message)) => self.take(&message),
                    Some(Err(error)) => {
                        self.flush();
                        self.on_error(&error)?;
                        break;
                    }
                    None => {
                        self.flush();
                        break;
                    }
                }
                if consumer.context().has_changed() {
                    break;
                }
            }
            self.heed()?;
        }
        Ok(())
    }

    fn tell(&self, event: Event) {
        // Nobody listening means that the run is over.
        self.events.send((Ok(Some(event)), 0)).ok();
    }

    fn obey(&mut self) -> Result<()> {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Start { partition, epoch, at } => {
                    self.tell_group(&partition, at);
                    self.state.waiting.retain(|waiting| waiting.partition != partition);
                    self.start(partition, epoch, at, Instant::now())?;
                }
                other => self.note(other),
            }
        }
        Ok(())
    }

    /// Obeys what asks nobody.
    fn note(&mut self, command: Command) {
        match command {
            Command::Start { .. } => {}
            Command::Commit { partition, from, end } => {
                if let Some(slot) = self.state.by_name.get(&partition) {
                    self.state.commits.insert(*slot, (from, end));
                    self.state.published.insert(*slot, (from, end));
                }
            }
            Command::Released(partition) => {
                if let Some(slot) = self.state.by_name.get(&partition) {
                    self.state.slots[*slot].released = true;
                }
            }
            Command::Stop => self.state.stop = true,
        }
    }

    fn end(&mut self, index: usize, next: u64) {
        self.flush();
        let slot = &mut self.state.slots[index];
        if let Some(reading) = slot.reading.as_mut().filter(|reading| !reading.ended) {
            reading.ended = true;
            let event = Event::End { partition: slot.partition.clone(), epoch: reading.epoch, next };
            self.tell(event);
        }
    }

    fn list(&self, indices: &[usize], at: impl Fn(&Slot) -> Offset) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(indices.len());
        for index in indices {
            let slot = &self.state.slots[*index];
            // Only offsets that are none can be refused.
            list.add_partition_offset(&slot.topic, slot.number, at(slot)).ok();
        }
        list
    }

    /// True while the driver has more than enough and it is too early to pause.
    fn is_behind(&mut self) -> bool {
        let (records, bytes) = (self.backlog.records.load(Relaxed), self.backlog.bytes.load(Relaxed));
        if records > MAX_RECORDS || bytes > MAX_BYTES {
            // One that takes something now and then is busy, not stuck; pausing would only throw away what was fetched ahead.
            let taken = self.backlog.taken.load(Relaxed);
            if std::mem::replace(&mut self.state.taken, taken) != taken {
                self.state.stalled = None;
            }
            let since = *self.state.stalled.get_or_insert_with(Instant::now);
            self.state.paused |= since.elapsed() > STALL;
            return !self.state.paused;
        }
        if records < MAX_RECORDS / 2 && bytes < MAX_BYTES / 2 {
            (self.state.stalled, self.state.paused) = (None, false);
        }
        false
    }

    /// Pauses and resumes what should be.
    fn pause(&mut self) {
        let all = self.state.paused;
        let wrong = |slot: &Slot| slot.assigned && slot.paused != (all || !slot.is_open());
        let wrong: Vec<usize> = (0..self.state.slots.len()).filter(|index| wrong(&self.state.slots[*index])).collect();
        let (pause, resume): (Vec<_>, Vec<_>) = wrong.into_iter().partition(|index| !self.state.slots[*index].paused);
        for (indices, paused) in [(pause, true), (resume, false)] {
            if indices.is_empty() {
                continue;
            }
            let list = self.list(&indices, |_| Offset::Invalid);
            let done = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
            match done {
                Ok(()) => indices.iter().for_each(|index| self.state.slots[*index].paused = paused),
                Err(error) => tracing::debug!("could not pause or resume: {error}"),
            }
        }
    }

    fn slot(&mut self, topic: &str, number: i32) -> usize {
        let at = usize::try_from(number).unwrap_or(0);
        if let Some(index) = self.state.by_topic.get(topic).and_then(|numbers| *numbers.get(at)?) {
            return index;
        }
        let index = self.state.slots.len();
        let slot = Slot::new(topic, number);
        self.state.by_name.insert(slot.partition.clone(), index);
        self.state.slots.push(slot);
        let numbers = self.state.by_topic.entry(topic.to_owned()).or_default();
        numbers.resize(numbers.len().max(at + 1), None);
        numbers[at] = Some(index);
        index
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, number) = (message.topic(), message.partition());
        let index = match self.state.last.filter(|last| self.state.slots[*last].is(topic, number)) {
            Some(last) => last,
            None => self.slot(topic, number),
        };
        self.state.last = Some(index);
        let at = message.offset().unsigned_abs();
        let slot = &mut self.state.slots[index];
        // What was fetched before a seek, a revocation or the end is nothing to us.
        if slot.open_at().is_none_or(|next| at < next) {
            return;
        }
        if let Some(bound) = slot.bound.filter(|bound| at >= *bound) {
            return self.end(index, bound);
        }
        if self.limit == Some(0) {
            return;
        }
        self.state.batched_bytes += slot.push(&self.reader, message);
        self.state.batched += 1;
        if let Some(limit) = &mut self.limit {
            *limit = limit.saturating_sub(1);
            if *limit == 0 {
                return self.reach_limit();
            }
        }
        if let Some(bound) = self.state.slots[index].bound.filter(|bound| at + 1 >= *bound) {
            self.end(index, bound);
        } else if self.state.batched >= BATCH || self.state.batched_bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    /// As many records were read as this process may: every partition ends where it is.
    fn reach_limit(&mut self) {
        self.flush();
        for index in 0..self.state.slots.len() {
            if let Some(next) = self.state.slots[index].reading.as_ref().map(|reading| reading.next) {
                self.end(index, next);
            }
        }
        self.events.send((Ok(None), 0)).ok();
    }

    /// Hands what was read to the driver.
    fn flush(&mut self) {
        if self.state.batched == 0 {
            return;
        }
        (self.state.batched, self.state.batched_bytes) = (0, 0);
        for slot in &mut self.state.slots {
            let Some((epoch, records, bytes)) = slot.drain(&self.reader) else { continue };
            self.backlog.records.fetch_add(records.len() as u64, Relaxed);
            self.backlog.bytes.fetch_add(bytes, Relaxed);
            // Nobody listening means that the run is over.
            self.events.send((Ok(Some(Event::Records { epoch, records })), bytes)).ok();
        }
    }
}

fn offset(at: u64) -> Offset {
    Offset::Offset(i64::try_from(at).unwrap_or(i64::MAX))
}
