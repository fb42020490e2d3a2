//! Times every degradation, score, resize, decode and encode on one photograph of 512×512 pixels and one thread:
//! `cargo bench --bench kernels`. `scripts/kernel_peers.py` puts other libraries beside them.
//!
//! All is called as a run calls it, from 8-bit pixels to 8-bit pixels: a degradation's time includes the way to planes of
//! f32 and back, which a recipe of several steps goes once; a stage's includes what it records. What is freed is freed
//! outside of the time. The image files of the decoding benches are left in `target/kernels`, for others to decode.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use std::io::Cursor;
use std::path::Path;
use std::sync::LazyLock;

use divan::{Bencher, black_box};
use image::{DynamicImage, ImageFormat, RgbImage};
use lm4lv::checkpoint::{Partition, Position};
use lm4lv::degrade::{Degrade, DegradeConfig, OPERATIONS};
use lm4lv::image::resize::{Filter, resize};
use lm4lv::image::{Image, Size};
use lm4lv::load::{Icc, replay};
use lm4lv::sample::{Record, Reference, Sample};
use lm4lv::score::{ScoreName, score};
use lm4lv::sink::config::Encoding;
use lm4lv::sink::{Encode, ImageColumn, SinkConfig};
use lm4lv::stage::Stage;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn main() {
    lm4lv::allocator::keep_pages();
    for operation in OPERATIONS {
        let name = operation.spec.name;
        assert!(STEPS.iter().any(|step| step.split(':').next() == Some(name)), "{name} is not timed");
    }
    std::fs::create_dir_all(format!("{ROOT}/target/kernels")).unwrap();
    for name in FILES {
        std::fs::write(path(name), file(name)).unwrap();
    }
    divan::main();
}

/// The photograph.
static PHOTO: LazyLock<Image> = LazyLock::new(|| {
    let image = decoded(&std::fs::read(format!("{ROOT}/pipelines/photos/astronaut.jpg")).unwrap());
    assert_eq!(image.size(), Size::new(512, 512));
    image
});

/// The photograph after the main job's recipe.
static SPOILT: LazyLock<Image> = LazyLock::new(|| {
    let stage =
        degrade_stage("gaussian_noise: { sigma: 25 } }, { gaussian_blur: { sigma: 1.5 } }, { jpeg: { quality: 60 }");
    let mut sample = sample();
    stage.process(&record(), &mut sample).unwrap();
    sample.image.unwrap()
});

fn decoded(bytes: &[u8]) -> Image {
    replay(&[], bytes, Icc::Keep).unwrap()
}

fn record() -> Record {
    Record::new("photo", Reference::Missing, Position { partition: Partition::of_file(0, 0), offset: 0 })
}

fn sample() -> Sample {
    Sample { image: Some(PHOTO.clone()), ..Sample::default() }
}

/// Runs a stage on the photograph.
fn bench_stage(bencher: Bencher<'_, '_>, stage: &impl Stage) {
    let record = record();
    bencher.with_inputs(sample).bench_local_values(|mut sample| {
        stage.process(&record, &mut sample).unwrap();
        sample
    });
}

/// Recipe steps: every operation, and the forms of it that compute in another way.
const STEPS: &[&str] = &[
    "gaussian_noise: { sigma: 25 }",
    "gaussian_noise: { sigma: 25, mode: gray }",
    "gaussian_noise: { sigma: 25, mode: correlated }",
    "gaussian_blur: { k: 15, sigma: 1.5 }",
    "gaussian_blur: { k: 41, sigma: 8 }",
    "gaussian_blur: { k: 21, sigma_x: 3, sigma_y: 1, theta: 30 }",
    "rain: { value: 18, length: 35, theta: 20, width: 7 }",
    "pepper: { p: 0.05 }",
    "pepper: { p: 0.05, mode: per_channel, fill: 128 }",
    "mask: { ratio: 0.05 }",
    "mask: { shape: boxes, count: 8 }",
    "mask: { shape: lines, count: 8 }",
    "mask: { shape: polyline, count: 8, vertices: 8 }",
    "mask: { shape: brush, count: 8, vertices: 8 }",
    "mask: { shape: center, ratio: 0.25 }",
    "rotate: { angle: 90 }",
    "rotate: { angle: 180 }",
    "rotate: { angle: 17 }",
    "rotate: { angle: 17, filter: bicubic }",
    "rotate: { angle: 17, filter: nearest, expand: true }",
    "flip: { direction: horizontal }",
    "flip: { direction: vertical }",
    "flip: { direction: transpose }",
    "jpeg: { quality: 60 }",
    "jpeg: { quality: 60, subsampling: \"4:2:2\" }",
    "jpeg: { quality: 60, subsampling: \"4:4:4\" }",
    "jpeg: { quality: 60, subsampling: gray }",
    "webp: { quality: 60 }",
    "resample: { scale: 0.5 }",
    "resample: { scale: 0.25, down: box, up: nearest }",
    "resample: { scale: 0.3, down: lanczos, up: bilinear }",
];

fn degrade_stage(step: &str) -> Degrade {
    let config: DegradeConfig = serde_saphyr::from_str(&format!("recipe: [ {{ {step} }} ]")).unwrap();
    Degrade::new(&config).unwrap()
}

#[divan::bench(args = STEPS)]
fn degrade(bencher: Bencher<'_, '_>, step: &str) {
    bench_stage(bencher, &degrade_stage(step));
}

#[divan::bench(args = ScoreName::ALL.map(ScoreName::as_str))]
fn score_of(bencher: Bencher<'_, '_>, name: &str) {
    let name = ScoreName::ALL.into_iter().find(|score| score.as_str() == name).unwrap();
    let [image, reference] = [&*SPOILT, &*PHOTO];
    bencher.bench_local(|| score(name, black_box(image), reference));
}

const FILTERS: [Filter; 4] = [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos, Filter::Box];

#[divan::bench(args = FILTERS)]
fn shrink_to_224(bencher: Bencher<'_, '_>, filter: Filter) {
    let image = &*PHOTO;
    bencher.bench_local(|| resize(black_box(image), Size::new(224, 224), filter));
}

#[divan::bench(args = FILTERS)]
fn enlarge_to_1024(bencher: Bencher<'_, '_>, filter: Filter) {
    let image = &*PHOTO;
    bencher.bench_local(|| resize(black_box(image), Size::new(1024, 1024), filter));
}

/// Encodings as pipeline files write them.
const ENCODINGS: &[&str] = &[
    "png: { level: 0 }",
    "png: { level: 1 }",
    "png: { level: 6 }",
    "jpeg: { quality: 95, subsampling: \"4:2:0\" }",
    "jpeg: { quality: 95, subsampling: \"4:4:4\" }",
    "webp: {}",
];

fn encode_stage(encoding: &str) -> Encode {
    let encoding: Encoding = serde_saphyr::from_str(&format!("{{ {encoding} }}")).unwrap();
    Encode::new(&SinkConfig { encoding, ..SinkConfig::new("out") }, &[ImageColumn::Input])
}

#[divan::bench(args = ENCODINGS)]
fn encode(bencher: Bencher<'_, '_>, encoding: &str) {
    bench_stage(bencher, &encode_stage(encoding));
}

/// The photograph again, as files.
const FILES: &[&str] = &[
    "420.jpg",
    "444.jpg",
    "progressive.jpg",
    "photo.png",
    "lossy.webp",
    "lossless.webp",
    "photo.gif",
    "photo.bmp",
    "photo.tif",
];

fn path(name: &str) -> impl AsRef<Path> {
    format!("{ROOT}/target/kernels/{name}")
}

fn file(name: &str) -> Vec<u8> {
    let ours = |encoding: &str| {
        let mut sample = sample();
        encode_stage(encoding).process(&record(), &mut sample).unwrap();
        sample.encoded.input.unwrap().bytes.to_vec()
    };
    let theirs = |format: ImageFormat| {
        let image = RgbImage::from_raw(512, 512, PHOTO.as_bytes().to_vec()).unwrap();
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(image).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    match name {
        "420.jpg" => ours("jpeg: { quality: 92, subsampling: \"4:2:0\" }"),
        "444.jpg" => ours("jpeg: { quality: 92, subsampling: \"4:4:4\" }"),
        "progressive.jpg" => {
            let mut bytes = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 92);
            encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::R_4_2_0);
            encoder.set_progressive(true);
            encoder.encode(PHOTO.as_bytes(), 512, 512, jpeg_encoder::ColorType::Rgb).unwrap();
            bytes
        }
        "photo.png" => ours("png: { level: 6 }"),
        "lossy.webp" => webp::Encoder::from_rgb(PHOTO.as_bytes(), 512, 512).encode(90.0).to_vec(),
        "lossless.webp" => ours("webp: {}"),
        "photo.gif" => theirs(ImageFormat::Gif),
        "photo.bmp" => theirs(ImageFormat::Bmp),
        _ => theirs(ImageFormat::Tiff),
    }
}

#[divan::bench(args = FILES)]
fn decode(bencher: Bencher<'_, '_>, name: &str) {
    let bytes = std::fs::read(path(name)).unwrap();
    bencher.bench_local(|| decoded(black_box(&bytes)));
}
