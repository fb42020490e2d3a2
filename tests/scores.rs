//! Scores agree with scikit-image, torchmetrics and BasicSR's formulas on photographs and what became of them: pictures and
//! f64 values made by `scripts/make_score_fixtures.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::path::Path;

use lm4lv::image::{Image, Size};
use lm4lv::score::{ScoreName, score};
use serde_json::{Map, Value};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/score"))
}

fn picture(name: &str) -> Image {
    let picture = image::open(folder().join(name).with_extension("png")).unwrap().to_rgb8();
    let size = Size::new(picture.width(), picture.height());
    Image::from_rgb(size, picture.into_raw()).unwrap()
}

#[test]
fn as_the_references() {
    let fixture = std::fs::read(folder().join("scores.json")).unwrap();
    let pairs: Map<String, Value> = serde_json::from_slice(&fixture).unwrap();
    assert!(pairs.len() >= 15, "only {} pairs", pairs.len());
    for (name, pair) in &pairs {
        let [spoilt, clean] = [name, pair["clean"].as_str().unwrap()].map(picture);
        for score_name in ScoreName::ALL {
            let expected = match &pair["scores"][score_name.as_str()] {
                Value::Null => None,
                Value::String(text) if text == "inf" => Some(f64::INFINITY),
                number => Some(number.as_f64().unwrap()),
            };
            let found = score(score_name, &spoilt, &clean);
            let tolerance = if score_name.as_str().starts_with("psnr") { 1e-9 } else { 5e-6 };
            let near = match (found, expected) {
                (Some(found), Some(expected)) => found == expected || (found - expected).abs() <= tolerance,
                (found, expected) => found == expected,
            };
            assert!(near, "{} of {name}: {found:?}, expected {expected:?}", score_name.as_str());
        }
    }
}
