//! A contact sheet: for each record its clean image and beside it what was made of it (degraded, restored), with names and
//! scores underneath.
//!
//! ```text
//! quickstart
//! 25 rows · mean PSNR 23.1 dB, SSIM 0.612 (lm4lv)
//!
//! ┌───────┐ ┌───────┐ ┌───────┐
//! │ clean │ │ noisy │ │ blurry│ …   one tile for each variant; a record alone on its line has at most 1 + 8
//! └───────┘ └───────┘ └───────┘
//! coffee    gaussian noise  gaussian blur
//! 512 × 512 PSNR 22.1 · …   …
//! ```
//!
//! Records with few tiles share a line. Behind each degraded image stand, where the dataset has them, what the restorer's
//! autoencoder alone made of it and what the restorer made.

use super::canvas::{Fonts, png};
use super::decode::decode;
use super::layout::{BLANK_SIZE, Face, Tile, draw, fitted};
use super::pick::{Group, Order, Picked, pick};
use super::rows::{Columns, Dataset, Row, score_column};
use crate::error::{Error, Result};
use crate::image::Size;

/// How a sheet is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SheetOptions {
    /// Records to show, each with up to 8 variants. At least 1, at most [`MAX_RECORDS`].
    pub records: usize,
    /// Which ones.
    pub order: Order,
}

/// Records on a sheet at most: more make a picture that viewers refuse.
pub const MAX_RECORDS: usize = 500;

/// Makes the sheet of `dataset` as a PNG file. Memory: the sheet, and one record's images.
/// `Error::Config` where the dataset has no row to show, or no such score.
pub async fn make(dataset: &Dataset, options: &SheetOptions) -> Result<Vec<u8>> {
    let records = options.records.clamp(1, MAX_RECORDS);
    let picked = pick(dataset, records, &options.order).await?;
    if picked.rows == 0 {
        return Err(Error::Config(format!(
            "{}: no row is published yet, so there is nothing to show",
            dataset.place()
        )));
    }
    let degraded_target = degrades_target(dataset).await?;
    let fonts = Fonts::new()?;
    let mut lines = Vec::new();
    for group in &picked.groups {
        let rows = dataset.fetch(&group.rows, Columns::All).await?;
        lines.push(tiles_of(group, &rows, degraded_target));
    }
    let image = draw(&fonts, dataset.name(), &headline(&picked, &options.order), lines);
    png(&image)
}

/// True where the plan says that the *target* is the degraded image (`degrade.target: degraded`).
async fn degrades_target(dataset: &Dataset) -> Result<bool> {
    let plan = dataset.folder().get(".lm4lv/plan.json").await?;
    let plan = plan.and_then(|plan| serde_json::from_slice::<serde_json::Value>(&plan).ok());
    Ok(plan.is_some_and(|plan| plan["content"]["degrade"]["target"] == "degraded"))
}

/// The tiles of one record, from left to right: the clean image once, then each row's degraded (and restored) ones. Where
/// the rows have different clean images (their targets were cropped, turned or degraded apart), each row brings its own.
fn tiles_of(group: &Group, rows: &[Row], degraded_target: bool) -> Vec<Tile> {
    let (clean, degraded) = if degraded_target { ("input", "target") } else { ("target", "input") };
    let cleans: Vec<_> = rows.iter().filter_map(|row| row.image(clean)).collect();
    let shared = cleans.windows(2).all(|pair| pair[0].bytes == pair[1].bytes);
    let clean_tile = |row: &Row| Some(tile(&row.image(clean)?.bytes, row.key.clone(), true, size_text));
    let mut tiles = Vec::new();
    if shared {
        tiles.extend(rows.iter().find_map(clean_tile));
    }
    for row in rows {
        if let Some((code, _)) = &row.failure {
            let named = !tiles.is_empty();
            let name = if named { format!("variant {}", row.variant) } else { row.key.clone() };
            tiles.push(Tile {
                face: Face::Blank(code.clone()),
                name,
                path: !named,
                detail: "failed".into(),
                blank_size: BLANK_SIZE,
            });
            continue;
        }
        if !shared {
            tiles.extend(clean_tile(row));
        }
        let alone = row.image(clean).is_none();
        if let Some(picture) = row.image(degraded) {
            let name = if alone { row.key.clone() } else { operations(row) };
            let scores = score_text(row, "input");
            let detail = |size| if scores.is_empty() { size_text(size) } else { scores.clone() };
            tiles.push(tile(&picture.bytes, name, alone, detail));
        }
        for (column, name) in [("baseline", "autoencoder alone"), ("output", "restored")] {
            if let Some(picture) = row.image(column) {
                let scores = score_text(row, column);
                let detail = |size| if scores.is_empty() { size_text(size) } else { scores.clone() };
                tiles.push(tile(&picture.bytes, name.to_owned(), false, detail));
            }
        }
    }
    if group.more > 0
        && let Some(last) = tiles.last_mut()
    {
        last.detail += &format!(" · {} more", group.more);
    }
    // What has no picture is drawn as large as its neighbours.
    let size = tiles.iter().find_map(|tile| match &tile.face {
        Face::Picture(image) => Some(image.size()),
        Face::Blank(..) => None,
    });
    for tile in &mut tiles {
        tile.blank_size = size.unwrap_or(tile.blank_size);
    }
    tiles
}

/// A tile of an encoded image; `detail` is given the image's own size.
fn tile(bytes: &[u8], name: String, path: bool, detail: impl Fn(Size) -> String) -> Tile {
    match decode(bytes) {
        Ok(image) => {
            let detail = detail(image.size());
            Tile { face: Face::Picture(fitted(image)), name, path, detail, blank_size: BLANK_SIZE }
        }
        Err(why) => {
            Tile { face: Face::Blank(why), name, path, detail: "cannot be decoded".into(), blank_size: BLANK_SIZE }
        }
    }
}

fn size_text(size: Size) -> String {
    format!("{} × {}", size.width, size.height)
}

/// The operations of the recipe (not of `load`) by name; one alone with two of its numbers.
fn operations(row: &Row) -> String {
    let ops: Vec<_> = row.ops.iter().filter(|op| !op.step.starts_with("load")).collect();
    let name = |op: &str| op.replace('_', " ");
    match ops.as_slice() {
        [] => "unchanged".into(),
        [op] => {
            let params = serde_json::from_str::<serde_json::Map<_, _>>(&op.params).unwrap_or_default();
            // What is measured (sigma, ratio) says more than what is counted (kernel size, layers).
            let number = |real: bool| {
                params
                    .iter()
                    .filter_map(move |(name, value)| Some((name, value.as_f64().filter(|_| value.is_f64() == real)?)))
            };
            let told: Vec<_> = number(true).filter(|(_, value)| *value != 0.0).chain(number(false)).take(2).collect();
            let told = told.into_iter().map(|(name, value)| format!(" · {} {}", name.replace('_', " "), short(value)));
            name(&op.op) + &told.collect::<String>()
        }
        ops => ops.iter().map(|op| name(&op.op)).collect::<Vec<_>>().join(" → "),
    }
}

/// Three significant digits, no zeros behind them.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `PSNR 23.1 dB · SSIM 0.512` of an image column: the first PSNR and the first SSIM of the schema.
fn score_text(row: &Row, image: &str) -> String {
    let scores = row.scores.iter().filter_map(|(name, value)| Some((&**name, (*value)?)));
    let texts = first_of_each(scores, image).map(|(metric, value)| score(metric, value));
    texts.collect::<Vec<_>>().join(" · ")
}

fn first_of_each<'n>(
    scores: impl Iterator<Item = (&'n str, f64)>,
    image: &str,
) -> impl Iterator<Item = (&'n str, f64)> {
    let mut found: Vec<(&str, f64)> = Vec::new();
    for (name, value) in scores {
        let Some((of, score)) = score_column(name) else { continue };
        let metric = score.split('_').next().unwrap_or_default();
        if of == image && found.iter().all(|(known, _)| *known != metric) {
            found.push((metric, value));
        }
    }
    found.into_iter()
}

fn score(metric: &str, value: f64) -> String {
    match metric {
        "psnr" if value.is_infinite() => "PSNR ∞ dB".into(),
        "psnr" => format!("PSNR {value:.1} dB"),
        metric => format!("{} {value:.3}", metric.to_uppercase()),
    }
}

/// The line under the title.
fn headline(picked: &Picked, order: &Order) -> String {
    let mut parts = vec![counted(picked.rows, "row")];
    if picked.failed > 0 {
        parts.push(format!("{} failed", thousands(picked.failed)));
    }
    let mut profile =
        picked.means.iter().find_map(|(name, _)| score_column(name)?.1.split_once('_')).map(|(_, name)| name);
    for (column, of) in [("input", ""), ("baseline", "autoencoder alone "), ("output", "restored ")] {
        let means = picked.means.iter().map(|(name, value)| (&**name, *value));
        let texts: Vec<_> = first_of_each(means, column).map(|(metric, value)| score(metric, value)).collect();
        if !texts.is_empty() {
            let mean = if of.is_empty() { "mean " } else { of };
            let profile = profile.take().map(|profile| format!(" ({profile})")).unwrap_or_default();
            parts.push(format!("{mean}{}{profile}", texts.join(", ")));
        }
    }
    let shown = picked.groups.len() as u64;
    if shown < picked.group_count {
        parts.push(format!("{} of {} shown", thousands(shown), counted(picked.group_count, "record")));
    }
    match order {
        Order::Spread => {}
        Order::Ascending(column) => parts.push(format!("lowest {column} first")),
        Order::Descending(column) => parts.push(format!("highest {column} first")),
    }
    parts.join(" · ")
}

/// A number of things: `1 part`, `2,000 parts`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// `1234567` as `1,234,567`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (18.0, "18"),
            (0.05, "0.05"),
            (1.23456, "1.23"),
            (-45.678, "-45.7"),
            (1234.5, "1234"),
            (0.0, "0"),
            (1e-4, "0.0001"),
            (100.0, "100"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(score("psnr", f64::INFINITY), "PSNR ∞ dB");
        assert_eq!(score("ssim", 0.51249), "SSIM 0.512");
    }
}
