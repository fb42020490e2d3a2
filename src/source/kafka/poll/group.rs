//! What the group gives and takes, and what it is told.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::{Poller, Slot, offset};
use crate::checkpoint::Partition;
use crate::error::Result;
use crate::kafka::Hearing;
use crate::source::{Committed, Event};

/// For so long an assignment waits for the chains' ends.
const ASSIGN_WITHIN: Duration = Duration::from_secs(5);
/// What is durable is told to the group again so often: in the middle of a rebalance it takes no commits, and it does not say so.
const COMMIT_AGAIN: Duration = Duration::from_secs(5);

/// Notes what the group says.
#[derive(Default)]
pub(in crate::source::kafka) struct Context {
    pub(super) hearing: Hearing,
    changes: Mutex<Vec<Change>>,
    changed: AtomicBool,
    closing: AtomicBool,
}

enum Change {
    Assign(Vec<(String, i32)>),
    Revoke(Vec<(String, i32)>, bool),
}

impl Context {
    /// True where the group has said something that was not heeded yet.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Relaxed)
    }

    /// From now on, what the group takes is given back at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Relaxed);
    }
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

impl Poller {
    /// Answers what the callback noted.
    pub(super) fn heed(&mut self) -> Result<()> {
        let context = self.consumer.context();
        context.changed.store(false, Relaxed);
        let changes = std::mem::take(&mut *context.changes.lock().unwrap_or_else(PoisonError::into_inner));
        if !changes.is_empty() {
            self.flush();
            changes.into_iter().try_for_each(|change| self.on_change(change))?;
        }
        Ok(())
    }

    /// Tells the group what the last owner could not tell it, because it was killed or the group was about to change.
    pub(super) fn tell_group(&mut self, partition: &Partition, at: u64) {
        let Some(&index) = self.state.by_name.get(partition) else { return };
        if let Some(known) =
            self.state.slots[index].committed.take().filter(|known| known.offset < at && !known.foreign)
        {
            self.state.published.insert(index, (known.part.unwrap_or(0), at));
            self.state.commits.insert(index, (known.part.unwrap_or(0), at));
        }
    }

    /// Takes a partition that cannot be sought out of what is read, and in again; true if that worked.
    pub(super) fn assign_anew(&mut self, index: usize) -> bool {
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

    pub(super) fn settle_assignment(&mut self) {
        let slots = &self.state.slots;
        let ready = |(since, indices): &mut (Instant, Vec<usize>)| {
            since.elapsed() > ASSIGN_WITHIN || indices.iter().all(|index| slots[*index].reading.is_some())
        };
        if let Some((_, indices)) = self.state.assigning.take_if(ready) {
            self.assign(&indices);
        }
    }

    /// Answers an assignment: partitions whose place is not known yet are assigned at their end, paused, and sought later.
    pub(super) fn assign(&mut self, indices: &[usize]) {
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
    pub(super) fn forget_pauses(&mut self, indices: &[usize]) {
        if let Err(error) = self.consumer.resume(&self.list(indices, |_| Offset::Invalid)) {
            tracing::debug!("could not resume: {error}");
        }
        indices.iter().for_each(|index| self.state.slots[*index].paused = false);
    }

    pub(super) fn settle_revocation(&mut self) {
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
    pub(super) fn commit(&mut self, mode: CommitMode) {
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
}
