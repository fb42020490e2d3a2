//! Resampling is Pillow's to the byte: hashes made by `scripts/make_resize_fixtures.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::fmt::Write;
use std::path::Path;

use lm4lv::image::resize::{Filter, resize};
use lm4lv::image::{Image, Size};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn photo() -> Image {
    let photo = image::open(root().join("pipelines/photos/chelsea.png")).unwrap().to_rgb8();
    let size = Size::new(photo.width(), photo.height());
    Image::from_rgb(size, photo.into_raw()).unwrap()
}

/// The same formula as in the script.
fn noise(size: Size) -> Image {
    Image::from_fn(size, |x, y| {
        std::array::from_fn(|c| {
            let mixed = x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663) ^ (c as u32).wrapping_mul(83_492_791);
            (mixed.wrapping_mul(2_654_435_761) >> 24) as u8
        })
    })
}

fn size(value: &Value) -> Size {
    let side = |i: usize| u32::try_from(value[i].as_u64().unwrap()).unwrap();
    Size::new(side(0), side(1))
}

#[test]
fn as_pillow_to_the_byte() {
    let fixture = std::fs::read(root().join("tests/fixtures/resize/pillow.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&fixture).unwrap();
    let photo = photo();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in &cases {
        let [from, to] = [&case["from"], &case["to"]].map(size);
        let source = if case["source"] == "photo" { photo.clone() } else { noise(from) };
        assert_eq!(source.size(), from);
        for (name, expected) in case["sha256"].as_object().unwrap() {
            let filter: Filter = serde_json::from_value(Value::from(name.as_str())).unwrap();
            let out = resize(&source, to, filter);
            assert_eq!(out.size(), to);
            let found = Sha256::digest(out.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            compared += 1;
            if found != expected.as_str().unwrap() {
                wrong.push(format!("{} {from:?} to {to:?} {name}", case["source"]));
            }
        }
    }
    assert!(compared >= 4 * 40, "only {compared} compared");
    assert!(wrong.is_empty(), "{} of {compared} differ from Pillow:\n{}", wrong.len(), wrong.join("\n"));
}
