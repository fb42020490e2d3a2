//! One partition's way through the sink: epoch, window, open part, closed parts, chain. Knows no store; [`super::Sink`] does the
//! uploads and brings their outcome back.
//!
//! (long because a partition's whole life in the sink is one state)

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::AbortHandle;
use tokio::time::Instant;

use super::chain::Chain;
use super::part::{Factory, OpenPart, Part};
use super::window::{Window, lighten};
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::sample::Item;

/// The reason in a part that only covers a gap at the input's end.
const GAP: &str = "no rows up to the end of the input";

/// When a part is closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) age: Duration,
}

/// A partition in work.
pub(super) struct Lane {
    factory: Arc<Factory>,
    limits: Limits,
    partition: Partition,
    epoch: u64,
    /// False once the epoch is over: its rows are dropped.
    taking: bool,
    window: Window,
    /// Where the next part to be opened begins.
    from: u64,
    /// Behind the last row taken.
    at: u64,
    open: Option<OpenPart>,
    /// In the chain's order.
    closed: VecDeque<Part>,
    /// What the source said of positions without rows that were not reached yet, in order.
    marks: VecDeque<Mark>,
    /// The epoch's end was reached.
    ended: bool,
    /// Here unless something is in flight with it.
    chain: Option<Chain>,
    flight: Option<Flight>,
    then: Then,
}

/// A stretch of positions without rows.
struct Mark {
    /// The items before it.
    items: u64,
    /// The offset behind it.
    next: u64,
    /// What became of the positions; `None` at the end of the epoch.
    gap: Option<String>,
}

/// What is in flight for a lane.
struct Flight {
    abort: AbortHandle,
    /// Bytes of the part; `None` for a recovery.
    part: Option<u64>,
}

/// What happens when the last closed part is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Restart { foreign: bool },
    Release,
    Stop,
}

/// What a lane wants to be done now.
pub(super) enum Next {
    Wait,
    Publish(Chain, Box<Part>),
    /// Hand the chain out for a new start; the lane is done.
    Restart(Chain, bool),
    /// Say that the partition is free; the lane is done.
    Release,
    /// Nothing to say; the lane is done.
    Stop,
}

impl Lane {
    pub(super) fn new(factory: Arc<Factory>, limits: Limits, chain: Chain, epoch: u64) -> Self {
        Self {
            factory,
            limits,
            partition: chain.partition().clone(),
            epoch,
            taking: true,
            window: Window::default(),
            from: chain.end(),
            at: chain.end(),
            open: None,
            closed: VecDeque::new(),
            marks: VecDeque::new(),
            ended: false,
            chain: Some(chain),
            flight: None,
            then: Then::Nothing,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn accept(&mut self, mut item: Item) -> Result<()> {
        if !self.taking || item.epoch != self.epoch {
            return Ok(());
        }
        lighten(&mut item);
        self.reach_marks()?;
        match self.window.pass(item) {
            Ok(item) => self.take(item)?,
            Err(early) => self.window.push(early)?,
        }
        loop {
            self.reach_marks()?;
            let Some(item) = self.window.pop() else { return Ok(()) };
            self.take(item)?;
        }
    }

    /// Takes the next item in order.
    fn take(&mut self, item: Item) -> Result<()> {
        let position = &item.record.position;
        if position.offset < self.at {
            return Err(Error::Bug(format!("{position} came when {} was next", self.at)));
        }
        let variants = self.factory.rows.columns().variants;
        if item.samples.len() != usize::from(variants) {
            return Err(Error::Bug(format!("{position} has {} rows, not {variants}", item.samples.len())));
        }
        self.at = position.offset + 1;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => OpenPart::create(&self.factory, &self.partition, self.from)?,
        };
        open.push(item)?;
        let full = open.rows() >= self.limits.rows || open.size() >= self.limits.bytes;
        self.open = Some(open);
        if full { self.close() } else { Ok(()) }
    }

    pub(super) fn end(&mut self, epoch: u64, items: u64, next: u64) -> Result<()> {
        if !self.taking || epoch != self.epoch {
            return Ok(());
        }
        self.marks.push_back(Mark { items, next, gap: None });
        self.reach_marks()
    }

    /// The positions behind the epoch's first `items` items and below `next` have no rows, and `reason` says why: a part of its
    /// own will say so.
    pub(super) fn gap(&mut self, epoch: u64, items: u64, next: u64, reason: String) -> Result<()> {
        if !self.taking || epoch != self.epoch {
            return Ok(());
        }
        self.marks.push_back(Mark { items, next, gap: Some(reason) });
        self.reach_marks()
    }

    /// Covers the stretches that all items before have come of.
    fn reach_marks(&mut self) -> Result<()> {
        while let Some(Mark { next, gap, .. }) = self.marks.pop_front_if(|mark| self.window.released() >= mark.items) {
            if next < self.at {
                return Err(Error::Bug(format!("{} goes on at {next}, but {} is next", self.partition, self.at)));
            }
            if gap.is_some() {
                self.close()?;
            }
            self.at = next;
            self.taking = gap.is_some();
            self.ended = gap.is_none();
            if self.open.is_none() && self.at > self.from {
                let reason = gap.as_deref().unwrap_or(GAP);
                let part = OpenPart::create(&self.factory, &self.partition, self.from)?.close(self.at, Some(reason))?;
                self.from = self.at;
                self.closed.push_back(part);
            }
            if self.ended {
                self.close()?;
            }
        }
        Ok(())
    }

    /// Closes the open part behind the last row taken.
    pub(super) fn close(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.closed.push_back(open.close(self.at, None)?);
            self.from = self.at;
        }
        Ok(())
    }

    /// Ends the epoch; what is final of it may still be published, and then the partition is given back (`release`) or simply
    /// left. False if nothing can be published any more and the lane is done at once.
    pub(super) fn leave(&mut self, settled: Option<u64>, release: bool) -> Result<bool> {
        self.taking = false;
        self.window = Window::default();
        self.close()?;
        // Behind a row that may be tried again nothing of this epoch can stand.
        if let Some(first) = self.closed.iter().position(|part| part.ticket() > settled) {
            let rest = self.closed.split_off(first);
            if let Some(part) = rest.into_iter().next() {
                self.closed.extend(part.cut(&self.factory, settled)?);
            }
        }
        self.then = if release { Then::Release } else { Then::Stop };
        Ok(self.chain.is_some() || self.flight.as_ref().is_some_and(|flight| flight.part.is_some()))
    }

    /// Drops all work but the part in flight; then the chain is handed out.
    pub(super) fn restart(&mut self) {
        if matches!(self.then, Then::Nothing) {
            self.drop_work();
            self.then = Then::Restart { foreign: false };
        }
    }

    /// Another writer has continued the chain. True if the chain is to be recovered for a new start, false if the lane is
    /// done; see [`Self::is_released`].
    pub(super) fn overtaken(&mut self) -> bool {
        self.drop_work();
        let goes_on = matches!(self.then, Then::Nothing | Then::Restart { .. });
        if goes_on {
            self.then = Then::Restart { foreign: true };
        }
        goes_on
    }

    /// True if the end of this lane must be told.
    pub(super) fn is_released(&self) -> bool {
        self.then == Then::Release
    }

    fn drop_work(&mut self) {
        self.taking = false;
        self.window = Window::default();
        self.open = None;
        self.closed.clear();
    }

    /// What can be done with the chain now.
    pub(super) fn next(&mut self, settled: Option<u64>) -> Next {
        if self.closed.front().is_some_and(|part| part.ticket() > settled) {
            return Next::Wait;
        }
        if self.closed.is_empty() && self.then == Then::Nothing {
            let finished = !self.taking && self.ended && self.open.is_none() && self.flight.is_none();
            return if finished { Next::Stop } else { Next::Wait };
        }
        let Some(chain) = self.chain.take() else { return Next::Wait };
        match (self.closed.pop_front(), self.then) {
            (Some(part), _) => Next::Publish(chain, Box::new(part)),
            (None, Then::Restart { foreign }) => Next::Restart(chain, foreign),
            (None, Then::Release) => Next::Release,
            (None, Then::Stop | Then::Nothing) => Next::Stop,
        }
    }

    /// Something is in flight with the chain: a part of so many bytes, or a recovery.
    pub(super) fn takes_off(&mut self, abort: AbortHandle, part: Option<u64>) {
        self.flight = Some(Flight { abort, part });
    }

    /// The flight is over; the chain is back unless it goes on flying.
    pub(super) fn lands(&mut self, chain: Option<Chain>) {
        self.flight = None;
        self.chain = chain;
    }

    /// Stops what is in flight.
    pub(super) fn abort(self) {
        if let Some(flight) = self.flight {
            flight.abort.abort();
        }
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.open.as_mut().map_or(Ok(()), OpenPart::flush)
    }

    /// Bytes of rows in memory.
    pub(super) fn held(&self) -> u64 {
        self.window.bytes() + self.open_bytes()
    }

    /// Bytes of the open row group.
    pub(super) fn open_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, OpenPart::held)
    }

    /// Bytes of closed parts that the store could take, the one in flight included.
    pub(super) fn queued(&self, settled: Option<u64>) -> u64 {
        let flying = self.flight.as_ref().and_then(|flight| flight.part).unwrap_or(0);
        flying + self.closed.iter().take_while(|part| part.ticket() <= settled).map(|part| part.bytes).sum::<u64>()
    }

    /// When the open part is to be closed for its age.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.opened + self.limits.age)
    }

    pub(super) fn is_provisional(&self, settled: Option<u64>) -> bool {
        self.window.provisional_above(settled)
            || self.open.as_ref().is_some_and(|open| open.provisional_above(settled))
            || self.closed.iter().any(|part| part.ticket() > settled)
    }

    pub(super) fn is_idle(&self) -> bool {
        let still = self.flight.is_none() && matches!(self.then, Then::Nothing | Then::Stop);
        still && self.closed.is_empty() && self.open.is_none() && self.window.bytes() == 0
    }
}
