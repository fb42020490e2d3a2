//! What there is: every operation and preset with parameters, units, ranges and defaults, for `lm4lv ops`.

use serde::Serialize;
use serde_json::Value;

use super::OPERATIONS;
use super::presets::PRESETS;

/// Every operation and preset.
#[derive(Debug, Serialize)]
pub struct Catalogue {
    /// The operations.
    pub operations: Vec<OperationEntry>,
    /// The named recipes.
    pub presets: Vec<PresetEntry>,
}

/// One operation.
#[derive(Debug, Serialize)]
pub struct OperationEntry {
    /// Its name in a recipe.
    pub name: &'static str,
    /// Its version, as rows record it.
    pub version: u16,
    /// What it does, one sentence.
    pub doc: &'static str,
    /// Its parameters.
    pub params: Vec<ParamEntry>,
}

/// One parameter.
#[derive(Debug, Serialize)]
pub struct ParamEntry {
    /// Its name.
    pub name: &'static str,
    /// The unit of a number; empty for words and pure numbers.
    pub unit: &'static str,
    /// The range or the words, such as `0 to 75 grey levels`.
    pub allowed: String,
    /// What it is where a recipe does not say, in a recipe's grammar; `None` if it must be said or is absent then.
    pub default: Option<Value>,
    /// True if a recipe must give it.
    pub required: bool,
    /// Such as `shape: grid`, where it exists only then.
    pub only_with: Option<String>,
    /// What it is, one sentence.
    pub doc: &'static str,
}

/// One named recipe.
#[derive(Debug, Serialize)]
pub struct PresetEntry {
    /// Its name in a recipe.
    pub name: &'static str,
    /// What it is for, one sentence.
    pub doc: &'static str,
    /// True if its values were found by matching published scores, not published themselves.
    pub calibrated: bool,
    /// Its steps, defaults filled in.
    pub recipe: Value,
}

/// Everything that a recipe can name. `Err` is a bug in a preset.
pub fn catalogue() -> Result<Catalogue, String> {
    let operations = OPERATIONS.iter().map(|operation| {
        let spec = &operation.spec;
        let params = spec.params.iter().map(|param| ParamEntry {
            name: param.name,
            unit: param.unit,
            allowed: param.allowed(),
            default: param.default.and_then(|json| serde_json::from_str(json).ok()),
            required: param.required,
            only_with: param.when.map(|(other, words)| format!("{other}: {}", words.join(" | "))),
            doc: param.doc,
        });
        OperationEntry { name: spec.name, version: spec.version, doc: spec.doc, params: params.collect() }
    });
    let presets = PRESETS.iter().map(|preset| {
        let recipe = serde_json::to_value(preset.steps()?).map_err(|e| e.to_string())?;
        Ok(PresetEntry { name: preset.name, doc: preset.doc, calibrated: preset.calibrated, recipe })
    });
    Ok(Catalogue { operations: operations.collect(), presets: presets.collect::<Result<_, String>>()? })
}
