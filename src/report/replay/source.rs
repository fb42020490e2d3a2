//! Where a row came from: the plan's content for its part, its record in the source, its files.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Files, ReplayOptions, Verdict, sha256, sink, steps};
use crate::degrade::DegradeConfig;
use crate::error::{Error, Result};
use crate::load::{LoadConfig, Loader};
use crate::plan::{Opened, PlannedPartition};
use crate::report::rows::{Address, Dataset, Row};
use crate::sample::{FailureClass, Record, Reference};
use crate::sink::config::SinkConfig;
use crate::sink::read::StoredPart;
use crate::sink::{Columns, ImageColumn};
use crate::source::{Event, Look, Source, SourceConfig, discover, open};
use crate::stage::Fault;

/// Bytes of bodies in flight; one record is fetched.
const BUDGET: u64 = 1 << 30;

/// What made the rows of a part.
pub(super) struct Content {
    /// Where references and targets stood.
    source: Value,
    /// `None` where the pipeline had no `load`.
    pub(super) load: Option<LoadConfig>,
    /// True if the pipeline restored.
    restores: bool,
    /// `None` where the pipeline had no `degrade`.
    pub(super) degrade: Option<DegradeConfig>,
    /// Encodings.
    pub(super) sink: SinkConfig,
    /// Image columns.
    pub(super) images: Vec<ImageColumn>,
}

impl Content {
    /// What the part of row `at` was made with: the plan's content, or that of the accepted change that the part names.
    pub(super) async fn of(dataset: &Dataset, plan: &Opened, at: Address) -> Result<Self> {
        let part = &dataset.parts()[at.part];
        let stored = StoredPart::open(dataset.folder(), &part.name).await?;
        let hash = stored.map(|part| part.footer().content_hash.clone()).unwrap_or_default();
        let content = if hash == plan.plan.content_hash {
            plan.plan.content.clone()
        } else if hash == plan.content_hash {
            plan.content.clone()
        } else {
            earlier_change(dataset, plan, &hash).await?
        };
        let (load, degrade) = steps(dataset, &content)?;
        let (sink, images) = sink(dataset, &content)?;
        let restores = !content["restore"].is_null();
        Ok(Self { restores, source: content["source"].clone(), load, degrade, sink, images })
    }

    /// True if the source names targets of its own.
    fn names_targets(&self) -> bool {
        let target = &self.source["parquet"]["columns"]["target"];
        !target.is_null() && target != "none"
    }
}

/// The content of an accepted change that is no longer in force.
async fn earlier_change(dataset: &Dataset, plan: &Opened, hash: &str) -> Result<Value> {
    for n in 1..=plan.changes {
        let change = dataset.folder().get(&format!(".lm4lv/change-{n}.json")).await?;
        let change = change.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).unwrap_or_default();
        if change["content_hash"] == hash {
            return Ok(change["content"].clone());
        }
    }
    Err(Error::DataLoss(format!(
        "{}: the row's part was made with content {hash}, which neither the plan nor an accepted change has",
        dataset.place()
    )))
}

/// What was found of a row's source.
pub(super) struct Found {
    pub(super) record: Record,
    /// `None` if the source is no use; the inner one without `load`, where nothing is fetched.
    pub(super) files: Option<Option<Files>>,
    /// Why it is no use.
    pub(super) problem: Option<Verdict>,
    pub(super) notes: Vec<String>,
}

/// Finds the row's record and fetches its files.
pub(super) async fn find(row: &Row, plan: &Opened, made: &Content, options: &ReplayOptions) -> Result<Found> {
    let mut notes = Vec::new();
    let record = match record(row, plan, made, options).await {
        Ok(record) => record,
        // A reference can be fetched without the file that it stood in.
        Err(why) if row.url.is_some() && !made.names_targets() && made.load.is_some() => {
            notes.push(format!("the record cannot be read again ({why}): its reference is taken from the row"));
            by_hand(row)
        }
        Err(Error::Unavailable { what, reason }) => return Err(Error::Unavailable { what, reason }),
        Err(why) => {
            notes.push(format!("the record cannot be read again: {why}"));
            return stored_original(row, made, by_hand(row), Verdict::SourceGone, notes);
        }
    };
    let Some(load) = &made.load else {
        return Ok(Found { record, files: Some(None), problem: None, notes });
    };
    let fetched = loader(load, plan, options)?.fetch(&record).await;
    let input = match fetched.input {
        Ok(bytes) => bytes,
        Err(Fault::Run(error)) => return Err(error),
        Err(Fault::Record(code, message)) => {
            notes.push(format!("the source cannot be fetched: {}: {message}", code.as_str()));
            let found = stored_original(row, made, record, Verdict::SourceGone, notes)?;
            if found.files.is_none() && code.class() != FailureClass::Permanent {
                let what = row.url.clone().unwrap_or_else(|| row.key.clone());
                return Err(Error::Unavailable { what, reason: message });
            }
            return Ok(found);
        }
    };
    if row.sha256.as_deref().is_some_and(|recorded| recorded != sha256(&input)) {
        let recorded = row.sha256.as_deref().unwrap_or_default();
        notes.push(format!("source changed: SHA-256 was {recorded}, is {}", sha256(&input)));
        return stored_original(row, made, record, Verdict::SourceChanged, notes);
    }
    let target = match fetched.target {
        None => None,
        Some(Ok(bytes)) => Some(bytes),
        Some(Err(Fault::Run(error))) => return Err(error),
        Some(Err(Fault::Record(code, message))) => {
            notes.push(format!("the target cannot be fetched: {}: {message}", code.as_str()));
            return Ok(Found { record, files: None, problem: Some(Verdict::SourceGone), notes });
        }
    };
    Ok(Found { record, files: Some(Some(Files { input, target })), problem: None, notes })
}

/// Takes the source's bytes from the row itself, where an image column holds them.
fn stored_original(
    row: &Row,
    made: &Content,
    record: Record,
    problem: Verdict,
    mut notes: Vec<String>,
) -> Result<Found> {
    let is_source = |bytes: &Bytes| row.sha256.as_deref() == Some(&*sha256(bytes));
    let kept = row.images.iter().find(|(_, picture)| is_source(&picture.bytes));
    let Some((column, picture)) = kept.filter(|_| !made.names_targets() && made.load.is_some()) else {
        return Ok(Found { record, files: None, problem: Some(problem), notes });
    };
    notes.push(format!("made from column `{column}`, which is the source file by its SHA-256"));
    let files = Files { input: picture.bytes.clone(), target: None };
    Ok(Found { record, files: Some(Some(files)), problem: None, notes })
}

fn loader(made: &LoadConfig, plan: &Opened, options: &ReplayOptions) -> Result<Loader> {
    let mut config = options.load.clone().unwrap_or_else(|| made.clone());
    // What decides about pixels and refusals stays as it was.
    config.max_mib = made.max_mib;
    config.redirects = made.redirects;
    if let Some(root) = &options.root {
        config.root = root.clone();
    }
    Loader::new(&config, &options.stores, plan.default_root().as_deref(), BUDGET)
}

/// The record as the row shows it.
fn by_hand(row: &Row) -> Record {
    Record {
        source_file: row.source_file.as_deref().map(Into::into),
        source_row: row.source_row,
        ..Record::new(row.key.clone(), row.url.clone().map_or(Reference::Missing, Reference::Uri), row.position.clone())
    }
}

/// The row's record, read again from where the plan says that it stands.
async fn record(row: &Row, plan: &Opened, made: &Content, options: &ReplayOptions) -> Result<Record> {
    // A message may have been deleted since; what it named, the row has.
    if !plan.plan.topics.is_empty() {
        return Ok(by_hand(row));
    }
    let planned = plan.partitions(None, None).into_iter().find(|planned| planned.partition == row.position.partition);
    let planned = planned.ok_or_else(|| {
        Error::DataLoss(format!("the plan has no partition {}, which the row names", row.position.partition))
    })?;
    // A folder's records are its paths, which the row has; its list says what the file was, but the SHA-256 says more.
    if plan.inputs[planned.input].listing.is_some() {
        return Ok(by_hand(row));
    }
    let paths: Vec<&str> = plan.inputs.iter().map(|input| input.path.as_str()).collect();
    let mut source = made.source.clone();
    source["parquet"]["path"] = json!(paths);
    let config: SourceConfig = serde_json::from_value(source)
        .map_err(|e| Error::DataLoss(format!("section `source` of the plan cannot be read: {e}")))?;
    let look = Look {
        config: &config,
        stores: &options.stores,
        sink: None,
        known: Some(plan),
        reserved: Columns::reserved(made.restores),
    };
    let found = discover(look).await?;
    one(open(found, plan, vec![planned.clone()])?, &planned, row.position.offset).await
}

/// The record at `offset` of `source`'s only partition.
async fn one(mut source: impl Source, planned: &PlannedPartition, offset: u64) -> Result<Record> {
    let missing = || Error::DataLoss(format!("{}: has no record at {}:{offset}", planned.path, planned.partition));
    loop {
        match source.next(true).await?.ok_or_else(missing)? {
            Event::Assigned { partition, .. } => source.start(partition, 0, offset)?,
            Event::Records { records, .. } => {
                let first = records.into_iter().next();
                return first.filter(|record| record.position.offset == offset).ok_or_else(missing);
            }
            Event::End { .. } | Event::Gap { .. } | Event::Revoked { .. } => return Err(missing()),
        }
    }
}
