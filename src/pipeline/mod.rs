//! The only place that wires tasks and channels (long because all of the wiring is to be seen at once).
//!
//! ```text
//! intake (this task)             workers (threads)                    sink (a thread)
//! source → admission → fetches → decode, resize, degrade, score, encode → window → parts → store
//!    ↑                                                                                      │
//!    └───────────── notices: published, conflict, where a chain ends ────────────────────────┘
//! ```
//!
//! Where the pipeline restores, there are two more hops:
//!
//! ```text
//! workers (threads)                        restorer (a thread)      workers behind it (threads)
//! decode, resize, degrade, cut in pieces → batches by task      → join, score, encode       → window …
//! ```
//!
//! Records hold their share of the memory for pixels all the way, and nothing behind the first workers waits for any: the restorer
//! waits for the last workers, those for the sink.
//!
//! The intake owns the source and the fetches in flight. It stamps each record with its partition's epoch and `seq`. A
//! fetch hands its bytes to the workers itself and waits there if they are busy, so the channel to them is the
//! backpressure. Workers send whole items to the sink, in any order; the sink's window orders them. Whoever holds the
//! sending half of a channel ends the receiver by dropping it: intake → workers → sink.

mod intake;
mod meter;
mod pending;
mod restore;
mod run;
mod vitals;
mod watched;
mod workers;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures::future::abortable;
use tokio::sync::{mpsc, watch};

use crate::checkpoint::{Checkpoint, Partition};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::load::storm::Storm;
use crate::load::{Loader, Prepare};
use crate::plan::Opened;
use crate::sample::Item;
use crate::sink::{Chain, Notice, Sink};
use crate::source::Source;
use crate::stage::Stage;

use intake::Intake;
use restore::{Arrivals, Cutter, Gatherer};
use workers::{Crew, Onward, Pixels};

pub use intake::Ended;
pub use meter::Meter;
pub use run::{Options, run, run_with};

/// How long threads have to end once the run is over.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// What the intake and the workers tell the sink.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The chain's partition is read from its end on under `epoch`; whatever older work is held is dropped.
    Start { chain: Chain, epoch: u64 },
    /// Finished positions.
    Items(Vec<Item>),
    /// The partition's last item was number `items - 1`; positions below `next` are covered.
    End { partition: Partition, epoch: u64, items: u64, next: u64 },
    /// The positions behind item number `items - 1` and below `next` have no rows, for this reason.
    Gap { partition: Partition, epoch: u64, items: u64, next: u64, reason: String },
    /// Provisional rows up to this ticket are confirmed.
    Settle(u64),
    /// Drop the partition's work; the sink reports where to go on.
    Restart(Partition),
    /// The partition is no longer ours; `true` if it is somebody else's already.
    Leave(Partition, bool),
    /// Publish what is released, take nothing more.
    Drain,
}

/// Bytes held between admission and a flushed row group, against `run.memory_mib`.
#[derive(Debug, Default)]
pub(crate) struct Held {
    items: AtomicU64,
    sink: AtomicU64,
    /// Closed parts on the local disk that wait for the store.
    queued: AtomicU64,
}

impl Held {
    fn add(&self, bytes: u64) {
        self.items.fetch_add(bytes, Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.items.fetch_sub(bytes, Relaxed);
    }

    fn look_at(&self, sink: &Sink) {
        self.sink.store(sink.held_bytes(), Relaxed);
        self.queued.store(sink.queued_bytes(), Relaxed);
    }

    fn total(&self) -> u64 {
        self.items.load(Relaxed) + self.sink.load(Relaxed)
    }
}

/// Counts that tell when nothing is under way any more.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) held: Held,
    /// Deliveries sent to the sink so far.
    pub(crate) sent: AtomicU64,
    /// Items handed to the workers and not yet sent on to the sink.
    pub(crate) working: AtomicU64,
    /// Of those, the ones that have come neither to the restorer nor past it.
    pub(crate) ahead: AtomicU64,
    /// False while everything that was read has been handed to the workers and the source has no more.
    pub(crate) more: AtomicBool,
}

/// What the sink and the workers tell the intake.
#[derive(Debug)]
pub(crate) enum Report {
    /// Something happened to a part.
    Sink(Notice),
    /// The run cannot go on.
    Stopped(Error),
}

/// How far the sink task is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SinkState {
    /// Deliveries taken so far.
    handled: u64,
    /// Nothing is open, queued or in flight.
    idle: bool,
}

/// The parts of a run, wired by [`drive`].
pub(crate) struct Parts<S> {
    pub(crate) source: S,
    /// Absent where the pipeline loads nothing.
    pub(crate) loader: Option<Arc<Loader>>,
    pub(crate) prepare: Option<Prepare>,
    /// Stages before and behind the restorer, in order.
    pub(crate) stages: [Vec<Box<dyn Stage>>; 2],
    /// Absent where the pipeline restores nothing.
    pub(crate) cutter: Option<Cutter>,
    pub(crate) sink: Sink,
    pub(crate) opened: Arc<Opened>,
    pub(crate) concurrency: usize,
    /// Bytes of closed parts that may wait for a slow store.
    pub(crate) max_queued: u64,
    pub(crate) run: RunConfig,
    /// Where the run ends in each partition of a topic; `None` where the source says so itself, or never.
    pub(crate) bounds: Option<Checkpoint>,
    pub(crate) meter: Arc<Meter>,
}

/// Runs source → load → stages → sink until every partition has reached its end, or `stop` resolves.
pub(crate) async fn drive<S: Source>(parts: Parts<S>, stop: impl Future<Output = ()>) -> Result<Ended> {
    let workers = parts.run.workers();
    let flow = Arc::new(Flow::default());
    let (work, work_received) = async_channel::bounded(workers * 2);
    let (deliveries, deliveries_received) = mpsc::channel(workers * 4);
    let (reports_sent, reports) = mpsc::unbounded_channel();
    let (state_sent, sink_state) = watch::channel(SinkState::default());
    let crew = Arc::new(Crew {
        prepare: parts.prepare,
        stages: parts.stages,
        pixels: Pixels::new(parts.run.memory() / 2),
        meter: Arc::clone(&parts.meter),
        flow: Arc::clone(&flow),
    });
    let mut threads = Vec::new();
    let onward = match parts.cutter {
        Some(cutter) => {
            let cutter = Arc::new(cutter);
            // A batch may wait here while the one before it is computed.
            let (sender, arrivals) = std::sync::mpsc::sync_channel(cutter.batch.max(workers));
            // Whoever waits here holds pixels, which are bounded.
            let (behind, halfway) = async_channel::unbounded();
            let gatherer = Gatherer::new(
                Arc::clone(&cutter),
                Arc::clone(&crew.pixels),
                Arc::clone(&flow),
                Arc::clone(&parts.meter),
            );
            let (finished, reports) = (behind.clone(), reports_sent.clone());
            threads.push(thread("restorer".to_owned(), move || {
                if let Err(error) = gatherer.run(&arrivals, &finished) {
                    // Nobody listening means that the run is over already.
                    reports.send(Report::Stopped(error)).ok();
                }
            })?);
            for n in 0..workers {
                let (crew, cutter, halfway) = (Arc::clone(&crew), Arc::clone(&cutter), halfway.clone());
                let (deliveries, reports) = (deliveries.clone(), reports_sent.clone());
                let finish = move || crew.finish(&cutter, &halfway, &deliveries, &reports);
                threads.push(thread(format!("behind-{n}"), finish)?);
            }
            Some(Arc::new(Onward { cutter, arrivals: Arrivals { sender, flow: Arc::clone(&flow) }, behind }))
        }
        None => None,
    };
    for n in 0..workers {
        let (crew, work, onward) = (Arc::clone(&crew), work_received.clone(), onward.clone());
        let (deliveries, reports) = (deliveries.clone(), reports_sent.clone());
        let life = move || crew.work(&work, onward.as_deref(), &deliveries, &reports);
        threads.push(thread(format!("worker-{n}"), life)?);
    }
    drop(work_received);
    let arrivals = onward.map(|onward| onward.arrivals.clone());
    let limit = parts.run.memory();
    let dataset = parts.sink.dataset();
    // A thread of its own, since it writes files: a task that blocks would leave its place to one more thread each time.
    let (delivering, sink_abort) = abortable(deliver(
        parts.sink,
        limit,
        Arc::clone(&flow),
        Arc::clone(&parts.meter),
        deliveries_received,
        reports_sent,
        state_sent,
    ));
    let runtime = tokio::runtime::Handle::current();
    let sink = thread("sink".to_owned(), move || runtime.block_on(delivering).unwrap_or_default())?;
    let intake = Intake {
        source: parts.source,
        loader: parts.loader,
        dataset,
        opened: parts.opened,
        storm: Storm::new(parts.run.storm.clone()),
        config: parts.run,
        bounds: parts.bounds,
        concurrency: parts.concurrency,
        max_queued: parts.max_queued,
        meter: parts.meter,
        flow,
        work,
        arrivals,
        deliveries,
        reports,
        sink_state,
        state: intake::State::default(),
    };
    let ended = intake.run(stop).await;
    // The intake's channels are gone: the workers end, then the sink. Whoever is still busy then works for nothing, and is not
    // waited for: a worker holds pixels only, the sink's scratch is swept by the next run.
    if ended.is_err() {
        sink_abort.abort();
    }
    let limit = tokio::time::Instant::now() + AFTERWARDS;
    let running = || threads.iter().chain([&sink]).any(|thread| !thread.is_finished());
    while running() && tokio::time::Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if ended.is_ok() && sink.is_finished() && sink.join().is_err() {
        return Err(Error::Bug("the sink panicked".into()));
    }
    ended
}

fn thread(name: String, life: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name)
        .spawn(life)
        .map_err(|source| Error::Bug(format!("cannot start a thread: {source}")))
}

/// The sink: orders, builds and publishes until every sender is gone.
async fn deliver(
    mut sink: Sink,
    limit: u64,
    flow: Arc<Flow>,
    meter: Arc<Meter>,
    mut deliveries: mpsc::Receiver<Delivery>,
    reports: mpsc::UnboundedSender<Report>,
    state: watch::Sender<SinkState>,
) {
    let mut handled = 0;
    loop {
        let step = tokio::select! {
            biased;
            notice = sink.next() => notice.map(|notice| Some(Report::Sink(notice))),
            delivery = deliveries.recv() => {
                let Some(delivery) = delivery else { return };
                handled += 1;
                let started = Instant::now();
                let taken = take(&mut sink, delivery, limit, &flow);
                meter.add_busy("sink", started.elapsed());
                taken
            }
        };
        let report = match step {
            Ok(report) => report,
            Err(error) => Some(Report::Stopped(error)),
        };
        let stopped = matches!(report, Some(Report::Stopped(_)));
        // Nobody listening means that the run is over.
        if report.is_some_and(|report| reports.send(report).is_err()) || stopped {
            return;
        }
        flow.held.look_at(&sink);
        state.send_replace(SinkState { handled, idle: sink.is_idle() });
    }
}

/// What is to be reported of it at once, if anything.
fn take(sink: &mut Sink, delivery: Delivery, limit: u64, flow: &Flow) -> Result<Option<Report>> {
    match delivery {
        Delivery::Start { chain, epoch } => sink.start(chain, epoch)?,
        Delivery::Items(items) => {
            let bytes = items.iter().map(Item::bytes).sum();
            items.into_iter().try_for_each(|item| sink.accept(item))?;
            flow.held.release(bytes);
            flow.held.look_at(sink);
            if flow.held.total() > limit {
                // False where nothing is left to relieve: what is held then waits for earlier rows.
                sink.relieve()?;
            }
        }
        Delivery::End { partition, epoch, items, next } => sink.end(&partition, epoch, items, next)?,
        Delivery::Gap { partition, epoch, items, next, reason } => sink.gap(&partition, epoch, items, next, reason)?,
        Delivery::Settle(ticket) => sink.settle(ticket),
        Delivery::Restart(partition) => sink.restart(&partition),
        Delivery::Leave(partition, true) => sink.forget(&partition),
        Delivery::Leave(partition, false) => {
            if !sink.revoke(&partition)? {
                return Ok(Some(Report::Sink(Notice::Released { partition })));
            }
        }
        Delivery::Drain => sink.drain()?,
    }
    Ok(None)
}
