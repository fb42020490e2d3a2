//! The whole of it, at random: workers of one group degrade image messages while they are killed, frozen, thawed, asked to leave
//! and started anew, and the broker is killed and restarted twice. At the end every offset is in the dataset once.
//!
//! A short round is an ordinary test; `scripts/soak.sh` runs more of them, and longer ones.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::broker::{Broker, Setup};
use crate::common::photographs;
use crate::harness::Outgoing;
use crate::job::Job;
use crate::worker::Worker;

const WORKERS: usize = 3;
/// Messages of the second half that come between two misfortunes: all at once would be done before much has happened.
const PACE: i64 = 125;

/// A round: what happens in it follows from the seed, when it happens from the machine, too.
struct Round {
    seed: u64,
    messages: i64,
    partitions: i32,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// A worker, and until when it is frozen.
struct Member {
    worker: Worker,
    thaw: Option<Instant>,
}

impl Round {
    fn run(&self, broker: &Broker) {
        let began = Instant::now();
        let mut random = Random(self.seed);
        let topic = broker.topic("soak", self.partitions);
        let job = Job::new(broker, &topic);
        let properties = json!({ "session.timeout.ms": 2000, "heartbeat.interval.ms": 300 });
        job.endless().kafka(json!({ "revoke_grace_ms": 1000, "properties": properties }));
        job.set(json!({
            "load": { "concurrency": 16 },
            "degrade": { "seed": 7, "recipe": [{ "gaussian_noise": { "sigma": [5, 50] } }] },
            "sink": { "rows_per_part": 60, "max_age_s": 2 },
        }));
        let folder = job.path().join("photographs");
        let images: Vec<Vec<u8>> =
            photographs(&folder, 40, 64).iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect();
        let message = |n: i64| {
            let image = images[n as usize % images.len()].clone();
            Outgoing { key: None, ..Outgoing::new("", image) }.to((n % i64::from(self.partitions)) as i32)
        };
        let half = self.messages / 2;
        broker.produce(&topic, (0..half).map(message));
        let mut started = 0;
        let mut start = || {
            started += 1;
            Member { worker: job.start(&format!("worker-{started}")), thaw: None }
        };
        let mut members: Vec<Member> = (0..WORKERS).map(|_| start()).collect();
        let (mut kills, mut freezes, mut leaves, mut outages, mut produced) = (0, 0, 0, 0, half);
        let (mut progress, mut progressed) = (0, Instant::now());
        let said = |what: &str| format!("seed {}, {what}\n{}", self.seed, job.logs());
        loop {
            let rows = job.count() as i64;
            if rows > progress {
                (progress, progressed) = (rows, Instant::now());
            }
            assert!(progressed.elapsed() < Duration::from_secs(90), "{}", said(&format!("{rows} rows and no more")));
            if produced < self.messages && rows > half / 2 {
                let next = (produced + PACE).min(self.messages);
                broker.produce(&topic, (produced..next).map(message));
                produced = next;
            }
            if rows >= self.messages {
                break;
            }
            if outages < 2 && rows > self.messages * (2 * outages + 1) / 5 {
                outages += 1;
                broker.kill(0);
                std::thread::sleep(random.between(0, 3000));
                broker.restart(0);
                broker.wait();
            }
            std::thread::sleep(random.between(100, 1200));
            for member in &mut members {
                if member.thaw.is_some_and(|at| at <= Instant::now()) {
                    member.worker.cont();
                    member.thaw = None;
                }
                assert!(member.worker.ended().is_none(), "{}", said("a worker has ended by itself"));
            }
            let which = random.below(WORKERS as u64) as usize;
            let member = &mut members[which];
            match random.below(8) {
                0 | 1 => {
                    member.worker.kill();
                    *member = start();
                    kills += 1;
                }
                2 | 3 if member.thaw.is_none() => {
                    member.worker.stop();
                    // Shorter and longer than the session timeout.
                    member.thaw = Some(Instant::now() + random.between(300, 5000));
                    freezes += 1;
                }
                4 if member.thaw.is_none() => {
                    member.worker.term();
                    let code = member.worker.wait(40);
                    assert!(code == 143, "{}", said(&format!("exit code {code}")));
                    *member = start();
                    leaves += 1;
                }
                _ => {}
            }
        }
        for member in &mut members {
            member.worker.cont();
            member.worker.term();
        }
        for member in &mut members {
            let code = member.worker.wait(40);
            assert!(code == 143, "{}", said(&format!("exit code {code}")));
        }
        let each = |partition: i32| {
            let (partitions, partition) = (i64::from(self.partitions), i64::from(partition));
            (self.messages - partition + partitions - 1) / partitions
        };
        job.has_exactly((0..self.partitions).map(|partition| (partition, vec![0..each(partition)])));
        let failed = job.footers().iter().filter(|footer| footer["failed"] != "0").count();
        assert_eq!(failed, 0, "{}", said("failed rows"));
        assert!(kills + freezes + outages > 0, "{}", said("nothing went wrong"));
        let parts = job.footers().len();
        // Past the harness, which shows what a test prints only if it fails.
        let mut past = std::io::stderr();
        writeln!(
            past,
            "soak: seed {}: {} rows of {} partitions in {parts} parts, each once; {kills} workers killed, {freezes} frozen, {leaves} asked \
             to leave, the broker killed {outages} times; {:.0} s",
            self.seed,
            self.messages,
            self.partitions,
            began.elapsed().as_secs_f64()
        ).unwrap();
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn a_short_round_writes_every_offset_once() {
    let Some(broker) = Broker::start(Setup::default()) else { return };
    let seed = variable("LM4LV_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    Round { seed, messages: 2000, partitions: 6 }.run(&broker);
}

#[test]
#[ignore = "many rounds: scripts/soak.sh"]
fn soak() {
    let Some(broker) = Broker::start(Setup::default()) else { return };
    let seed = variable("LM4LV_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let messages = variable("LM4LV_MESSAGES").unwrap_or(20_000) as i64;
    let partitions = variable("LM4LV_PARTITIONS").unwrap_or(12) as i32;
    for round in 0..variable("LM4LV_ROUNDS").unwrap_or(1) {
        Round { seed: seed.wrapping_add(round), messages, partitions }.run(&broker);
    }
}
