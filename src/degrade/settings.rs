//! All settings of one operation in a recipe ([`Settings`]), and drawing from them.

use std::fmt;

use schemars::{Schema, json_schema};
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::sample::{FailureCode, Record};
use crate::stage::Fault;
use crate::stream::Stream;

use super::maths;
use super::setting::{Scalar, Setting, SettingOf};
use super::spec::{Kind, Param, Spec};

/// Where a draw happens: everything that seeds it, and the record whose columns it may read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) seed: u64,
    pub(crate) record: &'a Record,
    pub(crate) variant: u16,
    pub(crate) step: &'a str,
}

impl Place<'_> {
    /// The stream of `op` here.
    pub(crate) fn stream(&self, op: &str, version: u16) -> Stream {
        Stream::new(self.seed, &self.record.key, self.variant, self.step, op, version)
    }

    /// Draws parameter `param` of `op`. Each parameter has a stream of its own (`op.param`), so that a change of one
    /// leaves the others' draws and the noise as they were. `Fault::Record` if a column has no allowed number.
    pub(crate) fn draw(&self, op: &str, version: u16, param: &Param, setting: &Setting) -> Result<Scalar, Fault> {
        let stream = || self.stream(&format!("{op}.{}", param.name), version);
        Ok(match setting {
            Setting::Fixed(scalar) => scalar.clone(),
            Setting::Choice(all) => match all.get(stream().below(all.len() as u64) as usize) {
                Some(scalar) => scalar.clone(),
                None => return Err(self.fault(format!("{op}.{}: choice is empty", param.name))),
            },
            Setting::Uniform(a, b) => Scalar::Number(match param.kind {
                Kind::Whole(..) => a + stream().below((b - a) as u64 + 1) as f64,
                Kind::Odd(..) => a + 2.0 * stream().below((b - a) as u64 / 2 + 1) as f64,
                _ => stream().uniform(*a, *b),
            }),
            Setting::LogUniform(a, b) => {
                let number = maths::exp(stream().uniform(maths::ln(*a), maths::ln(*b)));
                Scalar::Number(param.snap(number.clamp(*a, *b)))
            }
            Setting::Normal { mean, std } => Scalar::Number(param.snap(mean + std * stream().normal())),
            Setting::Column(column) => {
                let Some(number) = self.record.number(column) else {
                    let name = param.name;
                    return Err(self.fault(format!("{op}.{name} needs a number in column `{column}`: there is none")));
                };
                let scalar = Scalar::Number(number);
                param.require(op, &scalar).map_err(|e| self.fault(format!("column `{column}`: {e}")))?;
                scalar
            }
        })
    }

    pub(crate) fn fault(&self, message: String) -> Fault {
        Fault::Record(FailureCode::Degrade, format!("step {} of the recipe: {message}", self.step))
    }
}

/// An operation's settings in a recipe, in the order of its spec, defaults filled in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The operation.
    pub spec: &'static Spec,
    settings: Vec<(&'static Param, Setting)>,
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        let named =
            |all: &Self| all.settings.iter().map(|(param, setting)| (param.name, setting.clone())).collect::<Vec<_>>();
        self.spec.name == other.spec.name && named(self) == named(other)
    }
}

impl Settings {
    /// Names of the kept columns that the settings read.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().filter_map(|(_, setting)| match setting {
            Setting::Column(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Draws every parameter that exists: name → value.
    pub(crate) fn draw(&self, place: &Place<'_>) -> Result<Value, Fault> {
        let mut drawn = serde_json::Map::new();
        for (param, setting) in &self.settings {
            if let Some((other, words)) = param.when {
                let word = drawn.get(other).and_then(Value::as_str).unwrap_or_default();
                if !words.contains(&word) {
                    continue;
                }
            }
            let scalar = place.draw(self.spec.name, self.spec.version, param, setting)?;
            drawn.insert(param.name.to_owned(), param.to_json(&scalar));
        }
        Ok(Value::Object(drawn))
    }

    fn complete(spec: &'static Spec, mut given: Vec<(&'static Param, Setting)>) -> Result<Self, String> {
        let op = spec.name;
        let names: Vec<&str> = given.iter().map(|(param, _)| param.name).collect();
        (spec.check)(&names).map_err(|e| format!("{op}: {e}"))?;
        let mut settings: Vec<(&'static Param, Setting)> = Vec::new();
        for param in spec.params {
            let at = given.iter().position(|(other, _)| other.name == param.name);
            let exists = param.when.is_none_or(|(other, words)| {
                settings.iter().any(|(param, setting)| param.name == other && setting.may_be(words))
            });
            match (at, exists) {
                (Some(at), true) => settings.push(given.swap_remove(at)),
                (Some(_), false) => {
                    let (other, words) = param.when.unwrap_or_default();
                    let name = param.name;
                    return Err(format!("{op}.{name} is for {other} {} only: leave it out", words.join(", ")));
                }
                (None, true) if param.required => {
                    return Err(format!("{op} needs `{}`: allowed is {}", param.name, param.allowed()));
                }
                (None, true) => {
                    if let Some(default) = param.default {
                        settings.push((param, Setting::from_json(op, param, default)?));
                    }
                }
                (None, false) => {}
            }
        }
        ordered(op, &settings)?;
        Ok(Self { spec, settings })
    }
}

/// Refuses settings by which a draw of `x_min` could be above that of `x_max`. Columns and normals are not looked into.
fn ordered(op: &str, settings: &[(&'static Param, Setting)]) -> Result<(), String> {
    for (low, setting) in settings {
        let Some(stem) = low.name.strip_suffix("_min") else { continue };
        let high = settings.iter().find(|(param, _)| param.name.strip_suffix("_max") == Some(stem));
        if let Some((high, other)) = high
            && let (Some((_, most)), Some((least, _))) = (setting.span(), other.span())
            && most > least
        {
            let (low, high) = (low.name, high.name);
            return Err(format!("{op}.{low} can be {most}, which is above {op}.{high}, {least}"));
        }
    }
    Ok(())
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.settings.iter().map(|(param, setting)| (param.name, setting)))
    }
}

/// Reads [`Settings`] of one operation.
pub(crate) struct SettingsOf(pub(crate) &'static Spec);

impl<'de> DeserializeSeed<'de> for SettingsOf {
    type Value = Settings;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Settings, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SettingsOf {
    type Value = Settings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.params.iter().map(|param| param.name).collect();
        write!(f, "the parameters of {0} in braces ({1}), or {{}} for the defaults", self.0.name, names.join(", "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
        let op = self.0.name;
        let mut given: Vec<(&'static Param, Setting)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let Some(param) = self.0.params.iter().find(|param| param.name == name) else {
                let names: Vec<&str> = self.0.params.iter().map(|param| param.name).collect();
                return Err(A::Error::custom(format!("{op} has no parameter `{name}`: it has {}", names.join(", "))));
            };
            if given.iter().any(|(other, _)| other.name == name) {
                return Err(A::Error::custom(format!("{op}.{name} stands twice")));
            }
            given.push((param, map.next_value_seed(SettingOf { op, param })?));
        }
        Settings::complete(self.0, given).map_err(A::Error::custom)
    }
}

/// The JSON schema of an operation's settings.
pub(crate) fn settings_schema(spec: &'static Spec) -> Schema {
    let properties = Value::from_iter(spec.params.iter().map(|p| (p.name.to_owned(), p.schema().to_value())));
    let required: Vec<&str> = spec.params.iter().filter(|p| p.required).map(|p| p.name).collect();
    json_schema!({
        "description": spec.doc, "type": "object", "properties": properties, "required": required,
        "additionalProperties": false
    })
}
