//! A row made again from what it recorded, and compared with what is stored.
//!
//! The source is read and fetched again, its SHA-256 compared; then the recorded operations are applied with the recorded
//! parameters and seed (the recipe is not looked at) and the images encoded as the plan says. What the row does not record
//! (`load.icc`, `degrade.quantize`, `degrade.target`, the encodings) comes from the plan, and after an accepted change from
//! the change in force when the row's part was written.
//!
//! What a restorer made (`output`, `baseline`) is not made again: that needs the model, and gives the same but for rounding.
//!
//! Where the source has gone, but the row's target is the source's own file, that is used and it is said.

mod source;

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::decode::decode;
use super::rows::{Address, Columns, Dataset, Row, score_column};
use crate::degrade::{self, DegradeConfig};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::load::{self, Crop, Fetched, LoadConfig, Prepare};
use crate::plan::Opened;
use crate::sample::{EncodedImage, Failure, Origin, Record, Sample};
use crate::score::{ScoreName, score};
use crate::sink::config::{ColumnEncoding, SinkConfig};
use crate::sink::{Encode, ImageColumn};
use crate::stage::{Fault, Stage};
use crate::store::Stores;

/// Where and how to fetch a row's source.
#[derive(Debug, Clone, Default)]
pub struct ReplayOptions {
    /// Where relative references start, instead of where the plan's did.
    pub root: Option<String>,
    /// Options of object stores.
    pub stores: Stores,
    /// Root, headers, allowed hosts, retries and deadlines; what makes pixels comes from the plan.
    pub load: Option<LoadConfig>,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every image is the same to the byte, and every score the same.
    Equal,
    /// Something differs.
    Differs,
    /// The source has another SHA-256 than when the row was made.
    SourceChanged,
    /// The source cannot be read any more.
    SourceGone,
}

/// A row made again.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// The record's name.
    pub key: String,
    /// From 0.
    pub variant: u16,
    /// `partition:offset`.
    pub at: String,
    /// What it came to.
    pub verdict: Verdict,
    /// What was found out on the way: why the source is no use, that the stored original was taken instead.
    pub notes: Vec<String>,
    /// The operations applied.
    pub ops: Vec<String>,
    /// The image columns that the row has.
    pub images: Vec<ImageMatch>,
    /// Score columns whose value, computed again, is another than the recorded one.
    pub scores_differ: Vec<String>,
}

/// An image column, stored and made again.
#[derive(Debug, Clone, Serialize)]
pub struct ImageMatch {
    /// Its name.
    pub column: &'static str,
    /// True if the bytes are the same.
    pub equal: bool,
    /// Bytes stored.
    pub stored_bytes: usize,
    /// Bytes made again.
    pub rebuilt_bytes: usize,
    /// Where the bytes differ: pixels that do, and the largest difference in grey levels; `None` if the sizes differ or one
    /// cannot be decoded.
    pub pixels: Option<(u64, u8)>,
    /// The file made again.
    #[serde(skip)]
    pub rebuilt: Bytes,
}

/// Makes the row at `at` again. `Error::Config` if the row failed (there is nothing to make), `Error::Unavailable` if its
/// source did not answer, `Error::DataLoss` if the plan cannot be read.
pub async fn replay(dataset: &Dataset, at: Address, options: &ReplayOptions) -> Result<Replayed> {
    let row = dataset.fetch(&[at], Columns::All).await?.remove(0);
    if let Some((code, message)) = &row.failure {
        let place = format!("{} ({} variant {})", row.key, row.position, row.variant);
        return Err(Error::Config(format!("{place} failed with {code}: {message}: there is nothing to make again")));
    }
    let plan = Opened::read(dataset.folder()).await?.ok_or_else(|| {
        Error::Config(format!("{}: no .lm4lv/plan.json, which replay needs beside the rows", dataset.place()))
    })?;
    let made = source::Content::of(dataset, &plan, at).await?;
    let found = source::find(&row, &plan, &made, options).await?;
    let mut replayed = Replayed {
        key: row.key.clone(),
        variant: row.variant,
        at: row.position.to_string(),
        verdict: found.problem.unwrap_or(Verdict::Equal),
        notes: found.notes,
        ops: row.ops.iter().map(|op| format!("{} {}", op.op, op.params)).collect(),
        images: Vec::new(),
        scores_differ: Vec::new(),
    };
    let Some(files) = found.files else { return Ok(replayed) };
    let sample = match make(&row, &made, found.record, files)? {
        Ok(sample) => sample,
        Err(why) => {
            replayed.verdict = Verdict::Differs;
            replayed.notes.push(why);
            return Ok(replayed);
        }
    };
    for (column, stored) in &row.images {
        let rebuilt = match *column {
            "input" => sample.encoded.encoded.input.as_ref(),
            "target" => sample.encoded.encoded.target.as_ref(),
            restored => {
                replayed
                    .notes
                    .push(format!("`{restored}` and its scores are a restorer's work, which is not done again"));
                continue;
            }
        };
        replayed.images.push(compare(column, &stored.bytes, rebuilt));
    }
    replayed.scores_differ = sample.scores_differ;
    if replayed.images.iter().any(|image| !image.equal) || !replayed.scores_differ.is_empty() {
        replayed.verdict = Verdict::Differs;
    }
    Ok(replayed)
}

/// The source's files, as fetched.
struct Files {
    input: Bytes,
    target: Option<Bytes>,
}

/// A sample, encoded, and what its pixels said before.
struct Made {
    encoded: Sample,
    scores_differ: Vec<String>,
}

/// Load, degrade, score, encode. The inner `Err` says why the recorded operations cannot be done any more.
fn make(row: &Row, made: &source::Content, record: Record, files: Option<Files>) -> Result<Result<Made, String>> {
    let mut sample = Sample { variant: row.variant, ops: row.ops.clone(), ..Sample::default() };
    let mut scores_differ = Vec::new();
    if let (Some(config), Some(files)) = (&made.load, files) {
        let (input, origin) = match loaded(row, config, &record, files.input) {
            Ok(loaded) => loaded,
            Err(failure) => return Ok(Err(format!("the source gives {}: {}", failure.code.as_str(), failure.message))),
        };
        let given = files.target.map(|target| loaded(row, config, &record, target)).transpose();
        let given = match given {
            Ok(given) => given,
            Err(failure) => return Ok(Err(format!("the target gives {}: {}", failure.code.as_str(), failure.message))),
        };
        let target_origin = given.as_ref().map(|(_, origin)| origin.clone());
        let given = given.map(|(image, _)| Arc::new(image));
        sample.origin = Some(origin);
        sample.target_origin = target_origin;
        match &made.degrade {
            None => {
                sample.image = Some(input);
                sample.target = given;
            }
            Some(config) => {
                let seed = row.seed.unwrap_or(config.seed);
                match degrade::replay(config, &row.ops, seed, &row.key, row.variant, &input, given.clone()) {
                    Err(why) => return Ok(Err(why)),
                    Ok(pair) => {
                        sample.target_edited = given.as_deref().unwrap_or(&input) != &*pair.target;
                        sample.image = Some(pair.input);
                        sample.target = Some(pair.target);
                    }
                }
            }
        }
        scores_differ = differing_scores(row, &sample);
    }
    match Encode::new(&made.sink, &made.images).process(&record, &mut sample) {
        Ok(()) => Ok(Ok(Made { encoded: sample, scores_differ })),
        Err(Fault::Record(code, message)) => Ok(Err(format!("{}: {message}", code.as_str()))),
        Err(Fault::Run(error)) => Err(error),
    }
}

/// A file's pixels after the recorded resize and crop, and what is known of the file.
fn loaded(row: &Row, config: &LoadConfig, record: &Record, bytes: Bytes) -> Result<(Image, Arc<Origin>), Failure> {
    let image = load::replay(&row.ops, &bytes, config.icc)?;
    // What the file is (profile, faithful or not) is found by loading it without resize and crop.
    let plain = LoadConfig { resize: None, crop: Crop::None, ..config.clone() };
    let samples = Prepare::new(&plain, 0, 1).samples(record, Fetched::from_bytes(bytes));
    let unknown = || Failure {
        code: crate::sample::FailureCode::Corrupt,
        message: "the file cannot be loaded any more".to_owned(),
    };
    let sample = samples.map_err(|_| unknown())?.into_iter().next().ok_or_else(unknown)?;
    if let Some(failure) = sample.failure {
        return Err(failure);
    }
    let mut origin = sample.origin.as_deref().cloned().ok_or_else(unknown)?;
    origin.untouched &= !row.ops.iter().any(|op| op.step.starts_with("load."));
    Ok((image, Arc::new(origin)))
}

/// Names of the row's scores that these pixels do not give.
fn differing_scores(row: &Row, sample: &Sample) -> Vec<String> {
    let (Some(image), Some(target)) = (&sample.image, &sample.target) else { return Vec::new() };
    let again = |name: &str| {
        let (column, _) = score_column(name)?;
        let known = ScoreName::ALL.into_iter().find(|known| known.column(column) == name)?;
        (column == "input").then(|| score(known, image, target))
    };
    let differs = |name: &str, recorded: Option<f64>| again(name).is_some_and(|value| value != recorded);
    let names = row.scores.iter().filter(|(name, recorded)| differs(name, *recorded));
    names.map(|(name, _)| name.to_string()).collect()
}

fn compare(column: &'static str, stored: &Bytes, rebuilt: Option<&EncodedImage>) -> ImageMatch {
    let rebuilt = rebuilt.map(|image| image.bytes.clone()).unwrap_or_default();
    let equal = *stored == rebuilt;
    let pixels = || {
        let (stored, rebuilt) = (decode(stored).ok()?, decode(&rebuilt).ok()?);
        if stored.size() != rebuilt.size() {
            return None;
        }
        let pairs = stored.as_bytes().chunks_exact(3).zip(rebuilt.as_bytes().chunks_exact(3));
        let apart = |(a, b): (&[u8], &[u8])| a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        Some(
            pairs
                .map(apart)
                .filter(|apart| *apart > 0)
                .fold((0, 0), |(count, most), apart| (count + 1, most.max(apart))),
        )
    };
    ImageMatch {
        column,
        equal,
        stored_bytes: stored.len(),
        rebuilt_bytes: rebuilt.len(),
        pixels: if equal { None } else { pixels() },
        rebuilt,
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of the plan's content as what it was written from.
fn section<T: serde::de::DeserializeOwned>(dataset: &Dataset, content: &Value, name: &str) -> Result<T> {
    serde_json::from_value(content[name].clone())
        .map_err(|e| Error::DataLoss(format!("{}: section `{name}` of the plan cannot be read: {e}", dataset.place())))
}

/// The sink's images and encodings, as the plan has them.
fn sink(dataset: &Dataset, content: &Value) -> Result<(SinkConfig, Vec<ImageColumn>)> {
    #[derive(serde::Deserialize)]
    struct Sink {
        images: Vec<ImageColumn>,
        encoding_of: std::collections::BTreeMap<ImageColumn, ColumnEncoding>,
    }
    let Sink { images, encoding_of } = section(dataset, content, "sink")?;
    Ok((SinkConfig { encoding_of, ..SinkConfig::new(dataset.place()) }, images))
}

/// The plan's `load` and `degrade`, absent where the pipeline had none.
fn steps(dataset: &Dataset, content: &Value) -> Result<(Option<LoadConfig>, Option<DegradeConfig>)> {
    Ok((section(dataset, content, "load")?, section(dataset, content, "degrade")?))
}
