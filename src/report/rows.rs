//! A finished dataset, row by row: partitions in plan order, parts in chain order, rows as they lie in them.
//!
//! Reading needs nothing but `data/**/*.parquet`, so a copy without `.lm4lv` (one downloaded from a hub, say) reads as well.
//! Columns are found by name and cast to the type that [`Row`] holds, and absent ones are null: a reader that insists on
//! one writer's exact types could not read the datasets of the versions before and after it.
//!
//! At any time one row group of the columns asked for is in memory.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::datatypes::{DataType, SchemaRef};
use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::file::metadata::PageIndexPolicy;

use super::batch::Batch;
pub use super::part::Part;
use super::part::{PartReader, part_error};
pub use super::row::{Address, IMAGE_COLUMNS, Picture, Row, score_column};
use crate::checkpoint::Position;
use crate::error::{Error, Result};
use crate::sink::footer::parse_part_name;
use crate::store::Folder;

/// Rows decoded at once where images are read (their row group is in memory anyway) and where they are not.
const BATCH_WITH_IMAGES: usize = 16;
const BATCH: usize = 4096;

/// A dataset, opened for reading.
#[derive(Debug, Clone)]
pub struct Dataset {
    folder: Folder,
    place: String,
    parts: Vec<Part>,
}

/// Which columns to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Only what names a row and says whether it failed: `key, variant, partition, offset, status, error_code, path`s.
    Names,
    /// Everything but image bytes.
    Facts,
    /// Everything, image bytes included.
    All,
}

impl Dataset {
    /// Lists the parts below `folder`. `place` is the folder as the user wrote it, for messages.
    /// `Error::Config` if no dataset is there.
    pub async fn open(folder: Folder, place: &str) -> Result<Self> {
        let mut parts = Vec::new();
        for entry in folder.list("data").await? {
            if let Some((partition, from)) = parse_part_name(&entry.name) {
                parts.push(Part { name: entry.name, partition, from, size: entry.size });
            }
        }
        if parts.is_empty() && folder.get(".lm4lv/plan.json").await?.is_none() {
            return Err(Error::Config(format!(
                "{place}: no dataset here: neither data/*/*.parquet nor .lm4lv/plan.json was found"
            )));
        }
        parts.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(Self { folder, place: place.trim_end_matches('/').to_owned(), parts })
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The folder as the user wrote it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The folder's own name, for captions.
    pub fn name(&self) -> &str {
        self.place.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(&self.place)
    }

    /// Partitions in plan order, the parts of each in chain order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// All rows in order.
    pub fn rows(&self, columns: Columns) -> Rows<'_> {
        self.part_rows(0..self.parts.len(), columns)
    }

    /// The rows of some parts (indices into [`Self::parts`]) in order.
    pub fn part_rows(&self, parts: Range<usize>, columns: Columns) -> Rows<'_> {
        let reads = parts.map(|part| Read { part, only: None }).collect::<Vec<_>>();
        Rows { dataset: self, columns, reads: reads.into_iter(), open: None }
    }

    /// The rows at `addresses`, in that order, all of them in memory at once.
    pub async fn fetch(&self, addresses: &[Address], columns: Columns) -> Result<Vec<Row>> {
        let mut by_part: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for address in addresses {
            by_part.entry(address.part).or_default().push(address.row);
        }
        let mut found = BTreeMap::new();
        let mut reads = Vec::new();
        for (part, mut rows) in by_part {
            rows.sort_unstable();
            rows.dedup();
            reads.push(Read { part, only: Some(rows) });
        }
        let mut rows = Rows { dataset: self, columns, reads: reads.into_iter(), open: None };
        while let Some(row) = rows.next().await? {
            found.insert(row.at, row);
        }
        addresses
            .iter()
            .map(|at| found.get(at).cloned())
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::Bug(format!("{}: a row that was listed cannot be read again", self.place)))
    }

    /// Addresses of the rows of `key`, at most `limit`, in order; reads the names of all rows up to there.
    pub async fn find_key(&self, key: &str, variant: Option<u16>, limit: usize) -> Result<Vec<Address>> {
        let mut found = Vec::new();
        let mut rows = self.rows(Columns::Names);
        while found.len() < limit
            && let Some(row) = rows.next().await?
        {
            if row.key == key && variant.is_none_or(|v| v == row.variant) {
                found.push(row.at);
            }
        }
        Ok(found)
    }

    /// Addresses of the rows at `position`; reads names of one part only.
    pub async fn find_position(&self, position: &Position, variant: Option<u16>) -> Result<Vec<Address>> {
        let holds = |part: &Part| part.partition == position.partition && part.from <= position.offset;
        let Some(part) = self.parts.iter().rposition(holds) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut rows = self.part_rows(part..part + 1, Columns::Names);
        while let Some(row) = rows.next().await? {
            if row.position.offset == position.offset && variant.is_none_or(|v| v == row.variant) {
                found.push(row.at);
            }
        }
        Ok(found)
    }

    async fn open_part(&self, read: Read, columns: Columns) -> Result<OpenPart> {
        let part = &self.parts[read.part];
        let reader = PartReader::open(&self.folder, &part.name).await?;
        let wrong = |e| part_error(&self.folder, &part.name, e);
        // The page index pays where few rows are wanted: then only their pages are fetched.
        let index = if read.only.is_some() { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
        let options = ArrowReaderOptions::new().with_page_index_policy(index);
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await.map_err(wrong)?;
        let mask = projection(builder.schema(), builder.parquet_schema(), columns);
        let batch = if columns == Columns::All { BATCH_WITH_IMAGES } else { BATCH };
        builder = builder.with_projection(mask).with_batch_size(batch);
        let total = builder.metadata().file_metadata().num_rows().max(0) as u64;
        let numbers = match read.only {
            None => Numbers::All(0..total),
            Some(mut rows) => {
                rows.retain(|row| *row < total);
                let ranges = rows.iter().map(|row| *row as usize..*row as usize + 1);
                builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, total as usize));
                Numbers::Only(rows.into_iter())
            }
        };
        Ok(OpenPart { part: read.part, numbers, stream: Box::pin(builder.build().map_err(wrong)?), batch: None })
    }
}

/// A part and, if not all, the rows to read of it, ascending.
struct Read {
    part: usize,
    only: Option<Vec<u64>>,
}

/// The rows of a dataset, one at a time.
pub struct Rows<'a> {
    dataset: &'a Dataset,
    columns: Columns,
    reads: std::vec::IntoIter<Read>,
    open: Option<OpenPart>,
}

struct OpenPart {
    part: usize,
    numbers: Numbers,
    stream: std::pin::Pin<Box<ParquetRecordBatchStream<PartReader>>>,
    batch: Option<(Batch, usize)>,
}

/// The numbers, in their part, of the rows that a stream gives.
enum Numbers {
    All(Range<u64>),
    Only(std::vec::IntoIter<u64>),
}

impl Numbers {
    fn next(&mut self) -> Option<u64> {
        match self {
            Self::All(range) => range.next(),
            Self::Only(rows) => rows.next(),
        }
    }
}

impl Rows<'_> {
    /// The next row, `None` behind the last. `Error::DataLoss` for a part that cannot be read as one.
    pub async fn next(&mut self) -> Result<Option<Row>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(read) = self.reads.next() else { return Ok(None) };
                self.open = Some(self.dataset.open_part(read, self.columns).await?);
                continue;
            };
            let part = &self.dataset.parts[open.part];
            if let Some((batch, at)) = &mut open.batch
                && *at < batch.len
            {
                let number = open.numbers.next().unwrap_or_default();
                let row = batch.row(*at, Address { part: open.part, row: number }, &part.partition);
                *at += 1;
                return Ok(Some(row));
            }
            let next = open.stream.try_next().await;
            match next.map_err(|e| part_error(&self.dataset.folder, &part.name, e))? {
                None => self.open = None,
                Some(batch) => {
                    let batch = Batch::new(&batch).map_err(|(column, found)| {
                        Error::DataLoss(format!(
                            "{}: column `{column}` is {found}: not a dataset that lm4lv wrote",
                            self.dataset.folder.place(&part.name)
                        ))
                    })?;
                    open.batch = Some((batch, 0));
                }
            }
        }
    }
}

/// The leaves of the columns asked for; of image structs only `path` unless bytes are wanted.
fn projection(
    schema: &SchemaRef,
    parquet: &parquet::schema::types::SchemaDescriptor,
    columns: Columns,
) -> ProjectionMask {
    const NAMES: [&str; 6] = ["key", "variant", "partition", "offset", "status", "error_code"];
    let wanted = |leaf: &[String]| {
        let root = leaf.first().map(String::as_str).unwrap_or_default();
        let image = schema.field_with_name(root).is_ok_and(|field| is_image(field.data_type()));
        let bytes = image && leaf.last().is_some_and(|name| name == "bytes");
        match columns {
            Columns::All => true,
            Columns::Facts => !bytes,
            Columns::Names => (image && !bytes) || NAMES.contains(&root),
        }
    };
    let leaves = (0..parquet.num_columns()).filter(|i| wanted(parquet.column(*i).path().parts()));
    ProjectionMask::leaves(parquet, leaves.collect::<Vec<_>>())
}

/// True for `struct<bytes, path>`, with which Hugging Face marks images and other files.
pub(super) fn is_image(kind: &DataType) -> bool {
    let DataType::Struct(fields) = kind else { return false };
    fields.iter().all(|field| field.name() == "bytes" || field.name() == "path") && !fields.is_empty()
}
