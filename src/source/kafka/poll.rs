//! The polling thread: one librdkafka consumer, polled whatever the rest of the run is waiting for.
//!
//! A member of a group that does not poll is thrown out, so nothing here waits for the store or the device: where the driver
//! falls behind, partitions are paused. Rebalance callbacks only note what they were told; the thread answers once the driver
//! knows where the chains end (assignment) or has published what was open (revocation).
//!
//! (long because all that can happen to a member of a group is answered here, in one state)

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;

use super::message::Reader;
use super::slot::{Reading, Slot};
use super::{Health, OnDataLoss, probe};
use crate::checkpoint::{Checkpoint, Partition};
use crate::error::{Error, Result};
use crate::kafka::{Hearing, brokers, failed};
use crate::source::{Committed, Event};

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
/// For so long an assignment waits for the chains' ends.
const ASSIGN_WITHIN: Duration = Duration::from_secs(5);
/// A new leader may lag behind what the old one had given out.
const LEADER_LAGS: Duration = Duration::from_secs(30);
/// Between two looks at topic ids, and at the ends of partitions.
const LOOK_AT_IDS: Duration = Duration::from_secs(60);
const LOOK_AT_ENDS: Duration = Duration::from_secs(1);
/// What is durable is told to the group again so often: in the middle of a rebalance it takes no commits, and it does not say so.
const COMMIT_AGAIN: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);

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

/// Notes what the group says.
#[derive(Default)]
pub(super) struct Context {
    hearing: Hearing,
    changes: Mutex<Vec<Change>>,
    changed: AtomicBool,
    closing: AtomicBool,
}

enum Change {
    Assign(Vec<(String, i32)>),
    Revoke(Vec<(String, i32)>, bool),
}

impl ClientContext for Context {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        self.hearing.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hearing.error(error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Relaxed) {
            answer(consumer, list, false).ok();
            return;
        }
        let named = list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        let change = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assign(named),
            _ => Change::Revoke(named, consumer.assignment_lost()),
        };
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        self.changed.store(true, Relaxed);
    }
}

/// Adds partitions to what is read, or takes them away, in the words of the group's protocol.
fn answer(consumer: &BaseConsumer<Context>, list: &TopicPartitionList, assign: bool) -> KafkaResult<()> {
    match (consumer.rebalance_protocol(), assign) {
        (RebalanceProtocol::Cooperative, true) => consumer.incremental_assign(list),
        (RebalanceProtocol::Cooperative, false) => consumer.incremental_unassign(list),
        (_, true) => consumer.assign(list),
        (_, false) => consumer.unassign(),
    }
}

/// A start that has to be tried again.
struct Waiting {
    partition: Partition,
    epoch: u64,
    at: u64,
    since: Instant,
    due: Instant,
}

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
        self.consumer.context().closing.store(true, Relaxed);
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
                if consumer.context().changed.load(Relaxed) {
                    break;
                }
            }
            consumer.context().changed.store(false, Relaxed);
            let changes = std::mem::take(&mut *self.changes());
            if !changes.is_empty() {
                self.flush();
                changes.into_iter().try_for_each(|change| self.on_change(change))?;
            }
        }
        Ok(())
    }

    fn changes(&self) -> MutexGuard<'_, Vec<Change>> {
        self.consumer.context().changes.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Tells the group what the last owner could not tell it, because it was killed or the group was about to change.
    fn tell_group(&mut self, partition: &Partition, at: u64) {
        let Some(&index) = self.state.by_name.get(partition) else { return };
        if let Some(known) =
            self.state.slots[index].committed.take().filter(|known| known.offset < at && !known.foreign)
        {
            self.state.published.insert(index, (known.part.unwrap_or(0), at));
            self.state.commits.insert(index, (known.part.unwrap_or(0), at));
        }
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

    /// Tries starts again whose time has come.
    fn start_again(&mut self) -> Result<()> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.state.waiting).into_iter().partition(|waiting| waiting.due <= now);
        self.state.waiting = later;
        let due: Vec<Waiting> = due;
        due.into_iter().try_for_each(|waiting| self.start(waiting.partition, waiting.epoch, waiting.at, waiting.since))
    }

    /// Reads a partition from `at` on, if the topic still has that and has it already.
    fn start(&mut self, partition: Partition, epoch: u64, at: u64, since: Instant) -> Result<()> {
        let Some(&index) = self.state.by_name.get(&partition).filter(|index| self.state.slots[**index].owned) else {
            return Ok(());
        };
        if self.events.is_closed() {
            return Ok(());
        }
        self.state.slots[index].forget();
        let (topic, number) = (Arc::clone(&self.state.slots[index].topic), self.state.slots[index].number);
        let again = |poller: &mut Self, partition, at| {
            poller.state.waiting.push(Waiting { partition, epoch, at, since, due: Instant::now() + AGAIN });
        };
        let (low, high) = match brokers::span(&self.consumer, &topic, number) {
            Ok(span) => span,
            Err(error) => {
                tracing::debug!(%partition, "where it begins and ends is not known yet: {error}");
                again(self, partition, at);
                return Ok(());
            }
        };
        if at > high || at < low {
            // Of all reasons the one that is known best.
            self.look_at_ids()?;
        }
        if at > high {
            if since.elapsed() < LEADER_LAGS {
                again(self, partition, at);
                return Ok(());
            }
            return Err(Error::DataLoss(format!(
                "{partition} was read up to offset {at}, but the topic ends at {high}: was it deleted and made anew, or did it lose messages? \
                 Start a new sink.dir and a new source.kafka.group"
            )));
        }
        let at = if at < low { self.lost(&partition, epoch, at, low)? } else { at };
        let bound = self.bounds.as_ref().map(|bounds| bounds.get(&partition).copied().unwrap_or(0));
        let slot = &mut self.state.slots[index];
        slot.reading = Some(Reading { epoch, next: at, ended: false });
        slot.bound = bound;
        slot.high = high;
        if slot.assigned
            && let Err(error) = self.consumer.seek(&topic, number, offset(at), Duration::from_secs(5))
            // Right after an assignment it cannot be sought yet; where the brokers had nothing at an offset, it never can.
            && (since.elapsed() < AGAIN || !self.assign_anew(index))
        {
            tracing::debug!(%partition, at, "cannot seek yet: {error}");
            self.state.slots[index].forget();
            again(self, partition, at);
            return Ok(());
        }
        if self.limit == Some(0) {
            self.reach_limit();
        } else if bound.is_some_and(|bound| at >= bound) {
            self.end(index, at);
        }
        Ok(())
    }

    /// Takes a partition that cannot be sought out of what is read, and in again; true if that worked.
    fn assign_anew(&mut self, index: usize) -> bool {
        let place = |slot: &Slot| slot.reading.as_ref().map_or(Offset::End, |reading| offset(reading.next));
        let done = match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => {
                let list = self.list(&[index], place);
                let done = self.consumer.incremental_unassign(&list);
                let done = done.and_then(|()| self.consumer.incremental_assign(&list));
                self.forget_pauses(&[index]);
                done
            }
            _ => {
                let all: Vec<usize> =
                    (0..self.state.slots.len()).filter(|index| self.state.slots[*index].assigned).collect();
                let done = self.consumer.assign(&self.list(&all, place));
                self.forget_pauses(&all);
                done
            }
        };
        self.pause();
        done.inspect_err(|error| tracing::warn!("a partition could not be read anew: {error}")).is_ok()
    }

    /// The topic has no messages between `at` and `low` any more; where to go on, if at all.
    fn lost(&self, partition: &Partition, epoch: u64, at: u64, low: u64) -> Result<u64> {
        let what = format!(
            "the topic deleted offsets {at} to {low} of {partition} before they were read (its retention is too short)"
        );
        match self.on_data_loss {
            OnDataLoss::Fail => Err(Error::DataLoss(format!(
                "{what}: go on behind the gap with source.kafka.on_data_loss: record, or start a new sink.dir"
            ))),
            OnDataLoss::Record => {
                tracing::error!(%partition, from = at, to = low, "{what}: recorded as a gap");
                let reason = format!("lost to retention: offsets {at} to {low} had been deleted");
                self.tell(Event::Gap { partition: partition.clone(), epoch, next: low, reason });
                Ok(low)
            }
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

    fn on_change(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Assign(list) => {
                let indices: Vec<usize> = list.iter().map(|(topic, number)| self.slot(topic, *number)).collect();
                let committed = self.committed(&indices);
                for (index, committed) in indices.iter().zip(committed) {
                    let slot = &mut self.state.slots[*index];
                    slot.forget();
                    (slot.owned, slot.assigned, slot.released) = (true, false, false);
                    slot.committed = committed;
                    let partition = slot.partition.clone();
                    tracing::info!(%partition, "assigned");
                    self.told_changes.send((Ok(Some(Event::Assigned { partition, committed })), 0)).ok();
                }
                self.health().ready = true;
                self.state.looked_at_ids = None;
                self.state.assigning = Some((Instant::now(), indices));
            }
            Change::Revoke(list, lost) => {
                // Whatever was not answered yet is answered by this.
                let mut indices: Vec<usize> =
                    self.state.revoking.take().map(|(_, indices)| indices).unwrap_or_default();
                if let Some((_, assigning)) = self.state.assigning.take() {
                    self.assign(&assigning);
                }
                for (topic, number) in &list {
                    let index = self.slot(topic, *number);
                    let slot = &mut self.state.slots[index];
                    slot.forget();
                    slot.owned = false;
                    slot.released = lost;
                    let partition = slot.partition.clone();
                    tracing::info!(%partition, lost, "revoked");
                    self.told_changes.send((Ok(Some(Event::Revoked { partition, lost })), 0)).ok();
                    indices.push(index);
                }
                let now = Instant::now();
                self.state.revoking = Some((if lost { now } else { now + self.grace }, indices));
            }
        }
        Ok(())
    }

    /// What the group last committed of each.
    fn committed(&self, indices: &[usize]) -> Vec<Option<Committed>> {
        let list = self.list(indices, |_| Offset::Invalid);
        let mut found = HashMap::new();
        if !indices.is_empty() {
            match self.consumer.committed_offsets(list, Duration::from_secs(5)) {
                Ok(list) => {
                    for element in list.elements() {
                        if let Offset::Offset(offset) = element.offset() {
                            let said = element.metadata().split_once(' ');
                            let part = said.and_then(|(dataset, from)| Some((dataset, from.parse().ok()?)));
                            let committed = Committed {
                                offset: offset.unsigned_abs(),
                                part: part.filter(|(dataset, _)| *dataset == self.dataset).map(|(_, from)| from),
                                foreign: part.is_some_and(|(dataset, _)| dataset != self.dataset),
                            };
                            found.insert((element.topic().to_owned(), element.partition()), committed);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!("what the group committed is not known ({error}): going by the chains alone")
                }
            }
        }
        indices.iter().map(|index| found.remove(&self.state.slots[*index].key())).collect()
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

    fn settle_assignment(&mut self) {
        let slots = &self.state.slots;
        let ready = |(since, indices): &mut (Instant, Vec<usize>)| {
            since.elapsed() > ASSIGN_WITHIN || indices.iter().all(|index| slots[*index].reading.is_some())
        };
        if let Some((_, indices)) = self.state.assigning.take_if(ready) {
            self.assign(&indices);
        }
    }

    /// Answers an assignment: partitions whose place is not known yet are assigned at their end, paused, and sought later.
    fn assign(&mut self, indices: &[usize]) {
        let list = self.list(indices, |slot| slot.reading.as_ref().map_or(Offset::End, |reading| offset(reading.next)));
        match answer(&self.consumer, &list, true) {
            Ok(()) => {
                indices.iter().for_each(|index| self.state.slots[*index].assigned = true);
                self.forget_pauses(indices);
            }
            // The group has moved on; it will say so.
            Err(error) => tracing::warn!("could not take what the group assigned: {error}"),
        }
        self.pause();
    }

    /// Begins anew with partitions of which librdkafka would remember that they were paused when we had them before.
    fn forget_pauses(&mut self, indices: &[usize]) {
        if let Err(error) = self.consumer.resume(&self.list(indices, |_| Offset::Invalid)) {
            tracing::debug!("could not resume: {error}");
        }
        indices.iter().for_each(|index| self.state.slots[*index].paused = false);
    }

    fn settle_revocation(&mut self) {
        let slots = &self.state.slots;
        let ready = |(deadline, indices): &mut (Instant, Vec<usize>)| {
            Instant::now() >= *deadline || indices.iter().all(|index| slots[*index].released)
        };
        let Some((_, indices)) = self.state.revoking.take_if(ready) else { return };
        self.commit(CommitMode::Async);
        let list = self.list(&indices, |_| Offset::Invalid);
        if let Err(error) = answer(&self.consumer, &list, false) {
            tracing::debug!("could not give back what the group took: {error}");
        }
        for index in indices {
            self.state.slots[index].assigned = false;
            self.state.published.remove(&index);
        }
    }

    /// Tells the group what is durable: for lag tools, and where the next owner begins to look for the chain's end.
    fn commit(&mut self, mode: CommitMode) {
        let is_time = self.state.committed_at.is_none_or(|at| at.elapsed() > COMMIT_AGAIN);
        if is_time || matches!(mode, CommitMode::Sync) {
            self.state.commits = self.state.published.clone();
            self.state.committed_at = Some(Instant::now());
        }
        if self.state.commits.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        let mut later = BTreeMap::new();
        for (index, (from, end)) in std::mem::take(&mut self.state.commits) {
            let slot = &self.state.slots[index];
            // Of what was lost nothing may be said any more, of what is not quite ours nothing yet.
            if !slot.assigned {
                if slot.owned {
                    later.insert(index, (from, end));
                }
                continue;
            }
            let mut element = list.add_partition(&slot.topic, slot.number);
            element.set_offset(offset(end)).ok();
            element.set_metadata(format!("{} {from}", self.dataset));
        }
        self.state.commits = later;
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            tracing::debug!("a commit could not be sent: {error}");
        }
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

    fn on_error(&mut self, error: &KafkaError) -> Result<()> {
        match error {
            KafkaError::PartitionEOF(number) => return self.on_end_of_partition(*number),
            KafkaError::MessageConsumptionFatal(code) => {
                return Err(Error::Config(format!(
                    "the group refuses this member for good: {code} (is another process using the same group.instance.id?)"
                )));
            }
            _ => {}
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => self.look_for_holes(),
            Some(
                Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId,
            ) => {
                self.state.looked_at_ids = None;
                Ok(())
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::InvalidConfig
                | Code::InconsistentGroupProtocol,
            ) => Err(match failed("source.kafka", error) {
                Error::Unavailable { what, reason } => Error::Config(format!("{what}: {reason}")),
                other => other,
            }),
            // What concerns connections was heard already, and librdkafka tries again by itself.
            _ => {
                tracing::debug!("Kafka: {error}");
                Ok(())
            }
        }
    }

    /// Everything that a partition of this number had was given. Behind the last message may be positions without one
    /// (transactions' control records, compaction): where a run's end lies behind those, a reader of our own looks once more,
    /// since which topic's partition it is, librdkafka's crate does not say.
    fn on_end_of_partition(&mut self, number: i32) -> Result<()> {
        if self.ids.len() == 1 {
            for slot in self.state.slots.iter_mut().filter(|slot| slot.assigned && slot.number == number) {
                slot.high = slot.high.max(brokers::seen_end(&self.consumer, &slot.topic, number).unwrap_or(0));
                slot.drained = Some(slot.high);
            }
        }
        for index in 0..self.state.slots.len() {
            let slot = &self.state.slots[index];
            let (Some(bound), Some(next)) = (slot.bound, slot.open_at()) else { continue };
            if slot.number != number || next >= bound {
                continue;
            }
            match self.probe.is_empty(&slot.topic, number, next, bound) {
                Ok(true) => self.end(index, bound),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(partition = %slot.partition, "its end is not known yet: {error}");
                    // Sought again, it will say again that it has ended.
                    let (partition, epoch) =
                        (slot.partition.clone(), slot.reading.as_ref().map_or(0, |reading| reading.epoch));
                    let now = Instant::now();
                    self.state.waiting.push(Waiting { partition, epoch, at: next, since: now, due: now + AGAIN });
                }
            }
        }
        Ok(())
    }

    /// Some partition is not where the topic has messages, and is not read any more; which one, librdkafka's crate does not say.
    fn look_for_holes(&mut self) -> Result<()> {
        for index in 0..self.state.slots.len() {
            let slot = &self.state.slots[index];
            let Some(next) = slot.open_at() else { continue };
            let (partition, epoch) = (slot.partition.clone(), slot.reading.as_ref().map_or(0, |reading| reading.epoch));
            self.start(partition, epoch, next, Instant::now())?;
        }
        Ok(())
    }

    /// Looks now and then at what nobody tells.
    fn look(&mut self) -> Result<()> {
        let now = Instant::now();
        let due = |last: &Option<Instant>, every| last.is_none_or(|last| now.duration_since(last) >= every);
        if due(&self.state.looked_at_ends, LOOK_AT_ENDS) {
            self.state.looked_at_ends = Some(now);
            self.look_at_ends();
        }
        if due(&self.state.looked_at_ids, LOOK_AT_IDS) {
            self.state.looked_at_ids = Some(now);
            self.look_at_ids()?;
        }
        Ok(())
    }

    fn look_at_ends(&mut self) {
        for slot in self.state.slots.iter_mut().filter(|slot| slot.assigned) {
            slot.high = slot.high.max(brokers::seen_end(&self.consumer, &slot.topic, slot.number).unwrap_or(0));
        }
        let hearing = &self.consumer.context().hearing;
        if hearing.waits().is_some() && self.state.heard.is_none_or(|heard| heard.elapsed() > Duration::from_secs(2)) {
            self.state.heard = Some(Instant::now());
            // Where no messages flow, nothing else says that a broker is back.
            if let Some(topic) = self.ids.keys().next()
                && self.consumer.fetch_metadata(Some(topic), Duration::from_secs(2)).is_ok()
            {
                hearing.well();
            }
        }
        let trouble =
            hearing.waits().map(|(since, why)| format!("no Kafka broker for {:.0} s: {why}", since.as_secs_f64()));
        let ends = self
            .state
            .slots
            .iter()
            .filter(|slot| slot.owned && slot.reading.is_some())
            .map(|slot| (slot.partition.clone(), slot.newest()))
            .collect();
        let mut health = self.health();
        (health.trouble, health.ends) = (trouble, ends);
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic that was deleted and made anew has the same name and other messages.
    fn look_at_ids(&mut self) -> Result<()> {
        for (topic, planned) in &self.ids {
            match brokers::topic_id(self.consumer.client(), topic) {
                Ok(Some(id)) => {
                    self.state.gone.remove(topic);
                    if !planned.is_empty() && !id.is_empty() && id != *planned {
                        return Err(super::recreated(topic));
                    }
                }
                Ok(None) => {
                    let since = *self.state.gone.entry(topic.clone()).or_insert_with(Instant::now);
                    if since.elapsed() > LEADER_LAGS {
                        return Err(Error::DataLoss(format!("topic {topic} has been deleted")));
                    }
                    // Soon again.
                    self.state.looked_at_ids = Instant::now().checked_sub(LOOK_AT_IDS - Duration::from_secs(2));
                }
                Err(error) => tracing::debug!("the id of topic {topic} is not known: {error}"),
            }
        }
        Ok(())
    }
}

fn offset(at: u64) -> Offset {
    Offset::Offset(i64::try_from(at).unwrap_or(i64::MAX))
}
