//! What an operation says of itself: its name, version and parameters ([`Spec`]).
//!
//! The table of parameters that stands at the head of each operation's file is the single truth for parsing, checking,
//! the JSON schema, `lm4lv ops` and drawing; the operation's struct holds only drawn values.

use schemars::{Schema, json_schema};
use serde_json::Value;

use super::setting::Scalar;

/// What an operation says of itself.
#[derive(Debug)]
pub struct Spec {
    /// Its name in a recipe.
    pub name: &'static str,
    /// Goes up when it draws or computes differently; part of the stream and of the row.
    pub version: u16,
    /// What it does, one sentence.
    pub doc: &'static str,
    /// True if it moves pixels, so that `target: geometry` does it to the target too.
    pub geometry: bool,
    /// Its parameters, in the order in which they are recorded.
    pub params: &'static [Param],
    /// Rules over several parameters: the names that a recipe gave → what is wrong.
    pub check: fn(&[&str]) -> Result<(), &'static str>,
}

/// One parameter of an operation.
#[derive(Debug)]
pub struct Param {
    /// Its name in a recipe and in the row.
    pub name: &'static str,
    /// What it is, one sentence.
    pub doc: &'static str,
    /// The unit of a number; empty for words and pure numbers.
    pub unit: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is where a recipe does not say, in a recipe's grammar (JSON); `None`: see the operation.
    pub default: Option<&'static str>,
    /// True if a recipe must give it.
    pub required: bool,
    /// Set if it exists only where another parameter has one of these words.
    pub when: Option<(&'static str, &'static [&'static str])>,
}

/// What a parameter may be. Both ends of a range are allowed.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A number.
    Real(f64, f64),
    /// A whole number, not negative.
    Whole(u32, u32),
    /// An odd whole number, positive.
    Odd(u32, u32),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number or one of these words.
    RealOrWord(f64, f64, &'static [&'static str]),
    /// `true` or `false`.
    Flag,
}

impl Param {
    /// A parameter with a default.
    pub(crate) const fn new(
        name: &'static str,
        kind: Kind,
        unit: &'static str,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Self { name, doc, unit, kind, default: Some(default), required: false, when: None }
    }

    /// A parameter that a recipe must give.
    pub(crate) const fn required(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Self {
        Self { name, doc, unit, kind, default: None, required: true, when: None }
    }

    /// A parameter that is absent unless a recipe gives it.
    pub(crate) const fn optional(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Self {
        Self { name, doc, unit, kind, default: None, required: false, when: None }
    }

    /// The same, existing only where parameter `other` has one of `words`.
    pub(crate) const fn when(mut self, other: &'static str, words: &'static [&'static str]) -> Self {
        self.when = Some((other, words));
        self
    }

    /// The range and the unit, in words.
    pub fn allowed(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let words = |words: &[&str]| words.join(" | ");
        match self.kind {
            Kind::Real(min, max) => format!("{min} to {max}{unit}"),
            Kind::Whole(min, max) => format!("a whole number from {min} to {max}{unit}"),
            Kind::Odd(min, max) => format!("an odd whole number from {min} to {max}{unit}"),
            Kind::Word(all) => words(all),
            Kind::RealOrWord(min, max, all) => format!("{min} to {max}{unit}, or {}", words(all)),
            Kind::Flag => "true | false".to_owned(),
        }
    }

    pub(crate) fn numeric(&self) -> bool {
        !matches!(self.kind, Kind::Word(_) | Kind::Flag)
    }

    /// The smallest and greatest number.
    pub(crate) fn ends(&self) -> (f64, f64) {
        match self.kind {
            Kind::Real(min, max) | Kind::RealOrWord(min, max, _) => (min, max),
            Kind::Whole(min, max) | Kind::Odd(min, max) => (f64::from(min), f64::from(max)),
            Kind::Word(_) | Kind::Flag => (0.0, 0.0),
        }
    }

    fn has_number(&self, number: f64) -> bool {
        let (min, max) = self.ends();
        let fits = match self.kind {
            Kind::Real(..) | Kind::RealOrWord(..) => true,
            Kind::Whole(..) => number.fract() == 0.0,
            Kind::Odd(..) => number.rem_euclid(2.0) == 1.0,
            Kind::Word(_) | Kind::Flag => false,
        };
        fits && (min..=max).contains(&number)
    }

    fn has(&self, scalar: &Scalar) -> bool {
        match (scalar, self.kind) {
            (Scalar::Number(number), _) => self.has_number(*number),
            (Scalar::Word(word), Kind::Word(all) | Kind::RealOrWord(_, _, all)) => all.contains(&word.as_str()),
            (Scalar::Flag(_), Kind::Flag) => true,
            _ => false,
        }
    }

    pub(crate) fn require(&self, op: &str, scalar: &Scalar) -> Result<(), String> {
        if self.has(scalar) {
            return Ok(());
        }
        Err(format!("{op}.{} cannot be {scalar}: allowed is {}", self.name, self.allowed()))
    }

    /// Says whether a recorded value is one that the parameter may have.
    pub(crate) fn require_value(&self, op: &str, value: &Value) -> Result<(), String> {
        let scalar = match value {
            Value::Bool(flag) => Scalar::Flag(*flag),
            Value::Number(number) => Scalar::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(word) => Scalar::Word(word.clone()),
            other => return Err(format!("{op}.{} cannot be {other}: allowed is {}", self.name, self.allowed())),
        };
        self.require(op, &scalar)
    }

    /// The nearest number that the parameter may have.
    pub(crate) fn snap(&self, number: f64) -> f64 {
        let (min, max) = self.ends();
        let number = match self.kind {
            Kind::Whole(..) => (number + 0.5).floor(),
            Kind::Odd(..) => (number * 0.5).floor() * 2.0 + 1.0,
            _ => number,
        };
        number.clamp(min, max)
    }

    pub(crate) fn to_json(&self, scalar: &Scalar) -> Value {
        match scalar {
            Scalar::Number(number) if matches!(self.kind, Kind::Whole(..) | Kind::Odd(..)) => {
                Value::from(*number as u64)
            }
            Scalar::Number(number) => Value::from(*number),
            Scalar::Word(word) => Value::from(word.as_str()),
            Scalar::Flag(flag) => Value::from(*flag),
        }
    }

    pub(crate) fn schema(&self) -> Schema {
        let words = |all: &[&str]| json_schema!({ "enum": all });
        let single = match self.kind {
            Kind::Real(min, max) => json_schema!({ "type": "number", "minimum": min, "maximum": max }),
            Kind::Whole(min, max) | Kind::Odd(min, max) => {
                json_schema!({ "type": "integer", "minimum": min, "maximum": max })
            }
            Kind::Word(all) => words(all),
            Kind::RealOrWord(min, max, all) => {
                json_schema!({ "anyOf": [{ "type": "number", "minimum": min, "maximum": max }, words(all)] })
            }
            Kind::Flag => json_schema!({ "type": "boolean" }),
        };
        let object = |name: &str, inner: Value| {
            let properties = Value::from_iter([(name.to_owned(), inner)]);
            json_schema!({ "type": "object", "properties": properties, "required": [name], "additionalProperties": false })
        };
        let mut all = vec![single.clone().to_value()];
        all.push(object("choice", serde_json::json!({ "type": "array", "minItems": 1, "items": single })).to_value());
        if self.numeric() {
            let pair =
                serde_json::json!({ "type": "array", "minItems": 2, "maxItems": 2, "items": { "type": "number" } });
            all.push(pair.clone());
            all.push(object("log_uniform", pair).to_value());
            let normal = serde_json::json!({
                "type": "object", "properties": { "mean": { "type": "number" }, "std": { "type": "number", "minimum": 0 } },
                "required": ["mean", "std"], "additionalProperties": false
            });
            all.push(object("normal", normal).to_value());
            all.push(object("column", serde_json::json!({ "type": "string" })).to_value());
        }
        let mut doc = format!("{} Allowed: {}.", self.doc, self.allowed());
        if let Some(default) = self.default {
            doc = format!("{doc} Default: {default}.");
        }
        json_schema!({ "description": doc, "anyOf": all })
    }
}
