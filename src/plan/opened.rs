//! The plan with its extensions and changes, as it stands.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::{
    Change, FORMAT, Input, MAX_PARTITIONS, PLAN, Plan, PlannedPartition, Topic, change_name, content_hash, damaged,
    diff, extension_name, parse, partitions_of,
};
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::source::Discovery;
use crate::store::Folder;

/// A dataset's plan with all that was added to it, as every process reads it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// `plan.json`.
    pub plan: Plan,
    /// The plan's inputs and those of its extensions, in plan order.
    pub inputs: Vec<Input>,
    /// The content hash in force: of the last accepted change, else the plan's.
    pub content_hash: String,
    /// What that hash was taken over.
    pub content: Value,
    /// How many changes were accepted: the number of the last one.
    pub changes: u32,
    /// True if this process created the plan.
    pub created: bool,
    /// Files below the configured paths that are not in the plan; `--extend` adds them. In the order of discovery.
    pub new: Vec<String>,
    /// The frozen lists of the inputs that have one, compressed.
    pub(super) listings: Vec<Option<Bytes>>,
    /// `plan.json` as stored.
    pub(super) bytes: Bytes,
    /// How many extensions there are.
    pub(super) extensions: u32,
}

impl Opened {
    /// Reads what stands in `folder`, `None` if there is no plan. `Error::DataLoss` if a file of it is damaged or missing,
    /// `Error::Config` if a newer version wrote it.
    pub async fn read(folder: &Folder) -> Result<Option<Self>> {
        let Some(bytes) = folder.get(PLAN).await? else { return Ok(None) };
        let plan: Plan = parse(folder, PLAN, &bytes)?;
        let mut opened = Self {
            inputs: Vec::new(),
            content_hash: plan.content_hash.clone(),
            content: plan.content.clone(),
            changes: 0,
            created: false,
            new: Vec::new(),
            listings: Vec::new(),
            extensions: 0,
            bytes,
            plan,
        };
        opened.add_inputs(folder, PLAN, opened.plan.inputs.clone()).await?;
        opened.read_extensions(folder).await?;
        opened.read_changes(folder).await?;
        Ok(Some(opened))
    }

    /// The plan of what `discovery` found, written nowhere: for a reader that keeps its progress elsewhere.
    pub(crate) fn unwritten(discovery: &Discovery, rows_per_partition: u64) -> Result<Self> {
        let inputs = discovery.inputs(|_| true, rows_per_partition)?.inputs;
        let content = Value::Null;
        let plan = Plan {
            format: FORMAT,
            dataset: String::new(),
            content_hash: content_hash(&content),
            schema_hash: String::new(),
            content,
            inputs,
            topics: Vec::new(),
        };
        Ok(Self {
            inputs: plan.inputs.clone(),
            content_hash: plan.content_hash.clone(),
            content: Value::Null,
            changes: 0,
            created: false,
            new: Vec::new(),
            listings: Vec::new(),
            extensions: 0,
            bytes: Bytes::new(),
            plan,
        })
    }

    /// Reads the extensions that have come since.
    pub(super) async fn read_extensions(&mut self, folder: &Folder) -> Result<()> {
        loop {
            let name = extension_name(self.extensions + 1);
            let Some(bytes) = folder.get(&name).await? else { return Ok(()) };
            let extension: Plan = parse(folder, &name, &bytes)?;
            self.belongs(folder, &name, &extension.dataset)?;
            self.add_inputs(folder, &name, extension.inputs).await?;
            self.extensions += 1;
        }
    }

    /// Reads the accepted changes that have come since.
    pub(super) async fn read_changes(&mut self, folder: &Folder) -> Result<()> {
        loop {
            let name = change_name(self.changes + 1);
            let Some(bytes) = folder.get(&name).await? else { return Ok(()) };
            let change: Change = parse(folder, &name, &bytes)?;
            self.belongs(folder, &name, &change.dataset)?;
            self.content_hash = change.content_hash;
            self.content = change.content;
            self.changes += 1;
        }
    }

    fn belongs(&self, folder: &Folder, name: &str, dataset: &str) -> Result<()> {
        if dataset == self.plan.dataset {
            return Ok(());
        }
        Err(damaged(folder, name, format_args!("it is of dataset {dataset}, the plan of {}", self.plan.dataset)))
    }

    /// Takes in the inputs of plan file `name`, with their lists.
    async fn add_inputs(&mut self, folder: &Folder, name: &str, inputs: Vec<Input>) -> Result<()> {
        if partitions_of(self.inputs.iter().chain(&inputs)).is_none_or(|partitions| partitions > MAX_PARTITIONS) {
            return Err(damaged(folder, name, "its row counts make no sense"));
        }
        for input in inputs {
            let listing = match &input.listing {
                None => None,
                Some(listing) => Some(crate::source::listing::load(folder, listing, input.rows).await?),
            };
            self.inputs.push(input);
            self.listings.push(listing);
        }
        Ok(())
    }

    /// The frozen list of input `input`, compressed; `None` for a Parquet file.
    pub(crate) fn listing(&self, input: usize) -> Option<&Bytes> {
        self.listings.get(input)?.as_ref()
    }

    /// Stops a worker whose settings are no longer those in force (`Error::Config`): to be asked at each assignment, since
    /// another worker may have been started with `--accept-change`.
    pub async fn check_current(&self, folder: &Folder) -> Result<()> {
        let name = change_name(self.changes + 1);
        let Some(bytes) = folder.get(&name).await? else { return Ok(()) };
        let mut now = self.clone();
        let change: Change = parse(folder, &name, &bytes)?;
        now.belongs(folder, &name, &change.dataset)?;
        now.read_changes(folder).await?;
        if now.content_hash == self.content_hash {
            return Ok(());
        }
        Err(Error::Config(format!(
            "another worker changed how rows are made by {} (that file → this run):{}\nstart this worker with the same settings",
            folder.place(&change_name(now.changes)),
            diff::lines(&now.content, &self.content),
        )))
    }

    /// Names the input in footers: BLAKE3, hex, of the first plan's list of inputs or topics. Extensions don't change it.
    pub fn source_identity(&self) -> String {
        let inputs = match self.plan.topics.is_empty() {
            true => serde_json::to_value(&self.plan.inputs),
            false => serde_json::to_value(&self.plan.topics),
        };
        super::content_hash(&inputs.unwrap_or_default())
    }

    /// The offset where a partition of one of the topics begins; `None` for any other.
    pub fn start_of(&self, partition: &Partition) -> Option<u64> {
        let numbered = |topic: &Topic| {
            let number = partition.as_str().strip_prefix(&topic.name)?.strip_prefix('-')?.parse::<usize>().ok()?;
            // One that was added since begins with its first message.
            Some(topic.starts.get(number).copied().unwrap_or(0))
        };
        self.plan.topics.iter().find_map(numbered)
    }

    /// Positions in the plan.
    pub fn rows(&self) -> u64 {
        self.inputs.iter().map(|input| input.rows).sum()
    }

    /// The partitions to work on, in plan order. `limit`: only the first so many positions of the plan (the last partition is
    /// cut). `shard` `(i, n)`, `i < n`: of what is left, the partitions `k` (counted over the whole plan) with `k mod n = i`.
    pub fn partitions(&self, shard: Option<(u64, u64)>, limit: Option<u64>) -> Vec<PlannedPartition> {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut k = 0;
        let mut partitions = Vec::new();
        for (number, input) in self.inputs.iter().enumerate() {
            let path: Arc<str> = input.path.as_str().into();
            for range in 0..input.rows.div_ceil(input.rows_per_partition) {
                if left == 0 {
                    return partitions;
                }
                let first_row = range * input.rows_per_partition;
                let planned_rows = input.rows_per_partition.min(input.rows - first_row);
                let rows = planned_rows.min(left);
                left -= rows;
                if shard.is_none_or(|(i, n)| k % n.max(1) == i) {
                    partitions.push(PlannedPartition {
                        partition: Partition::of_file(number, usize::try_from(range).unwrap_or(usize::MAX)),
                        input: number,
                        path: path.clone(),
                        first_row,
                        rows,
                        planned_rows,
                    });
                }
                k += 1;
            }
        }
        partitions
    }

    /// Where relative references start when `load.root` is `auto`: the listed folder, or the folder that holds the Parquet
    /// files of the first plan (the deepest one common to all; extensions never move it). `None` if they share none.
    pub fn default_root(&self) -> Option<String> {
        let first = &self.inputs[..self.plan.inputs.len().min(self.inputs.len())];
        if let Some(folder) = first.iter().find(|input| input.listing.is_some()) {
            return Some(folder.path.clone());
        }
        let parent = |path: &str| path.rsplit_once('/').map_or(String::new(), |(parent, _)| format!("{parent}/"));
        let parents: Vec<_> = first.iter().map(|input| parent(&input.path)).collect();
        let mut common = parents.first()?.as_str();
        for other in &parents {
            while !other.starts_with(common) {
                let shorter = common.trim_end_matches('/');
                common = &common[..shorter.rfind('/').map_or(0, |slash| slash + 1)];
            }
        }
        match common {
            "" if parents.iter().any(|parent| parent.starts_with('/') || parent.contains("://")) => None,
            "" => Some(".".into()),
            // That two files share only the root of the disk opens nothing.
            "/" if parents.iter().any(|parent| parent != "/") => None,
            scheme if scheme.ends_with("://") => None,
            folder => Some(folder.into()),
        }
    }
}
