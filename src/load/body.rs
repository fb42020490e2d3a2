//! Bodies on their way in: how large one may grow, and the memory that those in flight share.
//!
//! The first MiB of a body is free; there are no more than `load.concurrency` of them. What is larger needs an allowance
//! from one semaphore, taken in **one** acquisition for all that the record can need, and **never waited for while a
//! connection, a file or a slot is held**: a try that cannot have it at once gives everything back ([`Stop::Memory`]),
//! waits, and starts again. So nobody who holds memory ever waits for somebody who waits for memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::sample::FailureCode;
use crate::stage::Fault;

/// Bytes that each body may have without asking.
const FREE: u64 = 1 << 20;

/// Why a try ended without bytes.
#[derive(Debug)]
pub(crate) enum Stop {
    /// No other try would help.
    Final(Fault),
    /// Another try may help, after this long if the server said so.
    Again { code: FailureCode, message: String, after: Option<Duration> },
    /// The body needs an allowance of this many bytes, and there is none just now.
    Memory(u64),
}

impl Stop {
    pub(crate) fn record(code: FailureCode, message: impl Into<String>) -> Self {
        Self::Final(Fault::Record(code, message.into()))
    }

    pub(crate) fn again(code: FailureCode, message: impl Into<String>) -> Self {
        Self::Again { code, message: message.into(), after: None }
    }
}

/// The memory for bodies, in KiB, since a semaphore counts in 32 bits.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    semaphore: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).max(1);
        Self { semaphore: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// A body larger than the whole budget goes alone, rather than never.
    fn kib(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.total)
    }
}

/// What one record may hold: of its one or two bodies together.
#[derive(Debug)]
pub(crate) struct Allowance {
    budget: Budget,
    /// Set where two bodies share it: the one amount that covers both, whatever they turn out to need.
    shared: Option<u64>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Allowance {
    /// For `bodies` files of at most `max` bytes each.
    pub(crate) fn new(budget: &Budget, bodies: u64, max: u64) -> Self {
        let shared = (bodies > 1).then(|| max.saturating_mul(bodies));
        Self { budget: budget.clone(), shared, held: Mutex::new(None) }
    }

    fn need(&self, bytes: u64) -> u32 {
        self.budget.kib(self.shared.unwrap_or(bytes))
    }

    /// Has an allowance for a body of `bytes`, if it can be had without waiting.
    fn try_cover(&self, bytes: u64) -> bool {
        let need = self.need(bytes);
        let Ok(mut held) = self.held.try_lock() else { return false };
        if held.as_ref().is_some_and(|permit| permit.num_permits() >= need as usize) {
            return true;
        }
        *held = None;
        *held = self.budget.semaphore.clone().try_acquire_many_owned(need).ok();
        held.is_some()
    }

    /// Waits for an allowance for a body of `bytes`. Nothing else may be held meanwhile.
    pub(crate) async fn cover(&self, bytes: u64) {
        let need = self.need(bytes);
        let mut held = self.held.lock().await;
        if held.as_ref().is_none_or(|permit| permit.num_permits() < need as usize) {
            *held = None;
            // The semaphore is never closed; if it were, going on without an allowance is right.
            *held = self.budget.semaphore.clone().acquire_many_owned(need).await.ok();
        }
    }

    /// Fails unless a file of `length` bytes, announced by who should know, may come now.
    pub(crate) fn admit(&self, length: u64, max: u64) -> Result<(), Stop> {
        if length > max {
            return Err(too_large(max));
        }
        if length > FREE && !self.try_cover(length) {
            return Err(Stop::Memory(length));
        }
        Ok(())
    }

    /// What is still held once `bytes` are all that there are.
    pub(crate) async fn settle(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let mut permit = self.held.lock().await.take()?;
        let keep = (self.budget.kib(bytes) as usize).min(permit.num_permits());
        permit.split(keep)
    }
}

/// A body being received.
pub(crate) struct Body<'a> {
    bytes: Vec<u8>,
    /// The most that it may have.
    max: u64,
    /// What the sender announced.
    announced: Option<u64>,
    allowance: &'a Allowance,
    covered: bool,
}

/// The stop for a file that is larger than `max` bytes.
pub(crate) fn too_large(max: u64) -> Stop {
    Stop::record(FailureCode::TooLarge, format!("more than load.max_mib = {} MiB", max >> 20))
}

impl<'a> Body<'a> {
    /// Starts a body of `announced` bytes, if that is known.
    pub(crate) fn new(allowance: &'a Allowance, max: u64, announced: Option<u64>) -> Result<Self, Stop> {
        let mut body = Self { bytes: Vec::new(), max, announced, allowance, covered: false };
        if let Some(length) = announced {
            allowance.admit(length, max)?;
            body.covered = true;
            // At most `max_mib`, 4 GiB, and above 1 MiB it is covered.
            body.bytes.reserve_exact(length as usize);
        }
        Ok(body)
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), Stop> {
        let length = (self.bytes.len() + piece.len()) as u64;
        if length > self.max {
            return Err(too_large(self.max));
        }
        if length > FREE && !self.covered {
            // Its end is unknown, so it may become as large as any.
            self.allowance.admit(self.max, self.max)?;
            self.covered = true;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// The whole, once the sender said that it is.
    pub(crate) fn finish(self) -> Result<Bytes, Stop> {
        match self.announced {
            Some(length) if length != self.bytes.len() as u64 => {
                let message = format!("{length} bytes were announced and {} came", self.bytes.len());
                Err(Stop::again(FailureCode::BadResponse, message))
            }
            _ => Ok(self.bytes.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn small_bodies_need_nothing_and_large_ones_shrink_to_their_size() {
        let budget = Budget::new(8 * MIB);
        let allowance = Allowance::new(&budget, 1, 4 * MIB);
        let mut body = Body::new(&allowance, 4 * MIB, None).unwrap();
        body.push(&vec![0; MIB as usize]).unwrap();
        assert_eq!(budget.semaphore.available_permits(), 8192);
        body.push(&[0; 1024]).unwrap();
        assert_eq!(budget.semaphore.available_permits(), 4096);
        let bytes = body.finish().unwrap();
        let permit = allowance.settle(bytes.len() as u64).await.unwrap();
        assert_eq!(budget.semaphore.available_permits(), 8192 - 1025);
        drop(permit);
        assert_eq!(budget.semaphore.available_permits(), 8192);
    }

    #[test]
    fn caps() {
        let allowance = Allowance::new(&Budget::new(8 * MIB), 1, MIB);
        let too_large = |r: Result<(), Stop>| matches!(r, Err(Stop::Final(Fault::Record(FailureCode::TooLarge, _))));
        assert!(too_large(Body::new(&allowance, MIB, Some(MIB + 1)).map(drop)));
        let mut body = Body::new(&allowance, MIB, None).unwrap();
        body.push(&vec![0; MIB as usize]).unwrap();
        assert!(too_large(body.push(&[0])));
        let mut short = Body::new(&allowance, MIB, Some(10)).unwrap();
        short.push(&[0; 9]).unwrap();
        assert!(matches!(short.finish(), Err(Stop::Again { code: FailureCode::BadResponse, .. })));
    }

    /// Two records, each with an image and a target, that want more than there is: one waits, holding nothing.
    #[tokio::test]
    async fn two_bodies_of_two_records_never_wait_for_each_other() {
        let budget = Budget::new(6 * MIB);
        let [a, b] = [(); 2].map(|()| Allowance::new(&budget, 2, 2 * MIB));
        assert!(a.try_cover(2 * MIB));
        assert!(!b.try_cover(2 * MIB));
        assert!(a.try_cover(2 * MIB), "the second body of a record is covered with the first");
        let waits = async { tokio::join!(b.cover(MIB), b.cover(2 * MIB)) };
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        drop(a.settle(0).await);
        waits.await;
        assert!(b.try_cover(2 * MIB));
    }
}
