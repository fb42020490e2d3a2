//! Times the kernels on one image of 512×512 pixels and one thread: `cargo bench --bench kernels`.

use divan::{Bencher, black_box};
use lm4lv::image::resize::{Filter, resize};
use lm4lv::image::{Image, Size};
use lm4lv::score::{ScoreName, score};

fn main() {
    divan::main();
}

/// Smooth with some texture, and no two rows alike.
fn image() -> Image {
    Image::from_fn(Size::new(512, 512), |x, y| {
        let texture = (x * 7919 + y * 104_729) % 61;
        [(x / 2 + texture / 2) as u8, (y / 2 + texture / 3) as u8, ((x + y) / 4 + texture) as u8]
    })
}

#[divan::bench(args = [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos, Filter::Box])]
fn shrink_to_224(bencher: Bencher<'_, '_>, filter: Filter) {
    let image = image();
    bencher.bench_local(|| resize(black_box(&image), Size::new(224, 224), filter));
}

#[divan::bench(args = [Filter::Bicubic, Filter::Bilinear, Filter::Lanczos, Filter::Box])]
fn enlarge_to_1024(bencher: Bencher<'_, '_>, filter: Filter) {
    let image = image();
    bencher.bench_local(|| resize(black_box(&image), Size::new(1024, 1024), filter));
}

#[divan::bench(args = ScoreName::ALL.map(ScoreName::as_str))]
fn score_of(bencher: Bencher<'_, '_>, name: &str) {
    let [clean, mut spoilt] = [image(), image()];
    for (i, byte) in spoilt.as_bytes_mut().iter_mut().enumerate() {
        *byte = byte.saturating_add(((i * 2_654_435_761) >> 9) as u8 / 16);
    }
    let name = ScoreName::ALL.into_iter().find(|score| score.as_str() == name).unwrap_or(ScoreName::PsnrLm4lv);
    bencher.bench_local(|| score(name, black_box(&spoilt), &clean));
}
