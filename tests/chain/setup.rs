//! A small dataset of one partition, its items, and a sink on it.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Int64Type};
use bytes::Bytes;
use futures::TryStreamExt;
use lm4lv::checkpoint::{Partition, Position};
use lm4lv::plan::PlannedPartition;
use lm4lv::sample::{Encoded, EncodedImage, Failure, FailureCode, Item, Record, Reference, Sample};
use lm4lv::sink::chain::Chain;
use lm4lv::sink::read::StoredPart;
use lm4lv::sink::verify::{Report, verify};
use lm4lv::sink::{Columns, Dataset, ImageColumn, Notice, Published, Sink, SinkConfig};
use lm4lv::store::Folder;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use crate::bucket::store;

pub(crate) fn columns(variants: u16) -> Columns {
    Columns {
        images: vec![ImageColumn::Input],
        messages: false,
        restores: false,
        scores: vec![],
        kept: Fields::from(vec![Field::new("caption", DataType::Utf8, true)]),
        timings: vec!["encode"],
        seed: Some(7),
        variants,
    }
}

pub(crate) fn dataset(folder: Folder) -> Dataset {
    Dataset {
        folder,
        id: "the-dataset".into(),
        content_hash: "content".into(),
        schema_hash: "schema".into(),
        source: "source".into(),
        give_up: Duration::from_secs(600),
        events: None,
    }
}

pub(crate) fn remote(store: Arc<dyn ObjectStore>) -> Folder {
    Folder::Remote { store, prefix: ObjectPath::from("out"), url: "mem://bucket/out".into() }
}

pub(crate) fn p() -> Partition {
    Partition::of_file(0, 0)
}

/// A dataset, its scratch folder and a sink on it, with small parts.
pub(crate) struct Setup {
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) folder: Folder,
    pub(crate) rows_per_part: u64,
    pub(crate) max_age_s: u64,
    pub(crate) variants: u16,
    pub(crate) writer: String,
}

impl Setup {
    pub(crate) fn remote() -> Self {
        Self::on(remote(store()))
    }

    pub(crate) fn on(folder: Folder) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        Self { scratch, folder, rows_per_part: 10, max_age_s: 300, variants: 1, writer: "writer".into() }
    }

    pub(crate) fn sink(&self) -> Sink {
        let config = SinkConfig {
            rows_per_part: self.rows_per_part,
            max_age_s: self.max_age_s,
            scratch: self.scratch.path().display().to_string(),
            ..SinkConfig::new("out")
        };
        Sink::new(dataset(self.folder.clone()), columns(self.variants), &config, "run", &self.writer).unwrap()
    }

    pub(crate) async fn started(&self) -> Sink {
        let mut sink = self.sink();
        start(&mut sink, 1).await;
        sink
    }

    pub(crate) fn item(&self, epoch: u64, seq: u64, offset: u64) -> Item {
        let record = Record {
            source_file: Some("refs.parquet".into()),
            source_row: Some(offset),
            ..Record::new(
                format!("key {offset}"),
                Reference::Uri(format!("images/{offset}.jpg")),
                Position { partition: p(), offset },
            )
        };
        let sample = |variant| Sample {
            variant,
            encoded: Encoded {
                input: Some(EncodedImage {
                    bytes: Bytes::from(vec![offset as u8; 100]),
                    extension: "png",
                    width: 8,
                    height: 4,
                }),
                ..Encoded::default()
            },
            timings: vec![("encode", 1.5)],
            ..Sample::default()
        };
        let samples = (0..self.variants).map(sample).collect();
        Item { record: Arc::new(record), epoch, seq, samples, attempts: 1, provisional: None }
    }

    pub(crate) fn failed(&self, epoch: u64, seq: u64, offset: u64, ticket: u64) -> Item {
        let mut item = self.item(epoch, seq, offset);
        item.provisional = Some(ticket);
        for sample in &mut item.samples {
            sample.failure = Some(Failure { code: FailureCode::ServerError, message: "503".into() });
        }
        item
    }

    pub(crate) async fn verify(&self, positions: u64, complete: bool) -> Report {
        verify(&self.folder, "the-dataset", &[planned(positions)], &|_| None, complete).await.unwrap()
    }

    /// Offset and variant of every row in the dataset, in order, and the spans of the parts.
    pub(crate) async fn rows(&self) -> (Vec<(i64, i32)>, Vec<(u64, u64)>) {
        let (mut rows, mut spans) = (Vec::new(), Vec::new());
        for entry in self.folder.list("data").await.unwrap() {
            let part = StoredPart::open(&self.folder, &entry.name).await.unwrap().unwrap();
            spans.push((part.footer().from, part.footer().end));
            let batches: Vec<_> = part.rows(&["variant", "offset"], 100).unwrap().try_collect().await.unwrap();
            for batch in batches {
                let offsets = batch.column_by_name("offset").unwrap().as_primitive::<Int64Type>();
                let variants = batch.column_by_name("variant").unwrap().as_primitive::<Int32Type>();
                rows.extend((0..batch.num_rows()).map(|i| (offsets.value(i), variants.value(i))));
            }
        }
        (rows, spans)
    }
}

pub(crate) fn planned(rows: u64) -> PlannedPartition {
    PlannedPartition { partition: p(), input: 0, path: "refs.parquet".into(), first_row: 0, rows, planned_rows: rows }
}

pub(crate) async fn start(sink: &mut Sink, epoch: u64) -> u64 {
    let chain = Chain::recover(&sink.dataset(), &p(), 0).await.unwrap();
    let end = chain.end();
    sink.start(chain, epoch).unwrap();
    end
}

/// Everything the sink has to say until it is idle.
pub(crate) async fn notices(sink: &mut Sink) -> Vec<Notice> {
    let mut all = Vec::new();
    while !sink.is_idle() {
        all.push(sink.next().await.unwrap());
    }
    all
}

pub(crate) fn published(notices: &[Notice]) -> Vec<&Published> {
    notices.iter().filter_map(|n| if let Notice::Published(p) = n { Some(p) } else { None }).collect()
}
