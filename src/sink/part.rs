//! One part: rows → Parquet on local scratch, row group by row group, so that a full part never lies in memory.
//!
//! (long because building, closing and cutting a part share its counts)

use std::fs::File;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use tokio::time::Instant;
use uuid::Uuid;

use super::Dataset;
use super::footer::{FORMAT, Footer};
use super::outcomes::Outcomes;
use super::rows::{Row, Rows};
use super::schema::{Columns, HUGGINGFACE};
use super::scratch::{Scratch, ScratchFile};
use super::window::{row_weight, weight};
use crate::checkpoint::Partition;
use crate::error::{Error, Result};
use crate::sample::Item;

/// Rows wait as items until they weigh this much, or are this many, and then become pages of the open row group.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_ROWS: usize = 1024;

/// Most bytes of images in one record batch; an Arrow column holds 2 GiB.
const MAX_BATCH_BYTES: u64 = 1 << 30;

/// What every part of a run is built with.
#[derive(Debug)]
pub(crate) struct Factory {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) rows: Rows,
    pub(crate) scratch: Scratch,
    pub(crate) run: String,
    pub(crate) writer: String,
    /// Bytes at which a row group leaves memory.
    pub(crate) row_group_bytes: u64,
}

/// Counts of the rows so far.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    positions: u64,
    rows: u64,
    failed: u64,
    first: Option<u64>,
    last: Option<u64>,
}

/// Where in a part a provisional row stands.
#[derive(Debug, Clone)]
struct Mark {
    ticket: u64,
    /// The rows before it.
    before: Tally,
    /// What came of those.
    outcomes: Outcomes,
}

/// A part that still takes rows.
#[derive(Debug)]
pub(crate) struct OpenPart {
    factory: Arc<Factory>,
    writer: ArrowWriter<File>,
    file: ScratchFile,
    id: String,
    partition: Partition,
    from: u64,
    tally: Tally,
    outcomes: Outcomes,
    pending: Vec<Item>,
    pending_rows: usize,
    pending_bytes: u64,
    /// Bytes in the writer's memory, and in the file besides, behind the last batch: asking takes longer than a small row.
    in_memory: u64,
    in_file: u64,
    marks: Vec<Mark>,
    /// When its first row came.
    pub(crate) opened: Instant,
}

/// A finished part on scratch.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) footer: Footer,
    pub(crate) file: ScratchFile,
    /// Of the file.
    pub(crate) bytes: u64,
    /// What came of its rows.
    pub(crate) outcomes: Outcomes,
    marks: Vec<Mark>,
}

impl OpenPart {
    /// A part that continues `partition`'s chain at `from`.
    pub(crate) fn create(factory: &Arc<Factory>, partition: &Partition, from: u64) -> Result<Self> {
        let id = Uuid::new_v4().to_string();
        let file = factory.scratch.file(&id);
        let created = File::create_new(file.path()).map_err(|e| Error::disk(file.path(), e))?;
        let writer = ArrowWriter::try_new(created, Arc::clone(factory.rows.schema()), Some(properties(&factory.rows)))
            .map_err(|e| failed(&file, e))?;
        Ok(Self {
            factory: Arc::clone(factory),
            writer,
            file,
            id,
            partition: partition.clone(),
            from,
            tally: Tally::default(),
            outcomes: Outcomes::default(),
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            in_memory: 0,
            in_file: 0,
            marks: Vec::new(),
            opened: Instant::now(),
        })
    }

    /// Takes the rows of the next position.
    pub(crate) fn push(&mut self, item: Item) -> Result<()> {
        let offset = item.record.position.offset;
        if let Some(ticket) = item.provisional {
            self.marks.push(Mark { ticket, before: self.tally, outcomes: self.outcomes.clone() });
        }
        self.tally.positions += 1;
        self.tally.rows += item.samples.len() as u64;
        self.tally.failed += item.samples.iter().filter(|sample| sample.failure.is_some()).count() as u64;
        item.samples.iter().for_each(|sample| self.outcomes.push(sample));
        self.tally.first.get_or_insert(offset);
        self.tally.last = Some(offset);
        self.pending_rows += item.samples.len();
        self.pending_bytes += weight(&item);
        self.pending.push(item);
        if self.pending_bytes >= BATCH_BYTES || self.pending_rows >= BATCH_ROWS {
            self.write_pending()?;
        }
        if self.held() >= self.factory.row_group_bytes {
            self.flush()?;
        }
        Ok(())
    }

    fn write_pending(&mut self) -> Result<()> {
        let rows: Vec<Row<'_>> =
            self.pending.iter().flat_map(|item| item.samples.iter().map(move |sample| (item, sample))).collect();
        let mut begin = 0;
        while begin < rows.len() {
            let (mut bytes, mut end) = (0, begin);
            while end < rows.len() {
                let (item, sample) = rows[end];
                bytes += row_weight(item.record.bytes(), sample);
                if end > begin && bytes > MAX_BATCH_BYTES {
                    break;
                }
                end += 1;
            }
            let batch = self.factory.rows.batch(&rows[begin..end]);
            let batch =
                batch.map_err(|e| Error::Bug(format!("rows of {} do not fit the schema: {e}", self.partition)))?;
            self.writer.write(&batch).map_err(|e| failed(&self.file, e))?;
            begin = end;
        }
        self.pending.clear();
        (self.pending_rows, self.pending_bytes) = (0, 0);
        self.measure();
        Ok(())
    }

    /// Writes the open row group to the disk.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.write_pending()?;
        self.writer.flush().map_err(|e| failed(&self.file, e))?;
        self.measure();
        Ok(())
    }

    fn measure(&mut self) {
        self.in_memory = self.writer.memory_size() as u64;
        self.in_file = (self.writer.bytes_written() + self.writer.in_progress_size()) as u64;
    }

    /// Bytes in memory.
    pub(crate) fn held(&self) -> u64 {
        self.pending_bytes + self.in_memory
    }

    /// Bytes of the file if it were closed now, about.
    pub(crate) fn size(&self) -> u64 {
        self.pending_bytes + self.in_file
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> u64 {
        self.tally.rows
    }

    /// True if it has a row that could still be tried again.
    pub(crate) fn provisional_above(&self, settled: Option<u64>) -> bool {
        self.marks.iter().any(|mark| Some(mark.ticket) > settled)
    }

    /// Finishes the part: it covers every position below `end`. Without rows it says why, by `reason`.
    pub(crate) fn close(mut self, end: u64, reason: Option<&str>) -> Result<Part> {
        self.write_pending()?;
        let Self { factory, writer, file, id, partition, from, tally, outcomes, marks, .. } = self;
        finish(&factory, writer, file, id, partition, (from, end), (tally, outcomes), marks, reason)
    }
}

impl Part {
    /// The greatest ticket that must be settled before it can be published.
    pub(crate) fn ticket(&self) -> Option<u64> {
        self.marks.iter().map(|mark| mark.ticket).max()
    }

    /// The part up to its first row that is provisional beyond `settled`; `None` if nothing is left, the whole part if it
    /// has no such row.
    pub(crate) fn cut(self, factory: &Arc<Factory>, settled: Option<u64>) -> Result<Option<Self>> {
        let Some(mark) = self.marks.iter().find(|mark| Some(mark.ticket) > settled) else { return Ok(Some(self)) };
        let (tally, outcomes) = (mark.before, mark.outcomes.clone());
        let Some(last) = tally.last else { return Ok(None) };
        let id = Uuid::new_v4().to_string();
        let file = factory.scratch.file(&id);
        let created = File::create_new(file.path()).map_err(|e| Error::disk(file.path(), e))?;
        let schema = factory.rows.schema();
        let mut writer = ArrowWriter::try_new(created, Arc::clone(schema), Some(properties(&factory.rows)))
            .map_err(|e| failed(&file, e))?;
        let whole = File::open(self.file.path()).map_err(|e| Error::disk(self.file.path(), e))?;
        // Few rows at a time: each may hold many megabytes of images.
        let reader = ParquetRecordBatchReaderBuilder::try_new(whole)
            .and_then(|builder| {
                builder.with_batch_size(8).with_limit(usize::try_from(tally.rows).unwrap_or(usize::MAX)).build()
            })
            .map_err(|e| failed(&self.file, e))?;
        for batch in reader {
            let batch = batch
                .and_then(|batch| RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec()))
                .map_err(|e| failed(&self.file, e.into()))?;
            writer.write(&batch).map_err(|e| failed(&file, e))?;
            if writer.memory_size() as u64 >= factory.row_group_bytes {
                writer.flush().map_err(|e| failed(&file, e))?;
            }
        }
        let Footer { partition, from, .. } = self.footer.clone();
        finish(factory, writer, file, id, partition, (from, last + 1), (tally, outcomes), Vec::new(), None).map(Some)
    }
}

#[expect(clippy::too_many_arguments, reason = "the two ways to make a part end here, with all they have")]
fn finish(
    factory: &Factory,
    mut writer: ArrowWriter<File>,
    file: ScratchFile,
    part: String,
    partition: Partition,
    (from, end): (u64, u64),
    (tally, outcomes): (Tally, Outcomes),
    marks: Vec<Mark>,
    reason: Option<&str>,
) -> Result<Part> {
    let dataset = &factory.dataset;
    let footer = Footer {
        format: FORMAT,
        dataset: dataset.id.clone(),
        part,
        partition,
        from,
        end,
        first: tally.first,
        last: tally.last,
        variants: factory.rows.columns().variants,
        rows: tally.rows,
        failed: tally.failed,
        skipped: (end - from) - tally.positions,
        reason: reason.map(str::to_owned),
        writer: factory.writer.clone(),
        run: factory.run.clone(),
        content_hash: dataset.content_hash.clone(),
        schema_hash: dataset.schema_hash.clone(),
        source: dataset.source.clone(),
    };
    for pair in footer.key_values() {
        writer.append_key_value_metadata(pair);
    }
    writer.finish().map_err(|e| failed(&file, e))?;
    let bytes = writer.bytes_written() as u64;
    Ok(Part { footer, file, bytes, outcomes, marks })
}

/// Images as they are (they are compressed), everything else small; no statistics of images, short ones of the rest.
fn properties(rows: &Rows) -> WriterProperties {
    let Columns { images, .. } = rows.columns();
    let features = rows.schema().metadata().get(HUGGINGFACE).cloned();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let mut properties = WriterProperties::builder()
        .set_compression(zstd)
        .set_key_value_metadata(Some(vec![KeyValue::new(HUGGINGFACE.to_owned(), features)]))
        .set_max_row_group_row_count(None);
    // Every row has another: a dictionary would be given up after its hashing.
    for unique in ["key", "url", "sha256", "kafka_key"] {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(unique), false);
    }
    for rising in ["offset", "source_row", "timestamp"] {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(rising), false)
            .set_column_encoding(ColumnPath::from(rising), Encoding::DELTA_BINARY_PACKED);
    }
    for image in images {
        let bytes = || ColumnPath::new(vec![image.name().to_owned(), "bytes".to_owned()]);
        properties = properties
            .set_column_compression(bytes(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(bytes(), false)
            .set_column_statistics_enabled(bytes(), EnabledStatistics::None);
    }
    properties.build()
}

/// A writer's error: the disk's, or ours.
fn failed(file: &ScratchFile, error: ParquetError) -> Error {
    let text = error.to_string();
    let io = match error {
        ParquetError::External(source) => source.downcast::<std::io::Error>().ok(),
        _ => None,
    };
    match io {
        Some(source) => Error::disk(file.path(), *source),
        None => Error::Bug(format!("{}: {text}", file.path().display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_the_disk_s_fault() {
        let dir = tempfile::tempdir().unwrap();
        let file = Scratch::open(dir.path()).unwrap().file("x");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(failed(&file, full.into()), Error::Disk { path, .. } if path.ends_with("x.parquet")));
        assert!(matches!(failed(&file, ParquetError::General("?".into())), Error::Bug(_)));
    }

    #[test]
    fn the_sink_can_go_to_a_thread_of_its_own() {
        fn is_send<T: Send>() {}
        is_send::<super::super::Sink>();
    }
}
