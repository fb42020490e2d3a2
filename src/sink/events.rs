//! The `events` section: what is durable is told to a Kafka topic, at least once.
//!
//! A partition's next part is published only after the events of the one before are acknowledged, and whoever goes on behind a
//! part that it did not publish itself sends that part's events again first: so no part is left out, whoever dies when. Repeats
//! carry the same key.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Dataset;
use super::footer::{Footer, part_name};
use super::read::StoredPart;
use crate::error::{Error, Result};
use crate::kafka::Connection;
use crate::kafka::producer::{Outgoing, Producer};
use crate::report::json::value as cell;
use crate::store::Folder;

/// Rows told at once.
const ROWS: usize = 10_000;

/// The `events` section: who is told of what was published. Never changes a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventsConfig {
    /// Nobody.
    #[default]
    None,
    /// A topic.
    Kafka(EventsTopic),
}

/// `events: { kafka: … }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsTopic {
    /// `host:port`, several with commas between. Required.
    pub brokers: String,
    /// The topic, which must be there. Required.
    pub topic: String,
    /// What one message is about. Default: `part`.
    #[serde(default)]
    pub per: Per,
    /// Any property of librdkafka's producer, by its own names. Default: none.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// `events.kafka.per`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// A published part: `dataset, dir, partition, part, from, end, rows, failed, bytes, schema_hash`, which is what a table
    /// needs to add the file.
    #[default]
    Part,
    /// A row of it: `dataset, partition, offset, variant, key, status, error_code` and its scores.
    Row,
}

impl EventsTopic {
    fn connection(&self) -> Connection<'_> {
        Connection { section: "events.kafka", brokers: &self.brokers, properties: &self.properties }
    }
}

impl EventsConfig {
    /// Looks for what cannot work; `Error::Config` names the key.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Kafka(config) => Producer::check(config.connection(), &config.topic),
        }
    }
}

/// Tells of parts.
#[derive(Debug)]
pub struct Events {
    producer: Producer,
    per: Per,
}

impl Events {
    /// Connects; `None` where nobody is to be told. Blocks for some seconds at most.
    pub(crate) fn open(config: &EventsConfig) -> Result<Option<Self>> {
        match config {
            EventsConfig::None => Ok(None),
            EventsConfig::Kafka(config) => {
                Ok(Some(Self { producer: Producer::open(config.connection(), &config.topic)?, per: config.per }))
            }
        }
    }

    /// Tells of the part with this footer, of `bytes` bytes, one try.
    pub(crate) async fn tell(&self, dataset: &Dataset, footer: &Footer, bytes: u64) -> Result<()> {
        if footer.rows == 0 {
            return Ok(());
        }
        let name = part_name(&footer.partition, footer.from);
        match self.per {
            Per::Part => self.producer.send(&[of_part(&dataset.folder, footer, &name, bytes)]).await,
            Per::Row => {
                let vanished = || Error::Unavailable {
                    what: dataset.folder.place(&name),
                    reason: "it cannot be read to tell of its rows".into(),
                };
                let part = StoredPart::open(&dataset.folder, &name).await?.ok_or_else(vanished)?;
                let mut columns = vec!["key", "variant", "status", "error_code", "offset"];
                let schema = part.metadata().file_metadata().schema_descr();
                columns.extend(schema.columns().iter().map(|column| column.name()).filter(|name| is_score(name)));
                let mut rows = part.rows(&columns, ROWS)?;
                let broken = |e| Error::DataLoss(format!("{}: {e}", dataset.folder.place(&name)));
                while let Some(batch) = rows.try_next().await.map_err(broken)? {
                    self.producer.send(&of_rows(footer, &batch)).await?;
                }
                Ok(())
            }
        }
    }
}

fn is_score(column: &str) -> bool {
    ["input_", "output_", "baseline_"].iter().any(|image| {
        column.strip_prefix(image).is_some_and(|rest| rest.starts_with("psnr_") || rest.starts_with("ssim_"))
    })
}

fn of_part(folder: &Folder, footer: &Footer, name: &str, bytes: u64) -> Outgoing {
    let value = json!({
        "dataset": footer.dataset,
        "dir": folder.place(""),
        "partition": footer.partition,
        "part": name,
        "from": footer.from,
        "end": footer.end,
        "rows": footer.rows,
        "failed": footer.failed,
        "bytes": bytes,
        "schema_hash": footer.schema_hash,
    });
    Outgoing { key: format!("{}/{name}", footer.dataset), value: value.to_string().into_bytes() }
}

fn of_rows(footer: &Footer, batch: &RecordBatch) -> Vec<Outgoing> {
    (0..batch.num_rows())
        .map(|row| {
            let mut value = Map::new();
            value.insert("dataset".into(), json!(footer.dataset));
            value.insert("partition".into(), json!(footer.partition));
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                // Infinite scores (identical images) are null: JSON has no such number.
                value.insert(field.name().clone(), cell(column, row));
            }
            let at = |name: &str| value.get(name).cloned().unwrap_or_default();
            let key = format!("{}/{}/{}/{}", footer.dataset, footer.partition, at("offset"), at("variant"));
            Outgoing { key, value: Value::Object(value).to_string().into_bytes() }
        })
        .collect()
}
