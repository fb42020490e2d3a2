//! What a recipe may say of one parameter ([`Setting`]), read by the parameter's own rules, so that a mistake is told with
//! its line. (long because serde wants a visitor method for each form that a value can take.)

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::spec::{Kind, Param};

/// A value as a recipe writes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(f64),
    /// A word.
    Word(String),
    /// `true` or `false`.
    Flag(bool),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                serializer.serialize_i64(*number as i64)
            }
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Word(word) => serializer.serialize_str(word),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a word, true or false")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Scalar, E> {
                Ok(Scalar::Flag(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(v as f64))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(v as f64))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Scalar, E> {
                Ok(Scalar::Number(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar::Word(v.to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// What a recipe says of a parameter: a value, or what to draw it from.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// Always this.
    Fixed(Scalar),
    /// `[a, b]`: each number between them alike, both ends included (whole, or odd, where the parameter is).
    Uniform(f64, f64),
    /// `{ choice: [...] }`: each alike.
    Choice(Vec<Scalar>),
    /// `{ log_uniform: [a, b] }`: each ratio alike.
    LogUniform(f64, f64),
    /// `{ normal: { mean, std } }`, held in the parameter's range.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// `{ column: name }`: the number in a kept input column.
    Column(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeanAndStd {
    mean: f64,
    std: f64,
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn one<S: Serializer>(serializer: S, key: &str, value: &impl Serialize) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(key, value)?;
            map.end()
        }
        let pair = |a: &f64, b: &f64| [Scalar::Number(*a), Scalar::Number(*b)];
        match self {
            Self::Fixed(scalar) => scalar.serialize(serializer),
            Self::Uniform(a, b) => pair(a, b).serialize(serializer),
            Self::Choice(all) => one(serializer, "choice", all),
            Self::LogUniform(a, b) => one(serializer, "log_uniform", &pair(a, b)),
            Self::Normal { mean, std } => one(serializer, "normal", &MeanAndStd { mean: *mean, std: *std }),
            Self::Column(name) => one(serializer, "column", name),
        }
    }
}

impl Setting {
    /// Reads a setting of parameter `param` of `op` from a recipe's grammar in JSON.
    pub(crate) fn from_json(op: &str, param: &'static Param, json: &str) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        SettingOf { op, param }.deserialize(&mut deserializer).map_err(|e| e.to_string())
    }

    /// True if a draw may give one of `words`.
    pub(crate) fn may_be(&self, words: &[&str]) -> bool {
        let is = |scalar: &Scalar| matches!(scalar, Scalar::Word(word) if words.contains(&word.as_str()));
        match self {
            Self::Fixed(scalar) => is(scalar),
            Self::Choice(all) => all.iter().any(is),
            _ => false,
        }
    }

    /// The greatest number that a draw may give.
    pub(crate) fn greatest(&self, param: &Param) -> f64 {
        match self {
            Self::Fixed(Scalar::Number(number)) => *number,
            Self::Uniform(_, b) | Self::LogUniform(_, b) => *b,
            Self::Choice(all) => all.iter().fold(0.0, |most: f64, scalar| match scalar {
                Scalar::Number(number) => most.max(*number),
                _ => most,
            }),
            _ => param.ends().1,
        }
    }

    /// The smallest and the greatest number that a draw may give, where the recipe itself says them.
    pub(crate) fn span(&self) -> Option<(f64, f64)> {
        match self {
            Self::Fixed(Scalar::Number(number)) => Some((*number, *number)),
            Self::Uniform(a, b) | Self::LogUniform(a, b) => Some((*a, *b)),
            Self::Choice(all) => {
                all.iter().try_fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| match one {
                    Scalar::Number(number) => Some((low.min(*number), high.max(*number))),
                    _ => None,
                })
            }
            Self::Fixed(_) | Self::Normal { .. } | Self::Column(_) => None,
        }
    }

    fn check(&self, op: &str, param: &Param) -> Result<(), String> {
        let name = param.name;
        let number = |n: f64| param.require(op, &Scalar::Number(n));
        let numeric = |what: &str| {
            let message = || format!("{op}.{name} cannot be drawn from {what}: allowed is {}", param.allowed());
            if param.numeric() { Ok(()) } else { Err(message()) }
        };
        match self {
            Self::Fixed(scalar) => param.require(op, scalar),
            Self::Uniform(a, b) | Self::LogUniform(a, b) => {
                numeric("a range")?;
                number(*a)?;
                number(*b)?;
                if a > b {
                    return Err(format!("{op}.{name}: the range [{a}, {b}] begins above its end, write [{b}, {a}]"));
                }
                if matches!(self, Self::LogUniform(..)) && *a <= 0.0 {
                    return Err(format!("{op}.{name}: log_uniform needs a lower end above 0, not {a}"));
                }
                Ok(())
            }
            Self::Choice(all) => {
                if all.is_empty() {
                    return Err(format!("{op}.{name}: choice needs at least one value"));
                }
                all.iter().try_for_each(|scalar| param.require(op, scalar))
            }
            Self::Normal { mean, std } => {
                numeric("normal")?;
                let (min, max) = param.ends();
                if !(min..=max).contains(mean) {
                    return Err(format!("{op}.{name}: the mean cannot be {mean}: allowed is {}", param.allowed()));
                }
                if !(*std >= 0.0 && std.is_finite()) {
                    return Err(format!("{op}.{name}: std cannot be {std}: allowed is 0 or more"));
                }
                Ok(())
            }
            Self::Column(_) => numeric("a column"),
        }
    }
}

/// Reads a [`Setting`] for `param` of `op`, refusing what is not allowed there.
pub(crate) struct SettingOf<'a> {
    pub(crate) op: &'a str,
    pub(crate) param: &'static Param,
}

impl SettingOf<'_> {
    fn checked<E: serde::de::Error>(&self, setting: Setting) -> Result<Setting, E> {
        setting.check(self.op, self.param).map_err(E::custom)?;
        Ok(setting)
    }
}

impl<'de> DeserializeSeed<'de> for SettingOf<'_> {
    type Value = Setting;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Setting, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SettingOf<'_> {
    type Value = Setting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}: {}", self.op, self.param.name, self.param.allowed())?;
        if self.param.numeric() {
            write!(
                f,
                "; or [a, b], {{ choice: [..] }}, {{ log_uniform: [a, b] }}, {{ normal: {{ mean, std }} }}, {{ column: name }}"
            )
        } else {
            write!(f, "; or {{ choice: [..] }}")
        }
    }

    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<Setting, E> {
        self.checked(Setting::Fixed(Scalar::Flag(v)))
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Setting, E> {
        self.checked(Setting::Fixed(Scalar::Number(v as f64)))
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Setting, E> {
        self.checked(Setting::Fixed(Scalar::Number(v as f64)))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Setting, E> {
        self.checked(Setting::Fixed(Scalar::Number(v)))
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Setting, E> {
        self.checked(Setting::Fixed(Scalar::Word(v.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Setting, A::Error> {
        let mut ends = Vec::new();
        while let Some(end) = seq.next_element::<Scalar>()? {
            ends.push(end);
        }
        match ends.as_slice() {
            [Scalar::Number(a), Scalar::Number(b)] => self.checked(Setting::Uniform(*a, *b)),
            _ => Err(A::Error::custom(format!(
                "{}.{}: a range is two numbers, [a, b]; to choose among values write {{ choice: [..] }}",
                self.op, self.param.name
            ))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Setting, A::Error> {
        const FORMS: &str = "choice, log_uniform, normal, column";
        let place = format!("{}.{}", self.op, self.param.name);
        let Some(form) = map.next_key::<String>()? else {
            return Err(A::Error::custom(format!("{place}: the braces are empty: allowed in them is one of {FORMS}")));
        };
        let setting = match form.as_str() {
            "choice" => Setting::Choice(map.next_value()?),
            "log_uniform" => {
                let (a, b) = map.next_value()?;
                Setting::LogUniform(a, b)
            }
            "normal" => {
                let MeanAndStd { mean, std } = map.next_value()?;
                Setting::Normal { mean, std }
            }
            "column" => Setting::Column(map.next_value()?),
            other => {
                return Err(A::Error::custom(format!("{place}: unknown key `{other}`: allowed is one of {FORMS}")));
            }
        };
        if let Some(second) = map.next_key::<String>()? {
            return Err(A::Error::custom(format!("{place}: `{form}` stands alone, `{second}` is too much")));
        }
        self.checked(setting)
    }
}

/// The chance of a `probability` step.
pub(crate) const CHANCE: Param =
    Param::required("p", Kind::Real(0.0, 1.0), "", "The chance that the recipe below is done.");

/// How often a `repeat` step does its recipe.
pub(crate) const TIMES: Param =
    Param::required("times", Kind::Whole(0, 100), "times", "How often the recipe below is done.");

macro_rules! setting_of {
    ($(#[doc = $doc:literal])+ $name:ident, $op:literal, $param:ident) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Setting);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                SettingOf { op: $op, param: &$param }.deserialize(deserializer).map(Self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $param.schema()
            }
        }
    };
}

setting_of! {
    /// A [`Setting`] for a chance, 0 to 1.
    Chance, "probability", CHANCE
}
setting_of! {
    /// A [`Setting`] for a count, 0 to 100.
    Times, "repeat", TIMES
}
