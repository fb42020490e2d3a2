//! The pipeline file's promises: complaints with line, column and what is allowed; variables; `--set`; hashes; secrets.

use std::path::Path;

use lm4lv::config::{Pipeline, pipeline_schema};

fn read(text: &str, sets: &[&str]) -> Result<Pipeline, String> {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let variables = |name: &str| match name {
        "SEED" => Some("9".to_owned()),
        "DIR" => Some("out/from env".to_owned()),
        "TOKEN" => Some("hunter2".to_owned()),
        _ => None,
    };
    Pipeline::parse("p.yaml", text, &sets, &variables).map_err(|e| {
        assert_eq!(e.exit_code(), 2, "{e}");
        e.to_string()
    })
}

const BASE: &str = "source: { folder: { path: photos } }\nsink: { dir: out }\n";

#[track_caller]
fn refused(text: &str, sets: &[&str], parts: &[&str]) {
    let error = read(text, sets).expect_err("must be refused");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
}

#[test]
fn the_smallest_file_is_read() {
    read(BASE, &[]).unwrap();
}

#[test]
fn every_pipeline_of_the_repository_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut n = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            n += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            // Without any variable: the defaults must do.
            Pipeline::parse(&path.display().to_string(), &text, &[], &|_| None).unwrap_or_else(|e| panic!("{e}"));
        }
    }
    assert!(n >= 6, "{n} pipelines");
}

#[test]
fn the_schema_is_the_committed_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/pipeline.schema.json");
    let ours = serde_json::to_string_pretty(&pipeline_schema()).unwrap() + "\n";
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        ours == there,
        "schemas/pipeline.schema.json is stale: lm4lv schema pipeline > schemas/pipeline.schema.json"
    );
}

#[test]
fn a_misspelt_key_is_shown_with_what_is_allowed() {
    refused(
        "source: { folder: { path: photos } }\nsinc: { dir: out }\n",
        &[],
        &[
            "p.yaml:2:1: unknown key `sinc`",
            "allowed here: stores, source",
            "did you mean `sink`?",
            "2 | sinc: { dir: out }",
            "| ^^^^",
        ],
    );
    refused(
        "source:\n  folder:\n    path: photos\n    pahts: x\nsink: { dir: out }\n",
        &[],
        &["p.yaml:4:5: unknown key `pahts`", "in source.folder"],
    );
    refused(
        &format!("{BASE}run:\n  storm: {{ of_lsat: 3 }}\n"),
        &[],
        &["p.yaml:4:12: unknown key `of_lsat`", "did you mean `of_last`", "in run.storm"],
    );
    refused(
        &format!("{BASE}run: {{ memory_mb: 3 }}\n"),
        &[],
        &["p.yaml:3:8: unknown key `memory_mb`", "did you mean `memory_mib`"],
    );
}

#[test]
fn a_wrong_unit_or_type_is_shown() {
    refused(
        &format!("{BASE}run:\n  drain_s: 25s\n"),
        &[],
        &[
            "p.yaml:4:12: the text \"25s\" where a whole number from 0 up belongs",
            "seconds: the unit is in the key's name",
            "in run.drain_s",
        ],
    );
    refused(&format!("{BASE}run: {{ drain_s: -1 }}\n"), &[], &["p.yaml:3:17: the number `-1` is not a whole number"]);
    refused(&format!("{BASE}run: {{ drain_s: 1.5 }}\n"), &[], &["p.yaml:3:17:", "whole number"]);
    refused(&format!("{BASE}run: {{ workers: many }}\n"), &[], &["p.yaml:3:17:", "auto or a number from 1 to 1024"]);
    refused(&format!("{BASE}run: {{ workers: 0 }}\n"), &[], &["p.yaml:3:17:", "auto or a number from 1 to 1024"]);
    refused(&format!("{BASE}run: {{ log: loud }}\n"), &[], &["p.yaml:3:13: `loud` is not known here", "text, json"]);
    refused(&format!("{BASE}run: [1]\n"), &[], &["p.yaml:3:6: a list where a map of keys belongs"]);
    refused("sink: { dir: out }\n", &[], &["p.yaml:1:1: key `source` is missing"]);
    refused(
        "source: { folder: { path: a }, parquet: { path: b } }\nsink: { dir: out }\n",
        &[],
        &["p.yaml:1:32:", "exactly one of"],
    );
    refused("source: folder\nsink: { dir: out }\n", &[], &["p.yaml:1:9:", "`folder` needs its keys"]);
    refused(
        "source: { floder: { path: a } }\nsink: { dir: out }\n",
        &[],
        &["p.yaml:1:11: `floder` is not known here", "did you mean `folder`"],
    );
}

#[test]
fn impossible_values_are_shown_where_they_stand() {
    refused(
        &format!("{BASE}run:\n  workers: 2\n  max_failed_share: 90\n"),
        &[],
        &["p.yaml:5:3:", "between 0 and 1", "in run.max_failed_share"],
    );
}

#[test]
fn what_is_not_yaml_is_shown() {
    refused("source: [\n", &[], &["p.yaml:", "not YAML"]);
    refused("a: 1\n b: 2\n", &[], &["p.yaml:2:", "not YAML"]);
    refused(&format!("{BASE}sink: {{ dir: other }}\n"), &[], &["p.yaml:3:1: key `sink` stands here twice"]);
    refused(&format!("{BASE}---\nrun: {{}}\n"), &[], &["p.yaml:3:1:", "one document"]);
    refused("source: !x 3\n", &[], &["tags"]);
    refused("? [a]\n: 1\n", &[], &["a key must be a word"]);
    refused("", &[], &["key `source` is missing"]);
}

#[test]
fn bombs_are_refused_quickly() {
    let start = std::time::Instant::now();
    let mut laughs = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (from, to) in "abcdefghijk".chars().zip("bcdefghijkl".chars()) {
        laughs.push_str(&format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(", ")));
    }
    refused(&laughs, &[], &["more than 100000 values"]);
    let long = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(500_000), vec!["*a"; 100_000].join(","));
    refused(&long, &[], &["more than 100000 values"]);
    refused(&"[".repeat(100_000), &[], &["p.yaml:1:"]);
    refused(&"- ".repeat(100_000), &[], &["p.yaml:1:"]);
    refused(&"a: ".repeat(10_000), &[], &["p.yaml:1:"]);
    refused(&"# x\n".repeat(500_000), &[], &["larger than"]);
    refused("a: &a [*a]\n", &[], &["p.yaml:1:"]);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn variables_are_replaced_after_parsing() {
    let seeded =
        |value: &str| read(&format!("{BASE}degrade: {{ seed: {value} }}\n"), &[]).map(|p| p.degrade.unwrap().seed);
    assert_eq!(seeded("\"${SEED}\""), Ok(9));
    assert_eq!(seeded("\"${NOPE:12}\""), Ok(12));
    assert!(seeded("\"9\"").is_err(), "a text in quotes without a variable is no number");
    let p = read("source: { folder: { path: \"${DIR}/a: [b\" } }\nsink:\n  dir: ${DIR}\n", &[]).unwrap();
    assert!(format!("{p:?}").len() > 1);
    refused(
        &format!("{BASE}degrade:\n  seed: ${{NOPE}}\n"),
        &[],
        &["p.yaml:4:9:", "`NOPE` is not set", "in degrade.seed"],
    );
    refused(&format!("{BASE}degrade:\n  seed: ${{DIR}}\n"), &[], &["p.yaml:4:9:", "out/from env"]);
}

#[test]
fn sets_override() {
    let p = read(BASE, &["degrade.seed=7", "run.memory_mib=500", "run.storm.share=0.5"]).unwrap();
    assert_eq!((p.degrade.unwrap().seed, p.run.memory_mib, p.run.storm.share), (7, Some(500), 0.5));
    refused(
        BASE,
        &["run.workers=1", "degrade.sede=7"],
        &["--set degrade.sede: unknown key `sede`", "did you mean `seed`"],
    );
    refused(BASE, &["sink"], &["--set sink: write it as key.key=value"]);
    refused(BASE, &["run.memory_mib=1"], &["--set run.memory_mib: from 64"]);
    refused(BASE, &["sink.dir=[a"], &["--set sink.dir: not YAML"]);
    refused(BASE, &["stores.x=hunter2"], &["--set stores.x: "]);
}

#[test]
fn secrets_are_never_shown() {
    let file = format!(
        "{BASE}stores: {{ \"s3://a\": {{ secret_access_key: \"${{TOKEN}}\" }} }}\nload: {{ headers: {{ \"https://a/\": {{ Authorization: hunter2 }} }} }}\n"
    );
    let p = read(&file, &[]).unwrap();
    assert!(!format!("{p:?}").contains("hunter2"));
    assert!(!p.content("").to_string().contains("hunter2"));
    for wrong in [
        "stores: hunter2\n",
        "stores: { a: hunter2 }\n",
        "stores: { a: { b: [hunter2] } }\n",
        "stores: { a: { b: hunter2, b: hunter2 } }\n",
        "stores: { a: { b: \"hunter2${NOPE}\" } }\n",
        "stores: { a: { b: hunter2 ] }\n",
        "load: { headers: { a: hunter2 } }\n",
        "load: { headers: [hunter2] }\n",
        "load:\n  headers:\n   a:\n  b: hunter2: c\n",
    ] {
        let error = read(&format!("{BASE}{wrong}"), &[]).expect_err(wrong);
        assert!(!error.contains("hunter2"), "{wrong}: {error}");
    }
    let error = read(BASE, &["stores.a.b=[hunter2]"]).unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn combinations_that_cannot_work_are_refused_where_they_stand() {
    let folder = "source: { folder: { path: photos } }\nsink: { dir: out }\n";
    let parquet =
        "source: { parquet: { path: a.parquet, keep: [sigma], columns: { target: clean } } }\nsink: { dir: out }\n";
    let cases: &[(&str, &str, &[&str])] = &[
        (folder, "score: [psnr.lm4lv]\n", &["p.yaml:3:1:", "there is none", "add a degrade section"]),
        (
            folder,
            "degrade: { recipe: [ { flip: {} } ] }\nscore: [psnr.lm4lv, ssim.lm4lv, psnr.lm4lv]\n",
            &["p.yaml:4:33:", "twice"],
        ),
        (folder, "degrade:\n  target: geometry\n", &["p.yaml:4:3:", "the recipe is empty"]),
        (
            parquet,
            "degrade:\n  target: degraded\n  recipe: [ { rotate: {} } ]\n",
            &["p.yaml:4:3:", "columns.target names one"],
        ),
        (
            parquet,
            "degrade:\n  recipe:\n    - flip: {}\n    - gaussian_noise:\n        sigma: { column: sgima }\n",
            &["p.yaml:7:18:", "`sgima` is not kept", "in degrade.recipe[1].gaussian_noise.sigma.column"],
        ),
        (
            folder,
            "degrade: { recipe: [ { gaussian_noise: { sigma: { column: s } } } ] }\n",
            &["p.yaml:3:51:", "folder of images has no columns"],
        ),
        (
            folder,
            "degrade:\n  variants: 1\n  recipe: [ { by_variant: [ { recipe: [] }, { recipe: [] } ] } ]\n",
            &["p.yaml:4:3:", "of which 1 would be done"],
        ),
        (folder, "load: { crop: { random: { size: 0 } } }\n", &["p.yaml:3:27:", "sides go from 1"]),
        (
            folder,
            "load:\n  resize: { size: 128 }\n  crop: { centre: { size: 256 } }\n",
            &["p.yaml:5:21:", "no image is that large"],
        ),
        (folder, "load: { allow: [300.0.0.0/8] }\n", &["p.yaml:3:"]),
        (folder, "report: { sheet: { rows: 0 } }\nload: {}\n", &["p.yaml:3:20:", "from 1 to"]),
        (folder, "report: { sheet: {} }\n", &["p.yaml:3:11:", "no decoded images"]),
        (folder, "run: { storm: { of_last: 5 } }\n", &["p.yaml:3:17:", "from 20"]),
    ];
    for (base, more, parts) in cases {
        refused(&format!("{base}{more}"), &[], parts);
    }
    let sink = |keys: &str| format!("source: {{ folder: {{ path: photos }} }}\nsink:\n  dir: out\n{keys}");
    refused(&sink("  images: [target]\n"), &[], &["p.yaml:4:3:", "makes no `target`"]);
    refused(&sink("  encoding_of: { target: original }\n"), &[], &["p.yaml:4:3:", "`target` is not among"]);
    refused(&sink("  encoding_of: { output: original }\n"), &[], &["p.yaml:4:3:", "`output` is not among"]);
    refused(&sink("  encoding_of: { picture: original }\n"), &[], &["p.yaml:4:18:", "output"]);
    refused(&sink("  encoding: { jpeg: { quality: 101 } }\n"), &[], &["p.yaml:4:", "quality"]);
    refused(&sink("  rows_per_part: 0\n"), &[], &["p.yaml:4:3:"]);
    refused(
        "source: { parquet: { path: a, keep: [caption, status] } }\nsink: { dir: out }\n",
        &[],
        &["p.yaml:1:47:", "`status`"],
    );
}

#[test]
fn a_recipe_says_where_it_is_wrong() {
    let recipe = |steps: &str| format!("{BASE}degrade:\n  recipe:\n{steps}");
    refused(&recipe("    - gausian_noise: { sigma: 3 }\n"), &[], &["p.yaml:5:7:", "gausian_noise", "gaussian_noise"]);
    refused(
        &recipe("    - flip: {}\n    - gaussian_noise:\n        mode: gray\n        sgima: 3\n"),
        &[],
        &["p.yaml:8:9:", "sgima", "sigma"],
    );
    refused(&recipe("    - gaussian_noise: { sigma: 300 }\n"), &[], &["p.yaml:5:", "300", "75"]);
    refused(&recipe("    - gaussian_noise: { sigma: 25 %}\n"), &[], &["p.yaml:5:"]);
    refused(&recipe("    - gaussian_noise: { sigma: [50, 5] }\n"), &[], &["p.yaml:5:"]);
    refused(&recipe("    - jpeg: { quality: high }\n"), &[], &["p.yaml:5:", "quality"]);
    refused(&recipe("    - preset: lm4lv.denoyse\n"), &[], &["p.yaml:5:", "lm4lv.denoise"]);
    refused(&recipe("    - probability: { p: 1.5, recipe: [] }\n"), &[], &["p.yaml:5:", "1.5"]);
    refused(&recipe("    - repeat: { times: 2 }\n"), &[], &["p.yaml:5:", "recipe"]);
    refused(&recipe("    - flip: {}\n      jpeg: {}\n"), &[], &["p.yaml:6:7:", "one key"]);
    let boxes = |sizes: &str| recipe(&format!("    - mask: {{ shape: boxes, {sizes} }}\n"));
    refused(&boxes("size_min: 0.5, size_max: 0.1"), &[], &["p.yaml:5:", "mask.size_min can be 0.5", "size_max, 0.1"]);
    refused(&boxes("size_max: 0.01"), &[], &["p.yaml:5:", "mask.size_min can be 0.05"]);
    refused(&boxes("size_min: [0.1, 0.3]"), &[], &["p.yaml:5:", "mask.size_min can be 0.3"]);
    read(&boxes("size_min: [0.1, 0.3], size_max: { choice: [0.3, 0.4] }"), &[]).unwrap();
}

#[test]
fn the_content_hash_covers_what_makes_a_row_and_nothing_else() {
    let recipe = "degrade: { recipe: [ { preset: lm4lv.denoise } ] }\n";
    let base = "source: { parquet: { path: a.parquet } }\nsink: { dir: out }\nscore: [psnr.lm4lv]\n";
    let hash = |text: &str, sets: &[&str]| read(text, sets).unwrap().content_hash("");
    let file = format!("{base}{recipe}");
    let ours = hash(&file, &[]);
    // Order of keys, defaults written out, presets written out, what may change between runs.
    let same = "score: [psnr.lm4lv]\ndegrade: { seed: 0, recipe: [ { gaussian_noise: { sigma: 18.0 } } ], variants: 1, target: source }\n\
                sink: { encoding: { png: { level: 1 } }, dir: elsewhere }\nsource: { parquet: { path: b.parquet, columns: { key: auto } } }\n\
                load: { resize: none, max_mib: 64 }\n";
    assert_eq!(ours, hash(same, &[]));
    for free in [
        "run.workers=1",
        "run.memory_mib=100",
        "sink.rows_per_part=7",
        "sink.scratch=/tmp",
        "load.concurrency=1",
        "load.retries=0",
        "load.root=x",
        "load.allow=[a.svc]",
        "load.deadline_s=5",
        "stores.\"s3://a\".region=x",
        "source.parquet.path=c.parquet",
        "source.parquet.rows_per_partition=5",
        "load.headers.\"https://a/\".Cookie=x",
        "report={ sheet: {} }",
        "sink.images=auto",
        "sink.images=[target, input]",
        "sink.split=test",
    ] {
        assert_eq!(ours, hash(&file, &[free]), "{free}");
    }
    for fixed in [
        "degrade.seed=1",
        "degrade.variants=2",
        "degrade.recipe=[{flip: {}}]",
        "degrade.target=geometry",
        "load.resize.size=224",
        "load.max_mpx=1",
        "load.icc=drop",
        "score=[]",
        "sink.images=[input]",
        "sink.encoding={webp: {}}",
        "sink.encoding.png.level=2",
        "sink.encoding_of.target=original",
        "source.parquet.keep=[x]",
        "source.parquet.where.a=1",
        "source.parquet.columns.reference=url",
    ] {
        assert_ne!(ours, hash(&file, &[fixed]), "{fixed}");
    }
}

#[test]
fn the_endpoint_is_off_until_an_address_is_written() {
    use lm4lv::config::{HttpConfig, Listen};
    let http = |text: &str| read(&format!("{BASE}{text}"), &[]).map(|pipeline| pipeline.http);
    assert_eq!(http(""), Ok(HttpConfig::None));
    assert_eq!(http("http: none\n"), Ok(HttpConfig::None));
    for address in ["127.0.0.1:9600", "[::1]:9600", "0.0.0.0:80"] {
        let listen = Listen(address.parse().unwrap());
        assert_eq!(http(&format!("http: {{ listen: \"{address}\" }}\n")), Ok(HttpConfig::Listen(listen)));
    }
    for nonsense in ["9600", "localhost", "localhost:9600", "127.0.0.1", "127.0.0.1:96000", "http://127.0.0.1:9600"] {
        let error = http(&format!("http: {{ listen: \"{nonsense}\" }}\n")).unwrap_err();
        assert!(error.contains("p.yaml:3:") && error.contains("write 127.0.0.1:9600"), "{error}");
    }
    refused(
        &format!("{BASE}http: {{ port: 9600 }}\n"),
        &[],
        &["`port` is not known here", "allowed here: none, listen"],
    );
    // Where a run is watched changes no row.
    let hash = |text: &str| read(&format!("{BASE}{text}"), &[]).unwrap().content_hash("");
    assert_eq!(hash(""), hash("http: { listen: \"127.0.0.1:1\" }\n"));
}
