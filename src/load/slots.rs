//! What a try waits for and is measured by: slots of its host and of all, and a deadline that does not count such waits.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::load::body::Stop;
use crate::load::config::LoadConfig;
use crate::sample::FailureCode;

/// The deadline of one reference.
pub(super) struct Clock {
    pub(super) deadline: Instant,
}

impl Clock {
    /// Waits for what is the run's own doing: the deadline moves on meanwhile.
    pub(super) async fn excluding<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let from = Instant::now();
        let result = wait.await;
        self.deadline += from.elapsed();
        result
    }

    pub(super) async fn run<T>(&self, deadline_s: f64, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::time::timeout_at(self.deadline, work).await.unwrap_or_else(|_| {
            Err(Stop::record(FailureCode::Timeout, format!("load.deadline_s = {deadline_s} s passed")))
        })
    }
}

/// How many may be asked at once: of each host, and in all.
pub(super) struct Slots {
    all: Arc<Semaphore>,
    per_host: usize,
    /// Hosts with somebody asking or waiting; others are forgotten.
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place at the host and one among all; both go back when it is dropped.
pub(super) struct Slot {
    _all: Option<OwnedSemaphorePermit>,
    _host: Option<OwnedSemaphorePermit>,
}

impl Slots {
    /// Hosts that are remembered before those that nobody asks are forgotten.
    pub(super) const MANY: usize = 1024;

    pub(super) fn new(config: &LoadConfig) -> Self {
        Self {
            all: Arc::new(Semaphore::new(config.concurrency as usize)),
            per_host: config.concurrency_per_host as usize,
            hosts: Mutex::default(),
        }
    }

    pub(super) fn host(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = hosts.get(host).and_then(Weak::upgrade) {
            return slots;
        }
        if hosts.len() >= Self::MANY {
            hosts.retain(|_, slots| slots.strong_count() > 0);
        }
        let slots = Arc::new(Semaphore::new(self.per_host));
        hosts.insert(host.to_owned(), Arc::downgrade(&slots));
        slots
    }

    /// The host first: a busy host must not fill the slots of all with those that wait for it.
    pub(super) async fn of(&self, host: &str) -> Slot {
        // Neither semaphore is ever closed.
        let host = self.host(host).acquire_owned().await.ok();
        Slot { _all: self.all.clone().acquire_owned().await.ok(), _host: host }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hosts_are_forgotten() {
        let slots = Slots::new(&LoadConfig { concurrency_per_host: 1, ..LoadConfig::default() });
        let kept = slots.of("kept").await;
        for i in 0..10 * Slots::MANY {
            drop(slots.of(&format!("host-{i}")).await);
        }
        assert!(slots.hosts.lock().unwrap().len() <= Slots::MANY);
        let second = slots.of("kept");
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending(), "a host in use keeps its slots");
        drop(kept);
        drop(second.await);
    }
}
