//! The failed rows of a dataset: how many of each code, and the first of them with their messages, as text and as a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::canvas::{Canvas, Fonts, GREY, INK, PAPER, RED, SUBTITLE, Style, TITLE, Weight, png};
use super::rows::{Columns, Dataset};
use super::sheet::{counted, thousands};
use crate::error::Result;
use crate::image::Size;

/// What failed in a dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failures {
    /// The dataset's folder, as the user wrote it.
    pub dataset: String,
    /// All rows.
    pub rows: u64,
    /// All failed rows.
    pub failed: u64,
    /// Failed rows by `error_code`, most frequent first.
    pub by_code: Vec<(String, u64)>,
    /// The first failed rows.
    pub first: Vec<FailedRow>,
}

/// One failed row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedRow {
    /// The record's name.
    pub key: String,
    /// From 0.
    pub variant: u16,
    /// `partition:offset`, as `replay --at` takes it.
    pub at: String,
    /// `error_code`.
    pub code: String,
    /// `error_message`.
    pub message: String,
}

/// Counts the failed rows of `dataset` and keeps the first `keep` of them. Reads no images.
pub async fn failures(dataset: &Dataset, keep: usize) -> Result<Failures> {
    let mut found =
        Failures { dataset: dataset.place().to_owned(), rows: 0, failed: 0, by_code: Vec::new(), first: Vec::new() };
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    let mut rows = dataset.rows(Columns::Facts);
    while let Some(row) = rows.next().await? {
        found.rows += 1;
        let Some((code, message)) = row.failure else { continue };
        found.failed += 1;
        *codes.entry(code.clone()).or_default() += 1;
        if found.first.len() < keep {
            let at = row.position.to_string();
            found.first.push(FailedRow { key: row.key, variant: row.variant, at, code, message });
        }
    }
    found.by_code = codes.into_iter().collect();
    found.by_code.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(found)
}

impl Failures {
    /// `3 of 25 rows failed`.
    pub fn headline(&self) -> String {
        match self.failed {
            0 => format!("none of {} failed", counted(self.rows, "row")),
            failed => format!("{} of {} failed", thousands(failed), counted(self.rows, "row")),
        }
    }

    fn rest(&self) -> Option<String> {
        let rest = self.failed - self.first.len() as u64;
        (rest > 0).then(|| format!("and {} more", thousands(rest)))
    }

    /// The table for a terminal. Control characters of keys and messages are escaped.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.dataset, self.headline());
        let codes = self.by_code.iter().map(|(code, _)| code.len()).max().unwrap_or(0);
        for (code, count) in &self.by_code {
            writeln!(text, "  {code:<codes$}  {:>12}", thousands(*count)).unwrap_or_default();
        }
        if !self.first.is_empty() {
            text.push('\n');
        }
        let keys = self.first.iter().map(|row| printable(&row.key).chars().count()).max().unwrap_or(0).min(48);
        for row in &self.first {
            let (key, message) = (printable(&row.key), printable(&row.message));
            writeln!(text, "  {:<codes$}  {key:<keys$}  {message}", row.code).unwrap_or_default();
        }
        if let Some(rest) = self.rest() {
            writeln!(text, "  {rest}").unwrap_or_default();
        }
        text
    }

    /// The table as a PNG file.
    pub fn png(&self) -> Result<Vec<u8>> {
        const WIDTH: u32 = 1280;
        const MARGIN: u32 = 36;
        const LINE: u32 = 24;
        const CODE: f32 = 150.0;
        const KEY: f32 = 360.0;
        let fonts = Fonts::new()?;
        let code = Style { weight: Weight::SemiBold, px: 13.5, colour: RED };
        let key = Style { weight: Weight::Regular, px: 13.5, colour: INK };
        let message = Style { colour: GREY, ..key };
        let lines = (self.by_code.len() + self.first.len() + usize::from(self.rest().is_some())) as u32;
        let height = 2 * MARGIN + 78 + lines * LINE + if self.first.is_empty() { 0 } else { LINE };
        let mut canvas = Canvas::new(Size::new(WIDTH, height), PAPER);
        let left = MARGIN as f32;
        let room = (WIDTH - 2 * MARGIN) as f32;
        let name = self.dataset.rsplit('/').next().unwrap_or(&self.dataset);
        canvas.text(&fonts, left, (MARGIN + 24) as f32, &fonts.fit(name, TITLE, room), TITLE);
        canvas.text(&fonts, left, (MARGIN + 50) as f32, &self.headline(), SUBTITLE);
        let mut y = MARGIN + 78;
        let most = self.by_code.first().map_or(1, |(_, count)| *count).max(1);
        for (name, count) in &self.by_code {
            let baseline = (y + 16) as f32;
            canvas.text(&fonts, left, baseline, &fonts.fit(name, code, CODE - 12.0), code);
            // A bar for the eye, the number behind it.
            let bar = ((count * 400) / most).max(2) as u32;
            let x = MARGIN + CODE as u32;
            canvas.fill(x, y + 5, Size::new(bar, 13), [0xe5, 0xb9, 0xb4]);
            canvas.text(&fonts, (x + bar + 8) as f32, baseline, &thousands(*count), key);
            y += LINE;
        }
        y += LINE;
        for row in &self.first {
            let baseline = (y + 16) as f32;
            canvas.text(&fonts, left, baseline, &fonts.fit(&row.code, code, CODE - 12.0), code);
            let name = printable(&row.key);
            canvas.text(&fonts, left + CODE, baseline, &fonts.fit_end(&name, key, KEY - 16.0), key);
            let why = printable(&row.message);
            let why = fonts.fit(&why, message, room - CODE - KEY);
            canvas.text(&fonts, left + CODE + KEY, baseline, &why, message);
            y += LINE;
        }
        if let Some(rest) = self.rest() {
            canvas.text(&fonts, left, (y + 16) as f32, &rest, message);
        }
        png(&canvas.into_image())
    }
}

/// `text` on one line, with control characters (a terminal would obey them) escaped.
fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => safe.extend(c.escape_default()),
            false => safe.push(c),
        }
    }
    safe
}
