//! Which columns mean what, and how their values become references.
//!
//! The first file of the plan decides the names; every other file must have columns of these names that can be read alike.
//! Writers differ in how they say "string" (plain, large, view, dictionary), so kinds are compared, not types. (long because each way not to fit has its own message)

use std::collections::BTreeMap;
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::schema::types::SchemaDescriptor;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::cast::plain;
use super::detect::{detect_key, detect_reference, marked_images};
use super::filter::{Condition, Filter};
use crate::error::{Error, Result};
use crate::source::{ColumnChoice, ParquetConfig, Values};

/// Which columns of the input are read as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnNames {
    /// The image.
    pub reference: String,
    /// The key; `None`: the reference as written, or the SHA-256 of inline bytes.
    pub key: Option<String>,
    /// The clean image.
    pub target: Option<String>,
    /// The task.
    pub task: Option<String>,
    /// Copied into the rows.
    pub keep: Vec<String>,
}

/// The columns of all files.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    names: ColumnNames,
    kept: SchemaRef,
    filter: BTreeMap<String, Values>,
}

/// How a column holds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing but nulls.
    Null,
    /// Paths or URIs.
    Text,
    /// Files.
    Bytes,
    /// `struct<bytes, path>`, by place in the struct.
    Struct { bytes: usize, path: Option<usize> },
}

/// The columns of one file.
pub(super) struct Bound {
    /// The columns that are read.
    pub(super) mask: ProjectionMask,
    /// Place in the batches read with `mask`, and kind.
    pub(super) reference: (usize, Kind),
    pub(super) target: Option<(usize, Kind)>,
    pub(super) key: Option<usize>,
    pub(super) task: Option<usize>,
    kept: Vec<usize>,
    kept_schema: SchemaRef,
    pub(super) filter: Option<Filter>,
    /// Whether images stand in the rows.
    pub(super) inline: bool,
}

fn is_text(data: &DataType) -> bool {
    match data {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_bytes(data: &DataType) -> bool {
    match data {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, values) => is_bytes(values),
        _ => false,
    }
}

impl Kind {
    pub(super) fn of(data: &DataType) -> Option<Self> {
        match data {
            DataType::Null => Some(Self::Null),
            data if is_text(data) => Some(Self::Text),
            data if is_bytes(data) => Some(Self::Bytes),
            DataType::Struct(fields) => {
                let (bytes, field) = fields.find("bytes")?;
                let path = fields.find("path");
                let fits = (is_bytes(field.data_type()) || field.data_type().is_null())
                    && path.is_none_or(|(_, field)| is_text(field.data_type()) || field.data_type().is_null());
                fits.then_some(Self::Struct { bytes, path: path.map(|(at, _)| at) })
            }
            _ => None,
        }
    }

    fn is_inline(self) -> bool {
        matches!(self, Self::Bytes | Self::Struct { .. })
    }
}

pub(super) fn is_image_struct(data: &DataType) -> bool {
    matches!(Kind::of(data), Some(Kind::Struct { path: Some(_), .. }))
}

/// `a, b, c`.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// The one column called `name`.
fn find(schema: &Schema, name: &str, key: &str, file: &str) -> Result<usize> {
    let mut at = schema.fields().iter().enumerate().filter(|(_, field)| field.name() == name).map(|(at, _)| at);
    match (at.next(), at.next()) {
        (Some(at), None) => Ok(at),
        (Some(_), Some(_)) => {
            Err(Error::Config(format!("{key}: {file} has several columns called {name}: rename them")))
        }
        (None, _) => Err(Error::Config(format!(
            "{key}: {file} has no column {name}; it has {}",
            list(schema.fields().iter().map(|field| field.name().as_str()))
        ))),
    }
}

fn image_column(schema: &Schema, name: &str, key: &str, file: &str) -> Result<(usize, Kind)> {
    let at = find(schema, name, key, file)?;
    let data = schema.field(at).data_type();
    let kind = Kind::of(data).ok_or_else(|| {
        let hint = match data {
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::ListView(_) => {
                ": one image a row, please: unnest the lists first"
            }
            _ => "",
        };
        Error::Config(format!(
            "{key}: column {name} of {file} has type {data}; an image is a string, binary or struct<bytes, path>{hint}"
        ))
    })?;
    Ok((at, kind))
}

fn key_column(schema: &Schema, name: &str, file: &str) -> Result<usize> {
    let key = "source.parquet.columns.key";
    let at = find(schema, name, key, file)?;
    let data = schema.field(at).data_type();
    if is_key(data) || data.is_null() {
        return Ok(at);
    }
    Err(Error::Config(format!("{key}: column {name} of {file} has type {data}; a key is a string or an integer")))
}

pub(super) fn is_key(data: &DataType) -> bool {
    is_text(data) || data.is_integer() || matches!(data, DataType::Dictionary(_, values) if values.is_integer())
}

fn task_column(schema: &Schema, name: &str, file: &str) -> Result<usize> {
    let key = "source.parquet.columns.task";
    let at = find(schema, name, key, file)?;
    let data = schema.field(at).data_type();
    if is_text(data) || data.is_null() {
        return Ok(at);
    }
    Err(Error::Config(format!("{key}: column {name} of {file} has type {data}; a task is a string")))
}

impl Columns {
    /// Decides which columns of `schema`, that of the plan's first file, are meant.
    pub(crate) fn resolve(
        config: &ParquetConfig,
        schema: &Schema,
        file: &str,
        reserved: fn(&str) -> bool,
    ) -> Result<Self> {
        let optional = |choice: &ColumnChoice, key: &str| match choice {
            ColumnChoice::None => Ok(None),
            ColumnChoice::Named(name) => Ok(Some(name.clone())),
            ColumnChoice::Auto => Err(Error::Config(format!(
                "source.parquet.columns.{key}: auto is not possible here: name the column, or none"
            ))),
        };
        let target = optional(&config.columns.target, "target")?;
        let task = optional(&config.columns.task, "task")?;
        let reference = match &config.columns.reference {
            ColumnChoice::Named(name) => name.clone(),
            ColumnChoice::Auto => detect_reference(schema, file, &[&target, &task])?,
            ColumnChoice::None => {
                let message = "source.parquet.columns.reference: none is not possible: name the image column, or auto";
                return Err(Error::Config(message.into()));
            }
        };
        let key = match &config.columns.key {
            ColumnChoice::Named(name) => Some(name.clone()),
            ColumnChoice::Auto => detect_key(schema),
            ColumnChoice::None => None,
        };
        let mut columns = Self {
            names: ColumnNames { reference, key, target, task, keep: Vec::new() },
            kept: Arc::new(Schema::empty()),
            filter: config.filter.clone(),
        };
        columns.names.keep = columns.kept_names(&config.keep, schema, file, reserved)?;
        let mut kept = Vec::new();
        for name in &columns.names.keep {
            let data = schema.field(find(schema, name, "source.parquet.keep", file)?).data_type();
            kept.push(Field::new(name, plain(data), true));
        }
        columns.kept = Arc::new(Schema::new(kept));
        columns.check(schema, file)?;
        Ok(columns)
    }

    fn kept_names(
        &self,
        keep: &[String],
        schema: &Schema,
        file: &str,
        reserved: fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let own = |name: &str| reserved(&name.to_lowercase());
        let mut kept: Vec<String> = if keep.iter().any(|name| name == "*") {
            let marked = marked_images(schema);
            let names = &self.names;
            let read = [Some(&names.reference), names.key.as_ref(), names.target.as_ref(), names.task.as_ref()];
            let is_kept = |field: &&FieldRef| {
                let is_read = read.iter().flatten().any(|name| *name == field.name());
                let is_image = marked.contains(&field.name().as_str())
                    || is_image_struct(field.data_type())
                    || is_read && Kind::of(field.data_type()).is_some_and(Kind::is_inline);
                // `url` and `key` stand in the row already.
                !(is_image || is_read && own(field.name()))
            };
            schema.fields().iter().filter(is_kept).map(|field| field.name().clone()).collect()
        } else {
            keep.to_vec()
        };
        let clashes: Vec<_> = kept.iter().map(String::as_str).filter(|name| reserved(name)).collect();
        if !clashes.is_empty() {
            return Err(Error::Config(format!(
                "source.parquet.keep: the rows have columns of their own called {}: name the columns of {file} to keep one by one, \
                 or rename these",
                list(clashes)
            )));
        }
        kept.sort();
        if let Some(twice) = kept.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Config(format!("source.parquet.keep: {} is there twice", twice[0])));
        }
        // In the order of the first file, whatever the order in the pipeline file.
        kept.sort_by_key(|name| schema.index_of(name).unwrap_or(usize::MAX));
        Ok(kept)
    }

    /// What was decided.
    pub(crate) fn names(&self) -> &ColumnNames {
        &self.names
    }

    /// The kept columns.
    pub(crate) fn kept_fields(&self) -> &[FieldRef] {
        self.kept.fields()
    }

    /// Refuses a file that cannot be read like the first.
    pub(crate) fn check(&self, schema: &Schema, file: &str) -> Result<()> {
        self.places(schema, file).map(|_| ())
    }

    fn places(&self, schema: &Schema, file: &str) -> Result<Places> {
        let names = &self.names;
        let reference = image_column(schema, &names.reference, "source.parquet.columns.reference", file)?;
        let target =
            names.target.as_ref().map(|name| image_column(schema, name, "source.parquet.columns.target", file));
        let key = names.key.as_ref().map(|name| key_column(schema, name, file));
        let task = names.task.as_ref().map(|name| task_column(schema, name, file));
        let mut kept = Vec::new();
        for field in self.kept.fields() {
            let at = find(schema, field.name(), "source.parquet.keep", file)?;
            let data = schema.field(at).data_type();
            if plain(data) != *field.data_type() && !data.is_null() {
                return Err(Error::Config(format!(
                    "source.parquet.keep: column {} has type {} in the first file, but {data} in {file}: the files must agree",
                    field.name(),
                    field.data_type()
                )));
            }
            kept.push(at);
        }
        let mut conditions = Vec::new();
        for (name, values) in &self.filter {
            let key = format!("source.parquet.where.{name}");
            let at = find(schema, name, &key, file)?;
            let condition = Condition::new(values, schema.field(at).data_type());
            conditions.push((at, condition.map_err(|error| Error::Config(format!("{key}: {error} ({file})")))?));
        }
        Ok(Places {
            reference,
            target: target.transpose()?,
            key: key.transpose()?,
            task: task.transpose()?,
            kept,
            conditions,
        })
    }

    /// The places of the columns in one file's batches.
    pub(super) fn bind(&self, schema: &Schema, parquet: &SchemaDescriptor, file: &str) -> Result<Bound> {
        let places = self.places(schema, file)?;
        let mut roots = vec![places.reference.0];
        roots.extend(places.target.map(|(at, _)| at));
        roots.extend(places.key);
        roots.extend(places.task);
        roots.extend(&places.kept);
        roots.sort_unstable();
        roots.dedup();
        let at = |root: usize| roots.partition_point(|&other| other < root);
        let filter = (!places.conditions.is_empty()).then(|| {
            let mut asked: Vec<_> = places.conditions.iter().map(|(root, _)| *root).collect();
            asked.sort_unstable();
            let at = |root: usize| asked.partition_point(|&other| other < root);
            let conditions = places.conditions.into_iter().map(|(root, condition)| (at(root), condition)).collect();
            Filter { mask: ProjectionMask::roots(parquet, asked.clone()), conditions }
        });
        let kinds = [Some(places.reference.1), places.target.map(|(_, kind)| kind)];
        Ok(Bound {
            mask: ProjectionMask::roots(parquet, roots.clone()),
            reference: (at(places.reference.0), places.reference.1),
            target: places.target.map(|(root, kind)| (at(root), kind)),
            key: places.key.map(at),
            task: places.task.map(at),
            kept: places.kept.iter().map(|&root| at(root)).collect(),
            kept_schema: self.kept.clone(),
            filter,
            inline: kinds.into_iter().flatten().any(Kind::is_inline),
        })
    }
}

/// The columns of a file, by place in its schema.
struct Places {
    reference: (usize, Kind),
    target: Option<(usize, Kind)>,
    key: Option<usize>,
    task: Option<usize>,
    kept: Vec<usize>,
    conditions: Vec<(usize, Condition)>,
}

impl Bound {
    /// The kept columns of `batch`, in their plain types; `None` if there are none.
    pub(super) fn kept(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>, ArrowError> {
        if self.kept.is_empty() {
            return Ok(None);
        }
        let columns = self.kept.iter().zip(self.kept_schema.fields());
        let columns =
            columns.map(|(&at, field)| cast(batch.column(at), field.data_type())).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.kept_schema.clone(), columns, &options).map(Some)
    }
}
