//! The breaker between one bad record and a bad network: faults of hosts open it, and while it is open nothing that they
//! touched is written.
//!
//! A fault-class failure (401, 403, 5xx, DNS, connect) is provisional until `of_last` later fetches completed with the
//! breaker closed. With credentials in play 401 and 403 open it at once; else it opens when `share` of the distinct hosts
//! among the last `of_last` fetches fail (a host fails when `share` of its own fetches there do), judged from 20 on.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::checkpoint::{Partition, Position};
use crate::config::StormConfig;
use crate::error::Error;
use crate::sample::{FailureClass, FailureCode};

const JUDGED_FROM: usize = 20;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What one fetch said of the host that it asked.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// The host or store, `None` for local files and inline bytes.
    pub host: Option<&'a str>,
    /// True if credentials were sent.
    pub credentials: bool,
    /// Where its record stands.
    pub position: &'a Position,
    /// The failure, if it failed.
    pub failure: Option<(FailureCode, &'a str)>,
}

/// What to do with the fetch's record.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on as it is.
    Pass,
    /// Becomes a failed row that may be published once [`Storm::settled`] has reached this ticket.
    Provisional(u64),
    /// The breaker opened: drop the work of every partition that may hold provisional rows and wait for [`Storm::wait`].
    Opened,
}

enum State {
    Closed,
    /// Waiting, or trying again with the first records since the wait ended.
    Open {
        since: Instant,
        wait: Duration,
        host: String,
        reason: String,
    },
}

/// The breaker. Time is passed in, so that tests need no clock.
pub struct Storm {
    config: StormConfig,
    state: State,
    completed: u64,
    window: VecDeque<(String, bool)>,
    provisional: VecDeque<(Instant, u64)>,
    /// The last storm, until rows behind the record that opened it are durable: a record that fails again and again among
    /// others that work must not restart the clock each time.
    last: Option<Last>,
}

#[derive(Debug, Clone)]
struct Last {
    since: Instant,
    wait: Duration,
    at: Position,
}

impl Storm {
    /// A closed breaker.
    pub fn new(config: StormConfig) -> Self {
        Self {
            config,
            state: State::Closed,
            completed: 0,
            window: VecDeque::new(),
            provisional: VecDeque::new(),
            last: None,
        }
    }

    /// Takes note of a completed fetch.
    pub fn observe(&mut self, outcome: &Outcome<'_>, now: Instant) -> Verdict {
        self.completed += 1;
        let Some(host) = outcome.host.filter(|host| !self.config.record_hosts.iter().any(|named| named == host)) else {
            return Verdict::Pass;
        };
        let fault = outcome.failure.filter(|(code, _)| code.class() == FailureClass::Fault);
        self.window.push_back((host.to_owned(), fault.is_some()));
        if self.window.len() > self.config.of_last as usize {
            self.window.pop_front();
        }
        let Some((code, message)) = fault else {
            if let State::Open { since, wait, .. } = self.state {
                tracing::info!(host, "fetching works again");
                if let Some(last) = &mut self.last {
                    (last.since, last.wait) = (since, wait);
                }
                self.state = State::Closed;
                self.window.clear();
            }
            return Verdict::Pass;
        };
        let refused = matches!(code, FailureCode::Unauthorized | FailureCode::AccessDenied);
        if (outcome.credentials && refused) || matches!(self.state, State::Open { .. }) || self.hosts_fail() {
            self.open(outcome.position, host, message, now);
            return Verdict::Opened;
        }
        let ticket = self.completed + u64::from(self.config.of_last);
        self.provisional.push_back((now, ticket));
        Verdict::Provisional(ticket)
    }

    /// Rows with a ticket up to this are confirmed.
    pub fn settled(&mut self, now: Instant) -> u64 {
        if matches!(self.state, State::Open { .. }) {
            return 0;
        }
        let mut settled = self.completed;
        let patience = Duration::from_secs(self.config.give_up_s);
        while let Some((_, ticket)) =
            self.provisional.pop_front_if(|(at, ticket)| *ticket <= settled || now.duration_since(*at) >= patience)
        {
            settled = settled.max(ticket);
        }
        settled
    }

    /// While the breaker is open: how long to wait before the next try. `Error::Unavailable` once that has gone on for
    /// `give_up_s`.
    pub fn wait(&mut self, now: Instant) -> Result<Option<Duration>, Error> {
        let State::Open { since, wait, host, reason } = &mut self.state else { return Ok(None) };
        let left = Duration::from_secs(self.config.give_up_s).saturating_sub(now.duration_since(*since));
        if left.is_zero() {
            return Err(Error::Unavailable {
                what: host.clone(),
                reason: format!(
                    "{reason}; gave up after {} s (run.storm.give_up_s), no row was written for it",
                    self.config.give_up_s
                ),
            });
        }
        let this = (*wait).min(left);
        *wait = (*wait * 2).min(LONGEST_WAIT);
        Ok(Some(this))
    }

    /// `partition` is durable up to `end`: a storm that a record before it opened is over for good.
    pub fn progressed(&mut self, partition: &Partition, end: u64) {
        let behind = |last: &mut Last| last.at.partition == *partition && last.at.offset < end;
        if !self.is_open() {
            self.last.take_if(behind);
        }
    }

    /// A ticket that no row has above it so far.
    pub fn last_ticket(&self) -> u64 {
        self.completed + u64::from(self.config.of_last)
    }

    /// While the breaker is open: whom it blames, and for what.
    pub fn describe(&self) -> Option<String> {
        match &self.state {
            State::Closed => None,
            State::Open { host, reason, .. } => Some(format!("storm: {host}: {reason}")),
        }
    }

    /// True while open: try with few records at a time.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    fn hosts_fail(&self) -> bool {
        if self.window.len() < JUDGED_FROM {
            return false;
        }
        let mut hosts: HashMap<&str, (u32, u32)> = HashMap::new();
        for (host, fault) in &self.window {
            let (faults, all) = hosts.entry(host).or_default();
            *faults += u32::from(*fault);
            *all += 1;
        }
        let failing =
            hosts.values().filter(|(faults, all)| f64::from(*faults) >= self.config.share * f64::from(*all)).count();
        failing as f64 >= self.config.share * hosts.len() as f64
    }

    fn open(&mut self, at: &Position, host: &str, message: &str, now: Instant) {
        let (since, wait) = match &self.state {
            State::Open { since, wait, .. } => (*since, *wait),
            State::Closed => self.last.as_ref().map_or((now, FIRST_WAIT), |last| (last.since, last.wait)),
        };
        tracing::warn!(host, reason = message, wait_s = wait.as_secs(), "fetching fails systematically, waiting");
        self.provisional.clear();
        self.last = Some(Last { since, wait, at: at.clone() });
        self.state = State::Open { since, wait, host: host.to_owned(), reason: message.to_owned() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(storm: &mut Storm, host: &str, code: Option<FailureCode>, credentials: bool, now: Instant) -> Verdict {
        let position = Position { partition: Partition::new("p"), offset: 7 };
        let failure = code.map(|code| (code, "no"));
        storm.observe(&Outcome { host: Some(host), credentials, position: &position, failure }, now)
    }

    #[test]
    fn a_few_faults_become_rows_once_enough_fetches_followed() {
        let now = Instant::now();
        let mut storm = Storm::new(StormConfig::default());
        for i in 0..30 {
            assert_eq!(fetch(&mut storm, &format!("h{i}"), None, false, now), Verdict::Pass);
        }
        assert_eq!(fetch(&mut storm, "bad", Some(FailureCode::Dns), false, now), Verdict::Provisional(31 + 200));
        assert!(storm.settled(now) < 231);
        for i in 0..200 {
            assert_eq!(fetch(&mut storm, &format!("h{i}"), None, false, now), Verdict::Pass);
        }
        assert_eq!(storm.settled(now), 231);
    }

    #[test]
    fn patience_settles_too() {
        let now = Instant::now();
        let mut storm = Storm::new(StormConfig::default());
        let Verdict::Provisional(ticket) = fetch(&mut storm, "bad", Some(FailureCode::Connect), false, now) else {
            unreachable!("one fault opens nothing")
        };
        assert!(storm.settled(now) < ticket);
        assert_eq!(storm.settled(now + Duration::from_secs(601)), ticket);
    }

    #[test]
    fn a_storm_opens_then_success_closes() {
        let now = Instant::now();
        let mut storm = Storm::new(StormConfig::default());
        for i in 0..19 {
            assert!(matches!(
                fetch(&mut storm, &format!("h{}", i % 3), Some(FailureCode::Dns), false, now),
                Verdict::Provisional(_)
            ));
        }
        assert_eq!(fetch(&mut storm, "h0", Some(FailureCode::Dns), false, now), Verdict::Opened);
        assert_eq!(storm.settled(now + Duration::from_secs(601)), 0);
        assert_eq!(storm.wait(now).unwrap(), Some(Duration::from_secs(1)));
        assert_eq!(fetch(&mut storm, "h0", Some(FailureCode::Dns), false, now), Verdict::Opened);
        assert_eq!(storm.wait(now).unwrap(), Some(Duration::from_secs(2)));
        assert_eq!(fetch(&mut storm, "h1", None, false, now), Verdict::Pass);
        assert!(!storm.is_open());
        assert_eq!(storm.wait(now).unwrap(), None);
    }

    #[test]
    fn one_dead_host_among_many_opens_nothing() {
        let now = Instant::now();
        let mut storm = Storm::new(StormConfig::default());
        for i in 0..400 {
            let (host, code) =
                if i % 2 == 0 { ("dead".into(), Some(FailureCode::Connect)) } else { (format!("h{i}"), None) };
            assert_ne!(fetch(&mut storm, &host, code, false, now), Verdict::Opened);
        }
    }

    #[test]
    fn one_refusal_among_hosts_that_work_does_not_go_on_for_ever() {
        let start = Instant::now();
        let mut storm = Storm::new(StormConfig::default());
        let mut now = start;
        let gave_up = loop {
            assert_eq!(fetch(&mut storm, "good", None, false, now), Verdict::Pass);
            assert_eq!(fetch(&mut storm, "s3://theirs", Some(FailureCode::AccessDenied), true, now), Verdict::Opened);
            match storm.wait(now) {
                Ok(wait) => now += wait.unwrap(),
                Err(error) => break error,
            }
        };
        assert!(gave_up.to_string().contains("s3://theirs"), "{gave_up}");
        assert!(now.duration_since(start) < Duration::from_secs(700));
    }

    #[test]
    fn a_storm_that_passed_is_forgotten_once_its_record_is_durable() {
        let now = Instant::now();
        let late = now + Duration::from_secs(599);
        let mut storm = Storm::new(StormConfig::default());
        for end in [7, 8] {
            fetch(&mut storm, "s3://ours", Some(FailureCode::AccessDenied), true, now);
            fetch(&mut storm, "s3://ours", None, true, now);
            storm.progressed(&Partition::new("p"), end);
        }
        fetch(&mut storm, "s3://ours", Some(FailureCode::AccessDenied), true, late);
        assert_eq!(storm.wait(late + Duration::from_secs(2)).unwrap(), Some(FIRST_WAIT));
    }

    #[test]
    fn refused_credentials_open_at_once_and_give_up_names_the_host() {
        let now = Instant::now();
        let mut storm = Storm::new(StormConfig::default());
        assert_eq!(fetch(&mut storm, "s3://photos", Some(FailureCode::AccessDenied), true, now), Verdict::Opened);
        let error = storm.wait(now + Duration::from_secs(600)).unwrap_err();
        assert!(error.to_string().contains("s3://photos"), "{error}");
    }
}
