//! What differs between two JSON values, key by key, for messages.

use serde_json::Value;

/// The longest value shown whole, in characters.
const SHOWN: usize = 120;

/// One line for each key that differs, `\n  degrade.seed: 0 → 7`, in the order of `old`, then `new`.
pub(super) fn lines(old: &Value, new: &Value) -> String {
    let mut lines = String::new();
    walk("", Some(old), Some(new), &mut lines);
    lines
}

fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut String) {
    let below = |key: &dyn std::fmt::Display| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (old, new) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for (key, value) in old {
                walk(&below(key), Some(value), new.get(key), lines);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                walk(&below(key), None, Some(value), lines);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() && !old.iter().all(is_plain) => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                walk(&below(&i), Some(old), Some(new), lines);
            }
        }
        (old, new) => lines.push_str(&format!("\n  {path}: {} → {}", show(old), show(new))),
    }
}

fn is_plain(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn show(value: Option<&Value>) -> String {
    let Some(value) = value else { return "(absent)".into() };
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_each_key_with_both_values() {
        let old = json!({ "degrade": { "seed": 0, "recipe": [ { "jpeg": { "quality": [30, 95] } }, { "flip": {} } ] }, "score": ["a"] });
        let new = json!({ "degrade": { "seed": 7, "recipe": [ { "jpeg": { "quality": [40, 95] } }, { "flip": {} } ] }, "load": {} });
        assert_eq!(
            lines(&old, &new),
            "\n  degrade.seed: 0 → 7\n  degrade.recipe.0.jpeg.quality: [30,95] → [40,95]\n  score: [\"a\"] → (absent)\n  load: (absent) → {}"
        );
        assert_eq!(lines(&old, &old), "");
    }

    #[test]
    fn shortens_what_is_long() {
        let line = lines(&json!({ "a": "x".repeat(1000) }), &json!({ "a": 1 }));
        assert!(line.chars().count() < 200 && line.contains('…'), "{line}");
    }
}
