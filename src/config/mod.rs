//! The pipeline file: its sections, read with line and column in every complaint, and checked as a whole.
//!
//! Text → tree (bounded, with places) → `--set` → variables → structs → checks across sections. A section's struct stands
//! beside what it configures; this module has only [`Pipeline`], `report`, `http` and `run`.

mod check;
mod content;
mod de;
mod fault;
mod scalar;
mod schema;
mod sections;
mod set;
mod tree;
mod vars;

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::schema::pipeline_schema;
pub use self::sections::{
    Count, HttpConfig, Listen, LogKind, ProgressKind, ReportConfig, RunConfig, SheetConfig, StormConfig,
};
pub use self::vars::expand_text;

use crate::degrade::DegradeConfig;
use crate::error::{Error, Result};
use crate::load::LoadConfig;
use crate::restore::RestoreConfig;
use crate::score::ScoreName;
use crate::sink::{EventsConfig, ImageColumn, SinkConfig};
use crate::source::SourceConfig;

use crate::store::Stores;

/// A pipeline file: source → load → degrade → restore → score → sink.
#[derive(Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Options of object stores by URL prefix, under object_store's names; credentials also come from the environment.
    #[serde(default)]
    pub stores: Stores,
    /// Where references come from.
    pub source: SourceConfig,
    /// Reference → pixels. Absent: no byte is fetched or decoded, unless `degrade`, `restore` or `score` is there, which means
    /// this section's defaults.
    #[serde(default)]
    pub load: Option<LoadConfig>,
    /// What is done to the image. Absent: nothing.
    #[serde(default)]
    pub degrade: Option<DegradeConfig>,
    /// What restores the image. Absent: nothing.
    #[serde(default)]
    pub restore: Option<RestoreConfig>,
    /// Image quality scores, as `score.profile`, of 8-bit pixels before encoding. Each becomes a column for each image that has a
    /// clean one: `input_…`, and where the pipeline restores `output_…` and `baseline_…`.
    #[serde(default)]
    pub score: Vec<ScoreName>,
    /// Where the dataset is written, and how.
    pub sink: SinkConfig,
    /// What is drawn of a finished dataset.
    #[serde(default)]
    pub report: ReportConfig,
    /// Who is told of published parts. Never changes a row.
    #[serde(default)]
    pub events: EventsConfig,
    /// Where a run can be watched: `none`, or `{ listen: "127.0.0.1:9600" }`.
    #[serde(default)]
    pub http: HttpConfig,
    /// How a process works.
    #[serde(default)]
    pub run: RunConfig,
}

/// Shows the content only: stores and headers hold secrets.
impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pipeline").field(&self.content("")).finish()
    }
}

impl Pipeline {
    /// Reads a pipeline file; each of `sets` is a `key.key=value` that overrides it. Variables come from the environment.
    /// `Error::Config` names file, line and column, and what is allowed there.
    pub fn from_file(path: &Path, sets: &[String]) -> Result<Self> {
        use std::io::Read;
        let name = path.display().to_string();
        let unreadable =
            |reason: std::io::Error| Error::Config(format!("cannot read the pipeline file {name}: {reason}"));
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        // One byte more than allowed is enough for the parser to refuse it.
        file.take(tree::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|e| {
            Error::Config(format!("{name}: not UTF-8 text, from byte {} on", e.utf8_error().valid_up_to()))
        })?;
        Self::parse(&name, &text, sets, &|variable| std::env::var(variable).ok())
    }

    /// Reads a pipeline file's text. `name` stands for the file in complaints, `variables` for the environment.
    pub fn parse(name: &str, text: &str, sets: &[String], variables: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Self::read(text, sets, variables).map_err(|fault| Error::Config(fault.render(name, text, sets)))
    }

    fn read(text: &str, sets: &[String], variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, fault::Fault> {
        let mut root = tree::parse(text, 0)?;
        for (index, set) in sets.iter().enumerate() {
            set::apply(&mut root, set, index + 1)?;
        }
        vars::expand(&mut root, &mut Vec::new(), variables)?;
        let mut pipeline: Self = de::from_tree(&root)?;
        let wants_pixels = pipeline.degrade.is_some() || pipeline.restore.is_some() || !pipeline.score.is_empty();
        if pipeline.load.is_none() && wants_pixels {
            pipeline.load = Some(LoadConfig::default());
        }
        check::check(&pipeline).map_err(|problem| {
            let mut path = set::steps(&problem.path);
            if let Some((key, value)) = &problem.at {
                set::refine(&root, &mut path, key, value);
            }
            fault::Fault::new(problem.message).at(set::nearest_place(&root, &path)).in_path(&path)
        })?;
        Ok(pipeline)
    }

    /// The image columns that the dataset has, in the schema's order: those of [`made_images`](Self::made_images) that
    /// `sink.images` asks for. `Error::Config` if it or `sink.encoding_of` names another.
    pub fn image_columns(&self) -> Result<Vec<ImageColumn>> {
        self.sink.image_columns(&self.made_images())
    }
}
