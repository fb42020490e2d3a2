//! The chain of a partition's parts: where it ends, and how it is continued by one part, exactly once, against other writers,
//! lost answers and stale lists.
//!
//! A part's *name* is where the chain ended when it was written, its *footer* says where it ends now. A name can be created
//! once only, so of all who would continue the chain at one place one does. Whoever finds the name taken reads the footer
//! there: its own part id means that an earlier try had worked and its answer was lost; another's means that the chain
//! goes on elsewhere. Parts are never overwritten, and one is only tried when the one before it is known to stand.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Dataset;
use super::footer::{Footer, parse_part_name, part_name};
use super::read::StoredPart;
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::store::{Create, Patience};

/// Parts but the last may be archived or deleted once a day old, so a name that is free after such a time proves nothing:
/// past this silence the folder is listed again before the next try.
const SILENCE: Duration = Duration::from_secs(3600);

/// Foreign wins in a row after which a new start waits: 1 s, doubling to 60 s.
const WINS_WITHOUT_WAIT: u32 = 5;

/// A partition's chain as this writer knows it.
#[derive(Debug)]
pub struct Chain {
    partition: Partition,
    end: u64,
    heard: Heard,
    wins: u32,
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is the chain's last part now, durably.
    Published,
    /// Somebody else continued the chain, which reaches at least to here.
    Foreign {
        /// Where that part ends.
        end: u64,
    },
}

/// When the store was last asked something about this chain that it answered (asked, because a process may be frozen
/// before it sees the answer), by two clocks: the first stands still while the machine sleeps, the second can be set.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    wall: SystemTime,
}

impl Heard {
    fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    fn is_old(&self) -> bool {
        self.at.elapsed() > SILENCE || self.wall.elapsed().is_ok_and(|elapsed| elapsed > SILENCE)
    }
}

impl Chain {
    /// Finds where `partition`'s chain ends: behind its greatest part, and not below `floor`, which is the partition's
    /// start, or an end that is known. `Error::DataLoss` if the last part is not this dataset's or contradicts itself.
    pub async fn recover(dataset: &Dataset, partition: &Partition, floor: u64) -> Result<Self> {
        Self::find(dataset, partition, floor, None).await.map(|(chain, _)| chain)
    }

    /// The same, to go on behind: the events of the last part, which somebody else published, are sent again. Where the part that
    /// begins at `known` was once the last, only what comes from there on is listed; right also where that part never was.
    pub(crate) async fn take_over(
        dataset: &Dataset,
        partition: &Partition,
        floor: u64,
        known: Option<u64>,
    ) -> Result<Self> {
        let (chain, last) = Self::find(dataset, partition, floor, known).await?;
        if let Some(last) = last {
            dataset.tell(last.footer(), last.size()).await?;
        }
        Ok(chain)
    }

    async fn find(
        dataset: &Dataset,
        partition: &Partition,
        floor: u64,
        known: Option<u64>,
    ) -> Result<(Self, Option<StoredPart>)> {
        let mut patience = Patience::new(dataset.give_up);
        loop {
            let heard = Heard::now();
            let found = match known {
                Some(_) => match find_last(dataset, partition, known).await {
                    Ok(None) => find_last(dataset, partition, None).await,
                    found => found,
                },
                None => find_last(dataset, partition, None).await,
            };
            match found {
                Ok(found) => {
                    patience.answered();
                    let end = found.as_ref().map_or(floor, |found| found.footer().end.max(floor));
                    return Ok((Self { partition: partition.clone(), end, heard, wins: 0 }, found));
                }
                Err(error) => patience.after(error).await?,
            }
        }
    }

    /// The partition.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// The offset to go on at.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Recovers anew after somebody else's part, which ended at `end`; after several in a row with a wait before.
    pub(crate) async fn again(self, dataset: &Dataset, end: u64) -> Result<Self> {
        let wins = self.wins + 1;
        if let Some(doublings) = wins.checked_sub(WINS_WITHOUT_WAIT) {
            let wait = Duration::from_secs(1 << doublings.min(6)).min(Duration::from_secs(60));
            tracing::warn!(partition = %self.partition, wins, wait_s = wait.as_secs(), "another writer keeps continuing this chain: do two processes have the same shard?");
            tokio::time::sleep(wait).await;
        } else {
            // The intake tells of the loss.
            tracing::debug!(partition = %self.partition, at = end, "looking where the chain goes on");
        }
        Ok(Self { wins, ..Self::take_over(dataset, &self.partition, end, None).await? })
    }

    /// Continues the chain by the part whose footer is `footer` and whose bytes are in `file`. Tries until the part's fate
    /// is known; dropping the future leaves it open, and the chain with it, until recovered.
    pub(crate) async fn publish(&mut self, dataset: &Dataset, footer: &Footer, file: &Path) -> Result<Outcome> {
        if footer.from != self.end || footer.partition != self.partition {
            return Err(Error::Bug(format!(
                "a part of {} at {} was to continue the chain of {} at {}",
                footer.partition, footer.from, self.partition, self.end
            )));
        }
        let name = part_name(&self.partition, footer.from);
        let mut patience = Patience::new(dataset.give_up);
        loop {
            match self.attempt(dataset, footer, &name, file).await {
                Ok(Outcome::Published) => {
                    patience.answered();
                    (self.end, self.wins) = (footer.end, 0);
                    if dataset.events.is_some() {
                        let bytes = std::fs::metadata(file).map_err(|error| Error::disk(file, error))?.len();
                        dataset.tell(footer, bytes).await?;
                    }
                    return Ok(Outcome::Published);
                }
                Ok(foreign) => return Ok(foreign),
                Err(error) => patience.after(error).await?,
            }
        }
    }

    /// One try; `Error::Unavailable` if the part's fate is still open.
    async fn attempt(&mut self, dataset: &Dataset, footer: &Footer, name: &str, file: &Path) -> Result<Outcome> {
        let outcome = |found: &Footer| match found.part == footer.part {
            true => Outcome::Published,
            false => Outcome::Foreign { end: found.end },
        };
        while self.heard.is_old() {
            let heard = Heard::now();
            if let Some(found) = find_last(dataset, &self.partition, Some(footer.from)).await? {
                return Ok(outcome(found.footer()));
            }
            self.heard = heard;
        }
        let heard = Heard::now();
        let created = dataset.folder.create_from_file(name, file).await?;
        self.heard = heard;
        match created {
            Create::Done => Ok(Outcome::Published),
            Create::Exists => match read_checked(dataset, name).await? {
                Some(found) => Ok(outcome(found.footer())),
                None => Err(Error::Unavailable {
                    what: dataset.folder.place(name),
                    reason:
                        "the store says that it exists and that it does not: another request for it may be in flight"
                            .into(),
                }),
            },
        }
    }
}

/// The partition's greatest part, of those that begin at `least` or behind, one try.
async fn find_last(dataset: &Dataset, partition: &Partition, least: Option<u64>) -> Result<Option<StoredPart>> {
    let after = least.and_then(|least| least.checked_sub(1)).map(|below| part_name(partition, below));
    let entries = dataset.folder.list_after(&format!("data/{partition}"), after.as_deref()).await?;
    let last = entries
        .iter()
        .rfind(|entry| parse_part_name(&entry.name).is_some_and(|(of, from)| of == *partition && Some(from) >= least));
    let Some(last) = last else { return Ok(None) };
    match read_checked(dataset, &last.name).await? {
        Some(found) => Ok(Some(found)),
        None => Err(Error::Unavailable {
            what: dataset.folder.place(&last.name),
            reason: "it is listed but cannot be read".into(),
        }),
    }
}

/// Reads the footer of a part, one try, and checks that the part can be where it is.
async fn read_checked(dataset: &Dataset, name: &str) -> Result<Option<StoredPart>> {
    let found = StoredPart::open(&dataset.folder, name).await?;
    match found.as_ref().and_then(|found| found.footer().fault(&dataset.id, name)) {
        Some(fault) => Err(Error::DataLoss(format!("{}: {fault}", dataset.folder.place(name)))),
        None => Ok(found),
    }
}
