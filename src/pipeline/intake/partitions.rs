//! What happens to a partition: it comes, its chain is found, it is read, parts of it are published, it goes.

use std::sync::Arc;

use super::Intake;
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::pipeline::pending::Unpublished;
use crate::pipeline::{Delivery, Report};
use crate::sink::{Chain, Dataset, Notice, Published};
use crate::source::{Committed, Event, Source};
use crate::store::patiently;

/// A partition being read.
pub(super) struct Lane {
    pub(super) epoch: u64,
    /// The next item's number in this epoch.
    pub(super) seq: u64,
    /// The sink has it too.
    pub(super) begun: bool,
    /// Where its chain ends, as far as is known.
    pub(super) durable: u64,
    /// Where it ends in this run, once the source has said so.
    pub(super) end: Option<u64>,
    pub(super) unpublished: Unpublished,
}

impl Lane {
    pub(super) fn is_finished(&self) -> bool {
        self.end.is_some_and(|end| self.durable >= end)
    }
}

impl<S: Source> Intake<S> {
    pub(super) async fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Assigned { partition, committed } => {
                self.meter.set_ready();
                let epoch = self.new_epoch(&partition);
                self.recover(partition, epoch, committed);
            }
            Event::Records { epoch, records } => {
                self.state.pending.extend(epoch, records);
            }
            Event::Gap { partition, epoch, next, reason } => {
                if let Some(items) = self.state.items(&partition, epoch) {
                    self.tell(Delivery::Gap { partition, epoch, items, next, reason }).await?;
                }
            }
            Event::End { partition, epoch, next } => {
                if let Some(items) = self.state.items(&partition, epoch) {
                    self.tell(Delivery::End { partition: partition.clone(), epoch, items, next }).await?;
                    if let Some(lane) = self.state.lanes.get_mut(&partition) {
                        lane.end = Some(next);
                    }
                    self.drop_finished(&partition);
                }
            }
            Event::Revoked { partition, lost } => {
                self.state.lanes.remove(&partition);
                self.state.pending.remove(&partition);
                self.state.waiting.retain(|chain| *chain.partition() != partition);
                self.meter.vitals.left(&partition);
                self.tell(Delivery::Leave(partition, lost)).await?;
            }
        }
        Ok(())
    }

    /// Makes whatever is in flight for the partition void.
    pub(super) fn new_epoch(&mut self, partition: &Partition) -> u64 {
        self.state.last_epoch += 1;
        let epoch = self.state.last_epoch;
        self.meter.vitals.epoch();
        let unpublished = self.state.lanes.remove(partition).map(|lane| lane.unpublished).unwrap_or_default();
        let lane = Lane { epoch, seq: 0, begun: false, durable: 0, end: None, unpublished };
        self.state.lanes.insert(partition.clone(), lane);
        epoch
    }

    fn recover(&mut self, partition: Partition, epoch: u64, committed: Option<Committed>) {
        let (dataset, opened) = (Arc::clone(&self.dataset), Arc::clone(&self.opened));
        let start = opened.start_of(&partition).unwrap_or(0);
        self.state.recoveries.push(Box::pin(async move {
            let current = patiently(dataset.give_up, || opened.check_current(&dataset.folder)).await;
            let chain = match current {
                Ok(()) => Chain::take_over(&dataset, &partition, start, committed.and_then(|known| known.part)).await,
                Err(error) => Err(error),
            };
            let chain = chain.and_then(|chain| match committed {
                Some(known) => agree(&dataset, start, known, &chain).map(|()| chain),
                None => Ok(chain),
            });
            (epoch, chain)
        }));
    }

    pub(super) async fn on_recovered(&mut self, chain: Chain, epoch: u64) -> Result<()> {
        if self.state.lanes.get(chain.partition()).is_none_or(|lane| lane.epoch != epoch) {
            return Ok(());
        }
        self.meter.found(chain.partition(), chain.end());
        self.reached(&chain.partition().clone(), chain.end());
        if self.state.retry_at.is_some() {
            self.state.waiting.push(chain);
            return Ok(());
        }
        self.begin(chain, epoch).await
    }

    async fn begin(&mut self, chain: Chain, epoch: u64) -> Result<()> {
        let (partition, at) = (chain.partition().clone(), chain.end());
        if let Some(lane) = self.state.lanes.get_mut(&partition) {
            lane.begun = true;
            lane.durable = at;
            lane.unpublished.durable(at);
        }
        self.meter.vitals.reached(&partition, at);
        tracing::debug!(%partition, at, epoch, "reading");
        self.state.told_final = false;
        self.tell(Delivery::Start { chain, epoch }).await?;
        self.state.exhausted = false;
        self.source.start(partition, epoch, at)
    }

    /// Reads on behind `chain` in a new epoch.
    pub(super) async fn resume(&mut self, chain: Chain) -> Result<()> {
        if self.state.drain.is_some() || !self.state.lanes.contains_key(chain.partition()) {
            return Ok(());
        }
        let epoch = self.new_epoch(chain.partition());
        self.begin(chain, epoch).await
    }

    pub(super) async fn on_report(&mut self, report: Report) -> Result<()> {
        match report {
            Report::Stopped(error) => Err(error),
            Report::Sink(Notice::Published(part)) => {
                self.meter.published(&part);
                tell_of(&part);
                self.storm.progressed(&part.partition, part.end);
                if let Some(lane) = self.state.lanes.get_mut(&part.partition) {
                    lane.durable = lane.durable.max(part.end);
                    lane.unpublished.durable(part.end);
                    self.meter.vitals.reached(&part.partition, part.end);
                }
                self.drop_finished(&part.partition);
                self.reached(&part.partition, part.end);
                self.source.commit(&part.partition, part.from, part.end);
                Ok(())
            }
            Report::Sink(Notice::Restart { chain, foreign }) => {
                self.meter.found(chain.partition(), chain.end());
                self.reached(&chain.partition().clone(), chain.end());
                self.storm.progressed(chain.partition(), chain.end());
                if foreign {
                    self.meter.vitals.foreign_part();
                    let (partition, end) = (chain.partition(), chain.end());
                    tracing::warn!(%partition, end, "another writer continued this partition, going on behind it");
                    self.state.pending.remove(partition);
                }
                if self.state.retry_at.is_some() {
                    self.state.waiting.push(chain);
                    return Ok(());
                }
                self.resume(chain).await
            }
            Report::Sink(Notice::Released { partition }) => {
                // Not if it has come back meanwhile.
                if !self.state.lanes.contains_key(&partition) {
                    self.source.release(&partition);
                }
                Ok(())
            }
        }
    }

    /// Forgets a partition that needs nothing any more.
    fn drop_finished(&mut self, partition: &Partition) {
        if self.state.lanes.get(partition).is_some_and(Lane::is_finished) {
            self.state.lanes.remove(partition);
            self.meter.vitals.left(partition);
        }
    }
}

/// What the consumer group knows does not contradict the chain, which begins at `start`.
fn agree(dataset: &Dataset, start: u64, known: Committed, chain: &Chain) -> Result<()> {
    let (partition, offset, dir) = (chain.partition(), known.offset, dataset.folder.place(""));
    if known.foreign && offset > chain.end() {
        return Err(Error::DataLoss(format!(
            "{partition}: the consumer group has come to offset {offset} for another dataset than that in {dir}, so each would \
             get a share of the messages only: give this dataset a group of its own"
        )));
    }
    if chain.end() == start && offset > start {
        return Err(Error::DataLoss(format!(
            "{partition}: the consumer group has come to offset {offset}, but there is no part of it in {dir}: if the dataset \
             was moved, set sink.dir to where it is now; if this is a new dataset, give it a group of its own"
        )));
    }
    Ok(())
}

/// The line that a published part is worth: where it is, and what failed in it.
fn tell_of(part: &Published) {
    let Published { partition, from, end, rows, failed, bytes, outcomes, .. } = part;
    let codes: Vec<_> = outcomes.failures.iter().map(|(code, n)| format!("{} {n}", code.as_str())).collect();
    let codes = (!codes.is_empty()).then(|| codes.join(", "));
    tracing::info!(%partition, from, end, rows, failed, codes, bytes, "part published");
}
