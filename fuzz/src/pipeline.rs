//! Any text is a pipeline, which its snapshot in the plan describes in full, or is refused at a place inside it.

use lm4lv::config::Pipeline;
use lm4lv::degrade::{Degrade, DegradeConfig};
use lm4lv::load::LoadConfig;
use serde_json::{Value, json};

/// Reads a pipeline file; behind NUL characters come `--set` arguments.
pub fn pipeline(data: &[u8]) {
    let Ok(whole) = std::str::from_utf8(data) else { return };
    // Would read files of the machine.
    if whole.contains("${file") {
        return;
    }
    let mut words = whole.split('\0').map(str::to_owned);
    let text = words.next().unwrap_or_default();
    let sets: Vec<String> = words.collect();
    let pipeline = match parse(&text, &sets) {
        Ok(pipeline) => pipeline,
        Err(why) => return refused(&why, &text, &sets),
    };
    assert!(format!("{pipeline:?}").starts_with("Pipeline("));
    let (content, hash) = (pipeline.content("w"), pipeline.content_hash("w"));
    pipeline.image_columns().unwrap();
    if let Some(degrade) = &pipeline.degrade {
        Degrade::new(degrade).unwrap();
    }

    // The plan's sections are read back as `replay` does.
    let section = |name: &str| content[name].clone();
    let load: Option<LoadConfig> = serde_json::from_value(section("load")).unwrap();
    assert_eq!(json!(load.as_ref().map(LoadConfig::content)), content["load"]);
    let degrade: Option<DegradeConfig> = serde_json::from_value(section("degrade")).unwrap();
    assert_eq!(json!(degrade), content["degrade"]);

    // And a pipeline file written from them makes the same rows.
    let mut sink = section("sink");
    sink["dir"] = json!("out");
    let mut file = json!({
        "source": pipeline.source, "load": content["load"], "degrade": content["degrade"], "restore": pipeline.restore,
        "score": content["score"], "sink": sink,
    });
    file.as_object_mut().unwrap().retain(|_, section| !section.is_null());
    let written = literal(&file).to_string();
    let again = parse(&written, &[]).unwrap_or_else(|why| panic!("{why}\n{written}"));
    assert_eq!((again.content("w"), again.content_hash("w")), (content, hash), "{written}");
}

fn parse(text: &str, sets: &[String]) -> Result<Pipeline, String> {
    let variables = |name: &str| (name == "A").then(|| "7".to_owned());
    Pipeline::parse("file", text, sets, &variables).map_err(|error| match error {
        lm4lv::Error::Config(why) => why,
        other => panic!("{other:?}"),
    })
}

/// With every `${` as a text of itself.
fn literal(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(text.replace("${", "${{")),
        Value::Array(items) => items.iter().map(literal).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), literal(value))).collect(),
        other => other.clone(),
    }
}

/// A complaint names a `--set`, or a line and a column of the file (at most one behind its end).
fn refused(why: &str, text: &str, sets: &[String]) {
    assert!(why.len() < 10_000 + 10 * text.len(), "{why}");
    if why.starts_with("--set ") && !sets.is_empty() {
        return;
    }
    let rest = why.strip_prefix("file:").unwrap_or_else(|| panic!("{why}"));
    let mut numbers = rest.splitn(3, ':').map(str::parse::<usize>);
    let (Some(Ok(line)), Some(Ok(column))) = (numbers.next(), numbers.next()) else {
        panic!("no line and column: {why}");
    };
    // YAML's lines may end in a carriage return alone.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.split('\n').collect();
    assert!((1..=lines.len() + 1).contains(&line), "line {line} of {}: {why}", lines.len());
    let width = lines.get(line - 1).map_or(0, |line| line.chars().count());
    assert!((1..=width + 2).contains(&column), "column {column} of {width}: {why}");
}
