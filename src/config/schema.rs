//! `schemas/pipeline.schema.json`: the pipeline file's JSON Schema, for completion and help in editors.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Value, json};

use super::Pipeline;

/// The JSON Schema (draft 2020-12) of a pipeline file, generated from the structs. Where a number or a boolean belongs, a text
/// with a variable (`"${SIGMA:25}"`) is allowed too.
pub fn pipeline_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(allow_variables));
    let mut schema = settings.into_generator().into_root_schema_for::<Pipeline>();
    schema.insert("title".to_owned(), "lm4lv pipeline".into());
    schema.to_value()
}

fn allow_variables(schema: &mut Schema) {
    let mut kinds: Vec<Value> = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.clone(),
        kind => kind.cloned().into_iter().collect(),
    };
    if kinds.iter().any(|kind| matches!(kind.as_str(), Some("integer" | "number" | "boolean"))) {
        kinds.push("string".into());
        // `pattern` binds texts only, `minimum` numbers only.
        schema.insert("type".to_owned(), json!(kinds));
        schema.insert("pattern".to_owned(), json!("\\$\\{"));
    }
}
