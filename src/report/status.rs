//! How far a dataset is, from the dataset alone: where each chain ends, how much lies there, who wrote last and when.
//!
//! One listing and one footer for each partition that has parts, so it is quick on thousands of parts; rows and failures are
//! in the footers of all parts, which are read where they are asked for.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::plan::Opened;
use crate::sink::footer::{Footer, parse_part_name};
use crate::sink::read::StoredPart;
use crate::store::{Entry, Folder, patiently};

/// How long a silent store is asked again; a person is waiting.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Footers read at once.
const AT_ONCE: usize = 32;
const HOUR: Duration = Duration::from_secs(3600);

/// How far a dataset is. A position is a record of the input: a row, a file, a message.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The dataset's id.
    pub dataset: String,
    /// What the plan reads.
    pub inputs: Vec<Input>,
    /// The sum over all partitions.
    pub total: Progress,
    /// `total.done` of `total.planned`, 0 to 100; `None` for a stream, which has no end.
    pub percent: Option<f64>,
    /// Partitions whose chain has reached the plan's end.
    pub complete: u64,
    /// Positions that were published in the last hour, by the store's clock.
    pub last_hour: u64,
    /// Each partition, those of the plan first.
    pub partitions: Vec<PartitionStatus>,
    /// What is worth a look: parts without rows and why, places where a chain is broken.
    pub notes: Vec<String>,
}

/// A file, a folder or a topic.
#[derive(Debug, Clone, Serialize)]
pub struct Input {
    /// Path, URL or the topic's name.
    pub name: String,
    /// How many there are; `None` for a topic.
    pub positions: Option<u64>,
}

/// What is done, of one partition or of all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    /// Positions from the partition's start to its chain's end.
    pub done: u64,
    /// Positions in the plan; `None` where that has no end.
    pub planned: Option<u64>,
    /// Parts.
    pub parts: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The newest part.
    pub last: Option<LastPart>,
    /// From the footers of all parts, where they were asked for.
    pub rows: Option<Rows>,
}

/// A partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    /// Its name.
    pub partition: Partition,
    /// Where its chain ends: the next offset.
    pub end: u64,
    /// What is done of it.
    #[serde(flatten)]
    pub progress: Progress,
}

/// A part that was written last.
#[derive(Debug, Clone, Serialize)]
pub struct LastPart {
    /// Its path below the dataset.
    pub part: String,
    /// Seconds since it was written, by the store's clock.
    pub age_s: u64,
    /// The process that wrote it.
    pub writer: String,
}

/// Rows of some parts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Rows {
    /// Rows, failed ones included.
    pub rows: u64,
    /// Failed rows.
    pub failed: u64,
    /// Positions without rows.
    pub skipped: u64,
}

impl Rows {
    fn add(&mut self, rows: u64, failed: u64, skipped: u64) {
        // A damaged footer may say anything.
        self.rows = self.rows.saturating_add(rows);
        self.failed = self.failed.saturating_add(failed);
        self.skipped = self.skipped.saturating_add(skipped);
    }
}

/// A part in the listing and, where it was read, what its footer says.
struct Listed {
    from: u64,
    entry: Entry,
    footer: Option<Result<Footer, String>>,
}

/// Looks at the dataset in `folder`; with `rows` reads every footer. `Error::Config` if it has no plan.
pub async fn status(folder: &Folder, rows: bool) -> Result<Status> {
    let plan = patiently(GIVE_UP, || Opened::read(folder)).await?.ok_or_else(|| {
        Error::Config(format!("{}: no .lm4lv/plan.json: only a dataset with its plan has a status", folder.place("")))
    })?;
    let mut chains: BTreeMap<Partition, Vec<Listed>> = BTreeMap::new();
    for entry in patiently(GIVE_UP, || folder.list("data")).await? {
        if let Some((partition, from)) = parse_part_name(&entry.name) {
            chains.entry(partition).or_default().push(Listed { from, entry, footer: None });
        }
    }
    let dataset = &plan.plan.dataset;
    let wanted = chains.values_mut().flat_map(|parts| {
        let first = if rows { 0 } else { parts.len().saturating_sub(1) };
        &mut parts[first..]
    });
    let read = wanted.map(|listed| async move {
        listed.footer = Some(footer(folder, dataset, &listed.entry.name).await?);
        Ok::<(), Error>(())
    });
    futures::stream::iter(read).buffer_unordered(AT_ONCE).try_collect::<()>().await?;

    let now = SystemTime::now();
    let mut order: Vec<(Partition, Option<u64>)> = plan
        .partitions(None, None)
        .into_iter()
        .map(|of_file| (of_file.partition, Some(of_file.planned_rows)))
        .collect();
    for topic in &plan.plan.topics {
        order.extend((0..topic.starts.len() as i32).map(|number| (Partition::of_topic(&topic.name, number), None)));
    }
    let known: HashSet<Partition> = order.iter().map(|(partition, _)| partition.clone()).collect();
    // Partitions that a topic was given later.
    let mut others: Vec<_> = chains.keys().filter(|partition| !known.contains(*partition)).cloned().collect();
    others.sort_by_key(natural);
    order.extend(others.into_iter().map(|partition| (partition, None)));

    let mut all = Status {
        dataset: dataset.clone(),
        inputs: inputs(&plan),
        total: Progress { planned: Some(0), rows: rows.then(Rows::default), ..Progress::default() },
        percent: None,
        complete: 0,
        last_hour: 0,
        partitions: Vec::new(),
        notes: Vec::new(),
    };
    for (partition, planned) in order {
        let parts = chains.remove(&partition).unwrap_or_default();
        let start = plan.start_of(&partition).unwrap_or(0);
        all.add(folder, partition, start, planned, &parts, now);
    }
    all.percent = all.total.planned.map(|planned| 100.0 * all.total.done as f64 / planned.max(1) as f64);
    Ok(all)
}

fn inputs(plan: &Opened) -> Vec<Input> {
    let files = plan.inputs.iter().map(|input| Input { name: input.path.clone(), positions: Some(input.rows) });
    let topics = plan.plan.topics.iter().map(|topic| Input { name: topic.name.clone(), positions: None });
    files.chain(topics).collect()
}

/// The part's footer; the inner `Err` says what is wrong with it.
async fn footer(folder: &Folder, dataset: &str, name: &str) -> Result<Result<Footer, String>> {
    match patiently(GIVE_UP, || StoredPart::open(folder, name)).await {
        Ok(Some(part)) => Ok(match part.footer().fault(dataset, name) {
            Some(fault) => Err(fault),
            None => Ok(part.footer().clone()),
        }),
        Ok(None) => Ok(Err("vanished while it was looked at".to_owned())),
        Err(Error::DataLoss(why)) => Ok(Err(why)),
        Err(error) => Err(error),
    }
}

impl Status {
    fn add(
        &mut self,
        folder: &Folder,
        partition: Partition,
        start: u64,
        planned: Option<u64>,
        parts: &[Listed],
        now: SystemTime,
    ) {
        let mut here = Progress { planned, rows: self.total.rows.map(|_| Rows::default()), ..Progress::default() };
        let mut at = None;
        for (index, listed) in parts.iter().enumerate() {
            let place = folder.place(&listed.entry.name);
            let footer = listed.footer.as_ref().and_then(|footer| footer.as_ref().ok());
            let end = footer.map(|footer| footer.end).or(parts.get(index + 1).map(|next| next.from));
            if at.is_some_and(|at| at != listed.from) {
                self.notes.push(format!("{place}: the chain is broken before it: see lm4lv verify"));
            }
            // Known from the footer alone: from the listing it would always fit.
            at = footer.map(|footer| footer.end);
            match &listed.footer {
                Some(Err(fault)) => self.notes.push(format!("{place}: {fault}: see lm4lv verify")),
                Some(Ok(footer)) => {
                    if let Some(reason) = &footer.reason {
                        self.notes.push(format!("{place}: no rows from {} to {}: {reason}", footer.from, footer.end));
                    }
                    for sum in [&mut here.rows, &mut self.total.rows].into_iter().flatten() {
                        sum.add(footer.rows, footer.failed, footer.skipped);
                    }
                }
                None => {}
            }
            let age = now.duration_since(listed.entry.modified).unwrap_or_default();
            if age <= HOUR {
                self.last_hour += end.unwrap_or(listed.from).saturating_sub(listed.from);
            }
            here.parts += 1;
            here.bytes += listed.entry.size;
            let writer = footer.map(|footer| footer.writer.clone()).unwrap_or_default();
            here.last = Some(LastPart { part: listed.entry.name.clone(), age_s: age.as_secs(), writer });
        }
        // What lay below the oldest part that is there was done, and archived.
        let end = at.or(parts.last().map(|last| last.from)).unwrap_or(start);
        here.done = end.saturating_sub(start);
        self.complete += u64::from(planned.is_some_and(|planned| end >= planned));
        self.total.done += here.done;
        self.total.planned = self.total.planned.zip(planned).map(|(sum, planned)| sum + planned);
        self.total.parts += here.parts;
        self.total.bytes += here.bytes;
        let newer = |last: &&LastPart| self.total.last.as_ref().is_none_or(|newest| last.age_s < newest.age_s);
        if let Some(last) = here.last.as_ref().filter(newer) {
            self.total.last = Some(last.clone());
        }
        self.partitions.push(PartitionStatus { partition, end, progress: here });
    }
}

/// By number where a name ends with one: `images-2` before `images-10`.
fn natural(partition: &Partition) -> (String, u64) {
    let numbered = partition.as_str().rsplit_once('-').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
    numbered.unwrap_or_else(|| (partition.to_string(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_a_topic_are_in_the_order_of_their_numbers() {
        let mut names = ["images-10", "images-2", "a", "images-1"].map(Partition::new);
        names.sort_by_key(natural);
        assert_eq!(names.map(|name| name.to_string()), ["a", "images-1", "images-2", "images-10"]);
    }
}
