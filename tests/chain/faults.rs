//! Several writers on one partition over a store on its worst day, with crashes, freezes, revokes, returns and rows that are
//! tried again: every position exactly once, for every seed.
//!
//! `LM4LV_SEED=n` runs that one case, `LM4LV_CASES=n` so many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use lm4lv::Error;
use lm4lv::sink::chain::Chain;
use lm4lv::sink::read::StoredPart;
use lm4lv::sink::verify::verify;
use lm4lv::sink::{Notice, Sink};
use tokio::time::sleep;

use crate::faulty::{FaultyStore, Rng, Truth};
use crate::setup::{Setup, dataset, p, planned, remote};

/// Positions of the partition; those where [`has_rows`] is false are gaps, the last ones among them.
const END: u64 = 40;

fn has_rows(offset: u64) -> bool {
    offset % 7 != 3 && offset < END - 3
}

/// One process from start to end, crash or fault.
struct Process<'a> {
    setup: &'a Setup,
    sink: Sink,
    rng: Rng,
    epoch: u64,
    /// Offset to read next; `None` while nothing is assigned.
    at: Option<u64>,
    seq: u64,
    ended: bool,
    ticket: u64,
    /// Items that are still in the stages.
    stages: Vec<lm4lv::sample::Item>,
}

impl Process<'_> {
    fn start(&mut self, chain: Chain) -> Result<(), Error> {
        self.epoch += 1;
        (self.at, self.seq, self.ended) = (Some(chain.end()), 0, false);
        self.sink.start(chain, self.epoch)
    }

    async fn assign(&mut self) -> Result<(), Error> {
        let chain = Chain::recover(&self.sink.dataset(), &p(), 0).await?;
        self.start(chain)
    }

    /// Reads one record, or lets one come out of the stages, whichever.
    fn work(&mut self) -> Result<(), Error> {
        if self.rng.percent(50) && self.stages.len() < 6 {
            while let Some(at) = self.at.filter(|at| *at < END) {
                self.at = Some(at + 1);
                if has_rows(at) {
                    let item = match self.rng.percent(10) {
                        true => {
                            self.ticket += 1;
                            self.setup.failed(self.epoch, self.seq, at, self.ticket)
                        }
                        false => self.setup.item(self.epoch, self.seq, at),
                    };
                    self.stages.push(item);
                    self.seq += 1;
                    break;
                }
            }
            if self.at == Some(END) && !self.ended {
                self.ended = true;
                self.sink.end(&p(), self.epoch, self.seq, END)?;
            }
        } else if !self.stages.is_empty() {
            let which = self.rng.below(self.stages.len() as u64) as usize;
            self.sink.accept(self.stages.swap_remove(which))?;
        }
        Ok(())
    }

    /// Something that happens now and then. `Ok(false)`: the process leaves.
    async fn event(&mut self) -> Result<bool, Error> {
        match self.rng.below(60) {
            0 => {
                self.at = None;
                if !self.sink.revoke(&p())? {
                    self.assign().await?;
                }
            }
            1 => {
                self.at = None;
                self.sink.forget(&p());
                self.assign().await?;
            }
            2 => self.sink.restart(&p()),
            3 => {
                self.sink.drain()?;
                while !self.sink.is_idle() {
                    self.sink.next().await?;
                }
                return Ok(false);
            }
            // Frozen, for up to two days.
            4 => sleep(Duration::from_secs(self.rng.below(48 * 3600))).await,
            5 => drop(self.sink.relieve()?),
            6..20 => self.sink.settle(self.ticket),
            _ => {}
        }
        Ok(true)
    }

    /// Until the partition is complete (true), or the process leaves.
    async fn run(&mut self) -> Result<bool, Error> {
        self.assign().await?;
        if self.at == Some(END) {
            return Ok(true);
        }
        loop {
            let pause = self.rng.millis(2000);
            tokio::select! {
                notice = self.sink.next() => match notice? {
                    Notice::Published(published) if published.end == END => return Ok(true),
                    Notice::Published(_) => {}
                    Notice::Restart { chain, .. } if chain.end() == END => return Ok(true),
                    Notice::Restart { chain, .. } => self.start(chain)?,
                    Notice::Released { .. } => self.assign().await?,
                },
                () = sleep(pause) => {
                    self.work()?;
                    if !self.event().await? {
                        return Ok(false);
                    }
                    if self.ended && self.stages.is_empty() {
                        self.sink.settle(self.ticket);
                    }
                    if self.at == Some(END) && self.sink.is_idle() {
                        // Its work was dropped as another's, and that other one completed it.
                        self.assign().await?;
                        if self.at == Some(END) {
                            return Ok(true);
                        }
                    }
                }
            }
        }
    }
}

/// One machine: process after process, each of which may crash anywhere.
async fn machine(truth: Arc<Truth>, mut rng: Rng) {
    loop {
        let faults = [0, 5, 20, 40][rng.below(4) as usize];
        let store = FaultyStore { truth: Arc::clone(&truth), rng: Mutex::new(Rng(rng.next())), faults };
        let setup = Setup { rows_per_part: 1 + rng.below(9), ..Setup::on(remote(Arc::new(store))) };
        let mut process = Process {
            sink: setup.sink(),
            setup: &setup,
            rng: Rng(rng.next()),
            epoch: 0,
            at: None,
            seq: 0,
            ended: false,
            ticket: 0,
            stages: Vec::new(),
        };
        // Most live for minutes; some long enough to be frozen for a day and go on.
        let life = Duration::from_secs(30 + if rng.percent(25) { 1_000_000 } else { rng.below(1800) });
        // Dropped wherever it is: a crash between any two calls.
        match tokio::time::timeout(life, process.run()).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false) | Err(Error::Unavailable { .. })) | Err(_) => {}
            Ok(Err(error)) => panic!("{error}"),
        }
    }
}

/// Runs a case and returns what is wrong with the outcome.
async fn case(seed: u64) -> Result<(), String> {
    let mut rng = Rng(seed);
    let truth = Arc::new(Truth::default());
    let machines = 1 + rng.below(3);
    let machines = (0..machines).map(|_| machine(Arc::clone(&truth), Rng(rng.next())));
    let all = futures::future::join_all(machines);
    let archivist = async {
        loop {
            sleep(Duration::from_secs(3 * 3600)).await;
            truth.archive().await;
        }
    };
    tokio::select! {
        _ = all => {}
        () = archivist => {}
        () = sleep(Duration::from_secs(90 * 24 * 3600)) => return Err("it never ends".into()),
    }
    // What is still under way arrives, and every part that ever was counts.
    sleep(Duration::from_secs(3600)).await;
    truth.archive().await;
    let log = truth.log.lock().unwrap().clone();
    let everything = remote(Arc::new(object_store::memory::InMemory::new()));
    let mut seen: BTreeMap<i64, u32> = BTreeMap::new();
    let mut spans = Vec::new();
    for (path, bytes, _) in log {
        let name = path.as_ref().strip_prefix("out/").ok_or("a stray object")?;
        everything.create(name, bytes).await.map_err(|e| e.to_string())?;
        let part = StoredPart::open(&everything, name).await.map_err(|e| e.to_string())?.ok_or("vanished")?;
        spans.push((part.footer().from, part.footer().end));
        let batches: Vec<_> = part.rows(&["offset"], 100).unwrap().try_collect().await.map_err(|e| e.to_string())?;
        for batch in batches {
            use arrow::array::AsArray;
            let offsets = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>();
            offsets.values().iter().for_each(|offset| *seen.entry(*offset).or_default() += 1);
        }
    }
    spans.sort_unstable();
    let chained = spans.windows(2).all(|pair| pair[0].1 == pair[1].0);
    if !chained || spans.first().map(|s| s.0) != Some(0) || spans.last().map(|s| s.1) != Some(END) {
        return Err(format!("the parts do not chain: {spans:?}"));
    }
    let expected: BTreeMap<i64, u32> = (0..END).filter(|o| has_rows(*o)).map(|o| (o as i64, 1)).collect();
    if seen != expected {
        return Err(format!("rows by offset: {seen:?}"));
    }
    let (id, plan) = (dataset(everything.clone()).id, [planned(END)]);
    let faults = verify(&everything, &id, &plan, true).await.map_err(|e| e.to_string())?.faults;
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

#[test]
fn every_position_exactly_once_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("LM4LV_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LM4LV_CASES").unwrap_or(80),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        if let Err(fault) = runtime.block_on(case(seed)) {
            panic!("LM4LV_SEED={seed}: {fault}");
        }
    }
}
