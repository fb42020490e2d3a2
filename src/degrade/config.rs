//! The `degrade` section as it is written in a pipeline file.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::image::Rounding;

use super::recipe::{self, Step};

/// The `degrade` section.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DegradeConfig {
    /// Seeds every random choice; 0 by default. Another seed, other pixels.
    pub seed: u64,
    /// Rows per input position, 1 to 65535; 1 by default. Each variant draws anew.
    #[schemars(range(min = 1))]
    pub variants: u16,
    /// When and how values between 8-bit levels are rounded.
    pub quantize: Quantize,
    /// What the column `target` holds.
    pub target: Target,
    /// The steps, in order; none by default.
    pub recipe: Vec<Step>,
}

/// What the column `target` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The image as loaded.
    #[default]
    Source,
    /// The image as loaded, after the recipe's flips and rotations.
    Geometry,
    /// The degraded image; `input` is the image as loaded.
    Degraded,
}

/// When and how values between 8-bit levels are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quantize {
    /// `end` (the default) or `each_step`.
    pub when: When,
    /// `round` (the default) or `trunc`.
    pub how: Rounding,
}

/// When values are clipped to 0–255 and made 8-bit levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Once, behind the last step.
    #[default]
    End,
    /// Behind each operation, as chains of 8-bit tools do.
    EachStep,
}

impl Default for DegradeConfig {
    fn default() -> Self {
        Self { seed: 0, variants: 1, quantize: Quantize::default(), target: Target::Source, recipe: Vec::new() }
    }
}

impl<'de> Deserialize<'de> for DegradeConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The same fields; what they forbid together is checked behind it, where the line is still known.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default, rename = "DegradeConfig")]
        struct Fields {
            seed: u64,
            #[serde(deserialize_with = "variants")]
            variants: u16,
            quantize: Quantize,
            target: Target,
            #[serde(deserialize_with = "steps")]
            recipe: Vec<Step>,
        }
        impl Default for Fields {
            fn default() -> Self {
                let DegradeConfig { seed, variants, quantize, target, recipe } = DegradeConfig::default();
                Self { seed, variants, quantize, target, recipe }
            }
        }
        fn variants<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
            match u64::deserialize(deserializer)? {
                n @ 1..=0xffff => Ok(n as u16),
                n => Err(D::Error::custom(format!("degrade.variants cannot be {n}: allowed is 1 to 65535"))),
            }
        }
        fn steps<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
            let steps = Vec::deserialize(deserializer)?;
            recipe::expand(&steps).and_then(|all| recipe::check_length(&all)).map_err(D::Error::custom)?;
            Ok(steps)
        }
        let Fields { seed, variants, quantize, target, recipe } = Fields::deserialize(deserializer)?;
        Ok(Self { seed, variants, quantize, target, recipe })
    }
}

impl DegradeConfig {
    /// Checks what parsing has checked already, for sections built or changed by a program. `Err` names the key.
    pub fn check(&self) -> Result<(), String> {
        if self.variants == 0 {
            return Err("degrade.variants cannot be 0: allowed is 1 to 65535".into());
        }
        let json = serde_json::to_value(&self.recipe).map_err(|e| e.to_string())?;
        serde_json::from_value::<Vec<Step>>(json).map_err(|e| format!("degrade.recipe: {e}"))?;
        recipe::check_length(&recipe::expand(&self.recipe)?)
    }

    /// Names of the kept input columns that the recipe reads, sorted, each once.
    pub fn columns(&self) -> Vec<String> {
        let mut names = BTreeSet::new();
        recipe::columns(&self.recipe, &mut names);
        names.into_iter().collect()
    }

    /// True if an operation of the recipe may move pixels. `Err` is a bug in a preset.
    pub fn turns(&self) -> Result<bool, String> {
        Ok(recipe::turns(&recipe::expand(&self.recipe)?))
    }

    /// The number of recipes in the longest `by_variant`; with fewer `variants`, the last of them are never done. 0 without.
    pub fn longest_by_variant(&self) -> usize {
        recipe::longest_by_variant(&self.recipe)
    }

    /// The same with every preset replaced by its steps; it makes the same rows. `Err` is a bug in a preset.
    pub fn expanded(&self) -> Result<Self, String> {
        Ok(Self { recipe: recipe::expand(&self.recipe)?, ..self.clone() })
    }
}
