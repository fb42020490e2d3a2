//! What a part says of itself: the key-values of its Parquet footer, of which the chain is made.

use std::collections::HashMap;

use parquet::file::metadata::{KeyValue, ParquetMetaData};
use serde::Serialize;

use crate::checkpoint::Partition;

/// Version of the footer's format.
pub const FORMAT: u32 = 1;

/// The name of a part that continues a chain at `from`.
pub fn part_name(partition: &Partition, from: u64) -> String {
    format!("data/{partition}/{from:020}.parquet")
}

/// Partition and `from` of a part's name; `None` if `name` is not one.
pub fn parse_part_name(name: &str) -> Option<(Partition, u64)> {
    let (partition, file) = name.strip_prefix("data/")?.split_once('/')?;
    let digits = file.strip_suffix(".parquet")?;
    let from = digits.parse().ok().filter(|_| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))?;
    Some((Partition::new(partition), from))
}

/// A part's own account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Footer {
    /// Version of this format.
    pub format: u32,
    /// The dataset's id, from its plan.
    pub dataset: String,
    /// A UUID, fresh for every file built: tells our own part from one of the same name that somebody else wrote.
    pub part: String,
    /// The partition.
    pub partition: Partition,
    /// The first offset covered; also the part's name.
    pub from: u64,
    /// The offset behind the last one covered; where the chain continues.
    pub end: u64,
    /// Offset of the first row; `None` without rows.
    pub first: Option<u64>,
    /// Offset of the last row; `None` without rows.
    pub last: Option<u64>,
    /// Rows for each position.
    pub variants: u16,
    /// Rows.
    pub rows: u64,
    /// Rows that failed.
    pub failed: u64,
    /// Positions in `from..end` without rows.
    pub skipped: u64,
    /// Why there are no rows, in a part without any.
    pub reason: Option<String>,
    /// The process that wrote it.
    pub writer: String,
    /// The run that wrote it.
    pub run: String,
    /// Of what made the rows (see `Plan::content_hash`).
    pub content_hash: String,
    /// Of the columns (see `Plan::schema_hash`).
    pub schema_hash: String,
    /// What the input is, as the plan identifies it.
    pub source: String,
}

impl Footer {
    /// As Parquet key-values, each key behind `lm4lv.`.
    pub(crate) fn key_values(&self) -> Vec<KeyValue> {
        let mut pairs = vec![
            ("format", self.format.to_string()),
            ("dataset", self.dataset.clone()),
            ("part", self.part.clone()),
            ("partition", self.partition.to_string()),
            ("from", self.from.to_string()),
            ("end", self.end.to_string()),
            ("variants", self.variants.to_string()),
            ("rows", self.rows.to_string()),
            ("failed", self.failed.to_string()),
            ("skipped", self.skipped.to_string()),
            ("writer", self.writer.clone()),
            ("run", self.run.clone()),
            ("content_hash", self.content_hash.clone()),
            ("schema_hash", self.schema_hash.clone()),
            ("source", self.source.clone()),
        ];
        pairs.extend(self.first.map(|first| ("first", first.to_string())));
        pairs.extend(self.last.map(|last| ("last", last.to_string())));
        pairs.extend(self.reason.clone().map(|reason| ("reason", reason)));
        pairs.into_iter().map(|(key, value)| KeyValue::new(format!("lm4lv.{key}"), value)).collect()
    }

    /// From a file's key-values; the `Err` says what is missing or wrong.
    pub(crate) fn from_metadata(metadata: &ParquetMetaData) -> Result<Self, String> {
        let pairs: HashMap<&str, &str> = metadata
            .file_metadata()
            .key_value_metadata()
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair.key.strip_prefix("lm4lv.")?, pair.value.as_deref()?)))
            .collect();
        fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("footer key lm4lv.{key} is `{value}`, not such a number"))
        }
        let text = |key: &str| {
            pairs.get(key).map(|value| (*value).to_owned()).ok_or(format!("footer key lm4lv.{key} is missing"))
        };
        let whole = |key: &str| number::<u64>(key, &text(key)?);
        let maybe = |key: &str| pairs.get(key).map(|value| number::<u64>(key, value)).transpose();
        let format = number("format", &text("format")?)?;
        if format > FORMAT {
            return Err(format!("written by a newer lm4lv (footer format {format}, this one knows {FORMAT})"));
        }
        Ok(Self {
            format,
            dataset: text("dataset")?,
            part: text("part")?,
            partition: Partition::new(text("partition")?),
            from: whole("from")?,
            end: whole("end")?,
            first: maybe("first")?,
            last: maybe("last")?,
            variants: number("variants", &text("variants")?)?,
            rows: whole("rows")?,
            failed: whole("failed")?,
            skipped: whole("skipped")?,
            reason: pairs.get("reason").map(|reason| (*reason).to_owned()),
            writer: text("writer")?,
            run: text("run")?,
            content_hash: text("content_hash")?,
            schema_hash: text("schema_hash")?,
            source: text("source")?,
        })
    }

    /// What is wrong with this footer in part `name` of `dataset`, if anything: the checks of recovery.
    pub fn fault(&self, dataset: &str, name: &str) -> Option<String> {
        if self.dataset != dataset {
            return Some(format!("belongs to dataset {}, not {dataset}", self.dataset));
        }
        let Some((partition, from)) = parse_part_name(name) else {
            return Some("its name is not a part's".to_owned());
        };
        if self.partition != partition {
            return Some(format!("belongs to partition {}", self.partition));
        }
        if self.from != from {
            return Some(format!("its footer begins at {}, its name at {from}", self.from));
        }
        (self.end <= self.from).then(|| format!("its footer ends at {}, not behind its beginning {from}", self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let partition = Partition::of_file(3, 12);
        let name = part_name(&partition, 250);
        assert_eq!(name, "data/00003-00012/00000000000000000250.parquet");
        assert_eq!(parse_part_name(&name), Some((partition.clone(), 250)));
        assert_eq!(parse_part_name(&part_name(&partition, u64::MAX)), Some((partition, u64::MAX)));
        for bad in [
            "data/a/250.parquet",
            "data/a/b/00000000000000000250.parquet",
            "a/00000000000000000250.parquet",
            "data/a/+0000000000000000250.parquet",
        ] {
            assert_eq!(parse_part_name(bad), None, "{bad}");
        }
    }
}
