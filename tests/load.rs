//! Loading as it should go: every kind of reference, every kind of file, every geometry. What comes from the hostile is in
//! `hostile.rs`. Pixels are held against Pillow's (`scripts/make_load_fixtures.py`).
#![expect(clippy::unwrap_used, reason = "tests")]

mod serve;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lm4lv::image::resize::{Filter, resize};
use lm4lv::image::{Image, Size};
use lm4lv::load::{Fetched, Icc, LoadConfig, Loader, Prepare, replay};
use lm4lv::sample::{FailureCode, Listed, Reference, Sample};
use lm4lv::store::Stores;
use serve::{Reply, Server, config, fetch, loader, outcome, record, uri};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/load")
}

fn fixture(name: &str) -> Bytes {
    std::fs::read(fixtures().join(name)).unwrap().into()
}

fn yaml(text: &str) -> LoadConfig {
    let config: LoadConfig = serde_saphyr::from_str(text).unwrap();
    config.check().unwrap();
    config
}

fn prepare(config: &LoadConfig, variants: u16, fetched: Fetched) -> Vec<Sample> {
    Prepare::new(config, 7, variants).samples(&uri("x"), fetched).unwrap()
}

fn image(sample: &Sample) -> &Image {
    assert_eq!(sample.failure, None);
    sample.image.as_ref().unwrap()
}

fn code(samples: &[Sample]) -> FailureCode {
    assert!(samples.iter().all(|s| s.failure == samples[0].failure && s.image.is_none()));
    samples[0].failure.as_ref().unwrap().code
}

/// Lossless formats to the bit; JPEG within what its decoders differ by (the inverse DCT's rounding by 1, which colour
/// conversion makes 3, and the interpolation of chroma by a little more).
#[test]
fn pixels_are_pillows() {
    let mut files = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".rgb") {
            continue;
        }
        files += 1;
        let expected = fixture(&format!("{name}.rgb"));
        let side = |at: usize| u32::from_le_bytes(expected[at..at + 4].try_into().unwrap());
        let got = replay(&[], &fixture(&name), Icc::Keep).unwrap_or_else(|f| panic!("{name}: {f:?}"));
        assert_eq!(got.size(), Size::new(side(0), side(4)), "{name}");
        let differences = got.as_bytes().iter().zip(&expected[8..]).map(|(a, b)| a.abs_diff(*b));
        let (most, sum) = differences.fold((0, 0.0), |(most, sum), d| (d.max(most), sum + f64::from(d)));
        let mean = sum / got.as_bytes().len() as f64;
        let (allowed, mean_allowed) = if name.ends_with(".jpg") || name == "jpeg.tif" { (4, 0.5) } else { (0, 0.0) };
        assert!(most <= allowed && mean <= mean_allowed, "{name}: off by {most}, mean {mean}");
    }
    assert!(files > 50);
}

#[test]
fn origin_says_what_the_file_was() {
    let origin = |name: &str, text: &str| {
        let samples = prepare(&yaml(text), 1, Fetched::from_bytes(fixture(name)));
        assert_eq!(samples[0].timings.iter().map(|t| t.0).collect::<Vec<_>>(), ["fetch", "decode"]);
        samples[0].origin.clone().unwrap()
    };
    let plain = origin("rgb.png", "{}");
    assert_eq!((plain.extension, plain.width, plain.height, plain.untouched), ("png", 29, 23, true));
    assert_eq!(plain.bytes, fixture("rgb.png"));
    use sha2::{Digest, Sha256};
    assert_eq!(plain.sha256[..], Sha256::digest(fixture("rgb.png"))[..]);
    // Lossless changes of representation keep the pixels the file's own.
    for same in
        ["grey.png", "palette.gif", "palette.tif", "baseline-420.jpg", "lossy.webp", "interlaced.png", "grey-1.png"]
    {
        assert!(origin(same, "{}").untouched, "{same}");
    }
    for other in [
        "rgba.png",
        "grey-16.png",
        "rgb-16.png",
        "palette-transparent.png",
        "cmyk.jpg",
        "animated.gif",
        "animated.webp",
        "lossy-alpha.webp",
        "pages.tif",
        "rgba.tif",
        "32.bmp",
        "orientation-3.jpg",
        "on-larger-screen.gif",
    ] {
        assert_eq!(origin(other, "{}").untouched, other == "32.bmp", "{other}");
    }
    let turned = origin("orientation-6.png", "{}");
    assert_eq!((turned.width, turned.height), (23, 29), "the size is that after turning");
    assert!(!origin("rgb.png", "resize: { size: 8 }").untouched);
    assert!(!origin("rgb.png", "crop: { centre: { size: 8 } }").untouched);
    assert!(origin("rgb.png", "crop: { centre: { size: [29, 23] } }").untouched);
}

#[test]
fn geometry_is_done_and_recorded() {
    let whole = replay(&[], &fixture("rgb.png"), Icc::Keep).unwrap();
    let one = |text: &str| prepare(&yaml(text), 1, Fetched::from_bytes(fixture("rgb.png"))).remove(0);
    let sample = one("resize: { size: [11, 7], filter: lanczos }");
    assert_eq!(*image(&sample), resize(&whole, Size::new(11, 7), Filter::Lanczos));
    let op = &sample.ops[0];
    assert_eq!((op.step.as_str(), op.op.as_str(), op.version), ("load.resize", "resize", 1));
    assert_eq!(op.params, r#"{"width":11,"height":7,"filter":"lanczos"}"#);
    assert_eq!(image(&one("resize: { size: 46, mode: shortest_side }")).size(), Size::new(58, 46));
    assert_eq!(image(&one("resize: { size: 10, mode: longest_side }")).size(), Size::new(10, 7));
    let kept = one("resize: { size: 100, mode: longest_side, only_shrink: true }");
    assert_eq!((image(&kept), kept.ops.len()), (&whole, 0));
    let centre = one("crop: { centre: { size: [10, 8] } }");
    assert_eq!(*image(&centre), whole.crop(9, 7, Size::new(10, 8)).unwrap());
    assert_eq!(centre.ops[0].params, r#"{"x":9,"y":7,"width":10,"height":8}"#);
    let both = one("resize: { size: 20, mode: shortest_side }\ncrop: { random: { size: 16 } }");
    assert_eq!(both.ops.iter().map(|o| o.op.as_str()).collect::<Vec<_>>(), ["resize", "crop"]);
    // The row's operations and the file rebuild the pixels; another number, other pixels.
    assert_eq!(replay(&both.ops, &fixture("rgb.png"), Icc::Keep).unwrap(), *image(&both));
    let mut edited = both.ops.clone();
    edited[0].params = edited[0].params.replace("bicubic", "box");
    assert_ne!(replay(&edited, &fixture("rgb.png"), Icc::Keep).unwrap(), *image(&both));
    edited[0].version = 2;
    assert_eq!(replay(&edited, &fixture("rgb.png"), Icc::Keep).unwrap_err().code, FailureCode::Unsupported);
    edited[0].version = 1;
    edited[1].params = r#"{"x":20,"y":0,"width":16,"height":16}"#.to_owned();
    assert_eq!(replay(&edited, &fixture("rgb.png"), Icc::Keep).unwrap_err().code, FailureCode::Corrupt);
    let small = prepare(&yaml("crop: { centre: { size: 24 } }"), 3, Fetched::from_bytes(fixture("rgb.png")));
    assert_eq!((small.len(), code(&small)), (3, FailureCode::TooSmall));
}

#[test]
fn random_crops_are_drawn_by_key_and_variant() {
    let crops = |text: &str, key: &str, seed: u64| -> Vec<String> {
        let record = lm4lv::sample::Record { key: key.to_owned(), ..uri("x") };
        let samples =
            Prepare::new(&yaml(text), seed, 6).samples(&record, Fetched::from_bytes(fixture("rgb.png"))).unwrap();
        assert!(samples.iter().zip(0..).all(|(s, v)| s.variant == v));
        samples.iter().map(|s| s.ops[0].params.clone()).collect()
    };
    let per_variant = "crop: { random: { size: 8 } }";
    let per_record = "crop: { random: { size: 8, per: record } }";
    let drawn = crops(per_variant, "a", 7);
    assert_eq!(drawn, crops(per_variant, "a", 7));
    assert_ne!(drawn, crops(per_variant, "b", 7));
    assert_ne!(drawn, crops(per_variant, "a", 8));
    assert!(drawn.iter().any(|d| *d != drawn[0]));
    let shared = crops(per_record, "a", 7);
    assert!(shared.iter().all(|d| *d == drawn[0]), "all variants have the place of variant 0");
}

#[test]
fn a_target_gets_the_same_geometry() {
    let fetched = |target: &str| {
        let mut fetched = Fetched::from_bytes(fixture("rgb.png"));
        fetched.target = Some(Ok(fixture(target)));
        fetched
    };
    let config = yaml("resize: { size: 20, mode: shortest_side }\ncrop: { random: { size: 12 } }");
    for sample in prepare(&config, 3, fetched("grey.png")) {
        let target = replay(&sample.ops, &fixture("grey.png"), Icc::Keep).unwrap();
        assert_eq!(**sample.target.as_ref().unwrap(), target);
        assert_eq!(sample.target_origin.unwrap().bytes, fixture("grey.png"));
    }
    let config = LoadConfig::default();
    assert_eq!(code(&prepare(&config, 2, fetched("on-larger-screen.gif"))), FailureCode::SizeMismatch);
    let mut missing = Fetched::from_bytes(fixture("rgb.png"));
    missing.target = Some(Err(lm4lv::stage::Fault::Record(FailureCode::NotFound, "gone".to_owned())));
    let samples = prepare(&config, 2, missing);
    assert_eq!(code(&samples), FailureCode::NotFound);
    assert!(samples[0].failure.as_ref().unwrap().message.starts_with("target: "));
}

#[test]
fn profiles_are_kept_converted_or_dropped() {
    let profile = moxcms::ColorProfile::new_display_p3().encode().unwrap();
    let mut info = png::Info::with_size(2, 1);
    (info.color_type, info.bit_depth) = (png::ColorType::Rgb, png::BitDepth::Eight);
    info.icc_profile = Some(profile.clone().into());
    let mut file = Vec::new();
    let mut writer = png::Encoder::with_info(&mut file, info).unwrap().write_header().unwrap();
    writer.write_image_data(&[234, 51, 35, 100, 100, 100]).unwrap();
    writer.finish().unwrap();
    let file = Bytes::from(file);
    let one = |icc: &str| prepare(&yaml(&format!("icc: {icc}")), 1, Fetched::from_bytes(file.clone())).remove(0);
    let kept = one("keep");
    let origin = kept.origin.as_ref().unwrap();
    assert_eq!(
        (origin.icc.as_ref(), origin.untouched, image(&kept).pixel(0, 0)),
        (Some(&profile), true, [234, 51, 35])
    );
    let dropped = one("drop");
    let origin = dropped.origin.as_ref().unwrap();
    assert_eq!((&origin.icc, origin.untouched, image(&dropped).pixel(0, 0)), (&None, false, [234, 51, 35]));
    let converted = one("srgb");
    assert!(!converted.origin.as_ref().unwrap().untouched);
    // Display P3 (234, 51, 35) is sRGB's own red; grey stays grey.
    let [r, g, b] = image(&converted).pixel(0, 0);
    assert!(r >= 254 && g <= 6 && b <= 6, "{r} {g} {b}");
    assert!(image(&converted).pixel(1, 0).iter().all(|v| v.abs_diff(100) <= 1));
}

#[test]
fn working_bytes_come_from_headers() {
    let bytes = |text: &str, name: &str, variants| {
        Prepare::new(&yaml(text), 0, variants).working_bytes(&Fetched::from_bytes(fixture(name)))
    };
    let pixels = 29 * 23;
    let one = bytes("{}", "rgb.png", 1);
    assert!((pixels * 25..pixels * 60).contains(&one), "{one}");
    assert!(bytes("{}", "rgb.png", 10) > one + pixels * 9 * 3);
    assert!(bytes("resize: { size: 4 }", "rgb.png", 1) < one);
    let turned = Prepare::new(&yaml("{}"), 0, 1).turned(true).working_bytes(&Fetched::from_bytes(fixture("rgb.png")));
    assert!((one + pixels * 12..one + pixels * 36).contains(&turned), "{turned}");
    let text =
        Prepare::new(&LoadConfig::default(), 0, 1).working_bytes(&Fetched::from_bytes(Bytes::from_static(b"no image")));
    assert_eq!(text, 8);
}

#[tokio::test]
async fn local_files() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("a b");
    std::fs::create_dir(&folder).unwrap();
    let names = ["x.jpg", "50%20.jpg", "q?x=1#y.jpg", "ü:ä.jpg", " lead.jpg", "back\\slash.jpg"];
    for name in names {
        std::fs::write(folder.join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("x.jpg", folder.join("link.jpg")).unwrap();
    std::os::unix::fs::symlink(folder.join("x.jpg"), folder.join("absolute-link.jpg")).unwrap();
    let root_path = root.path().to_str().unwrap();
    let loader = Loader::new(&LoadConfig::default(), &Stores::default(), Some(root_path), 1 << 20).unwrap();
    for name in names {
        for reference in [format!("a b/{name}"), format!("./a b//{name}"), format!("{root_path}/a b/{name}")] {
            assert_eq!(fetch(&loader, &reference).await.unwrap(), name, "{reference}");
        }
    }
    assert_eq!(fetch(&loader, &format!("file://{root_path}/a%20b/50%2520.jpg")).await.unwrap(), "50%20.jpg");
    assert_eq!(fetch(&loader, "a b/link.jpg").await.unwrap(), "x.jpg");
    assert_eq!(fetch(&loader, "a b/absolute-link.jpg").await.unwrap(), "x.jpg");
    assert_eq!(fetch(&loader, "a b/none.jpg").await, Err(FailureCode::NotFound));
    assert_eq!(fetch(&loader, "a b/x.jpg/y").await, Err(FailureCode::NotFound));
    let fetched = loader.fetch(&uri("a b/x.jpg")).await;
    assert_eq!((fetched.attempts, fetched.host, fetched.credentials), (1, None, false));
    // A configured root wins over the default one; without any, paths lead nowhere.
    let config = LoadConfig { root: folder.to_str().unwrap().to_owned(), ..LoadConfig::default() };
    let loader = Loader::new(&config, &Stores::default(), Some("/nowhere"), 1 << 20).unwrap();
    assert_eq!(fetch(&loader, "x.jpg").await.unwrap(), "x.jpg");
    assert_eq!(fetch(&serve::loader(&LoadConfig::default()), "x.jpg").await, Err(FailureCode::ForbiddenPath));
    let missing = LoadConfig { root: "/no/such/folder".to_owned(), ..LoadConfig::default() };
    assert!(Loader::new(&missing, &Stores::default(), None, 1).is_err());
}

#[tokio::test]
async fn listed_files_must_be_as_listed() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.jpg");
    std::fs::write(&path, "12345").unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mtime_ns = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let loader = Loader::new(&LoadConfig::default(), &Stores::default(), root.path().to_str(), 1 << 20).unwrap();
    for (size, mtime_ns, same) in [(5, mtime_ns, true), (5, 0, true), (4, mtime_ns, false), (5, mtime_ns - 1, false)] {
        let record = lm4lv::sample::Record { listed: Some(Listed { size, mtime_ns }), ..uri("x.jpg") };
        let expected = if same { Ok(Bytes::from_static(b"12345")) } else { Err(FailureCode::SourceChanged) };
        assert_eq!(outcome(&loader.fetch(&record).await), expected);
    }
}

#[tokio::test]
async fn inline_and_data() {
    let loader = loader(&LoadConfig::default());
    let bytes = Bytes::from_static(b"abc");
    let inline = record(Reference::Inline { bytes: bytes.clone(), path: None });
    assert_eq!(outcome(&loader.fetch(&inline).await).unwrap(), bytes);
    assert_eq!(fetch(&loader, "data:image/png;base64,YWJj").await.unwrap(), bytes);
    assert_eq!(fetch(&loader, "data:,a%62c").await.unwrap(), bytes);
    assert_eq!(fetch(&loader, "data:,").await, Err(FailureCode::Empty));
    assert_eq!(outcome(&loader.fetch(&record(Reference::Missing)).await), Err(FailureCode::NullReference));
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    let loader = serve::loader(&LoadConfig { max_mib: 1, ..LoadConfig::default() });
    let inline = record(Reference::Inline { bytes: large, path: None });
    assert_eq!(outcome(&loader.fetch(&inline).await), Err(FailureCode::TooLarge));
}

#[tokio::test]
async fn http_statuses_and_retries() {
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path.as_str() {
        "/ok" => Reply::ok("body"),
        "/empty" => Reply::ok(""),
        "/flaky" if tries.fetch_add(1, Ordering::SeqCst) < 2 => Reply::with(503, &[], ""),
        "/flaky" => Reply::ok("at last"),
        "/cut" => Reply::Raw("HTTP/1.1 200 x\r\nContent-Length: 100\r\n".to_owned(), vec![1; 50]),
        "/rubbish" => Reply::Raw("hello\r\n".to_owned(), vec![]),
        "/gzip" => Reply::with(200, &[("Content-Encoding", "gzip")], "x"),
        "/optout" => Reply::with(200, &[("X-Robots-Tag", "otherbot: all"), ("X-Robots-Tag", "noai")], "x"),
        path => Reply::with(path[1..].parse().unwrap(), &[("Location", "")][..0], "page"),
    })
    .await;
    let loader = loader(&config());
    assert_eq!(fetch(&loader, &server.url("/ok")).await.unwrap(), "body");
    let flaky = loader.fetch(&uri(&server.url("/flaky"))).await;
    assert_eq!((outcome(&flaky).unwrap(), flaky.attempts), (Bytes::from_static(b"at last"), 3));
    for (path, code, attempts) in [
        ("/empty", FailureCode::Empty, 1),
        ("/404", FailureCode::NotFound, 1),
        ("/410", FailureCode::NotFound, 1),
        ("/401", FailureCode::Unauthorized, 1),
        ("/403", FailureCode::AccessDenied, 1),
        ("/418", FailureCode::HttpStatus, 1),
        ("/304", FailureCode::HttpStatus, 1),
        ("/302", FailureCode::HttpStatus, 1),
        ("/408", FailureCode::Timeout, 5),
        ("/429", FailureCode::RateLimited, 5),
        ("/500", FailureCode::ServerError, 5),
        ("/cut", FailureCode::BadResponse, 5),
        ("/rubbish", FailureCode::BadResponse, 5),
        ("/gzip", FailureCode::BadResponse, 1),
        ("/optout", FailureCode::OptedOut, 1),
    ] {
        let fetched = loader.fetch(&uri(&server.url(path))).await;
        assert_eq!((outcome(&fetched), fetched.attempts), (Err(code), attempts), "{path}");
        assert_eq!((fetched.host.as_deref(), fetched.credentials), (Some("127.0.0.1"), false), "{path}");
    }
    let ignoring = serve::loader(&LoadConfig { disallowed_header_directives: vec![], ..config() });
    assert_eq!(fetch(&ignoring, &server.url("/optout")).await.unwrap(), "x");
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(fetch(&loader, &format!("http://{free}/")).await, Err(FailureCode::Connect));
}

#[tokio::test]
async fn retry_after_wins_and_the_deadline_over_it() {
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path.as_str() {
        "/one" if tries.fetch_add(1, Ordering::SeqCst) == 0 => Reply::with(429, &[("Retry-After", "1")], ""),
        "/one" => Reply::ok("x"),
        _ => Reply::with(503, &[("Retry-After", "3600")], ""),
    })
    .await;
    let loader = loader(&config());
    let started = Instant::now();
    assert_eq!(fetch(&loader, &server.url("/one")).await.unwrap(), "x");
    assert!(started.elapsed() >= Duration::from_secs(1));
    let started = Instant::now();
    let fetched = loader.fetch(&uri(&server.url("/long"))).await;
    assert_eq!((outcome(&fetched), fetched.attempts), (Err(FailureCode::ServerError), 1));
    assert!(started.elapsed() < Duration::from_secs(1), "no waiting for what comes too late");
}

#[tokio::test]
async fn headers_go_where_they_are_meant_to() {
    let other = Server::start(|request| Reply::ok(request.head.contains("secret").to_string())).await;
    let elsewhere = other.url("/");
    let server = Server::start(move |request| match request.path.as_str() {
        "/away" => Reply::redirect(&elsewhere),
        "/within" => Reply::redirect("/private/x"),
        "/private/x" if request.head.contains("authorization: secret") => Reply::ok("private"),
        "/private/x" => Reply::with(401, &[], ""),
        _ => Reply::ok(request.head.contains("secret").to_string()),
    })
    .await;
    let headers = format!("headers: {{ \"{}\": {{ Authorization: secret }} }}", server.url("/private/"));
    let config = LoadConfig { headers: yaml(&headers).headers, ..config() };
    let loader = loader(&config);
    let fetched = loader.fetch(&uri(&server.url("/private/x"))).await;
    assert_eq!((outcome(&fetched).unwrap(), fetched.credentials), (Bytes::from_static(b"private"), true));
    assert_eq!(fetch(&loader, &server.url("/within")).await.unwrap(), "private", "looked up anew after the redirect");
    assert_eq!(fetch(&loader, &server.url("/public")).await.unwrap(), "false");
    let all = format!("headers: {{ \"{}\": {{ Authorization: secret }} }}", server.url("/"));
    let config = LoadConfig { headers: yaml(&all).headers, ..config };
    let fetched = serve::loader(&config).fetch(&uri(&server.url("/away"))).await;
    assert_eq!(
        (outcome(&fetched).unwrap(), fetched.credentials),
        (Bytes::from_static(b"false"), false),
        "never forwarded"
    );
}

#[tokio::test]
async fn hosts_are_not_asked_more_than_so_often_at_once() {
    let server = Server::start(|_| Reply::ok("x")).await;
    let loader = loader(&LoadConfig { concurrency_per_host: 3, ..config() });
    let urls: Vec<_> = (0..30).map(|i| uri(&server.url(&format!("/{i}")))).collect();
    let fetched = futures::future::join_all(urls.iter().map(|record| loader.fetch(record))).await;
    assert!(fetched.iter().all(|f| outcome(f).is_ok()));
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 3);
}

/// Bodies that want four times the memory that there is, images with targets among them, and all arrive.
#[tokio::test]
async fn a_small_budget_slows_but_never_locks() {
    let server = Server::start(|request| match request.path.as_str() {
        "/unknown" => Reply::Raw("HTTP/1.1 200 x\r\n".to_owned(), vec![7; 3 << 20]),
        _ => Reply::ok(vec![7; 3 << 20]),
    })
    .await;
    let config = LoadConfig { max_mib: 4, ..config() };
    let loader = Loader::new(&config, &Stores::default(), None, 8 << 20).unwrap();
    let records: Vec<_> = (0..12)
        .map(|i| {
            let url = server.url(if i % 2 == 0 { "/unknown" } else { "/known" });
            let target = (i % 3 == 0).then(|| Reference::Uri(server.url("/known")));
            lm4lv::sample::Record { target, ..uri(&url) }
        })
        .collect();
    let all = futures::future::join_all(records.iter().map(|record| async {
        let fetched = loader.fetch(record).await;
        assert_eq!(outcome(&fetched).unwrap().len(), 3 << 20);
        assert!(fetched.target.as_ref().is_none_or(|t| t.is_ok()));
        // Dropping it gives its memory to the next.
    }));
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("no deadlock");
}

/// What an S3-compatible server is asked, and how its answers are read. Real semantics are tested against a real one.
#[tokio::test]
async fn object_stores() {
    let server = Server::start(|request| match request.path.as_str() {
        "/photos/a%20b/x%3F.jpg" => {
            let headers = [("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("ETag", "\"1\"")];
            Reply::with(200, &headers, "object")
        }
        "/photos/denied.jpg" => Reply::with(403, &[], ""),
        _ => Reply::with(404, &[], ""),
    })
    .await;
    let options = [
        ("endpoint", server.url("")),
        ("allow_http", "true".to_owned()),
        ("skip_signature", "true".to_owned()),
        ("region", "us-east-1".to_owned()),
    ];
    let options: BTreeMap<_, _> = options.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let stores = Stores::new([("s3://photos".to_owned(), options)].into());
    // The endpoint is on a closed address, and open for its store.
    let loader = Loader::new(&LoadConfig::default(), &stores, Some("s3://photos/a b/"), 1 << 20).unwrap();
    assert_eq!(fetch(&loader, "s3://photos/a b/x?.jpg").await.unwrap(), "object");
    assert_eq!(fetch(&loader, "x?.jpg").await.unwrap(), "object", "below a root in a store");
    let mut listed = uri("x?.jpg");
    listed.listed = Some(Listed { size: 6, mtime_ns: 784_111_777_123_000_000 });
    assert_eq!(outcome(&loader.fetch(&listed).await).unwrap(), "object");
    listed.listed = Some(Listed { size: 7, mtime_ns: 0 });
    assert_eq!(outcome(&loader.fetch(&listed).await), Err(FailureCode::SourceChanged));
    assert_eq!(fetch(&loader, "s3://photos/none.jpg").await, Err(FailureCode::NotFound));
    let denied = loader.fetch(&uri("s3://photos/denied.jpg")).await;
    assert_eq!(outcome(&denied), Err(FailureCode::AccessDenied));
    assert_eq!((denied.host.as_deref(), denied.credentials), (Some("s3://photos"), true));
    for (bad, code) in [
        ("../x", FailureCode::ForbiddenPath),
        ("/etc/passwd", FailureCode::ForbiddenPath),
        ("s3://photos/../x", FailureCode::BadReference),
        ("s3://pho tos/x", FailureCode::BadReference),
        ("s3:///x", FailureCode::BadReference),
    ] {
        assert_eq!(fetch(&loader, bad).await, Err(code), "{bad}");
    }
}

/// A sequential JPEG with one scan for each component, as optimising encoders write it, also where the last rows are so
/// empty that they take but a few bytes.
#[test]
fn jpegs_in_several_scans_are_those_in_one() {
    let encode = |pixels: &[u8], (w, h): (u16, u16), several: bool| {
        let mut file = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut file, 85);
        encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
        encoder.set_optimized_huffman_tables(several);
        encoder.encode(pixels, w, h, jpeg_encoder::ColorType::Rgb).unwrap();
        file
    };
    for (w, h) in [(64, 48), (61, 45), (16, 16), (8, 8), (200, 17), (17, 200)] {
        let count = usize::from(w) * usize::from(h) * 3;
        let blank = vec![77; count];
        let wave = |i: usize| {
            let (x, y, c) = (i / 3 % usize::from(w), i / 3 / usize::from(w), i % 3);
            let t = (x * 5 + y * 3 + c * 40) % 510;
            t.min(510 - t).min(255) as u8
        };
        let busy: Vec<u8> = (0..count).map(wave).collect();
        let half: Vec<u8> = (0..count).map(|i| if i < count / 2 { wave(i) } else { 9 }).collect();
        for (name, pixels) in [("blank", blank), ("busy", busy), ("half", half)] {
            let [one, several] = [false, true].map(|several| {
                let file = encode(&pixels, (w, h), several);
                let scans = file.windows(2).filter(|w| *w == [0xff, 0xda]).count();
                assert_eq!(scans, if several { 3 } else { 1 });
                replay(&[], &file, Icc::Keep).map_err(|f| f.message)
            });
            let (one, several) = (one.unwrap(), several.unwrap());
            // Chroma is interpolated with another rounding.
            let most = one.as_bytes().iter().zip(several.as_bytes()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(most <= 6, "{name} {w}×{h}: off by {most}");
        }
    }
}

/// Motion JPEG leaves out the Huffman tables, which are then the standard's.
#[test]
fn jpegs_without_tables_have_the_standard_ones() {
    let mut file = Vec::new();
    let pixels: Vec<u8> = (0..32 * 32 * 3).map(|i| (i / 12) as u8).collect();
    jpeg_encoder::Encoder::new(&mut file, 85).encode(&pixels, 32, 32, jpeg_encoder::ColorType::Rgb).unwrap();
    let mut without = file.clone();
    while let Some(at) = without.windows(2).position(|w| w == [0xff, 0xc4]) {
        let length = usize::from(u16::from_be_bytes([without[at + 2], without[at + 3]]));
        without.drain(at..at + 2 + length);
    }
    assert!(without.len() < file.len() - 300);
    let [with, without] = [file, without].map(|file| replay(&[], &file, Icc::Keep).unwrap());
    assert!(with == without);
}
