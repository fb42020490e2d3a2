//! The intake: source events, epochs, admission, fetches, the storm breaker, drain, and when a run is over.
//!
//! (long because everything that can happen to a run in progress is answered here, in one state)

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use super::pending::{Pending, Unpublished};
use super::restore::Arrivals;
use super::vitals::Now;
use super::workers::Work;
use super::{Delivery, Flow, Meter, Report, SinkState};
use crate::checkpoint::{Checkpoint, Partition};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::load::storm::{Outcome, Storm, Verdict};
use crate::load::{Fetched, Loader};
use crate::plan::Opened;
use crate::report::figures::Queues;
use crate::sample::Record;
use crate::sink::{Chain, Dataset, Notice, Published};
use crate::source::{Committed, Event, Source};
use crate::stage::Fault;
use crate::store::{Patience, patiently};

/// `max_failed_share` is judged from this many rows on.
const JUDGED_FROM_ROWS: u64 = 200;
/// What a record is taken to hold until its fetch says more, bytes.
const UNKNOWN_RECORD: u64 = 512 << 10;
/// Of `run.memory_mib`, the part that records may hold which wait to be fetched.
const PENDING_SHARE: u64 = 8;
/// Records handed on together where nothing is loaded, and their bytes.
const TOGETHER: usize = 500;
const BYTES_TOGETHER: u64 = 4 << 20;
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at what other processes have done.
const LOOK: Duration = Duration::from_secs(1);
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

/// A partition being read.
struct Lane {
    epoch: u64,
    /// The next item's number in this epoch.
    seq: u64,
    /// The sink has it too.
    begun: bool,
    /// Where its chain ends, as far as is known.
    durable: u64,
    /// Where it ends in this run, once the source has said so.
    end: Option<u64>,
    unpublished: Unpublished,
}

impl Lane {
    fn is_finished(&self) -> bool {
        self.end.is_some_and(|end| self.durable >= end)
    }
}

struct Admitted {
    record: Arc<Record>,
    epoch: u64,
    seq: u64,
    /// What the record holds, while it is fetched.
    _weight: Weight,
}

/// Bytes that count while this lives.
struct Weight {
    total: Arc<AtomicU64>,
    bytes: u64,
}

impl Weight {
    fn new(total: &Arc<AtomicU64>, bytes: u64) -> Self {
        total.fetch_add(bytes, Relaxed);
        Self { total: Arc::clone(total), bytes }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Relaxed);
    }
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

struct Drain {
    started: Instant,
    told_sink: bool,
    because: Option<Error>,
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
            let hungry = self.state.pending.is_hungry(self.concurrency, (self.config.memory_mib << 20) / PENDING_SHARE);
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

    /// Starts fetches while there is room.
    fn admit(&mut self) {
        if self.state.drain.is_some() || self.state.retry_at.is_some() {
            return;
        }
        let Some(loader) = self.loader.clone() else { return self.pass_on() };
        let concurrency = if self.storm.is_open() { 1 } else { self.concurrency };
        let limit = self.config.memory_mib << 20;
        while self.state.fetches.len() + self.state.handing.len() < concurrency {
            let known = self.state.fetching.load(Relaxed);
            let unknown = (self.state.fetches.len() as u64 + 1) * UNKNOWN_RECORD + known;
            if self.flow.held.total() + unknown > limit && self.in_flight() > 0 {
                return;
            }
            if self.flow.held.queued.load(Relaxed) > self.max_queued {
                return;
            }
            let Some((record, epoch, seq)) = self.state.next_record() else { return };
            let _weight = Weight::new(&self.state.fetching, record.bytes());
            let admitted = Admitted { record: Arc::new(record), epoch, seq, _weight };
            let loader = Arc::clone(&loader);
            self.state.fetches.push(Box::pin(async move {
                let fetched = loader.fetch(&admitted.record).await;
                (admitted, fetched)
            }));
        }
    }

    /// Where nothing is loaded, hands records on as they came, many at a time: inline bytes pass by inside the record.
    fn pass_on(&mut self) {
        let limit = self.config.memory_mib << 20;
        while self.state.handing.is_empty()
            && (self.flow.held.total() <= limit || self.in_flight() == 0)
            && self.flow.held.queued.load(Relaxed) <= self.max_queued
        {
            let (mut works, mut bytes) = (Vec::new(), 0);
            while works.len() < TOGETHER
                && bytes < BYTES_TOGETHER
                && let Some((record, epoch, seq)) = self.state.next_record()
            {
                bytes += record.bytes();
                let fetched = Fetched::from_bytes(Bytes::new());
                works.push(Work { record: Arc::new(record), epoch, seq, fetched, provisional: None });
            }
            if works.is_empty() {
                return;
            }
            self.hand_over(works, bytes);
        }
    }

    fn hand_over(&mut self, works: Vec<Work>, bytes: u64) {
        self.flow.held.add(bytes);
        self.flow.working.fetch_add(works.len() as u64, Relaxed);
        self.flow.ahead.fetch_add(works.len() as u64, Relaxed);
        if let Err(refused) = self.work.try_send(works) {
            let (works, sender) = (refused.into_inner(), self.work.clone());
            self.state.handing.push(Box::pin(async move {
                // Closed only when the run is over.
                drop(sender.send(works).await);
            }));
        }
    }

    /// False if all that was read is with the workers and nothing will be read.
    fn may_have_more(&self) -> bool {
        let state = &self.state;
        let reads = !state.exhausted && state.drain.is_none();
        let waits = state.retry_at.is_some() || !state.recoveries.is_empty() || !state.waiting.is_empty();
        reads || waits || !state.pending.is_empty() || !state.fetches.is_empty()
    }

    fn in_flight(&self) -> u64 {
        (self.state.fetches.len() + self.state.handing.len()) as u64 + self.flow.working.load(Acquire)
    }

    /// Whether the run is over, and the last steps before it is.
    async fn over(&mut self) -> Result<Option<Ended>> {
        // In this order: an item is counted as sent before it stops being counted as in work.
        let in_flight = self.in_flight();
        let sink = *self.sink_state.borrow();
        let flushed = sink.idle && sink.handled == self.flow.sent.load(Relaxed) && self.reports.is_empty();
        if let Some(drain) = &mut self.state.drain {
            let limit = Duration::from_secs(self.config.drain_s);
            let late = drain.started.elapsed() > limit.mul_f64(0.6);
            if !drain.told_sink {
                let waiting = !self.state.fetches.is_empty() || !self.state.handing.is_empty();
                if late || (!waiting && self.flow.working.load(Relaxed) == 0) {
                    drain.told_sink = true;
                    self.state.fetches.clear();
                    self.tell(Delivery::Drain).await?;
                }
                return Ok(None);
            }
            if flushed || drain.started.elapsed() > limit {
                if !flushed {
                    tracing::warn!(
                        "run.drain_s passed before the last part was published; the next run makes its rows again"
                    );
                }
                return match self.state.drain.take().and_then(|drain| drain.because) {
                    Some(error) => Err(error),
                    None => Ok(Some(Ended::Drained)),
                };
            }
            return Ok(None);
        }
        let read = self.has_read_all() && self.state.pending.is_empty() && self.state.recoveries.is_empty();
        let waiting = self.state.retry_at.is_some() || !self.state.waiting.is_empty();
        if !read || waiting || !self.state.fetches.is_empty() {
            return Ok(None);
        }
        // An open breaker has had every provisional row dropped.
        if !self.state.told_final && !self.storm.is_open() {
            // The source has ended with the breaker closed: what failed is the records' own fault.
            self.state.told_final = true;
            let ticket = self.storm.last_ticket();
            self.tell(Delivery::Settle(ticket)).await?;
            return Ok(None);
        }
        if in_flight > 0 || !flushed {
            return Ok(None);
        }
        if !self.state.exhausted && self.bounds.as_ref().is_some_and(|bounds| !bounds.is_empty()) {
            self.look_at_others();
            return Ok(None);
        }
        self.too_many_failed().map_or(Ok(Some(Ended::Done)), Err)
    }

    /// True if nothing more is to be read in this run of what is ours now.
    fn has_read_all(&self) -> bool {
        self.state.exhausted || (self.bounds.is_some() && self.state.lanes.values().all(|lane| lane.end.is_some()))
    }

    /// A run up to the end of a topic is over when every partition has come there, whoever reads it: until then this process
    /// stays, to take over what another leaves.
    fn look_at_others(&mut self) {
        let recent = self.state.looked.is_some_and(|at| at.elapsed() < LOOK);
        if recent || !self.state.looks.is_empty() {
            return;
        }
        self.state.looked = Some(Instant::now());
        let bounds = self.bounds.clone().unwrap_or_default();
        let (dataset, opened) = (Arc::clone(&self.dataset), Arc::clone(&self.opened));
        self.state.looks.push(Box::pin(async move {
            let mut ends = Checkpoint::new();
            for (partition, bound) in bounds {
                let start = opened.start_of(&partition).unwrap_or(0);
                let mut chain = Chain::recover(&dataset, &partition, start).await?;
                if chain.end() >= bound && dataset.events.is_some() {
                    // Nobody goes on behind that part, and its writer may have died before it told of it.
                    chain = Chain::take_over(&dataset, &partition, start, None).await?;
                }
                ends.insert(partition, chain.end());
            }
            Ok(ends)
        }));
    }

    fn on_looked(&mut self, ends: Checkpoint) {
        ends.iter().for_each(|(partition, end)| self.reached(partition, *end));
    }

    /// The chain of a partition has come to `end`.
    fn reached(&mut self, partition: &Partition, end: u64) {
        if let Some(bounds) = &mut self.bounds
            && bounds.get(partition).is_some_and(|bound| end >= *bound)
        {
            bounds.remove(partition);
        }
    }

    fn begin_drain(&mut self, because: Option<Error>) {
        if self.state.drain.is_none() {
            tracing::info!(drain_s = self.config.drain_s, "stopping: publishing what is finished");
            self.state.pending.clear();
            self.state.recoveries.clear();
            self.state.drain = Some(Drain { started: Instant::now(), told_sink: false, because });
        }
    }

    async fn tell(&self, delivery: Delivery) -> Result<()> {
        self.flow.sent.fetch_add(1, Relaxed);
        // If the sink is gone, its reason comes as a report.
        self.deliveries.send(delivery).await.or(Ok(()))
    }

    async fn on_event(&mut self, event: Event) -> Result<()> {
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
    fn new_epoch(&mut self, partition: &Partition) -> u64 {
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

    async fn on_recovered(&mut self, chain: Chain, epoch: u64) -> Result<()> {
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

    async fn on_fetched(&mut self, admitted: Admitted, fetched: Fetched) -> Result<()> {
        if self.state.lanes.get(&admitted.record.position.partition).is_none_or(|lane| lane.epoch != admitted.epoch) {
            return Ok(());
        }
        if let Some(Fault::Run(_)) = fetched.fault() {
            return fetched.into_error().map_or(Ok(()), Err);
        }
        let failure = match fetched.fault() {
            Some(Fault::Record(code, message)) => Some((*code, message.as_str())),
            _ => None,
        };
        let position = &admitted.record.position;
        let outcome = Outcome { host: fetched.host.as_deref(), credentials: fetched.credentials, position, failure };
        let provisional = match self.storm.observe(&outcome, Instant::now()) {
            Verdict::Pass => None,
            Verdict::Provisional(ticket) => Some(ticket),
            Verdict::Opened => return self.weather_storm().await,
        };
        let bytes = fetched.len() + admitted.record.bytes();
        let work = Work { record: admitted.record, epoch: admitted.epoch, seq: admitted.seq, fetched, provisional };
        self.hand_over(vec![work], bytes);
        Ok(())
    }

    /// Forgets a partition that needs nothing any more.
    fn drop_finished(&mut self, partition: &Partition) {
        if self.state.lanes.get(partition).is_some_and(Lane::is_finished) {
            self.state.lanes.remove(partition);
            self.meter.vitals.left(partition);
        }
    }

    /// The breaker opened: nothing in flight may be written; every partition starts anew after a wait. (A run that is stopping
    /// only takes no more: what stands before the record that opened it is still published.)
    async fn weather_storm(&mut self) -> Result<()> {
        if self.state.drain.is_some() {
            self.state.fetches.clear();
            return Ok(());
        }
        let wait = self.storm.wait(Instant::now())?.unwrap_or_default();
        self.state.retry_at = Some(Instant::now() + wait);
        self.state.pending.clear();
        self.state.fetches.clear();
        // A partition whose chain is still looked for holds nothing yet.
        let begun = |(partition, lane): (&Partition, &Lane)| lane.begun.then(|| partition.clone());
        let partitions: Vec<_> = self.state.lanes.iter().filter_map(begun).collect();
        for partition in partitions {
            self.new_epoch(&partition);
            self.tell(Delivery::Restart(partition)).await?;
        }
        Ok(())
    }

    async fn on_report(&mut self, report: Report) -> Result<()> {
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

    /// Reads on behind `chain` in a new epoch.
    async fn resume(&mut self, chain: Chain) -> Result<()> {
        if self.state.drain.is_some() || !self.state.lanes.contains_key(chain.partition()) {
            return Ok(());
        }
        let epoch = self.new_epoch(chain.partition());
        self.begin(chain, epoch).await
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
        Now { queues, oldest, fetch_errors }
    }

    fn too_many_failed(&self) -> Option<Error> {
        let (rows, failed) = (self.meter.judged.load(Relaxed), self.meter.judged_failed.load(Relaxed));
        let many = rows >= JUDGED_FROM_ROWS && failed as f64 > self.config.max_failed_share * rows as f64;
        many.then_some(Error::TooManyFailed { failed, rows })
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
