//! Any bytes are an image within the bounds, or a row with one of a few codes; and take no more memory than was promised.

use bytes::Bytes;
use lm4lv::image::resize::Filter;
use lm4lv::load::{CentreCrop, Crop, Fetched, Format, Icc, LoadConfig, Prepare, Resize, ResizeMode, Sides, replay};
use lm4lv::sample::{FailureCode, Reference, Sample};

use super::{let_crates_panic, memory, record};

/// Small, for speed.
const MAX_PIXELS: u64 = 250_000;

/// Memory besides what grows with the image: the decoders' tables, and what small files may unpack to besides pixels (colour
/// profiles of 8 MiB, as they grow).
fn overhead(data: &[u8]) -> u64 {
    match Format::sniff(data) {
        Ok(Format::Tiff | Format::Bmp | Format::Jpeg) => 2 << 20,
        // The decoder asks for what a partition says of itself, at most eight times 16 MiB, before it finds that the file is
        // shorter; it does not touch it.
        Ok(Format::WebP) => 130 << 20,
        _ => 24 << 20,
    }
}

/// Decodes a file.
pub fn decode(data: &[u8]) {
    let_crates_panic();
    let icc = [Icc::Keep, Icc::Srgb, Icc::Drop][data.len() % 3];
    let config = LoadConfig { max_mpx: MAX_PIXELS as f64 / 1e6, icc, ..LoadConfig::default() };
    let sample = samples(&config, data);
    let Some(image) = &sample.image else {
        let failure = sample.failure.unwrap();
        let codes = [
            FailureCode::Empty,
            FailureCode::UnknownFormat,
            FailureCode::Corrupt,
            FailureCode::Unsupported,
            FailureCode::TooManyPixels,
            FailureCode::BadAspect,
        ];
        assert!(codes.contains(&failure.code), "{failure:?}");
        assert!((1..1000).contains(&failure.message.len()) && !failure.message.ends_with('.'), "{failure:?}");
        return;
    };
    assert!(sample.failure.is_none());
    let (w, h) = (u64::from(image.width()), u64::from(image.height()));
    assert!(w * h > 0 && w * h <= MAX_PIXELS && w.max(h) <= 50 * w.min(h), "{w} × {h}");
    assert_eq!(image.as_bytes().len() as u64, w * h * 3);
    let origin = sample.origin.as_ref().unwrap();
    assert_eq!((u64::from(origin.width), u64::from(origin.height)), (w, h));
    assert_eq!(origin.extension, Format::sniff(data).unwrap().extension());
    // A row can be made again from the file; and what stands behind its end does not count (a TIFF has no end).
    assert!(replay(&[], data, icc).unwrap() == *image);
    if origin.extension != "tif" {
        let longer = [data, b"\xff\xd9, and more"].concat();
        assert!(replay(&[], &longer, icc).unwrap() == *image);
    }
    if w * h <= 4096 {
        geometry(&config, data, sample.image.as_ref().map(|image| image.size()).unwrap());
    }
}

/// The one sample of a file; within the memory promised.
fn samples(config: &LoadConfig, data: &[u8]) -> Sample {
    let prepare = Prepare::new(config, 0, 1);
    let fetched = Fetched::from_bytes(Bytes::copy_from_slice(data));
    let promised = prepare.working_bytes(&fetched);
    let (samples, peak) = memory::peak(|| prepare.samples(&record(Reference::Missing), fetched).unwrap());
    assert!(peak <= promised + overhead(data), "{peak} bytes were held, {promised} were promised");
    let [sample] = <[Sample; 1]>::try_from(samples).unwrap();
    sample
}

/// Resized and cropped, it can be made again from what the row recorded.
fn geometry(config: &LoadConfig, data: &[u8], size: lm4lv::image::Size) {
    let side = data.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let sides = |width, height| Sides { width, height };
    let (mode, filter) = match side % 3 {
        0 => (ResizeMode::ShortestSide, Filter::Bicubic),
        1 => (ResizeMode::LongestSide, Filter::Lanczos),
        _ => (ResizeMode::Exact, Filter::Bilinear),
    };
    let resize = Resize { size: sides(side % 40 + 1, side % 40 + 1), mode, filter, only_shrink: side % 5 == 0 };
    let crop = Crop::Centre(CentreCrop { size: sides(side % 7 + 1, side % 11 + 1) });
    let sample = samples(&LoadConfig { resize: Some(resize), crop, ..config.clone() }, data);
    match (&sample.image, &sample.failure) {
        (Some(image), None) => assert!(replay(&sample.ops, data, config.icc).unwrap() == *image, "{size:?}"),
        (None, Some(failure)) => assert_eq!(failure.code, FailureCode::TooSmall),
        other => panic!("{other:?}"),
    }
}
