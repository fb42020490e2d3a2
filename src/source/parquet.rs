//! Rows of Parquet files as a source.
//!
//! Files are read row group by row group, each with batches small enough that about 4 MiB are decoded at once. A partition
//! is any range of rows, and row groups of other writers may be as large as the file, so what is open stays open from one
//! partition to the next if that begins where the last ended. A start in the middle skips pages, or values within one,
//! without decoding them. Rows that `where` refuses are found by reading its columns alone first.
//!
//! A file is read page by page, in threads that may wait. A remote one is read ahead in blocks (see [`ranged`]), and of the
//! version that the plan saw: a GET names its ETag.
//!
//! Inline images are copied out of the batch: a record that waits in the pipeline holds its own bytes only. What cannot be
//! bounded here is the writer's choice: a page is decoded whole (pyarrow puts 1,024 values in one, however large).
//!
//! A third of this file is tests: they need its private parts to read from a store in memory.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use sha2::{Digest, Sha256};

use super::Fits;
use super::planned::{Batch, Rows};
use crate::checkpoint::Position;
use crate::error::{Error, Result};
use crate::plan::{Input, Opened, PlannedPartition};
use crate::sample::{Record, Reference};

mod cast;
mod columns;
mod detect;
mod file;
mod filter;
mod footer;
mod ranged;

pub use columns::ColumnNames;
pub(crate) use columns::Columns;
pub(crate) use file::ParquetFile;

use cast::references;
use columns::Bound;
use file::{Batches, OpenFile};

/// Decoded bytes to aim at in one batch, by the row group's average.
const BATCH_BYTES: u64 = 4 << 20;

/// Rows in a batch. Averages deceive: the fewer rows, the less a few huge images among small ones can do.
const MAX_ROWS: u64 = 512;
const MAX_INLINE_ROWS: u64 = 64;

/// Rows no larger than this are read and dropped to get ahead in an open row group; for larger ones it is opened again.
const CHEAP_ROW: u64 = 1024;

/// Reads the Parquet files of a plan.
pub(crate) struct ParquetRows {
    columns: Columns,
    /// By input: how to open it, and what it must be.
    files: Vec<(Arc<ParquetFile>, Input)>,
    /// Which references are short enough to be fetched.
    fits: Fits,
}

/// The file and row group being read.
#[derive(Default)]
pub(crate) struct Cursor {
    file: Option<(usize, Arc<OpenFile>)>,
    group: Option<Group>,
}

/// A row group being read forward.
struct Group {
    input: usize,
    /// Rows of the file below this one are done with.
    next: u64,
    /// The row behind the group's last.
    end: u64,
    /// Whether rows may be dropped to get ahead.
    cheap: bool,
    /// The rows that `batches` still has.
    selected: VecDeque<Range<u64>>,
    batches: Batches,
    /// Rows decoded but not asked for yet, and their numbers.
    left: Option<(RecordBatch, Vec<u64>)>,
}

impl ParquetRows {
    /// Over the inputs of a plan that was checked against `files`.
    pub(crate) fn new(files: Vec<Arc<ParquetFile>>, columns: Columns, opened: &Opened, fits: Fits) -> Result<Self> {
        let by_name: HashMap<_, _> = files.iter().map(|file| (&*file.name, file)).collect();
        let file = |input: &Input| match by_name.get(input.path.as_str()) {
            Some(file) => Ok(((*file).clone(), input.clone())),
            None => Err(Error::Bug(format!("{} is in the plan but was not looked for", input.path))),
        };
        let files = opened.inputs.iter().map(file).collect::<Result<_>>()?;
        Ok(Self { columns, files, fits })
    }

    async fn file(&self, cursor: &mut Cursor, input: usize) -> Result<Arc<OpenFile>> {
        if let Some((open, file)) = &cursor.file
            && *open == input
        {
            return Ok(file.clone());
        }
        let (file, planned) =
            self.files.get(input).ok_or_else(|| Error::Bug(format!("the plan has no input {input}")))?;
        let file = Arc::new(OpenFile::open(file, planned, &self.columns).await?);
        *cursor = Cursor { file: Some((input, file.clone())), group: None };
        Ok(file)
    }
}

impl Rows for ParquetRows {
    type Cursor = Cursor;

    async fn read(&self, cursor: &mut Cursor, partition: &PlannedPartition, at: u64) -> Result<Batch> {
        // Whatever fails on the way, the next try opens the file again.
        let mut own = std::mem::take(cursor);
        let file = self.file(&mut own, partition.input).await?;
        let row = partition.first_row + at;
        let until = partition.first_row + partition.rows;
        let fits = |group: &Group| {
            group.input == partition.input
                && row < group.end
                && (row == group.next || (row > group.next && group.cheap))
        };
        let mut group = match own.group.take().filter(fits) {
            Some(group) => group,
            None => Group::open(&file, partition.input, row).await?,
        };
        let rows = group.take(&file, row, until).await?;
        let next = group.next - partition.first_row;
        own.group = (group.next < group.end).then_some(group);
        *cursor = own;
        let records = match rows {
            None => Vec::new(),
            Some((batch, rows)) => super::blocking(|| records(&file.bound, &batch, &rows, partition, &self.fits))
                .map_err(|error| file.unreadable(rows[0], &error))?,
        };
        Ok(Batch { records, next })
    }
}

impl Group {
    /// The row group of `row`, from there on.
    async fn open(file: &OpenFile, input: usize, row: u64) -> Result<Self> {
        let (number, group) = file.group_of(row)?;
        let end = group.end;
        let selected = match &file.bound.filter {
            None => std::iter::once(row..end).collect(),
            Some(filter) => {
                let size = file.row_bytes(number, &filter.mask).max(1);
                let at_once = (BATCH_BYTES / size).clamp(1, 8192);
                let all = std::iter::once(row..end).collect();
                let mut batches = file.batches(number, &filter.mask, &all, at_once).await?;
                let mut selected = filter::Ranges::from(row);
                while let Some(batch) = batches.next(file, row).await? {
                    let mask = super::blocking(|| filter.matches(&batch));
                    selected.extend(&mask.map_err(|error| file.unreadable(row, &error))?);
                }
                selected.finish()
            }
        };
        let size = file.row_bytes(number, &file.bound.mask);
        let most = if file.bound.inline { MAX_INLINE_ROWS } else { MAX_ROWS };
        let at_once = (BATCH_BYTES / size.max(1)).clamp(1, most);
        let batches = file.batches(number, &file.bound.mask, &selected, at_once).await?;
        Ok(Self { input, next: row, end, cheap: size <= CHEAP_ROW, selected, batches, left: None })
    }

    /// Some rows from `row` on and below `until`, with their numbers, and moves `next` behind them. `None` if there are no
    /// more of them in this group.
    async fn take(&mut self, file: &OpenFile, row: u64, until: u64) -> Result<Option<(RecordBatch, Vec<u64>)>> {
        loop {
            let (batch, mut rows) = match self.left.take() {
                Some(left) => left,
                None => match self.batches.next(file, self.next).await? {
                    Some(batch) => {
                        let rows = self.number(batch.num_rows());
                        if rows.len() != batch.num_rows() {
                            return Err(file.unreadable(self.next, &"it has more rows than its footer says"));
                        }
                        (batch, rows)
                    }
                    None if self.selected.is_empty() => {
                        self.next = self.end.min(until);
                        return Ok(None);
                    }
                    None => return Err(file.unreadable(self.next, &"it has fewer rows than its footer says")),
                },
            };
            let from = rows.partition_point(|&number| number < row);
            let to = rows.partition_point(|&number| number < until);
            if to < rows.len() {
                self.left = Some((batch.slice(to, rows.len() - to), rows.split_off(to)));
            }
            if from < to {
                self.next = match (&self.left, self.selected.front()) {
                    (Some(_), _) => until,
                    (None, Some(more)) => more.start.min(until),
                    (None, None) => self.end.min(until),
                };
                return Ok(Some((batch.slice(from, to - from), rows.split_off(from))));
            }
            if self.left.is_some() {
                self.next = until;
                return Ok(None);
            }
        }
    }

    /// The numbers of the next `n` rows.
    fn number(&mut self, n: usize) -> Vec<u64> {
        let mut rows = Vec::with_capacity(n);
        while let Some(range) = self.selected.front_mut().filter(|_| rows.len() < n) {
            let more = (range.end - range.start).min((n - rows.len()) as u64);
            rows.extend(range.start..range.start + more);
            range.start += more;
            if range.start == range.end {
                self.selected.pop_front();
            }
        }
        rows
    }
}

/// The records of `batch`, whose rows are the file's `rows`.
fn records(
    bound: &Bound,
    batch: &RecordBatch,
    rows: &[u64],
    partition: &PlannedPartition,
    fits: &Fits,
) -> Result<Vec<Record>, ArrowError> {
    let text = |at: usize| arrow::compute::cast(batch.column(at), &DataType::Utf8);
    let keys = bound.key.map(text).transpose()?;
    let keys = keys.as_ref().map(|keys| keys.as_string::<i32>());
    let tasks = bound.task.map(text).transpose()?;
    let tasks = tasks.as_ref().map(|tasks| tasks.as_string::<i32>());
    let targets = match &bound.target {
        Some((at, kind)) => Some(references(batch.column(*at), kind, fits)?),
        None => None,
    };
    let mut targets = targets.into_iter().flatten();
    let kept = bound.kept(batch)?;
    let (at, kind) = &bound.reference;
    let value = |array: Option<&arrow::array::StringArray>, i: usize| {
        array.and_then(|array| arrow::array::Array::is_valid(array, i).then(|| array.value(i).to_owned()))
    };
    let records = references(batch.column(*at), kind, fits)?.into_iter().enumerate().map(|(i, reference)| Record {
        key: value(keys, i).unwrap_or_else(|| key_of(&reference)),
        reference,
        target: bound.target.is_some().then(|| targets.next().unwrap_or(Reference::Missing)),
        task: value(tasks, i),
        position: Position { partition: partition.partition.clone(), offset: rows[i] - partition.first_row },
        source_file: Some(partition.path.clone()),
        source_row: Some(rows[i]),
        listed: None,
        kept: kept.as_ref().map(|kept| kept.slice(i, 1)),
        message: None,
    });
    Ok(records.collect())
}

/// The key of a row that has none: the reference as written, or the SHA-256 of its bytes, hex; nothing for a null.
fn key_of(reference: &Reference) -> String {
    match reference {
        Reference::Missing | Reference::Unreadable(_) => String::new(),
        Reference::Uri(text) | Reference::TooLong { start: text, .. } => text.clone(),
        Reference::Inline { bytes, .. } => Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int64Array, StringArray};
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};

    use super::*;
    use crate::checkpoint::Partition;
    use crate::source::files::{Found, Handle};

    fn file(rows: i64, group: usize) -> Vec<u8> {
        let ids = Int64Array::from_iter_values(0..rows);
        let urls = StringArray::from_iter_values((0..rows).map(|i| format!("{i}.jpg")));
        let blobs = BinaryArray::from_iter_values((0..rows).map(|i| vec![i as u8; 3000]));
        let columns: [(&str, arrow::array::ArrayRef); 3] =
            [("id", Arc::new(ids)), ("url", Arc::new(urls)), ("blob", Arc::new(blobs))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = ::parquet::file::properties::WriterProperties::builder()
            .set_max_row_group_row_count(Some(group))
            .set_data_page_row_count_limit(20)
            .set_write_batch_size(10);
        let mut bytes = Vec::new();
        let mut writer =
            ::parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes
    }

    async fn remote(store: &Arc<dyn ObjectStore>, bytes: Vec<u8>, yaml: &str) -> ParquetRows {
        let path = object_store::path::Path::from("p/a.parquet");
        store.put(&path, bytes.into()).await.unwrap();
        let meta = store.head(&path).await.unwrap();
        let found = Found {
            below: String::new(),
            handle: Handle::Remote { store: store.clone(), path },
            size: meta.size,
            mtime_ns: 0,
            e_tag: meta.e_tag,
        };
        let (file, schema) = ParquetFile::look("s3://b/p/a.parquet".into(), found, None, true).await.unwrap();
        let crate::source::SourceConfig::Parquet(config) = serde_saphyr::from_str(yaml).unwrap() else { panic!() };
        let columns = Columns::resolve(&config, &schema.unwrap(), "a", |_| false).unwrap();
        let input = file.as_input(100);
        ParquetRows { columns, files: vec![(Arc::new(file), input)], fits: Arc::new(|_| true) }
    }

    fn partition(first_row: u64, rows: u64) -> PlannedPartition {
        let partition = Partition::of_file(0, first_row as usize);
        PlannedPartition { partition, input: 0, path: "a".into(), first_row, rows, planned_rows: rows }
    }

    async fn read(
        source: &ParquetRows,
        cursor: &mut Cursor,
        partition: &PlannedPartition,
        at: u64,
    ) -> Result<Vec<u64>> {
        let (mut at, mut ids) = (at, Vec::new());
        while at < partition.rows {
            let batch = source.read(cursor, partition, at).await?;
            assert!(batch.next > at && batch.next <= partition.rows);
            for record in &batch.records {
                assert!(record.position.offset >= at && record.position.offset < batch.next);
                assert_eq!(record.source_row, Some(partition.first_row + record.position.offset));
                ids.push(record.key.parse().unwrap());
            }
            at = batch.next;
        }
        Ok(ids)
    }

    #[tokio::test]
    async fn reads_an_object_by_ranges() {
        for columns in ["{ reference: url }", "{ reference: blob }"] {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let yaml = format!("parquet: {{ path: a, columns: {columns} }}");
            let source = remote(&store, file(1000, 300), &yaml).await;
            let mut cursor = Cursor::default();
            // Next to each other, then with a gap as a shard leaves it, then back.
            for (first, rows, at) in [(0, 250, 0), (250, 250, 0), (700, 100, 0), (990, 10, 9), (10, 5, 2)] {
                let ids = read(&source, &mut cursor, &partition(first, rows), at).await.unwrap();
                assert_eq!(ids, (first + at..first + rows).collect::<Vec<_>>(), "{columns} {first}");
            }
        }
    }

    #[tokio::test]
    async fn filters_an_object() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let yaml =
            "parquet: { path: a, columns: { reference: blob }, where: { url: [7.jpg, 299.jpg, 300.jpg, 999.jpg] } }";
        let source = remote(&store, file(1000, 300), yaml).await;
        let mut cursor = Cursor::default();
        assert_eq!(read(&source, &mut cursor, &partition(0, 300), 0).await.unwrap(), [7, 299]);
        assert_eq!(read(&source, &mut cursor, &partition(300, 600), 0).await.unwrap(), [300]);
        assert_eq!(read(&source, &mut cursor, &partition(900, 100), 50).await.unwrap(), [999]);
        assert_eq!(read(&source, &mut cursor, &partition(0, 300), 8).await.unwrap(), [299]);
    }

    #[tokio::test]
    async fn an_object_that_changes_stops_the_run() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = remote(&store, file(1000, 300), "parquet: { path: a, columns: { reference: url } }").await;
        let mut cursor = Cursor::default();
        read(&source, &mut cursor, &partition(0, 100), 0).await.unwrap();
        store.put(&"p/a.parquet".into(), file(1000, 300).into()).await.unwrap();
        let error = read(&source, &mut cursor, &partition(400, 100), 0).await.unwrap_err();
        assert!(matches!(&error, Error::DataLoss(message) if message.contains("s3://b/p/a.parquet")), "{error}");
    }

    #[tokio::test]
    async fn an_open_row_group_is_read_on() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = remote(&store, file(1000, 1000), "parquet: { path: a, columns: { reference: blob } }").await;
        let mut cursor = Cursor::default();
        read(&source, &mut cursor, &partition(0, 100), 0).await.unwrap();
        // What is open needs the store no more.
        store.delete(&"p/a.parquet".into()).await.unwrap();
        assert_eq!(read(&source, &mut cursor, &partition(100, 900), 0).await.unwrap().len(), 900);
    }
}
