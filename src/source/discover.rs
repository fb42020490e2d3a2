//! What is there to read: the Parquet files that `path` names, with their footers, the images of a folder, or topics.
//!
//! Every start looks again, so that a changed or missing input stops the run before a row is written, and new files are
//! reported. Remote footers are not read again where size and ETag are the plan's.
//!
//! (long because all kinds of input are looked for, each with all ways to be missing)

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use globset::GlobSet;

use super::files::{self, Choice, Counts, search};
use super::kafka::{self, Topics};
use super::listing::{self, Image};
use super::parquet::{ColumnNames, Columns, ParquetFile};
use super::{FolderConfig, KafkaConfig, ParquetConfig, SourceConfig, blocking};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::plan::{Input, Opened, Topic};
use crate::store::{Folder, Stores};

mod locate;

use locate::{local_path, locate};

/// Footers read at once.
const AT_ONCE: usize = 16;

/// Where to look, and what is known already.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The pipeline file's `source`.
    pub config: &'a SourceConfig,
    /// The pipeline file's `stores`.
    pub stores: &'a Stores,
    /// The dataset's folder: nothing below it is an input.
    pub sink: Option<&'a Folder>,
    /// The plan that stands, if there is one.
    pub known: Option<&'a Opened>,
    /// The output's own columns: `keep` must not name one.
    pub reserved: fn(&str) -> bool,
}

/// The inputs as they are now.
#[derive(Debug)]
pub struct Discovery {
    inputs: Inputs,
    notes: Vec<String>,
    /// How many inputs the plan had when we looked.
    known: usize,
}

#[derive(Debug)]
pub(super) enum Inputs {
    Files {
        files: Vec<Arc<ParquetFile>>,
        by_name: HashMap<Arc<str>, usize>,
        columns: Box<Columns>,
        /// Files of the plan that do not exist any more.
        gone: HashSet<String>,
    },
    Images {
        root: String,
        images: Vec<Image>,
    },
    Topics {
        config: Box<KafkaConfig>,
        topics: Topics,
    },
}

/// Inputs as a plan names them.
pub(crate) struct Frozen {
    pub(crate) inputs: Vec<Input>,
    /// Name and bytes of the list that has to be written before the plan that names it.
    pub(crate) listing: Option<(String, Bytes)>,
}

/// Looks for the inputs that the pipeline file names.
///
/// `Error::Config`: nothing is there, a file is no Parquet file, or its columns are not what the pipeline file says or not
/// those of the others. `Error::DataLoss`: an input of the plan cannot be read any more. `Error::Disk` or
/// `Error::Unavailable`: a folder could not be listed, and leaving it out could lose rows.
pub async fn discover(look: Look<'_>) -> Result<Discovery> {
    let mut counts = Counts::default();
    let inputs = match look.config {
        SourceConfig::Parquet(config) => discover_files(&look, config, &mut counts).await?,
        SourceConfig::Folder(config) => discover_images(&look, config, &mut counts).await?,
        SourceConfig::Kafka(config) => Inputs::Topics {
            topics: blocking(|| kafka::look(config, look.known.is_none()))?,
            config: Box::new(config.clone()),
        },
    };
    let mut notes = Vec::new();
    let mut note = |n: u64, what: &str| {
        if n > 0 {
            notes.push(format!("{n} {what}"));
        }
    };
    match look.config {
        SourceConfig::Parquet(_) => note(counts.hidden, "files or folders whose names begin with . or _ were left out"),
        SourceConfig::Folder(_) => note(counts.hidden, "files or folders were left out by source.folder.exclude"),
        SourceConfig::Kafka(_) => {}
    }
    note(counts.links, "links to folders were not entered: name those folders themselves to read them");
    note(counts.unreadable_names, "file names are not UTF-8: each becomes a failed row");
    note(counts.repeated, "files are named twice and read once");
    Ok(Discovery { inputs, notes, known: look.known.map_or(0, |known| known.inputs.len()) })
}

impl Discovery {
    /// What the search left out, in sentences for the person who started it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Rows or images found, in the plan or not.
    pub fn rows(&self) -> u64 {
        match &self.inputs {
            Inputs::Files { files, .. } => files.iter().map(|file| file.rows).sum(),
            Inputs::Images { images, .. } => images.len() as u64,
            Inputs::Topics { .. } => 0,
        }
    }

    /// Bytes of the files found (for Parquet files: of these, not of the images they name).
    pub fn bytes(&self) -> u64 {
        match &self.inputs {
            Inputs::Files { files, .. } => files.iter().map(|file| file.size).sum(),
            Inputs::Images { images, .. } => images.iter().map(|image| image.size).sum(),
            Inputs::Topics { .. } => 0,
        }
    }

    /// Which columns are read as what; `None` for a folder.
    pub fn columns(&self) -> Option<&ColumnNames> {
        match &self.inputs {
            Inputs::Files { columns, .. } => Some(columns.names()),
            Inputs::Images { .. } | Inputs::Topics { .. } => None,
        }
    }

    /// The kept columns, in the order in which each record's `kept` batch has them: name, type (strings and binaries of any
    /// kind are plain ones, dictionaries are decoded), all nullable.
    pub fn kept_fields(&self) -> &[FieldRef] {
        match &self.inputs {
            Inputs::Files { columns, .. } => columns.kept_fields(),
            Inputs::Images { .. } | Inputs::Topics { .. } => &[],
        }
    }

    /// The folder that was listed; `None` for Parquet files.
    pub(crate) fn folder(&self) -> Option<&str> {
        match &self.inputs {
            Inputs::Files { .. } | Inputs::Topics { .. } => None,
            Inputs::Images { root, .. } => Some(root),
        }
    }

    /// The topics that were found; `None` for files.
    pub(crate) fn topics(&self) -> Option<&[Topic]> {
        match &self.inputs {
            Inputs::Topics { topics, .. } => Some(&topics.topics),
            _ => None,
        }
    }

    /// The names of the topics that were found; `None` for files.
    pub fn topic_names(&self) -> Option<Vec<String>> {
        Some(self.topics()?.iter().map(|topic| topic.name.clone()).collect())
    }

    /// Where this run ends in each partition of the topics; `None` for files, and where it does not end.
    pub(crate) fn bounds(&self) -> Option<Checkpoint> {
        match &self.inputs {
            Inputs::Topics { topics, .. } => topics.bounds.clone(),
            _ => None,
        }
    }

    /// The Parquet file called `name`.
    pub(crate) fn file(&self, name: &str) -> Option<&ParquetFile> {
        match &self.inputs {
            Inputs::Files { files, by_name, .. } => by_name.get(name).map(|&at| files[at].as_ref()),
            _ => None,
        }
    }

    /// How many inputs the plan had when we looked: what it has beyond was added since.
    pub(crate) fn known(&self) -> usize {
        self.known
    }

    /// Whether file `name` of the plan does not exist any more.
    pub(crate) fn is_gone(&self, name: &str) -> bool {
        matches!(&self.inputs, Inputs::Files { gone, .. } if gone.contains(name))
    }

    /// The names of all files, in the order of a plan.
    pub(crate) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.inputs {
            Inputs::Files { files, .. } => Box::new(files.iter().map(|file| &*file.name)),
            Inputs::Images { images, .. } => Box::new(images.iter().map(|image| image.path.as_str())),
            Inputs::Topics { .. } => Box::new(std::iter::empty()),
        }
    }

    /// The files that `which` takes.
    pub(crate) fn inputs(&self, which: impl Fn(&str) -> bool, rows_per_partition: u64) -> Result<Frozen> {
        match &self.inputs {
            Inputs::Files { files, .. } => {
                let files = files.iter().filter(|file| which(&file.name));
                Ok(Frozen { inputs: files.map(|file| file.as_input(rows_per_partition)).collect(), listing: None })
            }
            Inputs::Images { root, images } => {
                let images = || images.iter().filter(|image| which(&image.path));
                let (name, bytes) = blocking(|| listing::freeze(images()))?;
                let input = Input {
                    path: root.clone(),
                    listing: Some(name.clone()),
                    size: None,
                    version: None,
                    rows: images().count() as u64,
                    rows_per_partition,
                };
                Ok(Frozen { inputs: vec![input], listing: Some((name, bytes)) })
            }
            Inputs::Topics { .. } => Ok(Frozen { inputs: Vec::new(), listing: None }),
        }
    }

    pub(super) fn into_inputs(self) -> Inputs {
        self.inputs
    }
}

async fn discover_files(look: &Look<'_>, config: &ParquetConfig, counts: &mut Counts) -> Result<Inputs> {
    let known = look.known.map_or(&[][..], |known| &known.inputs);
    let mut seen = HashSet::new();
    let mut named = Vec::new();
    for entry in &config.path.0 {
        let found = locate(entry, look, counts).await?;
        if found.is_empty() && known.is_empty() {
            return Err(Error::Config(format!("source.parquet.path: {entry} names no Parquet file")));
        }
        for (name, file) in found {
            if seen.insert(name.clone()) {
                named.push((name, file));
            } else {
                counts.repeated += 1;
            }
        }
    }
    let mut gone = HashSet::new();
    for input in known.iter().filter(|input| input.listing.is_none() && !seen.contains(&input.path)) {
        if locate(&input.path, look, &mut Counts::default()).await?.is_empty() {
            gone.insert(input.path.clone());
        }
    }
    // What the columns are is decided by the plan's first file, not by one that was added since and sorts before it.
    let decides = match known.first() {
        Some(first) => named.iter().position(|(name, _)| *name == first.path),
        None => Some(0).filter(|_| !named.is_empty()),
    };
    let planned: HashMap<&str, &Input> = known.iter().map(|input| (input.path.as_str(), input)).collect();
    let mut schemas: Vec<(Arc<str>, Arc<Schema>)> = Vec::new();
    let mut files = Vec::new();
    let looked = named.into_iter().enumerate().map(|(i, (name, found))| {
        let planned = planned.get(name.as_str()).copied();
        async move { ParquetFile::look(name, found, planned, decides == Some(i)).await }
    });
    let looked: Vec<_> = futures::stream::iter(looked).buffered(AT_ONCE).try_collect().await?;
    for (i, (file, schema)) in looked.into_iter().enumerate() {
        if let Some(schema) = schema {
            let at = if decides == Some(i) { 0 } else { schemas.len() };
            schemas.insert(at, (file.name.clone(), schema));
        }
        files.push(Arc::new(file));
    }
    let columns = match (decides, schemas.split_first()) {
        (Some(_), Some(((name, schema), others))) => {
            let columns = Columns::resolve(config, schema, name, look.reserved)?;
            for (name, schema) in others {
                columns.check(schema, name)?;
            }
            columns
        }
        _ => {
            let first = known.first().map_or("source.parquet.path", |first| &first.path);
            return Err(match gone.contains(first) {
                true => Error::DataLoss(format!(
                    "{first}: the file has gone since the plan was made: put it back as it was, or start a new sink.dir"
                )),
                false => Error::Config(format!(
                    "source.parquet.path does not name {first}, which the plan reads: give this run a sink.dir of its own"
                )),
            });
        }
    };
    let by_name = files.iter().enumerate().map(|(at, file)| (file.name.clone(), at)).collect();
    Ok(Inputs::Files { files, by_name, columns: Box::new(columns), gone })
}

async fn discover_images(look: &Look<'_>, config: &FolderConfig, counts: &mut Counts) -> Result<Inputs> {
    let choice = Globs {
        include: files::globs("source.folder.include", &config.include)?,
        exclude: files::globs("source.folder.exclude", &config.exclude)?,
    };
    if config.path.is_empty() {
        return Err(Error::Config("source.folder.path is empty: name a folder".into()));
    }
    let is_remote = config.path.split_once("://").is_some_and(|(scheme, _)| !scheme.eq_ignore_ascii_case("file"));
    let (folder, root) = if is_remote {
        (look.stores.folder(&config.path)?, config.path.trim_end_matches('/').to_owned())
    } else {
        let path = local_path(&config.path)?;
        let root = path.to_string_lossy().into_owned();
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Error::Config(format!("source.folder.path: {root} is a file: name its folder"))),
            Err(_) if look.known.is_some() => return Err(gone(&root)),
            Err(error) => return Err(Error::Config(format!("source.folder.path: {root}: {error}"))),
        }
        (Folder::Local(path), root)
    };
    let found = search(&folder, look.sink, &choice, counts).await?;
    if found.is_empty() {
        return Err(match look.known {
            Some(known) if known.rows() > 0 => gone(&root),
            _ => Error::Config(format!(
                "source.folder: no file below {root} is one that include names and exclude does not"
            )),
        });
    }
    let images = found.into_iter().map(|found| Image { path: found.below, size: found.size, mtime_ns: found.mtime_ns });
    Ok(Inputs::Images { root, images: images.collect() })
}

/// An unmounted disk must not become a million rows that say "not found".
fn gone(root: &str) -> Error {
    Error::DataLoss(format!("{root}: the images that the plan lists have gone: is the disk mounted?"))
}

/// The globs of a folder source.
struct Globs {
    include: GlobSet,
    exclude: GlobSet,
}

impl Choice for Globs {
    fn leaves_out(&self, path: &str) -> bool {
        self.exclude.is_match(path)
    }

    fn takes(&self, path: &str) -> bool {
        self.include.is_match(path)
    }
}
