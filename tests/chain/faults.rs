//! Several writers on one partition over a store on its worst days, driven step by step by a generated schedule: who reads,
//! whose rows come out of the stages in which order, what becomes of each request, who crashes, freezes, thaws, loses the
//! partition and gets it back. Whatever the schedule, once it is over and all are left in peace, every position is there
//! exactly once, with the row of an undisturbed run. A schedule that breaks this is shrunk before it is shown.
//!
//! Other schedules are played each time. `LM4LV_CASES=n` plays so many, `LM4LV_SEED=n` that one (with both: so many from that one on).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use futures::future::{BoxFuture, FutureExt, join_all, pending};
use lm4lv::Error;
use lm4lv::sample::Item;
use lm4lv::sink::chain::Chain;
use lm4lv::sink::read::StoredPart;
use lm4lv::sink::verify::verify;
use lm4lv::sink::{Notice, Sink};
use lm4lv::store::Folder;
use object_store::memory::InMemory;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::bucket::store;
use crate::faulty::{Fate, FaultyStore, Wire};
use crate::setup::{Setup, dataset, notices, p, planned, remote};

/// Positions of the partition; those where [`has_rows`] is false are gaps, the last ones among them.
const END: u64 = 24;

fn has_rows(offset: u64) -> bool {
    offset % 7 != 3 && offset < END - 2
}

/// Time between two steps: more than the longest wait between two tries, so that whatever the jitter of those, a step finds
/// every writer where the steps before have brought it.
const STEP: Duration = Duration::from_secs(40);

/// Long enough for a writer to go from one answer to its next request.
const TICK: Duration = Duration::from_millis(1);

/// What happens to one writer.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// So many of its requests are answered.
    Serve(u8),
    /// It reads so many records.
    Read(u8),
    /// So many items come out of its stages, in order.
    Emerge(u8),
    /// So many, the last ones first.
    Overtake(u8),
    /// A request meets this fate.
    Fail(Fate),
    /// A PUT arrives for which nobody waits any more.
    Land,
    /// It reads a record whose fetch fails, perhaps for a while only.
    Falter,
    /// Such failures are final.
    Settle,
    /// Its work is dropped, to be done anew.
    Restart,
    /// The partition is taken away, and given back once it is released.
    Revoke,
    /// The partition is lost, and given back.
    Lose,
    /// It writes the open row group early.
    Relieve,
    /// It finishes what it can, and leaves; another comes.
    Drain,
    /// It is killed between two calls; another comes.
    Crash,
    /// It stops, as by SIGSTOP.
    Freeze,
    /// And goes on.
    Thaw,
    /// So many hours pass for all, and somebody archives what is a day old.
    Wait(u8),
}

/// A writer's parts: the most rows, and the greatest age in steps.
type Limits = (u64, u32);

/// The writers, and what happens to which.
#[derive(Clone)]
struct Case {
    writers: Vec<Limits>,
    steps: Vec<(usize, Act)>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writers with parts of (rows, age) {:?}, {} steps:",
            self.writers.len(),
            self.writers,
            self.steps.len()
        )?;
        self.steps.iter().try_for_each(|(writer, act)| write!(f, " {}:{act:?}", writer % self.writers.len()))
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let fate = prop_oneof![
        Just(Fate::Lost),
        Just(Fate::AnswerLost),
        Just(Fate::Late),
        Just(Fate::Busy),
        Just(Fate::Precondition),
        // A list may be old, but not by as much as parts must be to be deleted.
        (1..=15u32).prop_map(|steps| Fate::Stale(STEP * steps)),
    ];
    let act = prop_oneof![
        30 => (1..=10u8).prop_map(Act::Serve),
        14 => (1..=8u8).prop_map(Act::Read),
        12 => (1..=8u8).prop_map(Act::Emerge),
        5 => (1..=3u8).prop_map(Act::Overtake),
        16 => fate.prop_map(Act::Fail),
        7 => Just(Act::Land),
        1 => Just(Act::Falter),
        3 => Just(Act::Settle),
        1 => Just(Act::Restart),
        2 => Just(Act::Revoke),
        4 => Just(Act::Lose),
        1 => Just(Act::Relieve),
        1 => Just(Act::Drain),
        2 => Just(Act::Crash),
        2 => Just(Act::Freeze),
        4 => Just(Act::Thaw),
        1 => (1..=30u8).prop_map(Act::Wait),
    ];
    let writers = prop::collection::vec((1..=6u64, 3..=30u32), 1..=3);
    let steps = prop::collection::vec((0..3usize, act), 0..=160);
    (writers, steps).prop_map(|(writers, steps)| Case { writers, steps })
}

/// Why a process is over.
#[derive(Debug)]
enum Over {
    /// The partition is complete.
    Complete,
    /// It has left before.
    Left,
}

/// One process from start to end.
struct Process {
    sink: Sink,
    setup: Setup,
    /// The search for the chain's end, while it lasts.
    recovery: Option<BoxFuture<'static, Result<Chain, Error>>>,
    epoch: u64,
    /// Offset to read next; `None` while nothing is assigned.
    at: Option<u64>,
    seq: u64,
    ended: bool,
    ticket: u64,
    /// Items that are still in the stages, of whatever epoch.
    stages: VecDeque<Item>,
    leaving: bool,
    complete: bool,
    frozen: bool,
    over: Option<Result<Over, Error>>,
}

impl Process {
    fn new(setup: Setup) -> Self {
        let mut process = Self {
            sink: setup.sink(),
            setup,
            recovery: None,
            epoch: 0,
            at: None,
            seq: 0,
            ended: false,
            ticket: 0,
            stages: VecDeque::new(),
            leaving: false,
            complete: false,
            frozen: false,
            over: None,
        };
        process.assign();
        process
    }

    /// The partition is ours, again.
    fn assign(&mut self) {
        self.at = None;
        let dataset = self.sink.dataset();
        self.recovery = Some(async move { Chain::recover(&dataset, &p(), 0).await }.boxed());
    }

    fn start(&mut self, chain: Chain) -> Result<(), Error> {
        self.epoch += 1;
        (self.at, self.seq, self.ended) = (Some(chain.end()), 0, false);
        self.sink.start(chain, self.epoch)
    }

    fn read(&mut self, falters: bool) -> Result<(), Error> {
        while let Some(at) = self.at.filter(|at| *at < END) {
            self.at = Some(at + 1);
            if has_rows(at) {
                self.ticket += u64::from(falters);
                self.stages.push_back(match falters {
                    true => self.setup.failed(self.epoch, self.seq, at, self.ticket),
                    false => self.setup.item(self.epoch, self.seq, at),
                });
                self.seq += 1;
                break;
            }
        }
        if self.at == Some(END) && !self.ended {
            self.ended = true;
            self.sink.end(&p(), self.epoch, self.seq, END)?;
        }
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), Error> {
        match act {
            Act::Read(records) => (0..records).try_for_each(|_| self.read(false))?,
            Act::Falter => self.read(true)?,
            Act::Emerge(items) => {
                let out: Vec<_> = self.stages.drain(..usize::from(items).min(self.stages.len())).collect();
                out.into_iter().try_for_each(|item| self.sink.accept(item))?;
            }
            Act::Overtake(items) => {
                let out = self.stages.split_off(self.stages.len().saturating_sub(items.into()));
                out.into_iter().rev().try_for_each(|item| self.sink.accept(item))?;
            }
            Act::Settle => self.sink.settle(self.ticket),
            Act::Relieve => drop(self.sink.relieve()?),
            Act::Restart => self.sink.restart(&p()),
            Act::Revoke => {
                (self.at, self.recovery) = (None, None);
                if !self.sink.revoke(&p())? {
                    self.assign();
                }
            }
            Act::Lose => {
                self.sink.forget(&p());
                self.assign();
            }
            Act::Drain => {
                (self.at, self.recovery, self.leaving) = (None, None, true);
                self.sink.drain()?;
            }
            Act::Freeze => self.frozen = true,
            Act::Serve(_) | Act::Fail(_) | Act::Land | Act::Crash | Act::Thaw | Act::Wait(_) => {}
        }
        Ok(())
    }

    /// Lives on until dropped, which may be between any two calls; then [`Self::over`] says whether it came to its end.
    async fn live(&mut self) {
        if !self.frozen && self.over.is_none() {
            self.over = Some(self.run().await);
        }
        pending().await
    }

    async fn run(&mut self) -> Result<Over, Error> {
        loop {
            if self.sink.is_idle() && (self.complete || self.leaving) {
                return Ok(if self.complete { Over::Complete } else { Over::Left });
            }
            let recovered = async {
                match &mut self.recovery {
                    Some(recovery) => recovery.await,
                    None => pending().await,
                }
            };
            let chain = tokio::select! {
                biased;
                notice = self.sink.next() => match notice? {
                    Notice::Published(published) => {
                        self.complete |= published.end == END;
                        continue;
                    }
                    Notice::Released { .. } => {
                        self.assign();
                        continue;
                    }
                    Notice::Restart { chain, .. } => chain,
                },
                chain = recovered => {
                    self.recovery = None;
                    chain?
                }
            };
            if chain.end() == END {
                return Ok(Over::Complete);
            }
            self.start(chain)?;
        }
    }
}

/// The machines that the processes run on, and the wire to their store.
struct World {
    wire: Arc<Wire>,
    writers: Vec<Limits>,
    /// Processes so far.
    started: u64,
    /// `None` once a machine's process has found the partition complete.
    machines: Vec<Option<Process>>,
}

impl World {
    fn new(writers: Vec<Limits>) -> Self {
        let wire = Arc::new(Wire::new(store(), writers.len()));
        let mut world = Self { wire, started: 0, machines: Vec::new(), writers };
        for machine in 0..world.writers.len() {
            let process = world.process(machine);
            world.machines.push(Some(process));
        }
        world
    }

    fn process(&mut self, machine: usize) -> Process {
        self.started += 1;
        let store = Arc::new(FaultyStore { wire: Arc::clone(&self.wire), sender: machine });
        let (rows_per_part, age) = self.writers[machine];
        Process::new(Setup {
            rows_per_part,
            max_age_s: (STEP * age).as_secs(),
            writer: format!("writer {}", self.started),
            ..Setup::on(remote(store))
        })
    }

    /// Lets everybody live for a while.
    async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let lives = self.machines.iter_mut().flatten().map(Process::live);
        tokio::time::timeout(time, join_all(lives)).await.ok();
        for machine in 0..self.machines.len() {
            match self.machines[machine].as_mut().and_then(|process| process.over.take()) {
                None => {}
                Some(Ok(Over::Complete)) => self.machines[machine] = None,
                Some(Ok(Over::Left) | Err(Error::Unavailable { .. })) => {
                    self.machines[machine] = Some(self.process(machine));
                }
                Some(Err(error)) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    async fn step(&mut self, machine: usize, act: Act) -> Result<(), String> {
        match (act, &mut self.machines[machine]) {
            (Act::Serve(requests), _) => {
                for _ in 0..requests {
                    if !self.wire.serve(machine, Fate::Well).await {
                        break;
                    }
                    self.pass(TICK).await?;
                }
            }
            (Act::Fail(fate), _) => drop(self.wire.serve(machine, fate).await),
            (Act::Land, _) => drop(self.wire.land(machine).await),
            (Act::Wait(hours), _) => {
                self.pass(Duration::from_secs(3600) * hours.into()).await?;
                self.wire.archive().await;
            }
            (_, None) => {}
            (Act::Crash, Some(_)) => self.machines[machine] = Some(self.process(machine)),
            (Act::Thaw, Some(process)) => process.frozen = false,
            (act, Some(process)) if !process.frozen && !process.leaving => {
                process.act(act).map_err(|error| error.to_string())?;
            }
            (_, Some(_)) => {}
        }
        self.pass(STEP).await
    }

    /// Leaves everybody in peace until all have found the partition complete. One at a time still works; who is frozen is
    /// thawed when the others are done.
    async fn calm(&mut self) -> Result<(), String> {
        for _ in 0..1000 {
            if self.machines.iter().flatten().all(|process| process.frozen) {
                self.machines.iter_mut().flatten().for_each(|process| process.frozen = false);
            }
            if self.machines.iter().all(Option::is_none) {
                return Ok(());
            }
            if let Some(process) =
                self.machines.iter_mut().flatten().find(|process| !process.frozen && !process.leaving)
            {
                for act in [Act::Read(u8::MAX), Act::Emerge(u8::MAX), Act::Settle] {
                    process.act(act).map_err(|error| error.to_string())?;
                }
                // Its work was dropped as another's, and that other one completed it.
                if process.at == Some(END) && process.recovery.is_none() && process.sink.is_idle() {
                    process.assign();
                }
            }
            let mut served = true;
            while served {
                served = false;
                for machine in 0..self.machines.len() {
                    served |= self.wire.serve(machine, Fate::Well).await;
                }
                self.pass(TICK).await?;
            }
            self.pass(STEP).await?;
        }
        Err("it never ends".into())
    }
}

/// Every row of the parts in `folder` by offset, in all columns but the volatile ones, and the spans of the parts.
async fn read(folder: &Folder) -> Result<(Vec<(i64, RecordBatch)>, Vec<(u64, u64)>), Error> {
    let (mut rows, mut spans) = (Vec::new(), Vec::new());
    for entry in folder.list("data").await? {
        let Some(part) = StoredPart::open(folder, &entry.name).await? else { continue };
        spans.push((part.footer().from, part.footer().end));
        let batches: Vec<_> = part.rows(&[], 100)?.try_collect().await.unwrap();
        for mut batch in batches {
            for volatile in ["encode_ms", "attempts", "run", "writer"] {
                batch.remove_column(batch.schema().index_of(volatile).unwrap());
            }
            let offsets = batch.column_by_name("offset").unwrap().as_primitive::<Int64Type>();
            rows.extend((0..batch.num_rows()).map(|row| (offsets.value(row), batch.slice(row, 1))));
        }
    }
    Ok((rows, spans))
}

/// The rows of an undisturbed run, and those of one in which every fetch failed.
async fn undisturbed() -> [BTreeMap<i64, RecordBatch>; 2] {
    let run = async |fails: bool| {
        let setup = Setup::on(remote(Arc::new(InMemory::new())));
        let mut sink = setup.started().await;
        for (seq, offset) in (0..END).filter(|offset| has_rows(*offset)).enumerate() {
            let seq = seq as u64;
            let item = if fails { setup.failed(1, seq, offset, 0) } else { setup.item(1, seq, offset) };
            sink.accept(item).unwrap();
        }
        sink.settle(0);
        sink.end(&p(), 1, (0..END).filter(|offset| has_rows(*offset)).count() as u64, END).unwrap();
        notices(&mut sink).await;
        read(&setup.folder).await.unwrap().0.into_iter().collect()
    };
    [run(false).await, run(true).await]
}

/// Plays a case and says what is wrong with its outcome.
async fn play(case: &Case) -> Result<(), String> {
    let mut world = World::new(case.writers.clone());
    for (writer, act) in &case.steps {
        world.step(writer % case.writers.len(), *act).await?;
    }
    world.calm().await?;
    // What is still under way arrives; archived parts count too.
    for machine in 0..case.writers.len() {
        while world.wire.land(machine).await {}
    }
    let everything = remote(Arc::new(InMemory::new()));
    for (path, bytes) in world.wire.created() {
        let name = path.as_ref().strip_prefix("out/").ok_or("a stray object")?;
        everything.create(name, bytes).await.map_err(|e| e.to_string())?;
    }
    let (rows, mut spans) = read(&everything).await.map_err(|e| e.to_string())?;
    spans.sort_unstable();
    let chained = spans.windows(2).all(|pair| pair[0].1 == pair[1].0);
    if !chained || spans.first().map(|s| s.0) != Some(0) || spans.last().map(|s| s.1) != Some(END) {
        return Err(format!("the parts do not chain: {spans:?}"));
    }
    let offsets: Vec<_> = rows.iter().map(|(offset, _)| *offset).collect();
    if offsets != (0..END).filter(|o| has_rows(*o)).map(|o| o as i64).collect::<Vec<_>>() {
        return Err(format!("the rows' offsets are {offsets:?}"));
    }
    static UNDISTURBED: LazyLock<[BTreeMap<i64, RecordBatch>; 2]> =
        LazyLock::new(|| std::thread::spawn(|| runtime().block_on(undisturbed())).join().unwrap());
    if let Some((offset, _)) = rows.iter().find(|(offset, row)| UNDISTURBED.iter().all(|rows| rows[offset] != *row)) {
        return Err(format!("the row at {offset} is not that of an undisturbed run"));
    }
    let (id, plan) = (dataset(everything.clone()).id, [planned(END)]);
    let faults = verify(&everything, &id, &plan, &|_| None, true).await.map_err(|e| e.to_string())?.faults;
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Plays the schedule of a seed; if it fails, shrinks it, and says what is wrong with it.
fn check(seed: u64) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 10_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let played = runner.run(&cases(), |case| runtime().block_on(play(&case)).map_err(TestCaseError::fail));
    played.map_err(|error| match error {
        TestError::Fail(why, case) => format!("LM4LV_SEED={seed}: {why}\n{case:?}"),
        TestError::Abort(why) => format!("LM4LV_SEED={seed}: {why}"),
    })
}

#[test]
fn every_position_exactly_once_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("LM4LV_SEED");
    let count = number("LM4LV_CASES").unwrap_or(if first.is_some() { 1 } else { 300 });
    let first = first.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    let seeds = Mutex::new(first..first + count);
    eprintln!("schedules of LM4LV_SEED={:?}", seeds.lock().unwrap());
    let next = || seeds.lock().unwrap().next();
    let work = || std::iter::from_fn(next).try_for_each(check).inspect_err(|_| *seeds.lock().unwrap() = 0..0);
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    if let Some(fault) = results.into_iter().find_map(Result::err) {
        panic!("{fault}");
    }
}
