//! A complaint about a pipeline file, and how it is shown: file, line, column, the line itself, and what is allowed there.
//!
//! Lines below `stores` and `headers` hold secrets and are never shown, nor are values from there.

use std::fmt;

use super::tree::Place;

/// A step into the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A key of a map.
    Key(String),
    /// An index of a list.
    Index(usize),
}

/// `degrade.recipe[2]`.
pub(super) fn show_path(path: &[Step]) -> String {
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Key(key) if key.contains('.') => {
                shown.push_str(&format!(".\"{key}\""));
            }
            Step::Key(key) => {
                shown.push('.');
                shown.push_str(key);
            }
            Step::Index(index) => shown.push_str(&format!("[{index}]")),
        }
    }
    shown.trim_start_matches('.').to_owned()
}

/// True where values are secrets.
pub(super) fn is_secret(path: &[Step]) -> bool {
    let key = |i: usize, word: &str| matches!(path.get(i), Some(Step::Key(key)) if key == word);
    key(0, "stores") || (key(0, "load") && key(1, "headers"))
}

/// One complaint. Boxed: it travels through every step of the deserializer.
#[derive(Debug, Clone)]
pub(super) struct Fault(Box<Told>);

#[derive(Debug, Clone)]
struct Told {
    kind: Kind,
    at: Option<Place>,
    /// From the inside out while it travels up through the deserializer; [`Fault::path`] turns it round.
    steps: Vec<Step>,
    syntax: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Message(String),
    Type { found: String, expected: String },
    Value { found: String, expected: String },
    UnknownKey { key: String, allowed: &'static [&'static str] },
    UnknownWord { word: String, allowed: &'static [&'static str] },
    Missing(&'static str),
    Duplicate(String),
}

impl Fault {
    /// A complaint in words: lowercase, no final stop.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Kind::Message(message.into()).into()
    }

    /// The same key twice in one map.
    pub(super) fn duplicate(key: &str) -> Self {
        Kind::Duplicate(key.to_owned()).into()
    }

    /// Places it, unless it has a place already (the innermost wins).
    pub(super) fn at(mut self, place: Place) -> Self {
        self.0.at.get_or_insert(place);
        self
    }

    /// Says that it arose one level further inside.
    pub(super) fn under(mut self, step: Step) -> Self {
        self.0.steps.push(step);
        self
    }

    /// Says where it arose, from the root.
    pub(super) fn in_path(mut self, path: &[Step]) -> Self {
        self.0.steps = path.iter().rev().cloned().collect();
        self
    }

    /// Marks an error of the YAML itself, of which no path is known.
    pub(super) fn syntax(mut self) -> Self {
        self.0.syntax = true;
        self
    }

    fn path(&self) -> Vec<Step> {
        self.0.steps.iter().rev().cloned().collect()
    }

    /// The text for the user. `file` is the file's name, `text` its content, `sets` the `--set` arguments.
    pub(super) fn render(&self, file: &str, text: &str, sets: &[String]) -> String {
        let path = self.path();
        // A syntax error may stand on any line: where the file has secrets at all, none of its lines is shown.
        let secret = is_secret(&path) || (self.0.syntax && (text.contains("stores") || text.contains("headers")));
        let mut shown = match self.0.at {
            Some(Place { source: 0, line, column, .. }) => format!("{file}:{line}:{column}: "),
            Some(Place { source, .. }) => {
                let set = sets.get(source - 1).map_or("", |set| set.split('=').next().unwrap_or(""));
                format!("--set {set}: ")
            }
            None => format!("{file}: "),
        };
        shown.push_str(&self.message(&path, secret));
        if let Some(place @ Place { source: 0, line, column, len }) = self.0.at
            && !secret
            && let Some(content) = text.lines().nth(line - 1)
        {
            let number = place.line.to_string();
            let gutter = " ".repeat(number.len());
            // Long lines are cut: around the place on the left, at 160 characters on the right.
            let start = (column - 1).saturating_sub(80);
            let content: String =
                content.chars().skip(start).take(160).map(|c| if c.is_control() { ' ' } else { c }).collect();
            let indent = " ".repeat(column - 1 - start);
            let marks = "^".repeat(len.min(content.chars().count().saturating_sub(column - 1 - start)).max(1));
            shown.push_str(&format!("\n {gutter} |\n {number} | {content}\n {gutter} | {indent}{marks}"));
        }
        if !path.is_empty() {
            shown.push_str(&format!("\n   = in {}", show_path(&path)));
        }
        shown
    }

    fn message(&self, path: &[Step], secret: bool) -> String {
        let hide = |found: &str| match secret {
            true => found.split(" `").next().and_then(|f| f.split(" \"").next()).unwrap_or("a value").to_owned(),
            false => found.to_owned(),
        };
        match &self.0.kind {
            Kind::Message(message) => message.clone(),
            Kind::Type { found, expected } => {
                format!("{} where {} belongs{}", hide(found), readable(expected), unit(path))
            }
            Kind::Value { found, expected } => {
                format!("{} is not {}{}", hide(found), readable(expected), unit(path))
            }
            Kind::UnknownKey { key, allowed } => format!("unknown key `{key}`{}", choices(key, allowed)),
            Kind::UnknownWord { word, .. } if secret => format!("unknown word of {} characters", word.len()),
            Kind::UnknownWord { word, allowed } => format!("`{word}` is not known here{}", choices(word, allowed)),
            Kind::Missing(key) => format!("key `{key}` is missing"),
            Kind::Duplicate(key) => format!("key `{key}` stands here twice"),
        }
    }
}

impl From<Kind> for Fault {
    fn from(kind: Kind) -> Self {
        Self(Box::new(Told { kind, at: None, steps: Vec::new(), syntax: false }))
    }
}

/// `: allowed here are a, b (did you mean b?)`.
fn choices(given: &str, allowed: &[&str]) -> String {
    if allowed.is_empty() {
        return ": no key is allowed here".to_owned();
    }
    let mut text = format!(": allowed here: {}", allowed.join(", "));
    if let Some(near) = nearest(given, allowed) {
        text.push_str(&format!("; did you mean `{near}`?"));
    }
    text
}

/// The allowed word that is most like `given`, if any is.
pub(super) fn nearest<'a>(given: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let given = given.to_lowercase();
    let (near, distance) = allowed.iter().map(|word| (*word, distance(&given, word))).min_by_key(|(_, d)| *d)?;
    // A third of the word may differ; a unit written otherwise (`max_mb`, `drain_seconds`) counts as near too.
    let stem = |word: &str| word.rsplit_once('_').map(|(stem, _)| stem.to_owned());
    if distance <= given.chars().count().max(3).div_ceil(3) {
        return Some(near);
    }
    allowed.iter().find(|word| stem(word).is_some_and(|s| given.starts_with(&s))).copied()
}

/// Edits between two words, a swap of neighbours counted as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut table = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in table.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in table[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substitute = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            table[i][j] = substitute.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                table[i][j] = table[i][j].min(table[i - 2][j - 2] + 1);
            }
        }
    }
    table[a.len()][b.len()]
}

/// Serde's names of Rust types, in words.
fn readable(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 up".to_owned(),
        "a nonzero u64" => "a whole number from 1 up".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" | "bool" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        other if other.starts_with("struct ") || other == "a map" => "a map of keys".to_owned(),
        other => other.to_owned(),
    }
}

/// What a number's unit is, where the key's name says so.
fn unit(path: &[Step]) -> &'static str {
    let Some(Step::Key(key)) = path.last() else { return "" };
    match key.rsplit('_').next() {
        Some("s") => " (a number of seconds: the unit is in the key's name)",
        Some("ms") => " (a number of milliseconds: the unit is in the key's name)",
        Some("mib") => " (a number of MiB: the unit is in the key's name)",
        Some("mpx") => " (a number of megapixels: the unit is in the key's name)",
        Some("px") => " (a number of pixels: the unit is in the key's name)",
        Some("share") => " (a share between 0 and 1)",
        _ => "",
    }
}

/// What serde found, in words: `the text "60s"`, `the number 1.5`.
fn found(unexpected: serde::de::Unexpected<'_>) -> String {
    use serde::de::Unexpected::{Bool, Enum, Float, Map, NewtypeVariant, Option, Seq, Signed, Str, Unit, Unsigned};
    match unexpected {
        Bool(value) => format!("`{value}`"),
        Unsigned(value) => format!("the number `{value}`"),
        Signed(value) => format!("the number `{value}`"),
        Float(value) => format!("the number `{value}`"),
        Str(value) => format!("the text \"{value}\""),
        Unit | Option => "nothing".to_owned(),
        Seq => "a list".to_owned(),
        Map => "a map".to_owned(),
        Enum | NewtypeVariant => "a map with one key".to_owned(),
        other => other.to_string(),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message(&self.path(), false))
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Kind::Type { found: found(unexpected), expected: expected.to_string() }.into()
    }

    fn invalid_value(unexpected: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Kind::Value { found: found(unexpected), expected: expected.to_string() }.into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Kind::UnknownKey { key: field.to_owned(), allowed: expected }.into()
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Kind::UnknownWord { word: variant.to_owned(), allowed: expected }.into()
    }

    fn missing_field(field: &'static str) -> Self {
        Kind::Missing(field).into()
    }

    fn duplicate_field(field: &'static str) -> Self {
        Kind::Duplicate(field.to_owned()).into()
    }
}
