//! Walks every chain of a dataset and names every fault: that nothing is missing and nothing twice.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use futures::{FutureExt, TryStreamExt};
use parquet::errors::ParquetError;
use serde::Serialize;

use super::footer::parse_part_name;
use super::read::StoredPart;
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::plan::PlannedPartition;
use crate::store::{Folder, patiently};

/// How long a silent store is asked again; a person is waiting.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Rows looked at together.
const BATCH_ROWS: usize = 8192;

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Partitions that the plan has.
    pub partitions: u64,
    /// Partitions whose chain reaches the plan's end.
    pub complete: u64,
    /// Parts.
    pub parts: u64,
    /// Rows.
    pub rows: u64,
    /// Rows that failed.
    pub failed: u64,
    /// Positions that have no rows on purpose.
    pub skipped: u64,
    /// Positions behind the ends of the chains: not done yet.
    pub missing: u64,
    /// Positions below a chain's oldest part: archived or deleted.
    pub archived: u64,
    /// What is wrong, one sentence each with the place at fault.
    pub faults: Vec<String>,
}

/// Checks the chains below `folder`, which hold dataset `dataset`, against the plan's partitions; with `complete` every chain
/// must reach from the plan's start to its end, too. `stream` says where a partition begins that belongs to the dataset without such an end (a
/// topic's). Reads every footer and the columns that say where rows belong, no image. Faults of the data
/// are in the report; an `Err` is a store or disk that could not be read.
pub async fn verify(
    folder: &Folder,
    dataset: &str,
    plan: &[PlannedPartition],
    stream: &dyn Fn(&Partition) -> Option<u64>,
    complete: bool,
) -> Result<Report> {
    let mut report = Report { partitions: plan.len() as u64, ..Report::default() };
    let mut chains: BTreeMap<Partition, Vec<(u64, String)>> =
        plan.iter().map(|planned| (planned.partition.clone(), Vec::new())).collect();
    let planned: HashMap<&Partition, u64> = plan.iter().map(|planned| (&planned.partition, planned.rows)).collect();
    for entry in patiently(GIVE_UP, || folder.list("data")).await? {
        match parse_part_name(&entry.name) {
            Some((partition, from)) => chains.entry(partition).or_default().push((from, entry.name)),
            None => report
                .faults
                .push(format!("{}: not a part, and readers would take it for one", folder.place(&entry.name))),
        }
    }
    for (partition, parts) in &chains {
        let place = folder.place(&format!("data/{partition}"));
        let start = stream(partition);
        let archived = report.archived;
        let end = walk(folder, dataset, start.unwrap_or(0), parts, &mut report).await?;
        let Some(rows) = planned.get(partition) else {
            if start.is_some() {
                report.partitions += 1;
                continue;
            }
            report.faults.push(format!("{place}: the plan has no such partition"));
            continue;
        };
        report.complete += u64::from(end == *rows);
        report.missing += rows.saturating_sub(end);
        if end > *rows {
            report.faults.push(format!("{place}: ends at {end}, behind the plan's {rows} positions"));
        } else if complete && end < *rows {
            report.faults.push(format!("{place}: ends at {end}, the plan at {rows}: run it again to complete it"));
        }
        let archived = report.archived - archived;
        if complete && archived > 0 {
            report.faults.push(format!(
                "{place}: its first {archived} positions lie before the oldest part: archived or deleted, and no run writes them again"
            ));
        }
    }
    Ok(report)
}

/// Checks the parts of one chain, which begins at `start`, oldest first, and returns its end.
async fn walk(folder: &Folder, dataset: &str, start: u64, parts: &[(u64, String)], report: &mut Report) -> Result<u64> {
    let oldest = parts.first().map_or(start, |(from, _)| *from);
    if oldest < start {
        let place = parts.first().map(|(_, name)| folder.place(name)).unwrap_or_default();
        report.faults.push(format!("{place}: begins at {oldest}, the plan's partition at {start}"));
    }
    report.archived = report.archived.saturating_add(oldest.saturating_sub(start));
    let mut at = None;
    for (from, name) in parts {
        let place = folder.place(name);
        match at {
            Some(at) if at < *from => {
                report.faults.push(format!(
                    "{place}: the part before it ends at {at}: positions {at} to {} are missing",
                    from - 1
                ));
            }
            Some(at) if at > *from => {
                report.faults.push(format!("{place}: overlaps the part before it, which ends at {at}"))
            }
            _ => {}
        }
        let opened = match patiently(GIVE_UP, || StoredPart::open(folder, name)).await {
            Ok(Some(part)) => Ok(part),
            Ok(None) => Err(format!("{place}: vanished while it was looked at")),
            Err(Error::DataLoss(why)) => Err(why),
            Err(error) => return Err(error),
        };
        report.parts += 1;
        at = match opened {
            Ok(part) => {
                let found = check(&part, dataset, name, report).await?;
                report.faults.extend(found.into_iter().map(|fault| format!("{place}: {fault}")));
                Some(part.footer().end)
            }
            Err(fault) => {
                report.faults.push(fault);
                // Where the next one should begin is not known.
                None
            }
        };
    }
    Ok(at.or(parts.last().map(|(from, _)| *from)).unwrap_or(0))
}

/// What is wrong with one part.
async fn check(part: &StoredPart, dataset: &str, name: &str, report: &mut Report) -> Result<Vec<String>> {
    let footer = part.footer();
    let mut faults: Vec<String> = footer.fault(dataset, name).into_iter().collect();
    // A damaged footer may say anything.
    report.rows = report.rows.saturating_add(footer.rows);
    report.failed = report.failed.saturating_add(footer.failed);
    report.skipped = report.skipped.saturating_add(footer.skipped);
    let rows = u64::try_from(part.metadata().file_metadata().num_rows()).unwrap_or(0);
    if rows != footer.rows {
        faults.push(format!("its footer says {} rows, the file has {rows}", footer.rows));
    }
    let positions = footer.end.saturating_sub(footer.from).checked_sub(footer.skipped);
    if positions.and_then(|positions| positions.checked_mul(u64::from(footer.variants))) != Some(footer.rows) {
        faults.push(format!(
            "its footer says {} rows of {} variants for {} to {} less {} skipped, which does not add up",
            footer.rows, footer.variants, footer.from, footer.end, footer.skipped
        ));
    }
    let inside = |offset: u64| footer.from <= offset && offset < footer.end;
    match (footer.first, footer.last) {
        (None, None) if footer.rows == 0 => {
            if part.metadata().num_row_groups() > 0 {
                faults.push("has an empty row group, which `datasets` cannot read".to_owned());
            }
        }
        (Some(first), Some(last)) if inside(first) && inside(last) && first <= last && footer.rows > 0 => {}
        (first, last) => faults.push(format!(
            "its footer says first {first:?} and last {last:?} of {} rows in {} to {}",
            footer.rows, footer.from, footer.end
        )),
    }
    let columns = ["variant", "status", "partition", "offset"];
    let mut rows =
        Rows { partition: footer.partition.as_str(), variants: footer.variants, before: None, ..Rows::default() };
    let mut stream = match part.rows(&columns, BATCH_ROWS) {
        Ok(stream) => stream,
        Err(why) => {
            faults.push(format!("its rows cannot be read: {why}"));
            return Ok(faults);
        }
    };
    loop {
        // Parquet's reader takes a page's own account of itself at its word, and panics where that contradicts the footer.
        let Ok(next) = AssertUnwindSafe(stream.try_next()).catch_unwind().await else {
            faults.push("its rows cannot be read: a page contradicts the footer".to_owned());
            return Ok(faults);
        };
        match next {
            Ok(Some(batch)) => {
                if let Err(fault) = rows.look_at(&batch) {
                    faults.push(fault);
                    return Ok(faults);
                }
            }
            Ok(None) => break,
            Err(error) => match unavailable(error) {
                Ok(error) => return Err(error),
                Err(error) => {
                    faults.push(format!("its rows cannot be read: {error}"));
                    return Ok(faults);
                }
            },
        }
    }
    let last = rows.before.map(|(offset, _)| offset);
    if (rows.first, last) != (footer.first, footer.last) {
        faults.push(format!("its rows go from offset {:?} to {last:?}, its footer says otherwise", rows.first));
    }
    if rows.failed != footer.failed {
        faults.push(format!("{} of its rows failed, its footer says {}", rows.failed, footer.failed));
    }
    if rows.before.is_some_and(|(_, variant)| variant + 1 != i32::from(footer.variants)) {
        faults.push("its last position lacks variants".to_owned());
    }
    Ok(faults)
}

/// A store's or disk's error from below Parquet's reader, if it is one.
fn unavailable(error: ParquetError) -> Result<Error, ParquetError> {
    match error {
        ParquetError::External(source) => source.downcast::<Error>().map(|e| *e).map_err(ParquetError::External),
        other => Err(other),
    }
}

/// Walks a part's rows.
#[derive(Default)]
struct Rows<'a> {
    partition: &'a str,
    variants: u16,
    first: Option<u64>,
    /// Offset and variant of the row before.
    before: Option<(u64, i32)>,
    failed: u64,
}

impl Rows<'_> {
    /// The next rows; the `Err` says what is wrong with one of them.
    fn look_at(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let column = |name: &str| batch.column_by_name(name).ok_or(format!("has no column `{name}`"));
        let wrong_type = |name: &str| format!("its column `{name}` has another type than it should");
        let variants = column("variant")?.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong_type("variant"))?;
        let offsets = column("offset")?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong_type("offset"))?;
        let statuses = column("status")?.as_string_opt::<i32>().ok_or_else(|| wrong_type("status"))?;
        let partitions = column("partition")?.as_string_opt::<i32>().ok_or_else(|| wrong_type("partition"))?;
        for row in 0..batch.num_rows() {
            if [variants.is_null(row), offsets.is_null(row), statuses.is_null(row), partitions.is_null(row)]
                .contains(&true)
            {
                return Err("a row lacks variant, status, partition or offset".to_owned());
            }
            let (offset, variant) = (offsets.value(row), variants.value(row));
            if partitions.value(row) != self.partition {
                return Err(format!("a row at offset {offset} is of partition {}", partitions.value(row)));
            }
            let offset = u64::try_from(offset).map_err(|_| format!("a row has offset {offset}"))?;
            let expected = match self.before {
                Some((before, last)) if last + 1 < i32::from(self.variants) => offset == before && variant == last + 1,
                Some((before, _)) => offset > before && variant == 0,
                None => variant == 0,
            };
            if !expected {
                return Err(format!(
                    "the row of offset {offset}, variant {variant} is not the one that follows {:?}",
                    self.before
                ));
            }
            self.first.get_or_insert(offset);
            self.before = Some((offset, variant));
            self.failed += u64::from(statuses.value(row) == "failed");
        }
        Ok(())
    }
}
