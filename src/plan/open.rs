//! A start's first steps: create or read the plan, prove that the store can fence writers, and refuse what the plan does not
//! allow.
//!
//! (long because every way in which a start may not fit a plan is refused here)

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt;
use serde_json::Value;

use super::{
    Change, FORMAT, Input, MAX_PARTITIONS, Opened, PLAN, Plan, Topic, bytes_of, change_name, content_hash, diff,
    extension_name, partitions_of,
};
use crate::error::{Error, Result};
use crate::source::{Discovery, Frozen};
use crate::store::{Create, Folder, unavailable};

/// How often, and after which pause, something is created again that can't be read though it is said to exist.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// What this run would have the plan be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What makes a row (see [`Plan::content`]).
    pub content: &'a Value,
    /// BLAKE3 of the output schema, hex.
    pub schema_hash: &'a str,
    /// The inputs as they are now.
    pub discovery: &'a Discovery,
    /// Rows in each partition of a new plan.
    pub rows_per_partition: u64,
    /// `--accept-change n`.
    pub accept_change: Option<u32>,
    /// `--extend`: add files that are not in the plan.
    pub extend: bool,
}

impl Plan {
    /// Creates `.lm4lv/plan.json` in `folder` if nothing is there, else checks that this run fits the plan that stands. Every
    /// process gets the same plan, whoever was first.
    ///
    /// `Error::Config`: the folder holds something else, the store does not honour create-if-absent, or the settings or inputs
    /// of this run are not the plan's. `Error::DataLoss`: an input changed or is gone, or a plan file is damaged.
    pub async fn open_or_create(folder: &Folder, wanted: Wanted<'_>) -> Result<Opened> {
        let mut opened = match Opened::read(folder).await? {
            Some(standing) => standing,
            None => create(folder, &wanted).await?,
        };
        // Done over a plan that stands: nothing was hurt (these are its own bytes), but parts would be.
        if folder.create(PLAN, opened.bytes.clone()).await? == Create::Done {
            return Err(unfenced(folder, "an object was created over one that stood"));
        }
        check_inputs(folder, &opened, wanted.discovery)?;
        check_settings(folder, &mut opened, &wanted).await?;
        opened.new = unplanned(&opened, wanted.discovery)?;
        if wanted.extend {
            extend(folder, &mut opened, wanted.discovery).await?;
        }
        Ok(opened)
    }
}

/// Creates the first plan, or reads that of a process that was faster.
async fn create(folder: &Folder, wanted: &Wanted<'_>) -> Result<Opened> {
    refuse_foreign(folder).await?;
    let plan = Plan {
        format: FORMAT,
        dataset: uuid::Uuid::new_v4().to_string(),
        content_hash: content_hash(wanted.content),
        schema_hash: wanted.schema_hash.to_owned(),
        content: wanted.content.clone(),
        inputs: freeze(folder, wanted.discovery, |_| true, wanted.rows_per_partition).await?,
        topics: wanted.discovery.topics().unwrap_or_default().to_vec(),
    };
    let bytes = bytes_of(&plan)?;
    for _ in 0..TRIES {
        folder.create(PLAN, bytes.clone()).await?;
        if let Some(mut opened) = Opened::read(folder).await? {
            // Not the answer of `create`: it is Exists, too, for an own request that was sent twice.
            opened.created = opened.plan.dataset == plan.dataset;
            return Ok(opened);
        }
        // Stores may also answer Exists while another's request is under way, which may still come to nothing.
        tokio::time::sleep(PAUSE).await;
    }
    Err(unfenced(folder, "a plan that was created cannot be read"))
}

/// The inputs whose names pass `which`; a folder's list is written before it is named.
async fn freeze(
    folder: &Folder,
    discovery: &Discovery,
    which: impl Fn(&str) -> bool,
    rows_per_partition: u64,
) -> Result<Vec<Input>> {
    let Frozen { inputs, listing } = discovery.inputs(which, rows_per_partition)?;
    if partitions_of(&inputs).is_none_or(|partitions| partitions > MAX_PARTITIONS) {
        return Err(Error::Config(format!(
            "{rows_per_partition} rows_per_partition cut the source into more than {MAX_PARTITIONS} partitions: take more"
        )));
    }
    if let Some((name, bytes)) = listing {
        // Its name is its hash: if it exists, it is the same.
        folder.create(&format!(".lm4lv/{name}"), bytes).await?;
    }
    Ok(inputs)
}

fn check_inputs(folder: &Folder, opened: &Opened, discovery: &Discovery) -> Result<()> {
    let another = |what: String| {
        Error::Config(format!("{what}: give this run a sink.dir of its own, {} has a plan", folder.place("")))
    };
    if discovery.topics().is_some() || !opened.plan.topics.is_empty() {
        return check_topics(folder, &opened.plan.topics, discovery.topics());
    }
    if let Some(root) = discovery.folder() {
        return match opened.inputs.iter().find(|input| input.listing.is_none() || input.path != root) {
            Some(input) => Err(another(format!("source.folder.path is {root}, but the plan reads {}", input.path))),
            None => Ok(()),
        };
    }
    for (number, input) in opened.inputs.iter().enumerate() {
        if input.listing.is_some() {
            return Err(another(format!("source is parquet, but the plan reads the folder {}", input.path)));
        }
        let changed = |what: String| {
            Error::DataLoss(format!(
                "{}: {what} since the plan was made: put the file back as it was, or start a new sink.dir",
                input.path
            ))
        };
        let Some(file) = discovery.file(&input.path) else {
            if discovery.is_gone(&input.path) {
                return Err(changed("the file has gone".into()));
            }
            if number >= discovery.known() {
                return Err(Error::Unavailable {
                    what: folder.place(PLAN),
                    reason: format!(
                        "another process added {} while this one looked for inputs: start again",
                        input.path
                    ),
                });
            }
            return Err(another(format!("source.parquet.path does not name {}, which the plan reads", input.path)));
        };
        let now = file.as_input(input.rows_per_partition);
        if now.size != input.size {
            let size = |size: Option<u64>| size.map_or("unknown".into(), |size| format!("{size} bytes"));
            return Err(changed(format!("the file changed (it had {}, now {})", size(input.size), size(now.size))));
        }
        if now.version != input.version || now.rows != input.rows {
            let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".into());
            let (then, now) = (version(&input.version), version(&now.version));
            return Err(changed(format!("the file changed (it was version {then}, now {now})")));
        }
    }
    Ok(())
}

/// `Error::DataLoss` for a topic that was made anew; its cluster's id may differ (a mirror), its own may not.
fn check_topics(folder: &Folder, planned: &[Topic], found: Option<&[Topic]>) -> Result<()> {
    let names = |topics: &[Topic]| topics.iter().map(|topic| topic.name.clone()).collect::<Vec<_>>().join(", ");
    let found = found.unwrap_or_default();
    if names(planned) != names(found) {
        let shown = |topics: &[Topic]| match topics.is_empty() {
            true => "files".to_owned(),
            false => format!("topics {}", names(topics)),
        };
        return Err(Error::Config(format!(
            "the source is {}, but the plan in {} reads {}: give this run a sink.dir of its own",
            shown(found),
            folder.place(""),
            shown(planned)
        )));
    }
    match planned.iter().zip(found).find(|(then, now)| !then.id.is_empty() && !now.id.is_empty() && then.id != now.id) {
        Some((topic, _)) => Err(crate::source::kafka::recreated(&topic.name)),
        None => Ok(()),
    }
}

async fn check_settings(folder: &Folder, opened: &mut Opened, wanted: &Wanted<'_>) -> Result<()> {
    if opened.plan.schema_hash != wanted.schema_hash {
        return Err(Error::Config(format!(
            "the dataset in {} has other columns than this run would write; settings that differ (dataset → this run):{}\n\
             use another sink.dir: the columns of a dataset never change",
            folder.place(""),
            differences(&opened.content, wanted.content)
        )));
    }
    let hash = content_hash(wanted.content);
    let next = opened.changes + 1;
    if let Some(n) = wanted.accept_change {
        if n == 0 || n > next {
            return Err(Error::Config(format!(
                "--accept-change {n}: the next change of {} is number {next}",
                folder.place("")
            )));
        }
        if n == next && hash != opened.content_hash {
            let change = Change {
                format: FORMAT,
                dataset: opened.plan.dataset.clone(),
                content_hash: hash.clone(),
                content: wanted.content.clone(),
            };
            folder.create(&change_name(n), bytes_of(&change)?).await?;
            opened.read_changes(folder).await?;
        }
    }
    if hash == opened.content_hash {
        return Ok(());
    }
    Err(Error::Config(format!(
        "the dataset in {} is made with other settings (dataset → this run):{}\n\
         use another sink.dir, or go on with these settings from here with --accept-change {}",
        folder.place(""),
        differences(&opened.content, wanted.content),
        opened.changes + 1
    )))
}

fn differences(old: &Value, new: &Value) -> String {
    match diff::lines(old, new) {
        none if none.is_empty() => " none in the pipeline file (another version of lm4lv?)".into(),
        lines => lines,
    }
}

/// What was found and is not in the plan.
fn unplanned(opened: &Opened, discovery: &Discovery) -> Result<Vec<String>> {
    // 128 bits of a hash for each name: a list of millions of paths need not be held twice.
    let short = |name: &str| -> [u8; 16] {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
        short
    };
    let mut planned = HashSet::new();
    for (input, listing) in opened.inputs.iter().zip(&opened.listings) {
        match listing {
            None => {
                planned.insert(short(&input.path));
            }
            Some(listing) => {
                for image in crate::source::listing::Lines::new(listing.clone())? {
                    planned.insert(short(&image?.path));
                }
            }
        }
    }
    Ok(discovery.names().filter(|name| !planned.contains(&short(name))).map(str::to_owned).collect())
}

async fn extend(folder: &Folder, opened: &mut Opened, discovery: &Discovery) -> Result<()> {
    let Some(rows_per_partition) = opened.inputs.first().map(|input| input.rows_per_partition) else { return Ok(()) };
    let mut tries = 0;
    while !opened.new.is_empty() {
        let new: HashSet<&str> = opened.new.iter().map(String::as_str).collect();
        let inputs = freeze(folder, discovery, |name| new.contains(name), rows_per_partition).await?;
        let extension = Plan { inputs, ..opened.plan.clone() };
        // Whether it was ours that was created or another's: read on, and see what is still new.
        folder.create(&extension_name(opened.extensions + 1), bytes_of(&extension)?).await?;
        let before = opened.extensions;
        opened.read_extensions(folder).await?;
        if opened.extensions == before {
            tries += 1;
            if tries == TRIES {
                return Err(unfenced(folder, "an extension of the plan that was created cannot be read"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        check_inputs(folder, opened, discovery)?;
        opened.new = unplanned(opened, discovery)?;
    }
    Ok(())
}

fn unfenced(folder: &Folder, what: &str) -> Error {
    Error::Config(format!(
        "the store of {} cannot keep two writers apart ({what}): use one that honours create-if-absent \
         (If-None-Match: *) and reads its own writes",
        folder.place("")
    ))
}

/// Refuses a folder without a plan that holds anything but `.lm4lv`.
async fn refuse_foreign(folder: &Folder) -> Result<()> {
    let found = match folder {
        Folder::Local(path) => match std::fs::read_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::disk(path, error)),
            Ok(entries) => {
                let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
                let names = names.collect::<Result<Vec<_>, _>>().map_err(|error| Error::disk(path, error))?;
                names.into_iter().filter(|name| name != ".lm4lv").min().map(|name| name.to_string_lossy().into_owned())
            }
        },
        Folder::Remote { store, prefix, url } => {
            // Ends at the first object that does not belong: the bucket may be large.
            let mut objects = store.list(Some(prefix));
            loop {
                let object = objects.try_next().await;
                let Some(object) = object.map_err(|error| unavailable(url.clone(), &error))? else {
                    break None;
                };
                let mut below = object.location.prefix_match(prefix).into_iter().flatten();
                match below.next() {
                    Some(first) if first.as_ref() != ".lm4lv" => break Some(first.as_ref().to_owned()),
                    _ => {}
                }
            }
        }
    };
    match found {
        None => Ok(()),
        Some(name) => Err(Error::Config(format!(
            "sink.dir {} holds {name:?} but no plan of lm4lv: choose an empty or a new folder",
            folder.place("")
        ))),
    }
}
