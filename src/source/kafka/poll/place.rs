//! Where partitions begin and end: what a start asks of the brokers, and what is looked at because nobody tells.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::{Poller, offset};
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::kafka::{brokers, failed};
use crate::source::Event;
use crate::source::kafka::slot::Reading;
use crate::source::kafka::{Health, OnDataLoss, recreated};

/// A new leader may lag behind what the old one had given out.
const LEADER_LAGS: Duration = Duration::from_secs(30);
/// Between two looks at topic ids, and at the ends of partitions.
const LOOK_AT_IDS: Duration = Duration::from_secs(60);
const LOOK_AT_ENDS: Duration = Duration::from_secs(1);
/// Between two questions for the ends of paused partitions.
const ASK_FOR_ENDS: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);
/// Between two tries at most; and how long one may take, in which nothing is polled: a partition without a leader must not hold up
/// those that have one.
const AGAIN_LATEST: Duration = Duration::from_secs(20);
const SPAN: Duration = Duration::from_secs(2);

/// A start that has to be tried again.
pub(super) struct Waiting {
    pub(super) partition: Partition,
    epoch: u64,
    at: u64,
    since: Instant,
    due: Instant,
}

impl Poller {
    /// Tries a start again whose time has come: one at a time, between two looks at the messages.
    pub(super) fn start_again(&mut self) -> Result<()> {
        let now = Instant::now();
        let Some(due) = self.state.waiting.iter().position(|waiting| waiting.due <= now) else { return Ok(()) };
        let waiting = self.state.waiting.swap_remove(due);
        self.start(waiting.partition, waiting.epoch, waiting.at, waiting.since)
    }

    /// Reads a partition from `at` on, if the topic still has that and has it already.
    pub(super) fn start(&mut self, partition: Partition, epoch: u64, at: u64, since: Instant) -> Result<()> {
        let Some(&index) = self.state.by_name.get(&partition).filter(|index| self.state.slots[**index].owned) else {
            return Ok(());
        };
        if self.events.is_closed() {
            return Ok(());
        }
        self.state.slots[index].forget();
        let (topic, number) = (Arc::clone(&self.state.slots[index].topic), self.state.slots[index].number);
        let again = |poller: &mut Self, partition, at| {
            let due = Instant::now() + (since.elapsed() / 2).clamp(AGAIN, AGAIN_LATEST);
            poller.state.waiting.push(Waiting { partition, epoch, at, since, due });
        };
        let (low, high) = match brokers::span(&self.consumer, &topic, number, SPAN) {
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

    pub(super) fn on_error(&mut self, error: &KafkaError) -> Result<()> {
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
    pub(super) fn look(&mut self) -> Result<()> {
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
        // Of what is paused nothing is fetched, and so nothing seen.
        if self.state.paused && self.state.asked_for_ends.is_none_or(|asked| asked.elapsed() > ASK_FOR_ENDS) {
            for slot in self.state.slots.iter_mut().filter(|slot| slot.assigned) {
                let Ok((_, high)) = brokers::span(&self.consumer, &slot.topic, slot.number, SPAN) else { break };
                slot.high = slot.high.max(high);
            }
            self.state.asked_for_ends = Some(Instant::now());
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

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic that was deleted and made anew has the same name and other messages.
    fn look_at_ids(&mut self) -> Result<()> {
        for (topic, planned) in &self.ids {
            match brokers::topic_id(self.consumer.client(), topic) {
                Ok(Some(id)) => {
                    self.state.gone.remove(topic);
                    if !planned.is_empty() && !id.is_empty() && id != *planned {
                        return Err(recreated(topic));
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
