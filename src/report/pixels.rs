//! `verify --pixels`: every image of a dataset decoded, its size, its hash and its scores compared with what the row says.
//!
//! Scores are of 8-bit pixels before encoding. Where both images are stored without loss they are computed again and must
//! agree within [`TOLERANCE`] (they are the same to the bit on one machine; the tolerance is for datasets of later versions
//! that may add in another order). Where one is stored with loss (JPEG), its pixels before encoding are gone: those scores
//! are counted as skipped, not compared with a tolerance that would let everything through. An image kept as the source's own file is
//! exact whatever its format, since the pixels were decoded from these very bytes.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::decode::decode;
use super::rows::{Columns, Dataset, Row, score_column};
use crate::error::Result;
use crate::image::{Image, Size};
use crate::plan::Opened;
use crate::score::{ScoreName, score, target_for};

/// How far a score may be from the recorded one, in dB for PSNR.
pub const TOLERANCE: f64 = 1e-6;

/// What a look at every image found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PixelReport {
    /// Rows with images.
    pub rows: u64,
    /// Images decoded.
    pub images: u64,
    /// Images whose bytes are the source file's, by SHA-256.
    pub originals: u64,
    /// Scores that were computed again and agree.
    pub scores: u64,
    /// Scores that cannot be computed again: an image is stored with loss or not at all.
    pub skipped_scores: u64,
    /// What is wrong, one sentence each with the row at fault.
    pub faults: Vec<String>,
}

/// Looks at every image of `dataset`. `plan` tells which columns hold source files; without it fewer hashes are compared.
pub async fn check(dataset: &Dataset, plan: Option<&Opened>) -> Result<PixelReport> {
    let mut report = PixelReport::default();
    let mut rows = dataset.rows(Columns::All);
    while let Some(row) = rows.next().await? {
        if row.failure.is_none() && !row.images.is_empty() {
            report.rows += 1;
            for fault in look_at(&row, plan, &mut report) {
                report.faults.push(format!(
                    "{}, {} (variant {} of {:?}): {fault}",
                    dataset.folder().place(&dataset.parts()[row.at.part].name),
                    row.position,
                    row.variant,
                    row.key,
                ));
            }
        }
    }
    Ok(report)
}

/// An image column of a row.
struct Cell {
    column: &'static str,
    /// `None` if it cannot be decoded.
    image: Option<Image>,
    /// True if `image` has the pixels that were encoded.
    exact: bool,
}

fn look_at(row: &Row, plan: Option<&Opened>, report: &mut PixelReport) -> Vec<String> {
    let mut faults = Vec::new();
    // Without `load` nothing was decoded: whatever bytes came in went through.
    if row.size.is_none() {
        return faults;
    }
    let mut cells = Vec::new();
    for (column, picture) in &row.images {
        report.images += 1;
        let original = row.sha256.as_deref() == Some(&*hex(&Sha256::digest(&picture.bytes)));
        report.originals += u64::from(original);
        if !original && keeps_original(plan, column) && !picture.bytes.starts_with(PNG) {
            faults.push(format!("{column} should be the source file, but its SHA-256 is not the recorded one"));
        }
        let image = match decode(&picture.bytes) {
            Ok(image) => Some(image),
            Err(why) => {
                faults.push(format!("{column} cannot be decoded: {why}"));
                None
            }
        };
        if let (Some(image), "input", Some((width, height))) = (&image, *column, row.size)
            && (image.width(), image.height()) != (width, height)
        {
            let (w, h) = (image.width(), image.height());
            faults.push(format!("input has {w} × {h} pixels, the row says {width} × {height}"));
        }
        cells.push(Cell { column, image, exact: original || !is_lossy(&picture.bytes) });
    }
    for (name, recorded) in &row.scores {
        match again(name, row.size, &cells) {
            None => report.skipped_scores += 1,
            Some(value) if agree(value, *recorded) => report.scores += 1,
            Some(value) => {
                let text = |value: Option<f64>| value.map_or("null".to_owned(), |value| value.to_string());
                faults.push(format!("{name} is {}, the images give {}", text(*recorded), text(value)));
            }
        }
    }
    faults
}

/// The score `name` of the images of a row whose input is of `size`; `None` if they do not tell.
fn again(name: &str, size: Option<(u32, u32)>, cells: &[Cell]) -> Option<Option<f64>> {
    let (column, _) = score_column(name)?;
    let known = ScoreName::ALL.into_iter().find(|known| known.column(column) == name)?;
    let image = |wanted: &str| {
        let cell = cells.iter().find(|cell| cell.column == wanted && cell.exact)?;
        cell.image.as_ref()
    };
    let (image, target) = (image(column)?, image("target")?);
    let input = size.map(|(width, height)| Size::new(width, height))?;
    Some(target_for(image.size(), input, target).and_then(|target| score(known, image, &target)))
}

fn agree(now: Option<f64>, recorded: Option<f64>) -> bool {
    match (now, recorded) {
        // Equal covers infinities, whose difference is not a number.
        (Some(now), Some(recorded)) => now == recorded || (now - recorded).abs() <= TOLERANCE,
        (now, recorded) => now.is_none() && recorded.is_none(),
    }
}

const PNG: &[u8] = b"\x89PNG";

/// True where the plan says that `column` holds the source's bytes unless something was done to the image (it is PNG then).
/// A target that the source names is another file, of which no hash is recorded.
fn keeps_original(plan: Option<&Opened>, column: &str) -> bool {
    plan.is_some_and(|plan| {
        let named = &plan.content["source"]["parquet"]["columns"]["target"];
        let own = column != "target" || named.is_null() || named == "none";
        own && plan.content["sink"]["encoding_of"][column] == "original"
    })
}

/// True for JPEG, and for WebP with a lossy frame.
fn is_lossy(bytes: &[u8]) -> bool {
    let webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    bytes.starts_with(&[0xff, 0xd8]) || (webp && !has_lossless_frame(bytes))
}

/// True if the first frame of a WebP file is lossless.
fn has_lossless_frame(bytes: &[u8]) -> bool {
    let mut at = 12;
    while let Some(&[a, b, c, d, ref size @ ..]) = bytes.get(at..at + 8) {
        match &[a, b, c, d] {
            b"VP8L" => return true,
            b"VP8 " => return false,
            _ => {}
        }
        let size = size.try_into().map_or(0, u32::from_le_bytes) as usize;
        at += 8 + size + size % 2;
    }
    false
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
