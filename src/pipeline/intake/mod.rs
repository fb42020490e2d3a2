//! The intake: one loop that asks the source, admits records to work, and hears what the sink has published.

mod admission;
mod end;
mod partitions;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use self::admission::Admitted;
use self::end::Drain;
use self::partitions::Lane;
use super::pending::Pending;
use super::restore::Arrivals;
use super::vitals::Now;
use super::workers::Work;
use super::{Delivery, Flow, Meter, Report, SinkState};
use crate::checkpoint::{Checkpoint, Partition};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::load::storm::Storm;
use crate::load::{Fetched, Loader};
use crate::plan::Opened;
use crate::report::figures::Queues;
use crate::sample::Record;
use crate::sink::{Chain, Dataset};
use crate::source::Source;
use crate::store::Patience;

/// Of `run.memory_mib`, the part that records may hold which wait to be fetched.
const PENDING_SHARE: u64 = 8;
const TICK: Duration = Duration::from_millis(100);
/// Turns of the loop between two looks at the clock: a look at each would cost what a small record costs.
const TURNS: u32 = 64;

/// How an intake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every partition of this run has reached its end.
    Done,
    /// Asked to stop: the rows published so far are whole, the rest is for the next run.
    Drained,
}

pub(crate) struct Intake<S> {
    pub(crate) source: S,
    pub(crate) loader: Option<Arc<Loader>>,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) opened: Arc<Opened>,
    pub(crate) storm: Storm,
    pub(crate) config: RunConfig,
    /// Where the run ends in each partition, whoever reads it; what has come so far is taken out.
    pub(crate) bounds: Option<Checkpoint>,
    pub(crate) concurrency: usize,
    pub(crate) max_queued: u64,
    pub(crate) meter: Arc<Meter>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) work: async_channel::Sender<Vec<Work>>,
    /// The way to the restorer, to be told when nothing more comes.
    pub(crate) arrivals: Option<Arrivals>,
    pub(crate) deliveries: mpsc::Sender<Delivery>,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) sink_state: watch::Receiver<SinkState>,
    pub(crate) state: State,
}

/// When the last tick was, and how many turns ago.
struct Clock {
    now: Instant,
    turns: u32,
}

impl Default for Clock {
    fn default() -> Self {
        Self { now: Instant::now(), turns: 0 }
    }
}

/// What changes while the intake runs.
#[derive(Default)]
pub(crate) struct State {
    clock: Clock,
    lanes: HashMap<Partition, Lane>,
    /// Counts over all partitions, so that one that left and came back never repeats an epoch.
    last_epoch: u64,
    pending: Pending,
    /// Bytes that the records being fetched hold.
    fetching: Arc<AtomicU64>,
    fetches: FuturesUnordered<BoxFuture<'static, (Admitted, Fetched)>>,
    handing: FuturesUnordered<BoxFuture<'static, ()>>,
    recoveries: FuturesUnordered<BoxFuture<'static, (u64, Result<Chain>)>>,
    exhausted: bool,
    settled: u64,
    /// The source has ended and the sink was told that what failed is final.
    told_final: bool,
    /// Backing off from a source that does not answer.
    source_patience: Option<Patience>,
    source_waits: FuturesUnordered<BoxFuture<'static, (Patience, Result<()>)>>,
    retry_at: Option<Instant>,
    /// Where to go on once the breaker lets us.
    waiting: Vec<Chain>,
    drain: Option<Drain>,
    /// Looking where the chains of partitions end that others read.
    looks: FuturesUnordered<BoxFuture<'static, Result<Checkpoint>>>,
    looked: Option<Instant>,
}

impl State {
    /// The next record of an epoch that still counts, with that and its number in it.
    fn next_record(&mut self) -> Option<(Record, u64, u64)> {
        loop {
            let (epoch, record) = self.pending.pop()?;
            let lane = self.lanes.get_mut(&record.position.partition).filter(|lane| lane.epoch == epoch);
            let Some(lane) = lane else { continue };
            lane.unpublished.admit(record.position.offset, self.clock.now);
            let seq = lane.seq;
            lane.seq += 1;
            return Some((record, epoch, seq));
        }
    }

    /// How many records of the partition were read in this epoch; `None` if it counts no more.
    fn items(&self, partition: &Partition, epoch: u64) -> Option<u64> {
        let lane = self.lanes.get(partition).filter(|lane| lane.epoch == epoch)?;
        Some(lane.seq + self.pending.count(partition, epoch))
    }
}

impl<S: Source> Intake<S> {
    /// Runs to the end, or until `stop` resolves and what is in flight has been published.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Ended> {
        let ended = self.turn(stop).await;
        self.meter.turned(None);
        ended
    }

    async fn turn(&mut self, stop: impl Future<Output = ()>) -> Result<Ended> {
        let mut stop = std::pin::pin!(stop);
        let mut stopped = false;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.meter.turned(Some(Instant::now()));
        loop {
            self.state.clock.turns += 1;
            // Where something is always ready, the select below never comes to the tick.
            if self.state.clock.turns >= TURNS {
                self.state.clock.turns = 0;
                if self.state.clock.now.elapsed() >= TICK {
                    self.on_tick().await?;
                }
            }
            self.admit();
            self.meter.fetching.store(self.state.fetches.len() as u64, Relaxed);
            if let Some(ended) = self.over().await? {
                return Ok(ended);
            }
            let stopping = self.state.drain.is_some();
            if let Some(arrivals) = &self.arrivals {
                arrivals.set_more(self.may_have_more());
            }
            let hungry = self.state.pending.is_hungry(self.concurrency, self.config.memory() / PENDING_SHARE);
            let waiting = self.state.retry_at.is_some() || !self.state.source_waits.is_empty();
            let ask = !stopping && !self.state.exhausted;
            let state = &mut self.state;
            tokio::select! {
                biased;
                () = &mut stop, if !stopped => {
                    stopped = true;
                    self.begin_drain(None);
                }
                report = self.reports.recv() => match report {
                    Some(report) => self.on_report(report).await?,
                    None => return Err(Error::Bug("the sink ended before the intake".into())),
                },
                Some((epoch, chain)) = state.recoveries.next(), if !state.recoveries.is_empty() => {
                    self.on_recovered(chain?, epoch).await?;
                }
                Some((admitted, fetched)) = state.fetches.next(), if !state.fetches.is_empty() => {
                    self.on_fetched(admitted, fetched).await?;
                }
                Some(()) = state.handing.next(), if !state.handing.is_empty() => {}
                Some((patience, waited)) = state.source_waits.next(), if !state.source_waits.is_empty() => {
                    state.source_patience = Some(patience);
                    waited?;
                }
                Some(ends) = state.looks.next(), if !state.looks.is_empty() => self.on_looked(ends?),
                event = self.source.next(hungry && !waiting), if ask => match event {
                    Ok(event) => {
                        if let Some(mut patience) = state.source_patience.take() {
                            patience.answered();
                        }
                        match event {
                            Some(event) => self.on_event(event).await?,
                            None => {
                                state.exhausted = true;
                                self.meter.set_ready();
                            }
                        }
                    }
                    Err(error) => {
                        self.meter.vitals.source_error();
                        let give_up = Duration::from_secs(self.config.storm.give_up_s);
                        let mut patience = state.source_patience.take().unwrap_or_else(|| Patience::new(give_up));
                        state.source_waits.push(Box::pin(async move {
                            let waited = patience.after(error).await;
                            (patience, waited)
                        }));
                    }
                },
                changed = self.sink_state.changed() => {
                    if changed.is_err() {
                        // The task's own error comes as a report.
                        tokio::time::sleep(TICK).await;
                    }
                }
                _ = tick.tick() => self.on_tick().await?,
            }
        }
    }

    async fn tell(&self, delivery: Delivery) -> Result<()> {
        self.flow.sent.fetch_add(1, Relaxed);
        // If the sink is gone, its reason comes as a report.
        self.deliveries.send(delivery).await.or(Ok(()))
    }

    async fn on_tick(&mut self) -> Result<()> {
        let now = Instant::now();
        self.state.clock.now = now;
        self.meter.turned(Some(now));
        self.meter.vitals.tell(self.look());
        if self.state.retry_at.is_some_and(|at| now >= at) && self.state.drain.is_none() {
            self.state.retry_at = None;
            for chain in std::mem::take(&mut self.state.waiting) {
                self.resume(chain).await?;
            }
        }
        let health = self.source.health();
        if health.ready {
            self.meter.set_ready();
        }
        for (partition, end) in &health.ends {
            if let Some(lane) = self.state.lanes.get(partition) {
                self.meter.set_lag(partition, end.saturating_sub(lane.durable));
            }
        }
        self.meter.set_paused(self.storm.describe().or(health.trouble));
        let settled = self.storm.settled(now);
        if settled > self.state.settled {
            self.state.settled = settled;
            self.tell(Delivery::Settle(settled)).await?;
        }
        if let Some(error) = self.too_many_failed() {
            self.begin_drain(Some(error));
        }
        Ok(())
    }

    /// What is where.
    fn look(&self) -> Now {
        let (state, held) = (&self.state, &self.flow.held);
        let queues = Queues {
            pending_records: state.pending.len() as u64,
            fetching_records: state.fetches.len() as u64,
            working_records: self.flow.working.load(Relaxed),
            records_bytes: held.items.load(Relaxed),
            rows_bytes: held.sink.load(Relaxed),
            parts_bytes: held.queued.load(Relaxed),
        };
        let oldest = state.lanes.values().filter_map(|lane| lane.unpublished.oldest()).min();
        let fetch_errors = self.loader.as_ref().map(|loader| loader.errors()).unwrap_or_default();
        let is_idle = self.in_flight() == 0;
        let limiting = if queues.parts_bytes > self.max_queued || (is_idle && queues.parts_bytes > 0) {
            Some("store")
        } else if is_idle && state.pending.is_empty() && !state.exhausted {
            Some("source")
        } else {
            None
        };
        Now { queues, oldest, fetch_errors, limiting }
    }
}
