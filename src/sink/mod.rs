//! Rows → Parquet parts that hold the progress.
//!
//! ```text
//! Encode (a stage) → window → open part → closed parts → one PUT in flight → chain
//! pixels → bytes     order    on scratch  in order       create-if-absent    the truth
//! ```
//!
//! A [`Sink`] is driven from outside: rows go in by [`Sink::accept`], what happens comes out of [`Sink::next`], which also makes
//! uploads, waits and the closing of old parts go on; it spawns nothing. Every partition has a lane (`lane.rs`): the epoch
//! whose rows it takes, its window, its parts. An epoch ends with a conflict, a restart or a revoke; rows of an older one
//! are dropped wherever they turn up. (Long, because the whole of what the driver sees of the sink stands here.)
//!
//! (long because it is the whole face of the sink: what goes in, what comes out, and the uploads between)

pub mod card;
pub mod chain;
pub mod config;
pub mod encode;
pub mod events;
pub mod footer;
mod lane;
mod outcomes;
mod part;
pub mod read;
mod rows;
pub mod schema;
mod scratch;
pub mod verify;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::chain::Chain;
pub use self::config::SinkConfig;
pub use self::encode::Encode;
pub use self::events::{Events, EventsConfig};
pub use self::outcomes::{Outcomes, ScoreMean};
pub use self::schema::{Columns, ImageColumn, results_schema};

use self::chain::Outcome;
use self::footer::Footer;
use self::lane::{Lane, Next};
use self::part::{Factory, Part};
use self::rows::Rows;
use self::scratch::Scratch;
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::sample::Item;
use crate::store::{Folder, patiently};

const MIB: u64 = 1 << 20;

/// The dataset that parts belong to.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Where it is.
    pub folder: Folder,
    /// Its id, from the plan.
    pub id: String,
    /// Of what makes the rows, from the plan or the last accepted change.
    pub content_hash: String,
    /// Of the columns, see [`Columns::hash`].
    pub schema_hash: String,
    /// What the input is, in the plan's words; goes into the footers.
    pub source: String,
    /// How long a store may fail to answer (`run.storm.give_up_s`).
    pub give_up: Duration,
    /// Who is told of its parts.
    pub events: Option<Arc<Events>>,
}

impl Dataset {
    /// Tells of a part that is durable, if somebody wants to know; tries until that is acknowledged.
    async fn tell(&self, footer: &Footer, bytes: u64) -> Result<()> {
        let Some(events) = &self.events else { return Ok(()) };
        patiently(self.give_up, || events.tell(self, footer, bytes)).await
    }
}

/// What [`Sink::next`] reports.
#[derive(Debug)]
pub enum Notice {
    /// A part is durable, and with it everything of its partition below its end.
    Published(Published),
    /// A partition's work was dropped, because another writer continued its chain or [`Sink::restart`] asked for it. Answer
    /// with [`Sink::start`] with this chain and a new epoch, and start the source at the chain's end.
    Restart {
        /// Where to go on.
        chain: Chain,
        /// True if another writer was the cause.
        foreign: bool,
    },
    /// A revoked partition's last part is published (or overtaken); nothing more will come of it.
    Released {
        /// The partition.
        partition: Partition,
    },
}

/// A published part.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The partition.
    pub partition: Partition,
    /// The first offset covered.
    pub from: u64,
    /// The offset behind the last one covered.
    pub end: u64,
    /// Rows, failed ones included.
    pub rows: u64,
    /// Failed rows.
    pub failed: u64,
    /// Positions without rows.
    pub skipped: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Failures by code, and scores.
    pub outcomes: Outcomes,
}

/// What an operation in flight came to.
struct Landing {
    partition: Partition,
    result: Result<Landed>,
}

enum Landed {
    Part(Chain, Box<Part>, Outcome),
    Recovered(Chain),
}

/// Bounds the bytes that uploads hold in memory together.
struct Uploads {
    permits: Semaphore,
    /// Permits in all, one a MiB.
    all: u32,
}

type Flight = Abortable<Pin<Box<dyn Future<Output = Landing> + Send>>>;

/// Writes rows to a dataset, each input position exactly once.
pub struct Sink {
    factory: Arc<Factory>,
    limits: lane::Limits,
    lanes: BTreeMap<Partition, Lane>,
    settled: Option<u64>,
    flights: FuturesUnordered<Flight>,
    uploads: Arc<Uploads>,
    ready: VecDeque<Notice>,
}

impl Sink {
    /// Sweeps and opens the scratch folder. `run` and `writer` name this run and this process in rows and footers.
    pub fn new(dataset: Dataset, columns: Columns, config: &SinkConfig, run: &str, writer: &str) -> Result<Self> {
        columns.check()?;
        config.check()?;
        let scratch = Scratch::open(&config.scratch_root(&dataset.folder))?;
        let mib = u32::try_from(config.max_part_mib).unwrap_or(u32::MAX);
        Ok(Self {
            limits: lane::Limits {
                rows: config.rows_per_part,
                bytes: config.max_part_mib * MIB,
                age: Duration::from_secs(config.max_age_s),
            },
            factory: Arc::new(Factory {
                dataset: Arc::new(dataset),
                rows: Rows::new(columns, run.to_owned(), writer.to_owned()),
                scratch,
                run: run.to_owned(),
                writer: writer.to_owned(),
                row_group_bytes: config.row_group_mib * MIB,
            }),
            lanes: BTreeMap::new(),
            settled: None,
            flights: FuturesUnordered::new(),
            uploads: Arc::new(Uploads { permits: Semaphore::new(mib as usize), all: mib }),
            ready: VecDeque::new(),
        })
    }

    /// The dataset written to; [`Chain::recover`] wants it.
    pub fn dataset(&self) -> Arc<Dataset> {
        Arc::clone(&self.factory.dataset)
    }

    /// Takes rows of the chain's partition under `epoch` from now on, `seq` from 0, from the chain's end on. Whatever was in
    /// work of the partition is dropped.
    pub fn start(&mut self, chain: Chain, epoch: u64) -> Result<()> {
        let partition = chain.partition().clone();
        if self.lanes.get(&partition).is_some_and(|lane| lane.epoch() >= epoch) {
            return Err(Error::Bug(format!("{partition} was started with epoch {epoch}, which is not a new one")));
        }
        self.forget(&partition);
        self.lanes.insert(partition, Lane::new(Arc::clone(&self.factory), self.limits, chain, epoch));
        Ok(())
    }

    /// Takes an item whose samples are through all stages. Items of partitions that are not ours and of old epochs are
    /// dropped. Writes to the local disk; `Error::Disk` if that fails.
    pub fn accept(&mut self, item: Item) -> Result<()> {
        match self.lanes.get_mut(&item.record.position.partition) {
            Some(lane) => lane.accept(item),
            None => Ok(()),
        }
    }

    /// Says that `items` items were read of the partition in this epoch, and that every position below `next` was read or has
    /// no row. When they are all here, the last part is closed there.
    pub fn end(&mut self, partition: &Partition, epoch: u64, items: u64, next: u64) -> Result<()> {
        match self.lanes.get_mut(partition) {
            Some(lane) => lane.end(epoch, items, next),
            None => Ok(()),
        }
    }

    /// Says that the positions behind the `items` items read so far in this epoch, and below `next`, have no rows, and why.
    pub fn gap(&mut self, partition: &Partition, epoch: u64, items: u64, next: u64, reason: String) -> Result<()> {
        match self.lanes.get_mut(partition) {
            Some(lane) => lane.gap(epoch, items, next, reason),
            None => Ok(()),
        }
    }

    /// Bytes of rows in memory: those that wait for their turn and those in open row groups.
    pub fn held_bytes(&self) -> u64 {
        self.lanes.values().map(Lane::held).sum()
    }

    /// Bytes of closed parts on scratch that wait for the store. An intake that pauses while this is above a few `max_part_mib`
    /// keeps a slow store from filling the disk. Parts that wait for rows to be settled do not count: only more intake
    /// settles them.
    pub fn queued_bytes(&self) -> u64 {
        self.lanes.values().map(|lane| lane.queued(self.settled)).sum()
    }

    /// Writes the largest open row group to the disk before its time; false if there is none. What then still is held waits
    /// in windows for rows that are not here yet.
    pub fn relieve(&mut self) -> Result<bool> {
        match self.lanes.values_mut().max_by_key(|lane| lane.open_bytes()) {
            Some(lane) if lane.open_bytes() > 0 => lane.flush().map(|()| true),
            _ => Ok(false),
        }
    }

    /// Says that no row with a ticket up to `upto` will be tried again: their parts may be published.
    pub fn settle(&mut self, upto: u64) {
        self.settled = self.settled.max(Some(upto));
    }

    /// The partitions that hold provisional rows which are not settled.
    pub fn provisional(&self) -> Vec<Partition> {
        let of = |(partition, lane): (&Partition, &Lane)| lane.is_provisional(self.settled).then(|| partition.clone());
        self.lanes.iter().filter_map(of).collect()
    }

    /// Drops everything of the partition but an upload in flight; [`Notice::Restart`] follows when that has landed.
    pub fn restart(&mut self, partition: &Partition) {
        if let Some(lane) = self.lanes.get_mut(partition) {
            lane.restart();
        }
    }

    /// Gives a partition back: its open part is closed at the last row in order, or before its first provisional row, and may
    /// still be published; the rest is dropped. True if [`Notice::Released`] follows, false if there is nothing to wait for.
    pub fn revoke(&mut self, partition: &Partition) -> Result<bool> {
        let Some(lane) = self.lanes.get_mut(partition) else {
            self.forget(partition);
            return Ok(false);
        };
        let follows = lane.leave(self.settled, true)?;
        if !follows {
            self.forget(partition);
        }
        Ok(follows)
    }

    /// Drops everything of a partition that was lost, or whose grace is over, at once and without a notice.
    pub fn forget(&mut self, partition: &Partition) {
        if let Some(lane) = self.lanes.remove(partition) {
            lane.abort();
        }
        self.ready.retain(|notice| match notice {
            Notice::Restart { chain, .. } => chain.partition() != partition,
            Notice::Published(_) | Notice::Released { .. } => true,
        });
    }

    /// Ends the intake of every partition as [`Self::revoke`] does, without notices: what can be published goes on to be, until
    /// [`Self::is_idle`].
    pub fn drain(&mut self) -> Result<()> {
        let mut done = Vec::new();
        for (partition, lane) in &mut self.lanes {
            if !lane.leave(self.settled, false)? {
                done.push(partition.clone());
            }
        }
        done.iter().for_each(|partition| self.forget(partition));
        self.ready.retain(|notice| !matches!(notice, Notice::Restart { .. }));
        Ok(())
    }

    /// True if there is nothing to publish and nothing to report.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.lanes.values().all(Lane::is_idle)
    }

    /// Makes uploads, waits and the closing of old parts go on, and returns the next thing worth knowing; waits while there is
    /// none. Cancel-safe: what is in flight stays so. `Error::Unavailable` after `give_up` without an answer that helps.
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            if let Some(notice) = self.ready.pop_front() {
                return Ok(notice);
            }
            if self.launch() {
                continue;
            }
            let due = self.lanes.values().filter_map(Lane::due).min();
            let closing = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(landing) = self.flights.next(), if !self.flights.is_empty() => {
                    // An aborted flight's partition is gone, or was started anew.
                    if let Ok(landing) = landing {
                        self.landed(landing)?;
                    }
                }
                () = closing => {
                    let now = Instant::now();
                    self.lanes.values_mut().filter(|lane| lane.due().is_some_and(|due| due <= now)).try_for_each(Lane::close)?;
                }
            }
        }
    }

    /// Sends off what is ready; true if that made a notice.
    fn launch(&mut self) -> bool {
        let mut done = Vec::new();
        for (partition, lane) in &mut self.lanes {
            match lane.next(self.settled) {
                Next::Wait => {}
                Next::Publish(mut chain, part) => {
                    let (dataset, uploads) = (Arc::clone(&self.factory.dataset), Arc::clone(&self.uploads));
                    let bytes = part.bytes;
                    let work = async move {
                        let outcome = upload(&dataset, &uploads, &mut chain, &part).await?;
                        Ok(Landed::Part(chain, part, outcome))
                    };
                    lane.takes_off(fly(&self.flights, partition, work), Some(bytes));
                }
                Next::Restart(chain, foreign) => {
                    done.push(partition.clone());
                    self.ready.push_back(Notice::Restart { chain, foreign });
                }
                Next::Release => {
                    done.push(partition.clone());
                    self.ready.push_back(Notice::Released { partition: partition.clone() });
                }
                Next::Stop => done.push(partition.clone()),
            }
        }
        for partition in &done {
            self.lanes.remove(partition);
        }
        !self.ready.is_empty()
    }

    fn landed(&mut self, landing: Landing) -> Result<()> {
        let partition = landing.partition;
        let landed = landing.result?;
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        match landed {
            Landed::Part(chain, part, Outcome::Published) => {
                lane.lands(Some(chain));
                let Footer { from, end, rows, failed, skipped, .. } = part.footer;
                let (bytes, outcomes) = (part.bytes, part.outcomes);
                self.ready.push_back(Notice::Published(Published {
                    partition,
                    from,
                    end,
                    rows,
                    failed,
                    skipped,
                    bytes,
                    outcomes,
                }));
            }
            Landed::Part(chain, _, Outcome::Foreign { end }) => {
                lane.lands(None);
                if lane.overtaken() {
                    let dataset = Arc::clone(&self.factory.dataset);
                    let work = async move { Ok(Landed::Recovered(chain.again(&dataset, end).await?)) };
                    lane.takes_off(fly(&self.flights, &partition, work), None);
                } else {
                    if lane.is_released() {
                        self.ready.push_back(Notice::Released { partition: partition.clone() });
                    }
                    self.lanes.remove(&partition);
                }
            }
            Landed::Recovered(chain) => lane.lands(Some(chain)),
        }
        Ok(())
    }
}

/// Puts `work` among the flights.
fn fly(
    flights: &FuturesUnordered<Flight>,
    partition: &Partition,
    work: impl Future<Output = Result<Landed>> + Send + 'static,
) -> AbortHandle {
    let partition = partition.clone();
    let (handle, registration) = AbortHandle::new_pair();
    let landing = work.map(|result| Landing { partition, result });
    flights.push(Abortable::new(Box::pin(landing), registration));
    handle
}

/// Publishes a part, with permits for its bytes where a PUT holds them in memory.
async fn upload(dataset: &Dataset, uploads: &Uploads, chain: &mut Chain, part: &Part) -> Result<Outcome> {
    let _permit = match &dataset.folder {
        Folder::Local(_) => None,
        Folder::Remote { .. } => {
            let mib = u32::try_from(part.bytes.div_ceil(MIB)).unwrap_or(u32::MAX).clamp(1, uploads.all);
            let permit = uploads.permits.acquire_many(mib).await;
            Some(permit.map_err(|_| Error::Bug("the upload permits are gone".into()))?)
        }
    };
    chain.publish(dataset, &part.footer, part.file.path()).await
}
