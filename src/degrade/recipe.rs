//! The grammar of a recipe: an ordered list of steps, each a mapping with one key.
//!
//! Steps are named by their place, counted from 0: `2` is the third step; below a control step follow its name, the
//! branch, group or round, and the place in it: `2.probability.0`, `2.one_of.1.0`, `2.by_variant.1.0`, `2.shuffle.0.1` (the group as written,
//! wherever the shuffle puts it), `2.repeat.3.0`. A preset is spliced in where it stands, so a preset and its expansion
//! name, draw and hash alike.
//!
//! Reading, checking and walking stand in one file (a little long): they are three sides of the same six words.
//!
//! (long because each kind of step is read, described, expanded, checked and walked here)

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::stage::Fault;

use super::presets::{PRESETS, Preset};
use super::setting::{CHANCE, Chance, Scalar, Setting, TIMES, Times};
use super::settings::{Place, Settings, SettingsOf, settings_schema};
use super::{OPERATIONS, Operation, operation};

/// More operations than this on one image is taken for a mistake.
const MOST_OPERATIONS: f64 = 1000.0;

/// The control steps' draws change only with this.
const CONTROL_VERSION: u16 = 1;

/// One step of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// An operation.
    Operation(Settings),
    /// A named recipe.
    Preset(&'static Preset),
    /// A recipe done with a chance.
    Probability(Probability),
    /// One of several recipes.
    OneOf(Vec<Branch>),
    /// Several recipes in random order.
    Shuffle(Vec<Group>),
    /// A recipe done several times.
    Repeat(Repeat),
    /// The recipe of the row's variant: the first for variant 0, and so on, beginning anew behind the last. Draws nothing.
    ByVariant(Vec<Group>),
}

/// `probability: { p, recipe }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probability {
    /// The chance that the recipe is done, 0 to 1.
    pub p: Chance,
    /// What is done.
    pub recipe: Vec<Step>,
}

/// One recipe of `one_of`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// Its chance, relative to the other branches' weights; 1 by default.
    #[serde(default = "one", deserialize_with = "weight")]
    pub weight: f64,
    /// What is done.
    pub recipe: Vec<Step>,
}

fn one() -> f64 {
    1.0
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let weight = f64::deserialize(deserializer)?;
    if !(0.0..=1e9).contains(&weight) {
        return Err(D::Error::custom(format!("one_of: weight cannot be {weight}: allowed is 0 to 1000000000")));
    }
    Ok(weight)
}

/// One recipe of `shuffle` (its own steps keep their order) or `by_variant`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What is done.
    pub recipe: Vec<Step>,
}

/// `repeat: { times, recipe }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// How often, 0 to 100.
    pub times: Times,
    /// What is done; each round draws anew.
    pub recipe: Vec<Step>,
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Operation(settings) => map.serialize_entry(settings.spec.name, settings)?,
            Self::Preset(preset) => map.serialize_entry("preset", preset.name)?,
            Self::Probability(step) => map.serialize_entry("probability", step)?,
            Self::OneOf(branches) => map.serialize_entry("one_of", branches)?,
            Self::Shuffle(groups) => map.serialize_entry("shuffle", groups)?,
            Self::Repeat(step) => map.serialize_entry("repeat", step)?,
            Self::ByVariant(groups) => map.serialize_entry("by_variant", groups)?,
        }
        map.end()
    }
}

const CONTROLS: &str = "preset, probability, one_of, shuffle, repeat, by_variant";

fn operation_names() -> String {
    OPERATIONS.iter().map(|operation| operation.spec.name).collect::<Vec<_>>().join(", ")
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneKey;

        impl<'de> Visitor<'de> for OneKey {
            type Value = Step;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a step: an operation's name and its parameters in braces, such as `flip: {}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Step, A::Error> {
                let Some(key) = map.next_key::<String>()? else {
                    return Err(A::Error::custom("a step is empty: it has one key, an operation's name"));
                };
                let step = match key.as_str() {
                    "preset" => Step::Preset(named_preset(&map.next_value::<String>()?).map_err(A::Error::custom)?),
                    "probability" => Step::Probability(map.next_value()?),
                    "one_of" => {
                        let branches: Vec<Branch> = map.next_value()?;
                        if branches.iter().map(|branch| branch.weight).sum::<f64>() <= 0.0 {
                            return Err(A::Error::custom("one_of needs a branch whose weight is above 0"));
                        }
                        Step::OneOf(branches)
                    }
                    "shuffle" => Step::Shuffle(map.next_value()?),
                    "repeat" => Step::Repeat(map.next_value()?),
                    "by_variant" => {
                        let groups: Vec<Group> = map.next_value()?;
                        if groups.is_empty() {
                            return Err(A::Error::custom("by_variant needs a recipe"));
                        }
                        Step::ByVariant(groups)
                    }
                    name => match operation(name) {
                        Some(operation) => Step::Operation(map.next_value_seed(SettingsOf(&operation.spec))?),
                        None => {
                            return Err(A::Error::custom(format!(
                                "there is no step `{name}`: there are {}, and {CONTROLS}",
                                operation_names()
                            )));
                        }
                    },
                };
                if let Some(second) = map.next_key::<String>()? {
                    return Err(A::Error::custom(format!(
                        "a step has one key, this has `{key}` and `{second}`: begin another step with `-`"
                    )));
                }
                Ok(step)
            }
        }
        deserializer.deserialize_any(OneKey)
    }
}

fn named_preset(name: &str) -> Result<&'static Preset, String> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("there is no preset `{name}`: there are {}", names.join(", "))
    })
}

impl JsonSchema for Step {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Step".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = serde_json::Map::new();
        for operation in OPERATIONS {
            properties.insert(operation.spec.name.to_owned(), settings_schema(&operation.spec).to_value());
        }
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        let preset = json_schema!({ "description": "A named recipe.", "enum": names });
        properties.insert("preset".into(), preset.to_value());
        let mut control = |name: &str, doc: &str, schema: Schema| {
            let mut schema = schema;
            schema.insert("description".into(), Value::from(doc));
            properties.insert(name.into(), schema.to_value());
        };
        control("probability", "Does a recipe with a chance.", generator.subschema_for::<Probability>());
        control("one_of", "Does one of several recipes.", generator.subschema_for::<Vec<Branch>>());
        control("shuffle", "Does several recipes in random order.", generator.subschema_for::<Vec<Group>>());
        control("repeat", "Does a recipe several times.", generator.subschema_for::<Repeat>());
        let doc =
            "Does the recipe of the row's variant: the first for variant 0, and so on, beginning anew behind the last.";
        control("by_variant", doc, generator.subschema_for::<Vec<Group>>());
        json_schema!({
            "description": "One step of a recipe: one key.", "type": "object", "minProperties": 1, "maxProperties": 1,
            "properties": properties, "additionalProperties": false
        })
    }
}

/// The recipe with every preset replaced by its steps.
pub(crate) fn expand(steps: &[Step]) -> Result<Vec<Step>, String> {
    let mut expanded = Vec::with_capacity(steps.len());
    for step in steps {
        match step {
            Step::Operation(_) => expanded.push(step.clone()),
            Step::Preset(preset) => expanded.extend(expand(&preset.steps()?)?),
            Step::Probability(Probability { p, recipe }) => {
                expanded.push(Step::Probability(Probability { p: p.clone(), recipe: expand(recipe)? }));
            }
            Step::OneOf(branches) => {
                let branch = |b: &Branch| Ok(Branch { weight: b.weight, recipe: expand(&b.recipe)? });
                expanded.push(Step::OneOf(branches.iter().map(branch).collect::<Result<_, String>>()?));
            }
            Step::Shuffle(groups) => expanded.push(Step::Shuffle(expand_groups(groups)?)),
            Step::ByVariant(groups) => expanded.push(Step::ByVariant(expand_groups(groups)?)),
            Step::Repeat(Repeat { times, recipe }) => {
                expanded.push(Step::Repeat(Repeat { times: times.clone(), recipe: expand(recipe)? }));
            }
        }
    }
    Ok(expanded)
}

fn expand_groups(groups: &[Group]) -> Result<Vec<Group>, String> {
    groups.iter().map(|group| Ok(Group { recipe: expand(&group.recipe)? })).collect()
}

/// The number of recipes in the longest `by_variant`; 0 if there is none.
pub(crate) fn longest_by_variant(steps: &[Step]) -> usize {
    let mut longest = 0;
    match_steps(steps, &mut |step| {
        if let Step::ByVariant(groups) = step {
            longest = longest.max(groups.len());
        }
    });
    longest
}

/// True if an operation among the expanded steps moves pixels.
pub(crate) fn turns(steps: &[Step]) -> bool {
    let mut turns = false;
    match_steps(steps, &mut |step| turns |= matches!(step, Step::Operation(settings) if settings.spec.geometry));
    turns
}

/// Adds the names of the kept columns that the steps read.
pub(crate) fn columns(steps: &[Step], names: &mut std::collections::BTreeSet<String>) {
    let mut control = |setting: &Setting| {
        if let Setting::Column(name) = setting {
            names.insert(name.clone());
        }
    };
    match_steps(steps, &mut |step| match step {
        Step::Probability(step) => control(&step.p.0),
        Step::Repeat(step) => control(&step.times.0),
        _ => {}
    });
    match_steps(steps, &mut |step| {
        if let Step::Operation(settings) = step {
            names.extend(settings.columns().map(str::to_owned));
        }
    });
}

/// Calls `f` for every step, those inside others too.
fn match_steps(steps: &[Step], f: &mut impl FnMut(&Step)) {
    for step in steps {
        f(step);
        match step {
            Step::Operation(_) | Step::Preset(_) => {}
            Step::Probability(step) => match_steps(&step.recipe, f),
            Step::OneOf(branches) => branches.iter().for_each(|branch| match_steps(&branch.recipe, f)),
            Step::Shuffle(groups) | Step::ByVariant(groups) => {
                groups.iter().for_each(|group| match_steps(&group.recipe, f));
            }
            Step::Repeat(step) => match_steps(&step.recipe, f),
        }
    }
}

/// Refuses an expanded recipe that may do more than [`MOST_OPERATIONS`].
pub(crate) fn check_length(steps: &[Step]) -> Result<(), String> {
    fn most(steps: &[Step]) -> f64 {
        let of = |step: &Step| match step {
            Step::Operation(_) | Step::Preset(_) => 1.0,
            Step::Probability(step) => most(&step.recipe),
            Step::OneOf(branches) => branches.iter().map(|branch| most(&branch.recipe)).fold(0.0, f64::max),
            Step::Shuffle(groups) => groups.iter().map(|group| most(&group.recipe)).sum(),
            Step::ByVariant(groups) => groups.iter().map(|group| most(&group.recipe)).fold(0.0, f64::max),
            Step::Repeat(step) => step.times.0.greatest(&TIMES) * most(&step.recipe),
        };
        steps.iter().map(of).sum()
    }
    let most = most(steps);
    if most > MOST_OPERATIONS {
        return Err(format!(
            "degrade.recipe may apply {most} operations to one image: allowed are {MOST_OPERATIONS}; lower repeat.times"
        ));
    }
    Ok(())
}

/// Walks an expanded recipe, drawing what it draws, and calls `apply` for each operation in order.
pub(crate) fn walk<'a>(
    steps: &'a [Step],
    prefix: &str,
    place: &Place<'_>,
    apply: &mut impl FnMut(&'a Settings, &Place<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (i, step) in steps.iter().enumerate() {
        let path = format!("{prefix}{i}");
        let here = Place { step: &path, ..*place };
        match step {
            Step::Operation(settings) => apply(settings, &here)?,
            Step::Preset(preset) => return Err(here.fault(format!("preset {} was not expanded", preset.name))),
            Step::Probability(Probability { p, recipe }) => {
                let p = number(here.draw("probability", CONTROL_VERSION, &CHANCE, &p.0)?);
                if here.stream("probability", CONTROL_VERSION).unit() < p {
                    walk(recipe, &format!("{path}.probability."), place, apply)?;
                }
            }
            Step::OneOf(branches) => {
                let total: f64 = branches.iter().map(|branch| branch.weight).sum();
                let mut left = here.stream("one_of", CONTROL_VERSION).unit() * total;
                let chosen = branches.iter().position(|branch| {
                    left -= branch.weight;
                    left < 0.0
                });
                // Rounding may leave a hair behind the last branch that has a weight.
                let last = || branches.iter().rposition(|branch| branch.weight > 0.0);
                if let Some(k) = chosen.or_else(last) {
                    walk(&branches[k].recipe, &format!("{path}.one_of.{k}."), place, apply)?;
                }
            }
            Step::Shuffle(groups) => {
                let mut order: Vec<usize> = (0..groups.len()).collect();
                let mut stream = here.stream("shuffle", CONTROL_VERSION);
                for k in (1..order.len()).rev() {
                    order.swap(k, stream.below(k as u64 + 1) as usize);
                }
                for k in order {
                    walk(&groups[k].recipe, &format!("{path}.shuffle.{k}."), place, apply)?;
                }
            }
            Step::Repeat(Repeat { times, recipe }) => {
                let times = number(here.draw("repeat", CONTROL_VERSION, &TIMES, &times.0)?) as u32;
                for round in 0..times {
                    walk(recipe, &format!("{path}.repeat.{round}."), place, apply)?;
                }
            }
            Step::ByVariant(groups) => {
                let k = usize::from(place.variant) % groups.len().max(1);
                if let Some(group) = groups.get(k) {
                    walk(&group.recipe, &format!("{path}.by_variant.{k}."), place, apply)?;
                }
            }
        }
    }
    Ok(())
}

fn number(scalar: Scalar) -> f64 {
    match scalar {
        Scalar::Number(number) => number,
        Scalar::Word(_) | Scalar::Flag(_) => 0.0,
    }
}

/// The operation that a row recorded as `name`.
pub(crate) fn recorded(name: &str) -> Result<&'static Operation, String> {
    operation(name).ok_or_else(|| {
        format!("the row records `{name}`, which this version does not know: it knows {}", operation_names())
    })
}
