//! What every degradation promises, in one loop over a list of all ([`CASES`]), and what single ones promise besides.
//!
//! Goldens are BLAKE3 hashes of the bytes made of a synthetic image: they pin streams, samplers, arithmetic and parameter
//! order. A golden that changes means that old rows cannot be made again: raise the operation's version.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use lm4lv::checkpoint::{Partition, Position};
use lm4lv::degrade::spec::Kind;
use lm4lv::degrade::{Degrade, DegradeConfig, OPERATIONS, catalogue, replay};
use lm4lv::image::jpeg::{Subsampling, encode};
use lm4lv::image::{Image, Size};
use lm4lv::sample::{AppliedOp, FailureCode, Record, Reference, Sample};
use lm4lv::stage::{Fault, Stage};
use serde_json::{Value, json};

/// One step, whether it draws, and a recorded parameter to edit with another value for it.
struct Case {
    step: &'static str,
    draws: bool,
    edit: (&'static str, &'static str),
    golden: &'static str,
}

const fn case(step: &'static str, draws: bool, edit: (&'static str, &'static str), golden: &'static str) -> Case {
    Case { step, draws, edit, golden }
}

/// Every operation in every form.
const CASES: &[Case] = &[
    case("gaussian_noise: { sigma: [5, 50] }", true, ("sigma", "51.5"), "a185f73434f1294d"),
    case("gaussian_noise: { sigma: 25, mode: gray, clip: false }", true, ("sigma", "20"), "9ac0a02ccecb005d"),
    case("gaussian_noise: { sigma: 25, mode: correlated }", true, ("sigma", "20"), "13832c833e63792a"),
    case("gaussian_blur: { k: 15, sigma: [0.8, 1.9] }", true, ("sigma", "3.0"), "bff7ff7524e98d03"),
    case(
        "gaussian_blur: { k: [3, 21], sigma_x: 3, sigma_y: 1, theta: [0, 180] }",
        true,
        ("sigma_y", "2.0"),
        "7d5587afdaf099d9",
    ),
    case("gaussian_blur: { k: 41, sigma_x: 3, sigma_y: 1, theta: 90 }", false, ("sigma_y", "2.0"), "3b3c8000ff0af055"),
    case("rain: { value: [100, 500] }", true, ("width", "1"), "d4ece1e1abb48286"),
    case("rain: { value: 200, blend: alpha, gain: 0.8, layers: 2 }", true, ("gain", "0.7"), "3d887e99688fc863"),
    case("pepper: { p: [0.05, 0.1] }", true, ("p", "0.2"), "805894fdcdba5dbf"),
    case("pepper: { p: 0.1, mode: per_channel, fill: 128 }", true, ("fill", "0"), "0cdd67489890fb37"),
    case("mask: { ratio: [0.1, 0.3] }", true, ("cell", "5"), "c6e311edadd2770c"),
    case("mask: { shape: boxes, fill: mean }", true, ("fill", "0"), "0a84a66805990617"),
    case("mask: { shape: lines, count: [3, 5] }", true, ("thickness", "2"), "8750fd0f584b2fac"),
    case("mask: { shape: polyline, count: 2 }", true, ("thickness", "2"), "d83013b9c9e202f0"),
    case("mask: { shape: brush, fill: noise }", true, ("thickness", "20"), "dbec30f1448485f0"),
    case("mask: { shape: center, ratio: 0.25 }", false, ("ratio", "0.5"), "58eea5a98b100716"),
    case("rotate: {}", false, ("angle", "180"), "4cdfa2ac914d756f"),
    case("rotate: { angle: 270 }", false, ("angle", "0"), "31b9070cff76de91"),
    case("rotate: { angle: [-30, 30], filter: bicubic, expand: true }", true, ("angle", "45"), "4efafdc7b226b8a4"),
    case("rotate: { angle: 17, filter: nearest, fill: 255 }", false, ("filter", "\"bilinear\""), "e369b37b5a117d83"),
    case("flip: {}", false, ("direction", "\"vertical\""), "883d7e8f41d055b3"),
    case(
        "flip: { direction: { choice: [vertical, transpose] } }",
        true,
        ("direction", "\"horizontal\""),
        "08c33cbfd44a17b5",
    ),
    case("jpeg: { quality: [10, 60] }", true, ("quality", "5"), "4f5d4ab2e273caae"),
    case("jpeg: { quality: 20, subsampling: \"4:2:2\" }", false, ("subsampling", "\"gray\""), "38b34f049506f276"),
    case("webp: { quality: [10, 60] }", true, ("quality", "5"), "6c6f3bbcf6682c9a"),
    case("resample: { scale: [0.25, 0.6] }", true, ("scale", "0.1"), "2b6d3320e424d47f"),
    case("resample: { scale: 0.5, down: box, up: nearest }", false, ("up", "\"lanczos\""), "d33ebf884b0ac80b"),
    case("resample: { scale: 0.3, down: lanczos, up: bilinear }", false, ("down", "\"nearest\""), "19a664e6a8b1ccef"),
];

fn config(yaml: &str) -> DegradeConfig {
    serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{yaml}\n{e}"))
}

fn refusal(yaml: &str) -> String {
    match serde_saphyr::from_str::<DegradeConfig>(yaml) {
        Ok(_) => panic!("this should be refused:\n{yaml}"),
        Err(e) => e.to_string(),
    }
}

fn steps(steps: &str) -> DegradeConfig {
    config(&format!("{{ seed: 7, recipe: [ {{ {steps} }} ] }}"))
}

fn record(key: &str) -> Record {
    Record::new(key, Reference::Missing, Position { partition: Partition::of_file(0, 0), offset: 0 })
}

/// Gradients, edges and texture; no two channels alike.
fn picture(width: u32, height: u32) -> Image {
    Image::from_fn(Size::new(width, height), |x, y| {
        let texture = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)) >> 27;
        let edge = if (x / 9 + y / 7) % 3 == 0 { 90 } else { 0 };
        [(x * 3 % 160 + edge) as u8, (y * 5 % 200 + texture) as u8, ((x + y) % 128 + edge + texture) as u8]
    })
}

fn degrade(config: &DegradeConfig, key: &str, variant: u16, clean: &Image) -> Result<Sample, Fault> {
    let stage = Degrade::new(config).unwrap();
    let mut sample = Sample { variant, image: Some(clean.clone()), ..Sample::default() };
    stage.process(&record(key), &mut sample).map(|()| sample)
}

fn input(sample: &Sample) -> &Image {
    sample.image.as_ref().unwrap()
}

fn target(sample: &Sample) -> &Image {
    sample.target.as_deref().unwrap()
}

fn hash(sample: &Sample) -> String {
    let mut hasher = blake3::Hasher::new();
    let size = input(sample).size();
    hasher.update(format!("{}x{}", size.width, size.height).as_bytes());
    hasher.update(input(sample).as_bytes());
    for op in &sample.ops {
        hasher.update(format!("{} {} {} {}", op.step, op.op, op.version, op.params).as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[test]
fn every_operation_is_in_the_list() {
    for operation in OPERATIONS {
        let name = operation.spec.name;
        assert!(CASES.iter().any(|case| case.step.split(':').next() == Some(name)), "{name} has no case");
    }
}

#[test]
fn conformance() {
    let clean = picture(53, 38);
    let mut goldens = Vec::new();
    for case in CASES {
        let step = case.step;
        let config = steps(step);
        let sample = degrade(&config, "a", 0, &clean).unwrap();

        // The size is kept, or swapped by quarter turns, or grown where asked for.
        let (size, swapped) = (clean.size(), Size::new(clean.height(), clean.width()));
        match input(&sample).size() {
            got if got == size => {}
            got if got == swapped => assert!(step.starts_with("rotate") || step.starts_with("flip"), "{step}"),
            got => assert!(step.contains("expand") && got.pixels() > size.pixels(), "{step}: {got:?}"),
        }
        assert_eq!(target(&sample), &clean, "{step}: the target is the source");
        assert_ne!(input(&sample), &clean, "{step}: something is done");

        // The same stream, the same bytes; another key or variant, others.
        let again = degrade(&config, "a", 0, &clean).unwrap();
        assert_eq!((hash(&again), &again.ops), (hash(&sample), &sample.ops), "{step}");
        for other in [degrade(&config, "b", 0, &clean).unwrap(), degrade(&config, "a", 1, &clean).unwrap()] {
            assert_eq!(hash(&other) != hash(&sample), case.draws, "{step}: another key or variant");
        }

        // One operation is recorded, every parameter that exists with it.
        let [op] = &sample.ops[..] else { panic!("{step}: {:?}", sample.ops) };
        assert_eq!((op.step.as_str(), Some(op.op.as_str())), ("0", step.split(':').next()), "{step}");
        let params: Value = serde_json::from_str(&op.params).unwrap();
        let spec = &OPERATIONS.iter().find(|o| o.spec.name == op.op).unwrap().spec;
        assert_eq!(op.version, spec.version);
        for param in spec.params {
            let exists = param.when.is_none_or(|(other, words)| words.contains(&params[other].as_str().unwrap()));
            let said = param.required || param.default.is_some() || step.contains(&format!("{}:", param.name));
            let recorded = params.get(param.name).is_some();
            assert_eq!(recorded, exists && said, "{step}: {} in {params}", param.name);
        }

        // Replayed from the row, the same; with an edited parameter, not.
        let replayed = |ops: &[AppliedOp]| replay(&config, ops, 7, "a", 0, &clean, None).unwrap();
        let pair = replayed(&sample.ops);
        assert!(pair.input == *input(&sample) && *pair.target == *target(&sample), "{step}: replay");
        let mut edited = params.clone();
        let (name, value) = case.edit;
        assert!(edited.get(name).is_some(), "{step}: {name}");
        edited[name] = serde_json::from_str(value).unwrap();
        let edited = AppliedOp { params: edited.to_string(), ..op.clone() };
        assert!(replayed(&[edited]).input != *input(&sample), "{step}: replay of an edited {name}");

        goldens.push((step, hash(&sample), case.golden));
    }
    // Shown where one differs.
    for (step, got, _) in &goldens {
        println!("{step} => {got}");
    }
    for (step, got, golden) in &goldens {
        assert_eq!(got, golden, "{step}");
    }
}

#[test]
fn neighbours_are_irrelevant() {
    // The same step behind another that draws, and with other images before it, makes the same noise.
    let clean = picture(40, 30);
    let alone = config("{ seed: 1, recipe: [ { flip: {} }, { gaussian_noise: { sigma: 20 } } ] }");
    let other =
        config("{ seed: 1, recipe: [ { pepper: { p: 0 } }, { gaussian_noise: { sigma: 20 } }, { flip: {} } ] }");
    degrade(&other, "x", 3, &picture(9, 9)).unwrap();
    let flipped = degrade(&config("{ recipe: [ { flip: {} } ] }"), "k", 0, &clean).unwrap();
    let a = degrade(&alone, "k", 0, input(&flipped)).unwrap();
    let b = degrade(&other, "k", 0, &clean).unwrap();
    let b_turned_back = degrade(&config("{ recipe: [ { flip: {} } ] }"), "k", 0, input(&b)).unwrap();
    assert!(input(&a) == input(&b_turned_back));
}

#[test]
fn odd_sizes_do_not_panic() {
    for (width, height) in [(1, 1), (1, 37), (37, 1), (2, 2), (3, 4096), (4096, 3)] {
        let clean = picture(width, height);
        for case in CASES {
            let sample = degrade(&steps(case.step), "odd", 0, &clean).unwrap();
            assert!(input(&sample).size().pixels() > 0, "{} at {width}x{height}", case.step);
        }
    }
    let large = degrade(&steps("webp: { quality: 50 }"), "k", 0, &picture(16_384, 1));
    assert!(matches!(large, Err(Fault::Record(FailureCode::Degrade, m)) if m.contains("16383")));
    let long = degrade(&steps("rotate: { angle: 45, expand: true }"), "k", 0, &picture(60_000, 20));
    assert!(matches!(long, Err(Fault::Record(FailureCode::Degrade, m)) if m.contains("expand")));
}

#[test]
fn every_parameters_ends_and_words_work() {
    for operation in OPERATIONS {
        let spec = &operation.spec;
        for param in spec.params {
            let values: Vec<Value> = match param.kind {
                Kind::Real(min, max) => vec![json!(min), json!(max)],
                Kind::Whole(min, max) | Kind::Odd(min, max) => vec![json!(min), json!(max)],
                Kind::RealOrWord(min, max, words) => {
                    [json!(min), json!(max)].into_iter().chain(words.iter().map(|w| json!(w))).collect()
                }
                Kind::Word(words) => words.iter().map(|w| json!(w)).collect(),
                Kind::Flag => vec![json!(true), json!(false)],
            };
            for value in values {
                let mut params = serde_json::Map::new();
                if let Some((other, words)) = param.when {
                    params.insert(other.into(), json!(words[0]));
                }
                params.insert(param.name.into(), value);
                if spec.name == "gaussian_blur" && param.name != "sigma" {
                    params.insert("sigma_x".into(), params.get("sigma_x").cloned().unwrap_or(json!(0.1)));
                    params.insert("sigma_y".into(), params.get("sigma_y").cloned().unwrap_or(json!(10)));
                }
                for other in spec.params.iter().filter(|other| other.required && other.name != param.name) {
                    let exists = other.when.is_none_or(|(on, words)| {
                        params
                            .get(on)
                            .map_or("grid", |v| v.as_str().unwrap())
                            .split(' ')
                            .any(|word| words.contains(&word))
                    });
                    let (Kind::Real(min, _), true) = (other.kind, exists) else { continue };
                    params.insert(other.name.into(), json!(min));
                }
                if params.get("shape").is_some_and(|shape| shape == "boxes") {
                    // The shortest side is not above the longest.
                    let of = |name| params.get(name).and_then(serde_json::Value::as_f64);
                    let (least, most) = (of("size_min").unwrap_or(0.05), of("size_max").unwrap_or(0.25));
                    params.insert("size_min".into(), json!(least.min(most)));
                    params.insert("size_max".into(), json!(least.max(most)));
                }
                if spec.name == "jpeg" || spec.name == "webp" {
                    params.entry("quality").or_insert(json!(50));
                }
                let step = json!({ "recipe": [{ spec.name: params }] });
                let config: DegradeConfig =
                    serde_json::from_value(step.clone()).unwrap_or_else(|e| panic!("{step}: {e}"));
                for (width, height) in [(1, 1), (7, 5), (40, 3)] {
                    degrade(&config, "k", 0, &picture(width, height)).unwrap_or_else(|e| panic!("{step}: {e:?}"));
                }
            }
        }
    }
}

const JPEGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/degrade/jpeg");

/// The clean image of a sheet (above what Pillow made of it), and the sheet.
fn jpeg_sheet(name: &str) -> (Image, Image) {
    let (width, height) = name.split_once('x').map(|(w, h)| (w.parse().unwrap(), h.parse().unwrap())).unwrap();
    let path = format!("{JPEGS}/{name}.png");
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
    reader.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = reader.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let rgb = match info.color_type {
        png::ColorType::Rgb => bytes,
        png::ColorType::Grayscale => bytes.iter().flat_map(|v| [*v; 3]).collect(),
        other => panic!("{name}: {other:?}"),
    };
    let sheet = Image::from_rgb(Size::new(info.width, info.height), rgb).unwrap();
    (sheet.crop(0, 0, Size::new(width, height)).unwrap(), sheet)
}

#[test]
fn jpeg_is_pillows_to_the_byte() {
    let mut sheets = 0;
    for entry in std::fs::read_dir(JPEGS).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "png") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (clean, sheet) = jpeg_sheet(name);
        let mut tiles = (1..).map(|i| sheet.crop(0, i * clean.height(), clean.size()).unwrap());
        for quality in [1, 30, 50, 75, 95, 100] {
            for subsampling in ["4:2:0", "4:2:2", "4:4:4", "gray"] {
                let step = format!("jpeg: {{ quality: {quality}, subsampling: \"{subsampling}\" }}");
                let ours = degrade(&steps(&step), "k", 0, &clean).unwrap();
                let theirs = tiles.next().unwrap();
                let wrong = input(&ours).as_bytes().iter().zip(theirs.as_bytes()).filter(|(a, b)| a != b).count();
                assert_eq!(wrong, 0, "{name}: {step}");
            }
        }
        sheets += 1;
    }
    assert!(sheets >= 10);
}

#[test]
fn jpeg_files_are_pillows_to_the_byte() {
    let list = std::fs::read_to_string(format!("{JPEGS}/files.txt")).unwrap();
    let mut clean: Option<(String, Image)> = None;
    for line in list.lines() {
        let [name, quality, subsampling, profile, digest] = *line.split(' ').collect::<Vec<_>>() else {
            panic!("{line}")
        };
        if clean.as_ref().is_none_or(|(of, _)| of != name) {
            clean = Some((name.to_owned(), jpeg_sheet(name).0));
        }
        let subsampling = match subsampling {
            "4:4:4" => Subsampling::S444,
            "4:2:2" => Subsampling::S422,
            "4:2:0" => Subsampling::S420,
            _ => Subsampling::Gray,
        };
        let profile: Vec<u8> = (0..profile.parse().unwrap()).map(|i: usize| (i % 251) as u8).collect();
        let image = &clean.as_ref().unwrap().1;
        let file = encode(image, quality.parse().unwrap(), subsampling, Some(&profile)).unwrap();
        assert_eq!(sha256(&file), digest, "{line}");
    }
    assert_eq!(list.lines().count(), 11 * 6 * 4);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn presets_are_the_table() {
    let expected = [
        ("lm4lv.denoise", json!([{ "gaussian_noise": { "sigma": 18 } }])),
        ("lm4lv.denoise.train", json!([{ "gaussian_noise": { "sigma": [10, 30] } }])),
        ("lm4lv.deblur", json!([{ "gaussian_blur": { "k": 15, "sigma": [0.3, 1.9] } }])),
        ("lm4lv.deblur.train", json!([{ "gaussian_blur": { "k": 15, "sigma": [0.3, 1.9] } }])),
        ("lm4lv.derain", rain(json!(18))),
        ("lm4lv.derain.train", rain(json!([12, 26]))),
        ("lm4lv.pepper", json!([{ "pepper": { "p": 0.05, "mode": "per_pixel", "fill": 0 } }])),
        ("lm4lv.pepper.train", json!([{ "pepper": { "p": [0.01, 0.1], "mode": "per_pixel", "fill": 0 } }])),
        ("lm4lv.mask", json!([{ "mask": { "shape": "grid", "cell": 4, "ratio": [0.01, 0.08], "fill": 0 } }])),
        ("lm4lv.mask.train", json!([{ "mask": { "shape": "grid", "cell": 4, "ratio": [0.01, 0.12], "fill": 0 } }])),
        ("lm4lv.rotate", json!([{ "rotate": { "angle": 90 } }])),
        ("lm4lv.rotate.train", json!([{ "rotate": { "angle": 90 } }])),
        ("lm4lv.flip", json!([{ "flip": { "direction": "horizontal" } }])),
        ("lm4lv.flip.train", json!([{ "flip": { "direction": "horizontal" } }])),
    ];
    let catalogue = catalogue().unwrap();
    assert_eq!(catalogue.presets.len(), expected.len());
    for ((name, steps), entry) in expected.iter().zip(&catalogue.presets) {
        assert_eq!((*name, true), (entry.name, entry.calibrated));
        for (written, complete) in steps.as_array().unwrap().iter().zip(entry.recipe.as_array().unwrap()) {
            for (op, params) in written.as_object().unwrap() {
                for (param, value) in params.as_object().unwrap() {
                    assert_eq!(&complete[op][param], value, "{name} {op}.{param}");
                }
            }
        }
    }
}

fn rain(value: Value) -> Value {
    json!([{ "rain": {
        "value": value, "length": [30, 40], "theta": [-45, 45], "width": { "choice": [3, 5, 7, 9, 11] }, "blend": "add",
        "gain": 1, "layers": 1
    } }])
}

#[test]
fn a_preset_and_its_expansion_make_the_same_rows() {
    let clean = picture(48, 40);
    for preset in catalogue().unwrap().presets {
        let short = config(&format!("{{ seed: 3, recipe: [ {{ flip: {{}} }}, {{ preset: {} }} ] }}", preset.name));
        let long = short.expanded().unwrap();
        assert_ne!(short, long);
        let (a, b) = (degrade(&short, "k", 2, &clean).unwrap(), degrade(&long, "k", 2, &clean).unwrap());
        assert_eq!((hash(&a), &a.ops), (hash(&b), &b.ops), "{}", preset.name);
        let json = serde_json::to_string(&long).unwrap();
        assert_eq!(serde_json::from_str::<DegradeConfig>(&json).unwrap(), long, "{json}");
        assert_eq!(serde_json::to_string(&serde_json::from_str::<DegradeConfig>(&json).unwrap()).unwrap(), json);
    }
}

const WHOLE_GRAMMAR: &str = "
seed: 11
variants: 3
quantize: { when: each_step, how: trunc }
target: geometry
recipe:
  - gaussian_noise: { sigma: { choice: [15, 25, 50] }, mode: { choice: [per_channel, gray] } }
  - gaussian_blur: { k: { choice: [3, 9] }, sigma: { log_uniform: [0.3, 3] } }
  - probability: { p: 0.5, recipe: [ { jpeg: { quality: { normal: { mean: 60, std: 20 } } } } ] }
  - one_of:
      - { weight: 3, recipe: [ { flip: {} }, { rotate: { angle: { choice: [90, 180, 270] } } } ] }
      - { recipe: [] }
  - shuffle: [ { recipe: [ { pepper: { p: [0, 0.1] } } ] }, { recipe: [ { mask: { ratio: 0.1 } }, { flip: { direction: vertical } } ] } ]
  - repeat: { times: [1, 2], recipe: [ { resample: { scale: [0.4, 0.9] } } ] }
  - preset: lm4lv.derain
";

#[test]
fn the_whole_grammar_works_and_replays() {
    let config = config(WHOLE_GRAMMAR);
    config.check().unwrap();
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(serde_json::from_value::<DegradeConfig>(json).unwrap(), config);
    let yaml = serde_saphyr::to_string(&config).unwrap();
    assert_eq!(serde_saphyr::from_str::<DegradeConfig>(&yaml).unwrap(), config, "{yaml}");
    let clean = picture(45, 33);
    let mut paths = std::collections::BTreeSet::new();
    let mut orders = std::collections::BTreeSet::new();
    for i in 0..60 {
        let key = format!("image {i}");
        let sample = degrade(&config, &key, i, &clean).unwrap();
        let pair = replay(&config, &sample.ops, 11, &key, i, &clean, None).unwrap();
        assert!(pair.input == *input(&sample) && *pair.target == *target(&sample));
        assert_eq!(input(&sample).size(), target(&sample).size());
        paths.extend(sample.ops.iter().map(|op| op.step.clone()));
        let shuffled: Vec<&str> =
            sample.ops.iter().map(|op| &op.step[..]).filter(|step| step.starts_with("4.")).collect();
        orders.insert(shuffled.join(" "));
    }
    let expected = [
        "0",
        "1",
        "2.probability.0",
        "3.one_of.0.0",
        "3.one_of.0.1",
        "4.shuffle.0.0",
        "4.shuffle.1.0",
        "4.shuffle.1.1",
        "5.repeat.0.0",
        "5.repeat.1.0",
        "6",
    ];
    assert!(paths.iter().map(String::as_str).eq(expected), "{paths:?}");
    let both = ["4.shuffle.0.0 4.shuffle.1.0 4.shuffle.1.1", "4.shuffle.1.0 4.shuffle.1.1 4.shuffle.0.0"];
    assert!(orders.iter().map(String::as_str).eq(both), "{orders:?}");
}

#[test]
fn draws_keep_to_their_ranges() {
    let config = config(
        "{ recipe: [ { gaussian_blur: { k: [3, 7], sigma: { normal: { mean: 1, std: 5 } } } }, { jpeg: { quality: [30, 32] } },
           { rain: { value: { log_uniform: [1, 500] }, width: [5, 9] } } ] }",
    );
    let clean = picture(8, 8);
    let mut seen: std::collections::BTreeMap<String, Vec<f64>> = std::collections::BTreeMap::new();
    for i in 0..300 {
        for op in degrade(&config, &i.to_string(), 0, &clean).unwrap().ops {
            let params: serde_json::Map<String, Value> = serde_json::from_str(&op.params).unwrap();
            for (name, value) in params {
                seen.entry(format!("{}.{name}", op.op)).or_default().extend(value.as_f64());
            }
        }
    }
    let distinct = |name: &str| {
        let mut all: Vec<u64> = seen[name].iter().map(|v| *v as u64).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    assert_eq!(distinct("gaussian_blur.k"), [3, 5, 7]);
    assert_eq!(distinct("jpeg.quality"), [30, 31, 32]);
    assert_eq!(distinct("rain.width"), [5, 7, 9]);
    assert!(seen["gaussian_blur.sigma"].iter().all(|v| (0.1..=10.0).contains(v)));
    let values = &seen["rain.value"];
    assert!(values.iter().all(|v| (1.0..=500.0).contains(v)));
    let small = values.iter().filter(|v| **v < 500f64.sqrt()).count();
    assert!((110..190).contains(&small), "log_uniform: {small} of 300 below the middle");
}

#[test]
fn one_parameters_range_leaves_the_others_draws_and_the_noise() {
    let clean = picture(32, 32);
    let drawn = |yaml: &str| degrade(&steps(yaml), "k", 0, &clean).unwrap().ops[0].params.clone();
    let a: Value = serde_json::from_str(&drawn("rain: { value: 18 }")).unwrap();
    let b: Value = serde_json::from_str(&drawn("rain: { value: [12, 26], gain: [0.5, 1] }")).unwrap();
    assert_eq!((&a["length"], &a["theta"], &a["width"]), (&b["length"], &b["theta"], &b["width"]));
    // A sweep shares its noise: twice the sigma, twice the difference (away from clipping).
    let gray = Image::from_fn(Size::new(64, 64), |_, _| [128; 3]);
    let difference = |sigma: u32| {
        let sample = degrade(&steps(&format!("gaussian_noise: {{ sigma: {sigma} }}")), "k", 0, &gray).unwrap();
        input(&sample).as_bytes().iter().map(|v| i32::from(*v) - 128).collect::<Vec<_>>()
    };
    assert!(difference(5).iter().zip(difference(10)).all(|(a, b)| (2 * a - b).abs() <= 2));
}

#[test]
fn targets() {
    let clean = picture(20, 12);
    let recipe = "recipe: [ { rotate: {} }, { gaussian_noise: { sigma: 30 } }, { flip: {} } ]";
    let source = degrade(&config(&format!("{{ {recipe} }}")), "k", 0, &clean).unwrap();
    let geometry = degrade(&config(&format!("{{ target: geometry, {recipe} }}")), "k", 0, &clean).unwrap();
    let degraded = degrade(&config(&format!("{{ target: degraded, {recipe} }}")), "k", 0, &clean).unwrap();
    assert!(target(&source) == &clean && input(&source).width() == 12);
    // A quarter turn clockwise, then left and right exchanged: rows and columns exchanged with the half turn's order.
    let turned = Image::from_fn(Size::new(12, 20), |x, y| clean.pixel(y, x));
    assert!(target(&geometry) == &turned && input(&geometry) == input(&source));
    assert!(input(&degraded) == &clean && target(&degraded) == input(&source));

    // A target that the source gave stays, or is turned along; it contradicts `degraded`.
    let given = Arc::new(picture(20, 12).crop(0, 0, Size::new(20, 12)).unwrap());
    let with_given = |yaml: &str| {
        let stage = Degrade::new(&config(yaml)).unwrap();
        let mut sample = Sample { image: Some(picture(20, 12)), target: Some(given.clone()), ..Sample::default() };
        stage.process(&record("k"), &mut sample).map(|()| sample)
    };
    assert!(Arc::ptr_eq(with_given(&format!("{{ {recipe} }}")).unwrap().target.as_ref().unwrap(), &given));
    assert!(target(&with_given(&format!("{{ target: geometry, {recipe} }}")).unwrap()) == &turned);
    assert!(matches!(
        with_given(&format!("{{ target: degraded, {recipe} }}")),
        Err(Fault::Record(FailureCode::Degrade, _))
    ));
}

#[test]
fn an_empty_recipe_changes_nothing() {
    let clean = picture(16, 16);
    for yaml in
        ["{}", "{ quantize: { how: trunc } }", "{ recipe: [ { probability: { p: 0, recipe: [ { flip: {} } ] } } ] }"]
    {
        let sample = degrade(&config(yaml), "k", 0, &clean).unwrap();
        assert!(input(&sample) == &clean && target(&sample) == &clean && sample.ops.is_empty());
    }
    // Nor do steps that only move pixels, or do nothing, however values are rounded.
    let still = config(
        "{ quantize: { how: trunc, when: each_step }, recipe: [ { rotate: { angle: 0 } }, { pepper: { p: 0 } } ] }",
    );
    let levels = Image::from_fn(Size::new(256, 1), |x, _| [x as u8; 3]);
    assert!(input(&degrade(&still, "k", 0, &levels).unwrap()) == &levels);
}

#[test]
fn columns_are_read_from_the_record() {
    use arrow::array::{ArrayRef, Float64Array, RecordBatch};
    let config = config(
        "{ recipe: [ { gaussian_noise: { sigma: { column: strength } } }, { probability: { p: { column: chance }, recipe: [] } } ] }",
    );
    assert_eq!(config.columns(), ["chance", "strength"]);
    let stage = Degrade::new(&config).unwrap();
    let run = |strength: Option<f64>| {
        let columns: [(&str, ArrayRef); 2] = [
            ("strength", Arc::new(Float64Array::from(vec![strength]))),
            ("chance", Arc::new(Float64Array::from(vec![0.5]))),
        ];
        let record = Record { kept: Some(RecordBatch::try_from_iter(columns).unwrap()), ..record("k") };
        let mut sample = Sample { image: Some(picture(8, 8)), ..Sample::default() };
        stage.process(&record, &mut sample).map(|()| sample.ops[0].params.clone())
    };
    assert!(run(Some(12.5)).unwrap().contains("\"sigma\":12.5"));
    for (bad, word) in [(None, "strength"), (Some(300.0), "0 to 75"), (Some(f64::NAN), "0 to 75")] {
        let Err(Fault::Record(FailureCode::Degrade, message)) = run(bad) else { panic!("{bad:?}") };
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn mistakes_are_refused_where_they_stand() {
    let recipe = |step: &str| format!("seed: 1\nrecipe:\n  - flip: {{}}\n  - {step}\n");
    for (step, words) in [
        ("gaussian_noise: { sigma: 500 }", &["gaussian_noise.sigma", "500", "0 to 75 grey levels"][..]),
        ("gaussian_noise: { sigma: [5, 100] }", &["gaussian_noise.sigma", "100", "0 to 75"]),
        ("gaussian_noise: { sigma: [50, 5] }", &["[50, 5]", "[5, 50]"]),
        ("gaussian_noise: { sigma: [5] }", &["[a, b]", "choice"]),
        ("gaussian_noise: { sigm: 5 }", &["no parameter `sigm`", "sigma, mode, clip"]),
        ("gaussian_noise: {}", &["needs `sigma`", "0 to 75"]),
        ("gaussian_noise: 5", &["sigma, mode, clip"]),
        ("gaussian_noise: { sigma: loud }", &["`loud`", "0 to 75"]),
        ("gaussian_noise: { sigma: { uniform: [1, 2] } }", &["`uniform`", "log_uniform"]),
        ("gaussian_noise: { sigma: { log_uniform: [0, 2] } }", &["above 0"]),
        ("gaussian_noise: { sigma: 5, mode: grey }", &["`grey`", "per_channel | gray | correlated"]),
        ("gaussian_noise: { sigma: 5, mode: [1, 2] }", &["range", "per_channel"]),
        ("gaussian_noise: { sigma: .nan }", &["non-finite"]),
        ("gaussian_noise: { sigma: 5, clip: 1 }", &["true | false"]),
        ("gaussian_blur: { k: 14, sigma: 1 }", &["14", "odd"]),
        ("gaussian_blur: { sigma: 1, sigma_x: 2 }", &["leave out"]),
        ("gaussian_blur: { sigma_x: 2 }", &["go together"]),
        ("jpeg: { quality: 50.5 }", &["50.5", "whole number from 1 to 100"]),
        ("jpeg: { quality: 50, subsampling: 4:1:0 }", &["4:2:0 | 4:2:2 | 4:4:4 | gray"]),
        ("mask: { shape: boxes, cell: 4 }", &["mask.cell", "grid"]),
        ("blur: { sigma: 1 }", &["no step `blur`", "gaussian_blur", "one_of"]),
        ("preset: lm4lv.dehaze", &["lm4lv.dehaze", "lm4lv.derain"]),
        ("probability: { p: 1.5, recipe: [] }", &["probability.p", "0 to 1"]),
        ("one_of: [ { weight: -1, recipe: [] } ]", &["weight", "-1"]),
        ("one_of: []", &["weight is above 0"]),
        ("repeat: { times: 1000, recipe: [] }", &["repeat.times", "100"]),
        ("flip", &["flip: {}"]),
        ("{ flip: {}, pepper: { p: 0.1 } }", &["one key", "`pepper`"]),
    ] {
        let message = refusal(&recipe(step));
        for word in words {
            assert!(message.contains(word), "{step}\n{message}\nlacks {word}");
        }
        assert!(message.contains("line 4"), "{step}\n{message}");
    }
    for (yaml, word) in [
        ("variants: 0", "1 to 65535"),
        ("quantize: { when: never }", "each_step"),
        ("target: sauce", "geometry"),
        ("sed: 1", "seed"),
        (
            "recipe:\n  - repeat: { times: 100, recipe: [ { repeat: { times: 100, recipe: [ { flip: {} } ] } } ] }",
            "10000 operations",
        ),
    ] {
        let message = refusal(yaml);
        assert!(message.contains(word) && message.contains("line "), "{yaml}\n{message}");
    }
}

#[test]
fn a_row_that_cannot_be_replayed_says_why() {
    let clean = picture(8, 8);
    let op =
        |op: &str, version, params: &str| AppliedOp { step: "0".into(), op: op.into(), version, params: params.into() };
    let error = |op| replay(&DegradeConfig::default(), &[op], 0, "k", 0, &clean, None).unwrap_err();
    for (op, word) in [
        (op("fog", 1, "{}"), "fog"),
        (op("flip", 9, "{}"), "version 9"),
        (op("flip", 1, "{"), "step 0"),
        (op("flip", 1, "{}"), "direction"),
        (op("jpeg", 1, r#"{"quality": 900, "subsampling": "4:2:0"}"#), "1 to 100"),
        (op("jpeg", 1, r#"{"quality": 90, "subsampling": "4:2:0", "more": 1}"#), "more"),
        (op("gaussian_noise", 1, r#"{"sigma": "much", "mode": "gray", "clip": true}"#), "0 to 75"),
    ] {
        let message = error(op);
        assert!(message.contains(word), "{message}");
    }
    // What the loader did is not done again.
    let loaded = AppliedOp { step: "load.crop".into(), ..op("crop", 1, "{}") };
    assert!(replay(&DegradeConfig::default(), &[loaded], 0, "k", 0, &clean, None).unwrap().input == clean);
}

#[test]
fn the_schema_knows_every_word() {
    let schema = serde_json::to_string(&schemars::schema_for!(DegradeConfig)).unwrap();
    for operation in OPERATIONS {
        assert!(schema.contains(&format!("\"{}\"", operation.spec.name)));
        for param in operation.spec.params {
            assert!(schema.contains(&format!("\"{}\"", param.name)) && schema.contains(param.doc));
        }
    }
    for word in ["probability", "one_of", "shuffle", "repeat", "lm4lv.denoise.train", "log_uniform", "each_step"] {
        assert!(schema.contains(word), "{word}");
    }
}
