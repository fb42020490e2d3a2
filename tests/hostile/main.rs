//! What a crawl's worth of hostile references and files can do to loading: one row each with the right code, no panic,
//! nothing reached that is closed, nothing allocated for what a header merely claims.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test file uses its own part")]
mod common;
mod run;
#[path = "../serve/mod.rs"]
mod serve;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use image::{ExtendedColorType, ImageEncoder};
use lm4lv::load::{Fetched, Icc, LoadConfig, Loader, Lookup, Prepare, replay};
use lm4lv::sample::{FailureCode, Record, Reference, Sample};
use lm4lv::store::Stores;
use serve::{Reply, Server, config, fetch, loader, outcome, record, uri};

/// The row that these bytes become.
fn prepared(bytes: &[u8]) -> Sample {
    let prepare = Prepare::new(&LoadConfig::default(), 0, 1);
    let fetched = Fetched::from_bytes(Bytes::copy_from_slice(bytes));
    assert!(prepare.working_bytes(&fetched) < 8 << 30);
    prepare.samples(&uri("x"), fetched).unwrap().remove(0)
}

/// The code of the row that these bytes become.
fn decoded(bytes: &[u8]) -> Result<(u32, u32), FailureCode> {
    let sample = prepared(bytes);
    match sample.failure {
        None => sample.image.map(|i| (i.width(), i.height())).ok_or(FailureCode::Corrupt),
        Some(failure) => Err(failure.code),
    }
}

const W: u32 = 120;
const H: u32 = 90;

/// Something to encode: smooth with noise, so that no format makes it tiny.
fn pixels() -> Vec<u8> {
    let mut state = 1u32;
    let mut pixel = |x: u32, y: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [(x * 2) as u8, (y * 2) as u8, (state >> 27) as u8 * 4]
    };
    (0..H).flat_map(|y| (0..W).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect()
}

fn jpeg(progressive: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut out, 80);
    encoder.set_progressive(progressive);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    encoder.encode(&pixels(), W as u16, H as u16, jpeg_encoder::ColorType::Rgb).unwrap();
    out
}

fn png_file() -> Vec<u8> {
    let mut out = Vec::new();
    image::codecs::png::PngEncoder::new(&mut out).write_image(&pixels(), W, H, ExtendedColorType::Rgb8).unwrap();
    out
}

fn tiff_file() -> Vec<u8> {
    let mut out = io::Cursor::new(Vec::new());
    image::codecs::tiff::TiffEncoder::new(&mut out).write_image(&pixels(), W, H, ExtendedColorType::Rgb8).unwrap();
    out.into_inner()
}

/// One file of each kind.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let rgb = pixels();
    let (mut gif, mut bmp, mut lossless) = (Vec::new(), Vec::new(), Vec::new());
    image::codecs::gif::GifEncoder::new(&mut gif).encode(&rgb, W, H, ExtendedColorType::Rgb8).unwrap();
    image::codecs::bmp::BmpEncoder::new(&mut bmp).encode(&rgb, W, H, ExtendedColorType::Rgb8).unwrap();
    image::codecs::webp::WebPEncoder::new_lossless(&mut lossless).encode(&rgb, W, H, ExtendedColorType::Rgb8).unwrap();
    let lossy = webp::Encoder::from_rgb(&rgb, W, H).encode(80.0).to_vec();
    vec![
        ("baseline JPEG", jpeg(false)),
        ("progressive JPEG", jpeg(true)),
        ("PNG", png_file()),
        ("GIF", gif),
        ("BMP", bmp),
        ("lossless WebP", lossless),
        ("lossy WebP", lossy),
        ("TIFF", tiff_file()),
    ]
}

/// A file with the bytes at `at` replaced.
fn patched(file: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + with.len()].copy_from_slice(with);
    file
}

fn find(file: &[u8], what: &[u8]) -> usize {
    file.windows(what.len()).position(|w| w == what).unwrap()
}

fn png_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut crc = !0u32;
    for byte in kind.iter().chain(body) {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 });
    }
    [&(body.len() as u32).to_be_bytes()[..], kind, body, &(!crc).to_be_bytes()].concat()
}

/// A little-endian TIFF of these entries (tag, type, count, value), with `data` behind the directory at offset 1000.
fn tiff_of(entries: &[(u16, u16, u32, u32)], data: &[u8]) -> Vec<u8> {
    let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
    file.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.resize(1000, 0);
    file.extend(data);
    file
}

#[test]
fn every_format_decodes_as_it_is() {
    for (name, file) in files() {
        assert_eq!(decoded(&file), Ok((W, H)), "{name}");
        let trailing = [&file[..], b"trailing garbage \xff\xd8\xff\xd9"].concat();
        assert_eq!(decoded(&trailing), Ok((W, H)), "{name} with garbage behind it");
    }
}

/// The file of this kind.
fn file(kind: &str) -> Vec<u8> {
    files().into_iter().find(|file| file.0 == kind).unwrap().1
}

const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A side of each bomb.
const SIDE: u32 = 50_000;

fn riff(body: &[u8]) -> Vec<u8> {
    [b"RIFF", &(body.len() as u32 + 4).to_le_bytes()[..], b"WEBP", body].concat()
}

/// The entries of a grey TIFF in one strip of `strip` bytes.
fn tiff_entries(w: u32, h: u32, strip: u32) -> [(u16, u16, u32, u32); 9] {
    [
        (256, 4, 1, w),
        (257, 4, 1, h),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 1000),
        (277, 3, 1, 1),
        (278, 4, 1, h),
        (279, 4, 1, strip),
    ]
}

/// 50,000 × 50,000 pixels in a kilobyte or so, in each format, with its extension.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let (be, le) = ((SIDE as u16).to_be_bytes(), (SIDE as u16).to_le_bytes());
    let jpeg_bomb = |progressive: bool| {
        let file = jpeg(progressive);
        let frame = find(&file, &[0xff, if progressive { 0xc2 } else { 0xc0 }]);
        patched(&patched(&file, frame + 5, &be), frame + 7, &be)[..1000].to_vec()
    };
    let header = [&SIDE.to_be_bytes()[..], &SIDE.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let chunks = [png_chunk(b"IHDR", &header), png_chunk(b"IDAT", &[0; 900]), png_chunk(b"IEND", &[])].concat();
    let screen = patched(&patched(&file("GIF"), 6, &le), 8, &le);
    // WebP's own images end at 16,383, its canvas does not.
    let canvas = (SIDE - 1).to_le_bytes();
    let vp8x = [b"VP8X\x0a\0\0\0\0\0\0\0", &canvas[..3], &canvas[..3]].concat();
    let bmp = patched(&patched(&file("BMP"), 18, &SIDE.to_le_bytes()), 22, &SIDE.to_le_bytes());
    vec![
        ("jpg", jpeg_bomb(false)),
        ("jpeg", jpeg_bomb(true)),
        ("png", [PNG_START, &chunks].concat()),
        ("gif", screen[..1000].to_vec()),
        ("webp", riff(&vp8x)),
        ("bmp", bmp[..1000].to_vec()),
        ("tif", tiff_of(&tiff_entries(SIDE, SIDE, 64), &[9; 64])),
    ]
}

#[test]
fn bombs_are_refused_by_their_headers() {
    let started = Instant::now();
    for (name, bomb) in bombs() {
        assert!(bomb.len() < 1100, "{name}");
        assert_eq!(decoded(&bomb), Err(FailureCode::TooManyPixels), "{name}");
    }
    let le = (SIDE as u16).to_le_bytes();
    let [gif, lossless, lossy] = ["GIF", "lossless WebP", "lossy WebP"].map(file);
    let frame = 13 + 768 * usize::from(gif[10] & 0x80 != 0) + find(&gif[13..], &[0x2c, 0, 0, 0, 0]);
    let frame = if gif[frame] == 0x2c { frame } else { find(&gif, &[0x2c, 0, 0, 0, 0]) };
    let inner = patched(&patched(&gif, frame + 5, &le), frame + 7, &le);
    assert_eq!(decoded(&inner), Err(FailureCode::TooManyPixels), "GIF frame larger than its screen");
    // WebP's own limit is 16,383, in 14 bits.
    let vp8 = patched(&lossy, 26, &[0xff, 0x3f, 0xff, 0x3f]);
    assert_eq!(decoded(&vp8), Err(FailureCode::TooManyPixels), "lossy WebP");
    let vp8l = patched(&lossless, find(&lossless, b"VP8L") + 9, &[0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(decoded(&vp8l), Err(FailureCode::TooManyPixels), "lossless WebP");
    // An image of 16,383² inside a canvas of 1 × 1, which the decoder would allocate for before it compares.
    let one = [b"VP8X\x0a\0\0\0\0\0\0\0", &[0; 6][..], &vp8[12..]].concat();
    assert_eq!(decoded(&riff(&one)), Err(FailureCode::Corrupt), "WebP image larger than its canvas");
    let animated = [
        b"VP8X\x0a\0\0\0\x02\0\0\0",
        &[0; 6][..],
        b"ANIM\x06\0\0\0\0\0\0\0\0\0",
        b"ANMF",
        &(16 + lossy.len() as u32 - 12).to_le_bytes(),
        &[0; 16],
        &vp8[12..],
    ]
    .concat();
    assert_eq!(decoded(&riff(&animated)), Err(FailureCode::Corrupt), "WebP frame larger than its canvas");
    // A still image of the right size before the frames, which the decoder would pass over.
    let small = [&b"VP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\x01\0\x01\0"[..], &animated[32..]].concat();
    let failure = prepared(&riff(&[&animated[..32], &small].concat())).failure.unwrap();
    assert_eq!(failure.message, "a still image among frames, or frames beside a still image");
    let entries = tiff_entries;
    assert_eq!(decoded(&tiff_of(&entries(8, 8, 64), &[9; 64])), Ok((8, 8)));
    assert_eq!(
        decoded(&tiff_of(&entries(8, 8, u32::MAX), &[9; 64])),
        Err(FailureCode::Corrupt),
        "TIFF strip beyond the file"
    );
    let mut tiles = entries(8, 8, 64).to_vec();
    tiles.retain(|e| ![273, 278, 279].contains(&e.0));
    tiles.extend([(322, 4, 1, 1 << 30), (323, 4, 1, 1 << 30), (324, 4, 1, 1000), (325, 4, 1, 64)]);
    assert_eq!(decoded(&tiff_of(&tiles, &[9; 64])), Err(FailureCode::Corrupt), "TIFF tiles larger than its image");
    let mut planes = entries(24, 8, 64).to_vec();
    planes.retain(|e| ![258, 273, 277, 278, 279].contains(&e.0));
    // Three times 8 bits; two tiles for each of three planes, one after the other.
    let mut data: Vec<u8> = [8u16; 3].iter().flat_map(|v| v.to_le_bytes()).collect();
    data.resize(8, 0);
    data.extend((0..6).flat_map(|i| (1056 + i * 256u32).to_le_bytes()));
    data.extend([256u32; 6].iter().flat_map(|v| v.to_le_bytes()));
    data.resize(56 + 6 * 256, 9);
    planes[3].3 = 2;
    planes.extend([(258, 3, 3, 1000), (277, 3, 1, 3), (284, 3, 1, 2), (322, 3, 1, 16), (323, 3, 1, 16)]);
    planes.extend([(324, 4, 6, 1008), (325, 4, 6, 1032)]);
    planes.sort();
    assert_eq!(
        decoded(&tiff_of(&planes, &data)),
        Err(FailureCode::Unsupported),
        "TIFF with tiles of planes beyond its edge"
    );
    let mut samples = entries(8, 8, 64);
    samples[6].3 = 60_000;
    assert!(decoded(&tiff_of(&samples, &[9; 64])).is_err(), "TIFF with 60,000 samples a pixel");
    let mut strip = entries(8, 8, 0);
    let file = jpeg(false);
    let at = find(&file, &[0xff, 0xc0]);
    let file = patched(&patched(&file, at + 5, &[0x3f, 0xff]), at + 7, &[0x3f, 0xff]);
    (strip[3].3, strip[8].3) = (7, file.len() as u32);
    assert_eq!(
        decoded(&tiff_of(&strip, &file)),
        Err(FailureCode::Corrupt),
        "TIFF with a JPEG strip larger than its image"
    );
    let small = jpeg(false);
    let scan = find(&file, &[0xff, 0xda]);
    let tables = [&file[..scan], b"\xff\xd9"].concat();
    strip[8].3 = small.len() as u32;
    let with_tables = [&strip[..], &[(347, 7, tables.len() as u32, 1000 + small.len() as u32)]].concat();
    let failure = prepared(&tiff_of(&with_tables, &[&small[..], &tables].concat())).failure.unwrap();
    assert_eq!(failure.message, "its JPEG tables are no tables", "TIFF with a frame header among its JPEG tables");
    // Coarse quantisation tables hold the two bytes of a frame header's marker, and are none.
    let mut markers = 0;
    for quality in 1..=25 {
        let mut coarse = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut coarse, quality);
        encoder.encode(&[90; 64], 8, 8, jpeg_encoder::ColorType::Luma).unwrap();
        markers += coarse.windows(2).filter(|pair| matches!(pair, [0xff, 0xc0..=0xc2])).count();
        strip[8].3 = coarse.len() as u32;
        assert_eq!(decoded(&tiff_of(&strip, &coarse)), Ok((8, 8)), "JPEG of quality {quality} in a TIFF");
    }
    assert!(markers > 25);
    let mut lowest_first = entries(8, 8, 64).to_vec();
    lowest_first.insert(5, (266, 3, 1, 2));
    assert_eq!(decoded(&tiff_of(&lowest_first, &[9; 64])), Ok((8, 8)));
    lowest_first[6].3 = 8;
    let failure = prepared(&tiff_of(&lowest_first, &[9; 64])).failure.unwrap();
    assert_eq!(
        failure.message, "its strips overlap its tags",
        "TIFF whose tags change when its bytes are turned round"
    );
    assert!(started.elapsed() < Duration::from_secs(2), "nothing was decoded");
    // Long and thin is a bomb for what comes after.
    let thin = [&1u32.to_be_bytes()[..], &60_000u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    assert_eq!(decoded(&[PNG_START, &png_chunk(b"IHDR", &thin)].concat()), Err(FailureCode::BadAspect));
}

/// 64 MB that pack into a few kB, in chunks that are not pixels: the image is fine, what they hold is not kept.
#[test]
fn bombs_beside_the_pixels_do_no_harm() {
    let png = png_file();
    let packed = {
        // A deflate stream of zeros, taken from a PNG of nothing but.
        let mut file = Vec::new();
        let black = vec![0; 64 << 20];
        let mut encoder = png::Encoder::new(&mut file, 8192, 8192);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        encoder.write_header().unwrap().write_image_data(&black).unwrap();
        let at = find(&file, b"IDAT");
        let length = u32::from_be_bytes(file[at - 4..at].try_into().unwrap()) as usize;
        file[at + 4..at + 4 + length].to_vec()
    };
    assert!(packed.len() < 300_000);
    for (kind, prefix) in [(b"iCCP", &b"x\0\0"[..]), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\x01\0\0\0")] {
        let chunk = png_chunk(kind, &[prefix, &packed].concat());
        let file = [&png[..33], &chunk, &png[33..]].concat();
        let prepare = Prepare::new(&LoadConfig::default(), 0, 1);
        let sample = prepare.samples(&uri("x"), Fetched::from_bytes(file.into())).unwrap().remove(0);
        assert_eq!(sample.failure, None);
        assert_eq!(sample.origin.unwrap().icc, None);
    }
    // A JPEG with 255 pieces of profile, 16 MB in all.
    let piece = |n: u8| [&[0xff, 0xe2, 0xff, 0xff][..], b"ICC_PROFILE\0", &[n, 255], &vec![7; 65_519]].concat();
    let file = jpeg(false);
    let large = [&file[..2], &(1..=255).flat_map(piece).collect::<Vec<_>>(), &file[2..]].concat();
    assert_eq!(decoded(&large), Ok((W, H)));
}

#[test]
fn truncation_at_every_64th_byte_is_a_failure() {
    for (name, file) in files() {
        for length in (0..file.len()).step_by(64) {
            let code = decoded(&file[..length]);
            let expected = if length == 0 { FailureCode::Empty } else { FailureCode::Corrupt };
            assert_eq!(code, Err(expected), "{name} of {} bytes cut at {length}", file.len());
        }
        // The last bytes too, where only an end marker is missing. TIFF and BMP have none: there the pixels end the file,
        // or tags and padding do.
        for missing in 1..=2 {
            let code = decoded(&file[..file.len() - missing]);
            assert!(code == Err(FailureCode::Corrupt), "{name} without its last {missing} bytes: {code:?}");
        }
    }
    // And files from other writers: every kind there is a fixture of.
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/load");
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        let file = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|e| e != "rgb") {
            for length in (64..file.len()).step_by(64) {
                assert_eq!(decoded(&file[..length]), Err(FailureCode::Corrupt), "{} cut at {length}", path.display());
            }
        }
    }
    // A JPEG that ends early but properly: other decoders paint the rest grey, or without detail.
    for progressive in [false, true] {
        let file = jpeg(progressive);
        let last =
            if progressive { file.windows(2).rposition(|w| w == [0xff, 0xda]).unwrap() } else { file.len() - 100 };
        for length in (700..last).step_by(256) {
            let code = decoded(&[&file[..length], &[0xff, 0xd9]].concat());
            assert_eq!(code, Err(FailureCode::Corrupt), "cut at {length} and closed, progressive: {progressive}");
        }
    }
}

/// Any damage gives an image or a failure, never a panic that escapes, and never takes long.
#[test]
fn damaged_files_never_stop_the_run() {
    let mut state = 42u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for (name, file) in files() {
        let started = Instant::now();
        for _ in 0..150 {
            let mut damaged = file.clone();
            for _ in 0..1 + random() % 4 {
                let at = if random() % 2 == 0 { random() % damaged.len().min(200) } else { random() % damaged.len() };
                damaged[at] = random() as u8;
            }
            if let Err(code) = decoded(&damaged) {
                use FailureCode::{BadAspect, Corrupt, TooManyPixels, UnknownFormat, Unsupported};
                let expected = [Corrupt, Unsupported, UnknownFormat, TooManyPixels, BadAspect];
                assert!(expected.contains(&code), "{name}: {code:?}");
            }
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{name}");
    }
}

#[test]
fn the_first_bytes_decide_not_the_name() {
    let html = b"<!DOCTYPE html><html><head><title>404</title></head></html>".as_slice();
    for text in
        [html, b"just some text", b"BM text that begins like a bitmap", b"\0\0\0\x20ftypavif", b"<svg/>", b"{}", b"x"]
    {
        assert_eq!(decoded(text), Err(FailureCode::UnknownFormat), "{}", text.escape_ascii());
    }
    assert_eq!(decoded(b""), Err(FailureCode::Empty));
    let failure = replay(&[], html, Icc::Keep).unwrap_err();
    assert!(failure.message.contains("HTML"), "{}", failure.message);
    // Magic bytes and nothing behind them.
    for magic in
        [&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"II\x2a\0", b"MM\0\x2a"]
    {
        assert_eq!(decoded(magic), Err(FailureCode::Corrupt), "{}", magic.escape_ascii());
    }
    let mut arithmetic = jpeg(false);
    let frame = find(&arithmetic, &[0xff, 0xc0]);
    for (marker, precision) in [(0xc9, 8), (0xc3, 8), (0xc1, 12)] {
        (arithmetic[frame + 1], arithmetic[frame + 4]) = (marker, precision);
        assert_eq!(decoded(&arithmetic), Err(FailureCode::Unsupported));
    }
}

#[tokio::test]
async fn local_references_stay_below_the_root() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.jpg"), "secret").unwrap();
    let dir = tempfile::tempdir_in(outside.path()).unwrap();
    let root = dir.path();
    std::fs::create_dir(root.join("sub")).unwrap();
    std::fs::write(root.join("empty.jpg"), "").unwrap();
    symlink(outside.path().join("secret.jpg"), root.join("out.jpg")).unwrap();
    symlink("../secret.jpg", root.join("up.jpg")).unwrap();
    symlink(outside.path(), root.join("folder")).unwrap();
    symlink("/etc", root.join("etc")).unwrap();
    symlink("loop.jpg", root.join("loop.jpg")).unwrap();
    symlink("/dev/zero", root.join("zero.jpg")).unwrap();
    std::fs::write(root.join(OsStr::from_bytes(b"caf\xe9.jpg")), "latin1").unwrap();
    let made = std::process::Command::new("mkfifo").arg(root.join("fifo.jpg")).status();
    let socket = std::os::unix::net::UnixListener::bind(root.join("socket.jpg")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse.jpg")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    let loader = Loader::new(&LoadConfig::default(), &Stores::default(), root.to_str(), 1 << 20).unwrap();
    let absolute = outside.path().join("secret.jpg");
    let started = Instant::now();
    for (reference, code) in [
        ("../secret.jpg", FailureCode::ForbiddenPath),
        ("sub/../../secret.jpg", FailureCode::ForbiddenPath),
        ("sub/../empty.jpg", FailureCode::ForbiddenPath),
        (absolute.to_str().unwrap(), FailureCode::ForbiddenPath),
        ("/etc/passwd", FailureCode::ForbiddenPath),
        ("//etc/passwd", FailureCode::ForbiddenPath),
        ("file:///etc/passwd", FailureCode::ForbiddenPath),
        ("file:///../etc/passwd", FailureCode::ForbiddenPath),
        ("/dev/zero", FailureCode::ForbiddenPath),
        ("/proc/self/environ", FailureCode::ForbiddenPath),
        ("out.jpg", FailureCode::ForbiddenPath),
        ("up.jpg", FailureCode::ForbiddenPath),
        ("folder/secret.jpg", FailureCode::ForbiddenPath),
        ("etc/passwd", FailureCode::ForbiddenPath),
        ("zero.jpg", FailureCode::ForbiddenPath),
        ("loop.jpg", FailureCode::Io),
        ("sub", FailureCode::NotAFile),
        (".", FailureCode::NotAFile),
        ("socket.jpg", FailureCode::NotAFile),
        ("sparse.jpg", FailureCode::TooLarge),
        ("empty.jpg", FailureCode::Empty),
        // A name that is not UTF-8 cannot be written in a reference; what a lossy listing makes of it is not there.
        ("caf\u{fffd}.jpg", FailureCode::NotFound),
        ("nul\0.jpg", FailureCode::BadReference),
        ("C:\\windows\\x.jpg", FailureCode::BadReference),
        ("", FailureCode::BadReference),
        ("ftp://host/x.jpg", FailureCode::BadReference),
        ("javascript://x", FailureCode::BadReference),
    ] {
        assert_eq!(fetch(&loader, reference).await, Err(code), "{reference:?}");
    }
    assert_eq!(fetch(&loader, &"x".repeat(300)).await, Err(FailureCode::BadReference), "longer than a name can be");
    let long = "y/".repeat(1 << 20);
    assert_eq!(fetch(&loader, &long).await, Err(FailureCode::BadReference), "longer than a path can be");
    assert_eq!(fetch(&loader, &format!("http://host/{long}")).await, Err(FailureCode::BadReference));
    let node = std::process::Command::new("mknod").arg(root.join("device.jpg")).args(["c", "1", "5"]).output();
    if node.is_ok_and(|output| output.status.success()) {
        assert_eq!(fetch(&loader, "device.jpg").await, Err(FailureCode::NotAFile));
    } else {
        eprintln!("skipped: only root can make a device");
    }
    if made.is_ok_and(|status| status.success()) {
        assert_eq!(fetch(&loader, "fifo.jpg").await, Err(FailureCode::NotAFile));
    }
    assert!(started.elapsed() < Duration::from_secs(2), "nothing was waited for, nothing large was read");
    drop(socket);
}

#[tokio::test]
async fn null_and_repeated_references() {
    let loader = loader(&LoadConfig::default());
    assert_eq!(outcome(&loader.fetch(&record(Reference::Missing)).await), Err(FailureCode::NullReference));
    let target = Record { target: Some(Reference::Missing), ..uri("data:,x") };
    let fetched = loader.fetch(&target).await;
    assert!(fetched.input.is_ok() && fetched.target.as_ref().is_some_and(|t| t.is_err()));
    let samples = Prepare::new(&LoadConfig::default(), 0, 4).samples(&target, fetched).unwrap();
    assert_eq!(samples.len(), 4);
    // The same key twice draws alike, and is two rows all the same.
    let config: LoadConfig = serde_saphyr::from_str("crop: { random: { size: 20 } }").unwrap();
    let rows = [0, 1].map(|_| {
        let fetched = Fetched::from_bytes(png_file().into());
        Prepare::new(&config, 1, 1).samples(&uri("x"), fetched).unwrap().remove(0)
    });
    assert_eq!(rows[0].ops, rows[1].ops);
}

#[tokio::test]
async fn a_data_uri_of_100_mb_is_measured_not_decoded() {
    let loader = loader(&LoadConfig::default());
    for head in ["data:image/png;base64,", "data:,"] {
        let reference = format!("{head}{}", "A".repeat(100 << 20));
        let started = Instant::now();
        assert_eq!(fetch(&loader, &reference).await, Err(FailureCode::TooLarge));
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn bodies_that_do_not_end_or_lie() {
    let server = Server::start(|request| match request.path.as_str() {
        "/drip" => Reply::Drip(1000, Duration::from_millis(100)),
        "/endless" => Reply::Endless,
        "/announced" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: 9000000000\r\n".to_owned(), vec![]),
        "/short" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: 5000\r\n".to_owned(), vec![1; 4999]),
        "/absurd" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: -1\r\n".to_owned(), vec![1; 10]),
        "/long" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: 5\r\n".to_owned(), vec![1; 5000]),
        "/two" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: 5\r\nContent-Length: 9\r\n".to_owned(), vec![1; 9]),
        "/headers" => Reply::Raw(format!("HTTP/1.1 200 x\r\nX: {}\r\n", "x".repeat(1 << 20)), vec![]),
        _ => Reply::ok("<html>not a picture</html>"),
    })
    .await;
    let loader = loader(&LoadConfig { deadline_s: 0.6, retries: 1, max_mib: 2, ..config() });
    for (path, code) in [
        ("/drip", FailureCode::Timeout),
        ("/endless", FailureCode::TooLarge),
        ("/announced", FailureCode::TooLarge),
        ("/short", FailureCode::BadResponse),
        ("/absurd", FailureCode::BadResponse),
        ("/two", FailureCode::BadResponse),
        ("/headers", FailureCode::BadResponse),
    ] {
        let started = Instant::now();
        assert_eq!(fetch(&loader, &server.url(path)).await, Err(code), "{path}");
        assert!(started.elapsed() < Duration::from_secs(2), "{path}");
    }
    assert_eq!(fetch(&loader, &server.url("/long")).await.map(|body| body.len()), Ok(5));
    let page = loader.fetch(&uri(&server.url("/image.jpg"))).await;
    let samples = Prepare::new(&LoadConfig::default(), 0, 1).samples(&uri("x"), page).unwrap();
    assert_eq!(samples[0].failure.as_ref().unwrap().code, FailureCode::UnknownFormat);
}

#[tokio::test]
async fn redirects_lead_nowhere_closed() {
    // On another loopback address, which is not in `allow`.
    let secret = Server::start_at(Ipv4Addr::new(127, 0, 0, 2), 0, |_| Reply::ok("secret")).await;
    let port = secret.address.port();
    let server = Server::start(move |request| match request.path.as_str() {
        "/loop" => Reply::redirect("/loop"),
        "/there" => Reply::redirect("/back"),
        "/back" => Reply::redirect("/there"),
        "/once" => Reply::redirect("/ok"),
        "/ok" => Reply::ok("ok"),
        path => Reply::redirect(&path[1..].replace("PORT", &port.to_string())),
    })
    .await;
    let loader = loader(&config());
    assert_eq!(fetch(&loader, &server.url("/once")).await.unwrap(), "ok");
    for path in ["/loop", "/there"] {
        let fetched = loader.fetch(&uri(&server.url(path))).await;
        assert_eq!((outcome(&fetched), fetched.attempts), (Err(FailureCode::HttpStatus), 1));
    }
    assert_eq!(server.asked.lock().unwrap().iter().filter(|p| *p == "/loop").count(), 6, "5 redirects, 6 requests");
    for to in [
        "http://127.0.0.2:PORT/",
        "http://0x7f000002:PORT/",
        "http://2130706434:PORT/",
        "http://127.2:PORT/",
        "http://[::ffff:127.0.0.2]:PORT/",
        "http://[::ffff:7f00:2]:PORT/",
        "http://[::1]/",
        "http://0.0.0.0:PORT/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://168.63.129.16/",
        "http://[64:ff9b::7f00:2]/",
        "http://[2002:7f00:2::]/",
        "http://[fe80::1]/",
        "http://[::127.0.0.2]:PORT/",
        "file:///etc/passwd",
        "data:,x",
        "ftp://example.com/",
    ] {
        assert_eq!(fetch(&loader, &server.url(&format!("/{to}"))).await, Err(FailureCode::ForbiddenAddress), "{to}");
        if to.starts_with("http") {
            let direct = to.replace("PORT", &port.to_string());
            assert_eq!(fetch(&loader, &direct).await, Err(FailureCode::ForbiddenAddress), "{direct}");
        }
    }
    assert_eq!(secret.connections(), 0, "nobody ever knocked");
}

/// Answers each name's addresses in turn, the last one for ever.
struct Changing(Mutex<VecDeque<Vec<IpAddr>>>);

impl Changing {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|a| a.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(answers.iter().map(parse).collect())))
    }
}

impl Lookup for Changing {
    fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("Name or service not known")) })
    }
}

#[tokio::test]
async fn names_that_resolve_to_closed_addresses() {
    let secret = Server::start(|_| Reply::ok("secret")).await;
    let url = format!("http://innocent.example:{}/", secret.address.port());
    let config = LoadConfig { allow: vec![], retry_base_ms: 1, deadline_s: 5.0, ..LoadConfig::default() };
    for answer in
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1", "fd00::1", "0.0.0.0"]
    {
        let lookup = Changing::new(&[&[answer]]);
        let loader = Loader::with_lookup(&config, &Stores::default(), None, 1 << 20, lookup).unwrap();
        let fetched = loader.fetch(&uri(&url)).await;
        assert_eq!((outcome(&fetched), fetched.attempts), (Err(FailureCode::ForbiddenAddress), 1), "{answer}");
        assert_eq!(fetched.host.as_deref(), Some("innocent.example"));
    }
    for host in ["localhost", "LOCALHOST.", "localhost.localdomain"] {
        let loader = Loader::new(&config, &Stores::default(), None, 1 << 20).unwrap();
        let code = fetch(&loader, &format!("http://{host}:{}/", secret.address.port())).await.unwrap_err();
        assert!(matches!(code, FailureCode::ForbiddenAddress | FailureCode::Dns), "{host}: {code:?}");
    }
    let loader = Loader::with_lookup(&config, &Stores::default(), None, 1 << 20, Changing::new(&[])).unwrap();
    let fetched = loader.fetch(&uri("http://gone.example/")).await;
    assert_eq!((outcome(&fetched), fetched.attempts), (Err(FailureCode::Dns), 1));
    assert_eq!(secret.connections(), 0);
}

/// The name's first answer is open, its next one is not: what was checked is what is connected to, each time.
#[tokio::test]
async fn names_that_change_between_check_and_use() {
    let open = Server::start_at(Ipv4Addr::new(127, 0, 0, 3), 0, |request| match request.path.as_str() {
        "/again" => Reply::redirect("/x"),
        _ => Reply::ok("open"),
    })
    .await;
    let port = open.address.port();
    let secret = Server::start_at(Ipv4Addr::new(127, 0, 0, 4), port, |_| Reply::ok("secret")).await;
    let config = LoadConfig { allow: vec!["127.0.0.3".to_owned()], retry_base_ms: 1, ..LoadConfig::default() };
    let with = |answers: &[&[&str]]| {
        Loader::with_lookup(&config, &Stores::default(), None, 1 << 20, Changing::new(answers)).unwrap()
    };
    let url = |path: &str| format!("http://rebind.example:{port}{path}");
    let loader = with(&[&["127.0.0.3"], &["127.0.0.4"]]);
    assert_eq!(fetch(&loader, &url("/x")).await.unwrap(), "open");
    assert_eq!(fetch(&loader, &url("/x")).await, Err(FailureCode::ForbiddenAddress));
    // Within one fetch, at the redirect.
    let loader = with(&[&["127.0.0.3"], &["127.0.0.4"]]);
    assert_eq!(fetch(&loader, &url("/again")).await, Err(FailureCode::ForbiddenAddress));
    // In one answer: only the open one is ever tried.
    let loader = with(&[&["127.0.0.4", "127.0.0.3"]]);
    assert_eq!(fetch(&loader, &url("/x")).await.unwrap(), "open");
    assert_eq!(secret.connections(), 0);
}
