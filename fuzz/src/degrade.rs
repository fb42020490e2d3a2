//! Any recipe within the specs, on any size: done without an error but two known ones, the same again and from the row, the
//! size as documented, everything recorded within the specs.

use lm4lv::degrade::spec::{Kind, Param, Spec};
use lm4lv::degrade::{Degrade, DegradeConfig, OPERATIONS, Target, replay};
use lm4lv::image::Size;
use lm4lv::sample::{AppliedOp, FailureCode, Record, Reference, Sample};
use lm4lv::stage::{Fault, Stage};
use serde_json::{Map, Value, json};

use super::choices::Choices;
use super::record;

/// Degrades a picture.
pub fn degrade(data: &[u8]) {
    let mut choices = Choices(data);
    let size = choices.size();
    let clean = choices.picture(size);
    let steps: Vec<Value> = (0..1 + choices.below(3)).map(|_| step(&mut choices, size)).collect();
    let recipe = match choices.below(8) {
        0 => json!([{ "shuffle": steps.iter().map(|step| json!({ "recipe": [step] })).collect::<Vec<_>>() }]),
        1 => json!([{ "repeat": { "times": choices.below(3), "recipe": steps } }]),
        2 => json!([{ "probability": { "p": choices.real(0.0, 1.0), "recipe": steps } }]),
        3 => json!([{ "by_variant": steps.iter().map(|step| json!({ "recipe": [step] })).collect::<Vec<_>>() }]),
        4 => {
            let branch = |step| json!({ "weight": choices.byte(), "recipe": [step] });
            let mut branches: Vec<Value> = steps.iter().map(branch).collect();
            branches.push(json!({ "weight": 1, "recipe": [] }));
            json!([{ "one_of": branches }])
        }
        _ => json!(steps),
    };
    let section = json!({
        "seed": choices.u32(),
        "quantize": { "when": choices.of(&["end", "each_step"]), "how": choices.of(&["round", "trunc"]) },
        "target": choices.of(&["source", "geometry", "degraded"]),
        "recipe": recipe,
    });
    let config: DegradeConfig = match serde_json::from_value(section.clone()) {
        Ok(config) => config,
        Err(e) if e.to_string().contains("which is above mask.size_max") => return,
        Err(e) => panic!("{section}: {e}"),
    };
    assert_eq!(serde_json::from_value::<DegradeConfig>(json!(config)).unwrap(), config);
    let stage = Degrade::new(&config).unwrap();
    let record = Record { key: format!("{}", choices.byte()), ..record(Reference::Missing) };
    let variant = u16::from(choices.byte());
    let run = || {
        let mut sample = Sample { variant, image: Some(clean.clone()), ..Sample::default() };
        stage.process(&record, &mut sample).map(|()| sample)
    };
    let sample = match run() {
        Ok(sample) => sample,
        Err(Fault::Record(FailureCode::Degrade, why)) => {
            assert!(why.contains("set expand to false") || why.contains("16383"), "{section} on {size:?}: {why}");
            return;
        }
        Err(other) => panic!("{section} on {size:?}: {other:?}"),
    };
    let (input, target) = (sample.image.as_ref().unwrap(), sample.target.as_ref().unwrap());
    let degraded = if config.target == Target::Degraded { target.size() } else { input.size() };
    let expected = sample.ops.iter().fold((size, size), sizes);
    let fits = |side: fn(Size) -> u32| (side(expected.0)..=side(expected.1)).contains(&side(degraded));
    assert!(fits(|s| s.width) && fits(|s| s.height), "{section} on {size:?}: {degraded:?}, not {expected:?}");
    match config.target {
        Target::Source => assert!(**target == clean),
        Target::Degraded => assert!(*input == clean),
        Target::Geometry => assert_eq!(target.size(), input.size(), "{section} on {size:?}"),
    }
    sample.ops.iter().for_each(within_spec);
    let pair = replay(&config, &sample.ops, config.seed, &record.key, variant, &clean, None).unwrap();
    assert!(pair.input == *input && pair.target == *target, "{section} on {size:?}: the replay differs");
    if size.pixels() <= 1024 {
        let again = run().unwrap();
        assert!(again.image == sample.image && again.target == sample.target && again.ops == sample.ops, "{section}");
    }
}

/// One operation with what its spec allows, on a picture of `size`.
fn step(choices: &mut Choices<'_>, size: Size) -> Value {
    let spec = &OPERATIONS[choices.below(OPERATIONS.len() as u32) as usize].spec;
    let mut words = Map::new();
    let mut params = Map::new();
    let one_sigma = choices.flag();
    for param in spec.params {
        let word = |other: &str| words.get(other).and_then(Value::as_str).unwrap_or_default();
        if param.when.is_some_and(|(other, allowed)| !allowed.contains(&word(other))) {
            continue;
        }
        let given = match (spec.name, param.name) {
            ("gaussian_blur", "sigma") => one_sigma,
            ("gaussian_blur", "sigma_x" | "sigma_y") => !one_sigma,
            _ => param.required || choices.flag(),
        };
        if given {
            let value = match param.kind {
                // 4,096 × 3 pixels, turned and kept whole, are 8 million: a blur of those takes as long as 10,000 other cases.
                Kind::Flag if param.name == "expand" => json!(choices.flag() && size.width.max(size.height) <= 64),
                Kind::Word(_) | Kind::Flag => scalar(param, choices),
                _ => setting(param, choices),
            };
            words.insert(param.name.into(), value.clone());
            params.insert(param.name.into(), value);
        } else if let Some(default) = param.default {
            words.insert(param.name.into(), serde_json::from_str(default).unwrap());
        }
    }
    json!({ spec.name: params })
}

/// A value, or what to draw it from.
fn setting(param: &Param, choices: &mut Choices<'_>) -> Value {
    let form = choices.below(8);
    let number = |choices: &mut Choices<'_>| loop {
        if let number @ Value::Number(_) = scalar(param, choices) {
            break number;
        }
    };
    match form {
        0..=2 => {
            let (a, b) = (number(choices), number(choices));
            let (a, b) = if a.as_f64() <= b.as_f64() { (a, b) } else { (b, a) };
            match form {
                0 if a.as_f64() > Some(0.0) => json!({ "log_uniform": [a, b] }),
                _ => json!([a, b]),
            }
        }
        3 => json!({ "choice": [scalar(param, choices), scalar(param, choices)] }),
        4 => json!({ "normal": { "mean": number(choices), "std": choices.real(0.0, 1000.0) } }),
        _ => scalar(param, choices),
    }
}

fn scalar(param: &Param, choices: &mut Choices<'_>) -> Value {
    match param.kind {
        Kind::Real(min, max) => json!(choices.real(min, max)),
        // A thousand strokes of a hundred vertices take half a minute.
        Kind::Whole(min, _) if param.name == "count" => json!(min + choices.below(21)),
        Kind::Whole(min, max) => json!(min + choices.below(max - min + 1)),
        Kind::Odd(min, max) => json!(min + choices.below((max - min) / 2 + 1) * 2),
        Kind::Word(words) => json!(choices.of(words)),
        // Words end, so that a search for a number does.
        Kind::RealOrWord(min, max, words) => match choices.byte() {
            byte @ 1..=9 => json!(words[usize::from(byte) % words.len()]),
            _ => json!(choices.real(min, max)),
        },
        Kind::Flag => json!(choices.flag()),
    }
}

/// The smallest and largest size behind `op`.
fn sizes((low, high): (Size, Size), op: &AppliedOp) -> (Size, Size) {
    let params: Value = serde_json::from_str(&op.params).unwrap();
    let swapped = |size: Size| Size::new(size.height, size.width);
    let angle = params["angle"].as_f64().unwrap_or_default();
    match op.op.as_str() {
        "flip" if params["direction"] == "transpose" => (swapped(low), swapped(high)),
        "rotate" if angle.rem_euclid(180.0) == 90.0 => (swapped(low), swapped(high)),
        "rotate" if angle % 90.0 != 0.0 && params["expand"] == true => {
            // The corners' places, give or take a pixel.
            let (sin, cos) = angle.to_radians().sin_cos();
            let turned = |size: Size, more: f64| {
                let (w, h) = (f64::from(size.width), f64::from(size.height));
                let side = |a: f64, b: f64| ((w * a.abs() + h * b.abs()).ceil() + more).max(1.0) as u32;
                Size::new(side(cos, sin), side(sin, cos))
            };
            (turned(low, -1.0), turned(high, 1.0))
        }
        _ => (low, high),
    }
}

/// What is recorded is what the spec allows, and nothing else.
fn within_spec(op: &AppliedOp) {
    let spec: &Spec = &OPERATIONS.iter().find(|operation| operation.spec.name == op.op).unwrap().spec;
    assert_eq!(op.version, spec.version);
    let params: Map<String, Value> = serde_json::from_str(&op.params).unwrap();
    for (name, value) in &params {
        let param = spec.params.iter().find(|param| param.name == name).unwrap_or_else(|| panic!("{op:?}"));
        let number = value.as_f64();
        let between = |min: f64, max: f64| number.is_some_and(|number| (min..=max).contains(&number));
        let fits = match param.kind {
            Kind::Real(min, max) => between(min, max),
            Kind::Whole(min, max) => value.is_u64() && between(min.into(), max.into()),
            Kind::Odd(min, max) => value.as_u64().is_some_and(|n| n % 2 == 1) && between(min.into(), max.into()),
            Kind::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Kind::RealOrWord(min, max, words) => {
                between(min, max) || value.as_str().is_some_and(|word| words.contains(&word))
            }
            Kind::Flag => value.is_boolean(),
        };
        assert!(fits, "{name} of {op:?}");
    }
}
