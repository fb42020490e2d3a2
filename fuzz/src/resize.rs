//! Any size to any other: as large as asked for, no new extremes but where a filter rings, flat stays flat, and both axes at
//! once are one after the other.

use lm4lv::image::resize::{Filter, resize as resized};
use lm4lv::image::{Image, Size};

use super::choices::Choices;

/// Pixels of a picture, at most.
const MOST: u32 = 12_288;

/// Resamples a picture.
pub fn resize(data: &[u8]) {
    let mut choices = Choices(data);
    let filter = choices.of(&[Filter::Bicubic, Filter::Bilinear, Filter::Lanczos, Filter::Box]);
    let (from, to) = (choices.size(), choices.size());
    let image = choices.picture(from);
    let out = resized(&image, to, filter);
    assert_eq!((out.size(), out.as_bytes().len()), (to, to.pixels() * 3));
    assert!(from != to || out == image);
    for channel in 0..3 {
        let (low, high) = ends(&image, channel);
        let (out_low, out_high) = ends(&out, channel);
        if low == high || matches!(filter, Filter::Bilinear | Filter::Box) {
            assert!(low <= out_low && out_high <= high, "{filter:?} {from:?} {to:?}: {out_low} to {out_high}");
        }
    }
    // The larger of the two between pictures may be too much work.
    let [across, down] = [Size::new(to.width, from.height), Size::new(from.width, to.height)];
    if across.pixels().max(down.pixels()) <= 8 * MOST as usize {
        let first_across = resized(&resized(&image, across, filter), to, filter);
        let first_down = resized(&resized(&image, down, filter), to, filter);
        assert!(out == first_across || out == first_down, "{filter:?} {from:?} {to:?}");
    }
    // Columns are rows of the turned picture.
    assert!(
        turned(&resized(&image, across_only(from, to), filter))
            == resized(&turned(&image), turned_size(across_only(from, to)), filter)
    );
}

fn across_only(from: Size, to: Size) -> Size {
    Size::new(to.width.min(MOST / from.height).max(1), from.height)
}

fn turned_size(size: Size) -> Size {
    Size::new(size.height, size.width)
}

fn turned(image: &Image) -> Image {
    Image::from_fn(turned_size(image.size()), |x, y| image.pixel(y, x))
}

fn ends(image: &Image, channel: usize) -> (u8, u8) {
    let levels = || image.as_bytes().iter().skip(channel).step_by(3).copied();
    (levels().min().unwrap(), levels().max().unwrap())
}
