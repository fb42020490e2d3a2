//! What flows: a [`Record`] read from the source, the [`Item`] that channels carry, and its [`Sample`]s, one a variant.
//!
//! (long because all that flows stands together)

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Position;
use crate::image::Image;

mod failure;

pub use failure::{Failure, FailureClass, FailureCode};

/// How a record names its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The reference was null.
    Missing,
    /// A path, or a URI with a scheme (`file`, `http`, `https`, `s3`, `gs`, `az`, `data`).
    Uri(String),
    /// A string longer than anything that could be fetched; only its start was kept.
    TooLong {
        /// Its first characters and, behind `…~`, its BLAKE3, hex and cut.
        start: String,
        /// Its bytes.
        length: u64,
    },
    /// The image file's bytes stood in the record; `path` is the name beside them, if any.
    Inline {
        /// An encoded image.
        bytes: Bytes,
        /// A file name, for people only.
        path: Option<String>,
    },
    /// The message that was to name it could not be read; the text says why.
    Unreadable(String),
}

impl Reference {
    /// Characters that are kept of what is too long.
    const KEPT: usize = 1000;

    /// `text`, or its start where `fits` says that it is too long to be fetched.
    pub(crate) fn from_text(text: &str, fits: &dyn Fn(&str) -> bool) -> Self {
        if fits(text) {
            return Self::Uri(text.to_owned());
        }
        let start = &text[..text.floor_char_boundary(Self::KEPT)];
        let hash = blake3::hash(text.as_bytes()).to_hex();
        Self::TooLong { start: format!("{start}…~{}", &hash[..16]), length: text.len() as u64 }
    }

    /// The reference as a row shows it: a string as given, or the name beside inline bytes.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Missing | Self::Unreadable(_) => None,
            Self::Uri(text) | Self::TooLong { start: text, .. } => Some(text),
            Self::Inline { path, .. } => path.as_deref(),
        }
    }

    /// Bytes held.
    fn bytes(&self) -> u64 {
        let more = match self {
            Self::Inline { bytes, .. } => bytes.len(),
            Self::Unreadable(why) => why.len(),
            _ => 0,
        };
        (more + self.as_text().map_or(0, str::len)) as u64
    }
}

/// Size and time of a listed file, as the plan froze them; a file that differs later is `source_changed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970 (0 where the store has none).
    pub mtime_ns: i64,
}

/// What a Kafka message carries besides its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: Arc<str>,
    /// The number of its partition.
    pub partition: i32,
    /// Microseconds since 1970, UTC; `None` where the topic keeps none.
    pub timestamp_us: Option<i64>,
    /// The message's key.
    pub key: Option<Bytes>,
    /// Names and values, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// The message's value, where it could not be read.
    pub raw: Option<Bytes>,
}

impl Message {
    fn bytes(&self) -> u64 {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        let values = [&self.key, &self.raw].into_iter().flatten().map(Bytes::len);
        headers.chain(values).sum::<usize>() as u64
    }
}

/// One input position.
#[derive(Debug, Clone)]
pub struct Record {
    /// Names the record in the output and seeds its randomness; may repeat.
    pub key: String,
    /// The image to load.
    pub reference: Reference,
    /// The clean image, where the source names one.
    pub target: Option<Reference>,
    /// The task column's value.
    pub task: Option<String>,
    /// Where it stood in the input.
    pub position: Position,
    /// The input file (as written in the plan).
    pub source_file: Option<Arc<str>>,
    /// The row in that file, from 0.
    pub source_row: Option<u64>,
    /// Set where the source is a frozen listing.
    pub listed: Option<Listed>,
    /// One row: the kept input columns, in the order of the schema's kept fields.
    pub kept: Option<RecordBatch>,
    /// Set where the source is Kafka.
    pub message: Option<Box<Message>>,
}

impl Record {
    /// A record with nothing but these.
    pub fn new(key: impl Into<String>, reference: Reference, position: Position) -> Self {
        Self {
            key: key.into(),
            reference,
            target: None,
            task: None,
            position,
            source_file: None,
            source_row: None,
            listed: None,
            kept: None,
            message: None,
        }
    }

    /// Why nothing can be made of this record, where its message could not be read.
    pub(crate) fn unreadable(&self) -> Option<Failure> {
        match &self.reference {
            Reference::Unreadable(why) => Some(Failure { code: FailureCode::BadMessage, message: why.clone() }),
            _ => None,
        }
    }

    /// The number in kept column `name` (any integer or float type, booleans as 0 and 1); `None` if absent or null.
    pub fn number(&self, name: &str) -> Option<f64> {
        use arrow::array::{Array, AsArray};
        use arrow::datatypes::{DataType, Float64Type};
        let column = self.kept.as_ref()?.column_by_name(name)?;
        let number = arrow::compute::cast(column, &DataType::Float64).ok()?;
        let number = number.as_primitive::<Float64Type>();
        (number.len() == 1 && number.is_valid(0)).then(|| number.value(0))
    }

    /// Whether [`Self::number`] may find a number in a column of type `data`.
    pub(crate) fn can_give_numbers(data: &arrow::datatypes::DataType) -> bool {
        data.is_numeric() || *data == arrow::datatypes::DataType::Boolean
    }

    /// Bytes held: texts, inline images, kept columns.
    pub(crate) fn bytes(&self) -> u64 {
        use arrow::array::Array;
        // Of a slice, as `kept` is one, only what it shows; an error means a type that has no such measure.
        let slice = |column: &arrow::array::ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0) as u64;
        let kept = self.kept.iter().flat_map(RecordBatch::columns).map(slice).sum::<u64>();
        let texts = (self.key.len() + self.task.as_ref().map_or(0, String::len)) as u64;
        texts
            + self.reference.bytes()
            + self.target.as_ref().map_or(0, Reference::bytes)
            + kept
            + self.message.as_ref().map_or(0, |message| message.bytes())
    }
}

/// What channels carry: one position with all its variants.
#[derive(Debug)]
pub struct Item {
    /// The record.
    pub record: Arc<Record>,
    /// The partition's epoch under which it was read; older epochs are dropped.
    pub epoch: u64,
    /// Its intake order in that epoch, from 0 without gaps.
    pub seq: u64,
    /// One for each variant, ascending; never empty once prepared.
    pub samples: Vec<Sample>,
    /// Tries of the fetch (1 for local and inline).
    pub attempts: u32,
    /// Set where a row failed with a code of class [`FailureClass::Fault`]: a ticket, ascending over the run. The row is
    /// not published before the sink was told that all tickets up to this one are settled.
    pub provisional: Option<u64>,
}

impl Item {
    /// Bytes of the record and of the encoded images.
    pub(crate) fn bytes(&self) -> u64 {
        self.record.bytes() + self.samples.iter().map(|sample| sample.encoded.bytes()).sum::<u64>()
    }
}

/// What is known of the file that an image came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The file's bytes as fetched.
    pub bytes: Bytes,
    /// SHA-256 of `bytes`.
    pub sha256: [u8; 32],
    /// The format's usual extension, such as `jpg`.
    pub extension: &'static str,
    /// Pixels across, after EXIF orientation, before resize and crop.
    pub width: u32,
    /// Pixels down, after EXIF orientation, before resize and crop.
    pub height: u32,
    /// The embedded colour profile, where `load.icc` keeps it.
    pub icc: Option<Vec<u8>>,
    /// True if the pixels are the file's own: nothing was resized, cropped, turned, converted or dropped.
    pub untouched: bool,
}

/// One variant of a record with its pixels.
#[derive(Debug, Default)]
pub struct Sample {
    /// From 0.
    pub variant: u16,
    /// The image in work: as loaded, later degraded. `None` once encoded, on failure, and without `load`.
    pub image: Option<Image>,
    /// The clean image that `image` is scored against.
    pub target: Option<Arc<Image>>,
    /// What is known of the source file of `image` (shared by the variants).
    pub origin: Option<Arc<Origin>>,
    /// The same for a target that the source named.
    pub target_origin: Option<Arc<Origin>>,
    /// What the restorer made of `image`.
    pub output: Option<Image>,
    /// What the autoencoder alone made of `image`, of `output`'s size; where it was asked for.
    pub baseline: Option<Image>,
    /// How `output` was made; `None` where nothing was restored.
    pub restored: Option<Restoration>,
    /// True if the recipe put another image in `target`'s place (turned, or degraded), so that it is no longer the file's.
    pub target_edited: bool,
    /// Every operation that was applied, in order, resize and crop first.
    pub ops: Vec<AppliedOp>,
    /// Column name and value, in the order of the pipeline's `score` list.
    pub scores: Scores,
    /// The image columns, encoded.
    pub encoded: Encoded,
    /// Why this row failed.
    pub failure: Option<Failure>,
    /// Milliseconds spent in each step, by the step's name.
    pub timings: Vec<(&'static str, f32)>,
}

/// How a sample was restored, as its row records it.
#[derive(Debug, Clone)]
pub struct Restoration {
    /// By what.
    pub stamp: Arc<Stamp>,
    /// Which of the model's tasks; `None` where the restorer has none.
    pub task: Option<Arc<str>>,
    /// Passes of the language model: of an image in tiles the most that one of them took. `None` where there is no such model.
    pub passes: Option<u32>,
}

/// What every row of a run records of its restorer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The model's name, from its manifest.
    pub model: String,
    /// SHA-256 over the hashes of the model's files, hex; empty where there are none.
    pub weights_sha256: String,
    /// `parallel` or `autoregressive`; `None` where nothing is generated.
    pub decoder: Option<&'static str>,
    /// Such as `cpu` or `cuda:0 NVIDIA H200`.
    pub device: String,
    /// The type that the model computes in: `f32` or `bf16`.
    pub dtype: &'static str,
}

/// Score columns: full name such as `input_psnr_lm4lv`, and the value.
pub type Scores = Vec<(Arc<str>, f64)>;

/// An encoded image and its width and height in pixels.
#[derive(Debug, Clone)]
pub struct EncodedImage {
    /// The file.
    pub bytes: Bytes,
    /// The encoding's extension, such as `png`.
    pub extension: &'static str,
    /// Pixels across (0 where nothing was decoded).
    pub width: u32,
    /// Pixels down (0 where nothing was decoded).
    pub height: u32,
}

/// The encoded image columns of one row.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// Degraded, or as it came.
    pub input: Option<EncodedImage>,
    /// Clean.
    pub target: Option<EncodedImage>,
    /// Restored.
    pub output: Option<EncodedImage>,
    /// The autoencoder alone.
    pub baseline: Option<EncodedImage>,
}

impl Encoded {
    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        let images = [&self.input, &self.target, &self.output, &self.baseline];
        images.into_iter().flatten().map(|image| image.bytes.len() as u64).sum()
    }
}

/// An operation as the row records it; enough to do it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedOp {
    /// Where in the recipe, such as `2.one_of.0`, or `load.resize`, `load.crop`.
    pub step: String,
    /// The operation's name in a recipe.
    pub op: String,
    /// The operation's version; another one draws or computes differently.
    pub version: u16,
    /// A JSON object with shortest round-trip numbers.
    pub params: String,
}
