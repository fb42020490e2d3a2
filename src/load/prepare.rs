//! Bytes → samples: decodes once for each record, resizes, and crops once for each variant or once for all.
//!
//! What was done is recorded in each sample as operations `resize` (step `load.resize`) and `crop` (step `load.crop`) with
//! the numbers used, so that [`replay`] needs the file and the row, not the pipeline file. An operation that changes
//! nothing (an image that has the size already) is neither done nor recorded.
//!
//! (long because doing the geometry and doing it again from a row stand side by side)

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::image::resize::{Filter, resize};
use crate::image::{Image, Size};
use crate::load::config::{Crop, Icc, LoadConfig, Per, Sides};
use crate::load::decode::{self, Bounds, Decoded};
use crate::load::fetch::Fetched;
use crate::sample::{AppliedOp, Failure, FailureCode, Origin, Record, Sample};
use crate::stage::Fault;
use crate::stream::Stream;

const RESIZE: &str = "load.resize";
const CROP: &str = "load.crop";
const VERSION: u16 = 1;

/// Bytes that the stages behind hold for each pixel of one sample at work, beside its image: planes of f32 (12), and what the
/// greediest of them, resampling, makes of them (11, measured). Scores and encoders hold less.
const STAGES: u64 = 24;

/// The same where a recipe turns images, which takes a second set of planes, larger where all corners are kept (36, measured).
const TURNING: u64 = 48;

/// Bytes that each variant's image, and its encoded form, keep for each pixel while others are at work.
const VARIANT: u64 = 6;

/// Bytes more for each pixel where it is restored: its tiles (5, since they overlap), the answers to them in f32 (17), the
/// quantised output and its encoded form (6). The last two come again for a baseline.
const RESTORED: [u64; 2] = [5 + 17 + 6, 17 + 6];

/// Decodes, resizes and crops: bytes → samples. CPU work.
#[derive(Debug, Clone)]
pub struct Prepare {
    config: LoadConfig,
    bounds: Bounds,
    seed: u64,
    variants: u16,
    /// Bytes that each variant keeps for each of its pixels.
    variant: u64,
    /// Bytes that the stages hold for each pixel of the one at work.
    stages: u64,
}

/// The numbers of a recorded resize.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeParams {
    width: u32,
    height: u32,
    filter: Filter,
}

/// The numbers of a recorded crop: its upper left corner and its size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CropParams {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

impl CropParams {
    fn size(self) -> Size {
        Size::new(self.width, self.height)
    }
}

fn applied(step: &str, params: &impl Serialize) -> AppliedOp {
    let op = step.strip_prefix("load.").unwrap_or(step).to_owned();
    // Structs of numbers and names always serialise.
    let params = serde_json::to_string(params).unwrap_or_default();
    AppliedOp { step: step.to_owned(), op, version: VERSION, params }
}

fn failure(code: FailureCode, message: String) -> Failure {
    Failure { code, message }
}

impl Prepare {
    /// `seed` and `variants` are the `degrade` section's (0 and 1 without one).
    pub fn new(config: &LoadConfig, seed: u64, variants: u16) -> Self {
        let (config, bounds) = (config.clone(), Bounds::new(config));
        Self { config, bounds, seed, variants, variant: VARIANT, stages: STAGES }
    }

    /// Counts what turning holds of an image as well, if the recipe `turns` it.
    pub fn turned(self, turns: bool) -> Self {
        Self { stages: if turns { TURNING } else { STAGES }, ..self }
    }

    /// Counts what restoring holds of each image as well, with a baseline or without.
    pub fn restored(self, baseline: bool) -> Self {
        let [output, more] = RESTORED;
        Self { variant: VARIANT + output + if baseline { more } else { 0 }, ..self }
    }

    /// Peak bytes that [`Self::samples`] and the stages behind it will hold for these files, from their headers alone: the
    /// files, the decoder's work, all variants' images and one sample in the stages. Files that cannot be decoded count
    /// with their own bytes.
    pub fn working_bytes(&self, fetched: &Fetched) -> u64 {
        let (mut files, mut decoding, mut result) = (0, 0, 0);
        let target = fetched.target.as_ref().and_then(|t| t.as_ref().ok());
        for bytes in fetched.input.as_ref().ok().into_iter().chain(target) {
            files += bytes.len() as u64;
            // A small file can be nothing but header; there the answer does not matter.
            let Ok(header) = decode::header(bytes) else { continue };
            if self.bounds.check(header.size).is_err() {
                continue;
            }
            let pixels = header.size.pixels() as u64;
            decoding = decoding.max(pixels * header.bytes_per_pixel) + if decoding > 0 { pixels * 3 } else { 0 };
            let resized = self.config.resize.as_ref().and_then(|r| r.target(header.size)).unwrap_or(header.size);
            if self.bounds.check_made(resized).is_err() {
                continue;
            }
            let cropped = match &self.config.crop {
                Crop::None => resized.pixels() as u64,
                Crop::Centre(crop) => u64::from(crop.size.width) * u64::from(crop.size.height),
                Crop::Random(crop) => u64::from(crop.size.width) * u64::from(crop.size.height),
            };
            result += cropped * (u64::from(self.variants) * self.variant + self.stages) + resized.pixels() as u64 * 3;
        }
        // The decoder's work and the stages' do not overlap.
        files + decoding.max(result)
    }

    /// One sample for each variant, failed ones included. `Err` only if the fetch says that the run must stop.
    pub fn samples(&self, record: &Record, fetched: Fetched) -> Result<Vec<Sample>> {
        let started = Instant::now();
        let Fetched { input, target, fetch_ms, permit, .. } = fetched;
        let input = bytes_of(input)?;
        let target = target.map(bytes_of).transpose()?;
        let prepared = input.and_then(|input| self.images(record, &input, target));
        // The bodies' memory goes back only now, when the decoder is done with them.
        drop(permit);
        let mut samples = match prepared {
            Ok(samples) => samples,
            Err(failure) => {
                let failed = |variant| Sample { variant, failure: Some(failure.clone()), ..Sample::default() };
                (0..self.variants).map(failed).collect()
            }
        };
        let decode_ms = started.elapsed().as_secs_f32() * 1000.0;
        for sample in &mut samples {
            sample.timings.extend([("fetch", fetch_ms), ("decode", decode_ms)]);
        }
        Ok(samples)
    }

    fn images(
        &self,
        record: &Record,
        input: &Bytes,
        target: Option<Result<Bytes, Failure>>,
    ) -> Result<Vec<Sample>, Failure> {
        let mut image = self.decode(input)?;
        let mut target = match target {
            None => None,
            Some(bytes) => {
                let about = |f: Failure| failure(f.code, format!("target: {}", f.message));
                let bytes = bytes.map_err(about)?;
                Some((self.decode(&bytes).map_err(about)?, bytes))
            }
        };
        let from = image.image.size();
        if let Some((target, _)) = &target
            && target.image.size() != from
        {
            let to = target.image.size();
            let sizes = format!("{} × {}, and the target {} × {}", from.width, from.height, to.width, to.height);
            return Err(failure(FailureCode::SizeMismatch, format!("the image has {sizes} pixels")));
        }
        let mut ops = Vec::new();
        if let Some(plan) = &self.config.resize
            && let Some(to) = plan.target(from)
        {
            self.bounds.check_made(to)?;
            image.image = resize(&image.image, to, plan.filter);
            if let Some((target, _)) = &mut target {
                target.image = resize(&target.image, to, plan.filter);
            }
            ops.push(applied(RESIZE, &ResizeParams { width: to.width, height: to.height, filter: plan.filter }));
        }
        let crops = self.crops(record, image.image.size())?;
        let untouched = ops.is_empty() && crops.iter().all(Option::is_none);
        let target_origin = target.as_ref().map(|(target, bytes)| origin(target, bytes, from, untouched));
        let origin = origin(&image, input, from, untouched);
        let target = target.map(|(target, _)| Arc::new(target.image));
        let mut whole = Some(image.image);
        let mut shared_target: Option<(Option<CropParams>, Arc<Image>)> = None;
        let mut samples = Vec::with_capacity(crops.len());
        for (variant, crop) in (0..).zip(&crops) {
            let last = usize::from(variant) + 1 == crops.len();
            let image = match crop {
                None if last => whole.take(),
                None => whole.clone(),
                Some(crop) => whole.as_ref().and_then(|image| image.crop(crop.x, crop.y, crop.size())),
            };
            let target = match (&target, crop, &shared_target) {
                (None, ..) => None,
                (Some(target), None, _) => Some(target.clone()),
                // Variants that share a place share the target.
                (Some(_), crop, Some((same, cropped))) if same == crop => Some(cropped.clone()),
                (Some(target), Some(crop), _) => target.crop(crop.x, crop.y, crop.size()).map(Arc::new),
            };
            shared_target = target.clone().map(|target| (*crop, target));
            let mut ops = ops.clone();
            ops.extend(crop.as_ref().map(|crop| applied(CROP, crop)));
            samples.push(Sample {
                variant,
                image,
                target,
                origin: Some(origin.clone()),
                target_origin: target_origin.clone(),
                ops,
                ..Sample::default()
            });
        }
        Ok(samples)
    }

    fn decode(&self, bytes: &Bytes) -> Result<Decoded, Failure> {
        decode::decode(bytes, &self.bounds, self.config.icc)
    }

    /// For each variant the part of an image of `size` that it gets; `None` is all of it.
    fn crops(&self, record: &Record, size: Size) -> Result<Vec<Option<CropParams>>, Failure> {
        let variants = 0..self.variants;
        let whole = |crop: CropParams| (crop.size() != size).then_some(crop);
        Ok(match &self.config.crop {
            Crop::None => variants.map(|_| None).collect(),
            Crop::Centre(crop) => {
                let room = room(size, crop.size)?;
                let Sides { width, height } = crop.size;
                let crop = CropParams { x: room.width / 2, y: room.height / 2, width, height };
                variants.map(|_| whole(crop)).collect()
            }
            Crop::Random(crop) => {
                let room = room(size, crop.size)?;
                let Sides { width, height } = crop.size;
                let place = |variant| {
                    let variant = if crop.per == Per::Variant { variant } else { 0 };
                    let mut stream = Stream::new(self.seed, &record.key, variant, CROP, "crop", VERSION);
                    // Below a u32 plus one, so it is a u32.
                    let x = stream.below(u64::from(room.width) + 1) as u32;
                    let y = stream.below(u64::from(room.height) + 1) as u32;
                    whole(CropParams { x, y, width, height })
                };
                variants.map(place).collect()
            }
        })
    }
}

/// How far a crop can move in each direction.
fn room(size: Size, crop: Sides) -> Result<Size, Failure> {
    match (size.width.checked_sub(crop.width), size.height.checked_sub(crop.height)) {
        (Some(width), Some(height)) => Ok(Size::new(width, height)),
        _ => {
            let message = format!(
                "{} × {} pixels are less than load.crop's {} × {}",
                size.width, size.height, crop.width, crop.height
            );
            Err(failure(FailureCode::TooSmall, message))
        }
    }
}

fn origin(decoded: &Decoded, bytes: &Bytes, size: Size, untouched: bool) -> Arc<Origin> {
    Arc::new(Origin {
        bytes: bytes.clone(),
        sha256: Sha256::digest(bytes).into(),
        extension: decoded.format.extension(),
        width: size.width,
        height: size.height,
        icc: decoded.icc.clone(),
        untouched: untouched && decoded.faithful,
    })
}

fn bytes_of(fetched: Result<Bytes, Fault>) -> Result<Result<Bytes, Failure>> {
    match fetched {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(Fault::Record(code, message)) => Ok(Err(failure(code, message))),
        Err(Fault::Run(error)) => Err(error),
    }
}

/// Does again what the row recorded of loading: decodes `bytes`, then applies those of `ops` whose step begins with
/// `load.`, in order, and stops at the first other one. `icc` is the pipeline's `load.icc`, which can change pixels.
///
/// `Err` as in the row of a file that cannot be decoded; `Unsupported` for an operation or version not known here; `Corrupt`
/// for parameters that do not fit the image. The bounds on size are not applied again: the row is proof that it passed.
pub fn replay(ops: &[AppliedOp], bytes: &[u8], icc: Icc) -> Result<Image, Failure> {
    let mut image = decode::decode(bytes, &Bounds::none(), icc)?.image;
    for op in ops.iter().take_while(|op| op.step.starts_with("load.")) {
        let broken = |e: String| failure(FailureCode::Corrupt, format!("{}: {e}: {}", op.step, op.params));
        let parse_error = |e: serde_json::Error| broken(e.to_string());
        image = match (op.step.as_str(), op.version) {
            (RESIZE, VERSION) => {
                let params: ResizeParams = serde_json::from_str(&op.params).map_err(parse_error)?;
                let size = Size::new(params.width, params.height);
                if [size.width, size.height].iter().any(|side| !(1..=65_535).contains(side)) {
                    return Err(broken("sides go from 1 to 65535 pixels".to_owned()));
                }
                resize(&image, size, params.filter)
            }
            (CROP, VERSION) => {
                let params: CropParams = serde_json::from_str(&op.params).map_err(parse_error)?;
                let cropped = image.crop(params.x, params.y, params.size());
                cropped.ok_or_else(|| broken("does not lie inside the image".to_owned()))?
            }
            (step, version) => {
                let message = format!("{step} at version {version} is not known to this program");
                return Err(failure(FailureCode::Unsupported, message));
            }
        };
    }
    Ok(image)
}
