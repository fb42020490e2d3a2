//! The house rules that no lint checks, found by reading the sources: who imports whom, headers, length, order.
//!
//! Test modules stand at a file's foot, behind `#[cfg(test)]`, and are exempt from the rules on code. So is a line below a
//! comment `// house: why`, from the rules on panics, exits and tasks.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a missing file is a failure")]

use std::fs;
use std::path::{Path, PathBuf};

/// A file may have this many lines of code, unless its header says why it is longer.
const MAX_LINES: usize = 300;

struct Source {
    /// Path below `src`, with `/`.
    name: String,
    /// The text without the test module.
    code: String,
    /// The `//!` lines.
    header: String,
}

impl Source {
    /// The module at the crate's root that it belongs to, such as `degrade`.
    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The code's lines without comments, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        lines.filter(|(_, line)| !line.starts_with("//"))
    }

    /// True if the line above line `number` (from 1) excuses it.
    fn is_excused(&self, number: usize) -> bool {
        number > 1 && self.code.lines().nth(number - 2).is_some_and(|line| line.trim().starts_with("// house: "))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|e| e == "rs") => files.push(path),
            false => {}
        }
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    // A test module in a file of its own.
    files.retain(|path| !path.ends_with("tests.rs"));
    files.sort();
    assert!(files.len() > 20, "the sources were not found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let header = text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
        Source { name: path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/"), code, header }
    };
    files.into_iter().map(read).collect()
}

/// Fails with every finding at once.
fn report(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// True if `line` names the crate or module `name` in a path (`name::`), not as part of another word.
fn names(line: &str, name: &str) -> bool {
    let pattern = format!("{name}::");
    line.match_indices(&pattern).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') || line[..at].ends_with("use ::")
    })
}

#[test]
fn crates_stay_where_they_belong() {
    let allowed: &[(&[&str], &[&str])] = &[
        (&["tokio", "tokio_util"], &["main", "pipeline", "source", "load", "sink", "store", "plan", "cli", "http"]),
        (&["axum", "prometheus_client"], &["http"]),
        (&["arrow", "parquet"], &["source", "sink", "report", "plan", "sample"]),
        (&["object_store"], &["store", "source", "load", "sink", "plan"]),
        (&["reqwest"], &["load"]),
        (&["rdkafka", "rdkafka_sys"], &["kafka", "source"]),
        (&["clap", "indicatif"], &["main", "cli"]),
        (&["serde_saphyr"], &["config"]),
        (&["candle_core", "candle_nn", "safetensors", "tokenizers"], &["restore"]),
    ];
    let mut findings = Vec::new();
    for source in sources() {
        for (crates, modules) in allowed {
            for (number, line) in source.lines() {
                let named = crates.iter().find(|name| names(line, name));
                // `run.progress` and `run.log` are values of flags too.
                let flag = source.name == "config/sections.rs" && line.contains("clap::ValueEnum");
                if let Some(name) = named
                    && !modules.contains(&source.module())
                    && !flag
                {
                    findings.push(format!("src/{}:{number}: {name} is for {} only", source.name, modules.join(", ")));
                }
            }
        }
    }
    report("crates in the wrong module", findings);
}

/// The modules of this crate that a line names: `crate::a::…`, `crate::{a, b::c}` (on one line, as rustfmt leaves short ones).
fn imported(line: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + 7..];
        let word =
            |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            Some(list) => modules.extend(list.split(',').map(word)),
            None => modules.push(word(rest)),
        }
    }
    modules
}

#[test]
fn modules_import_only_what_the_design_allows() {
    // What flows, and the words for it: open to all.
    const COMMON: &[&str] = &["sample", "checkpoint", "error", "Error", "Result", "image", "stream"];
    let allowed: &[(&str, &[&str])] = &[
        ("checkpoint", &[]),
        ("error", &["sample"]),
        ("stream", &["vectors"]),
        ("vectors", &[]),
        ("image", &["vectors", "error", "Error", "Result"]),
        ("sample", &["checkpoint", "image"]),
        ("stage", &["error", "sample"]),
        ("degrade", &["stage", "sample", "image", "stream", "vectors", "error", "Error", "Result"]),
        ("restore", &["stage", "sample", "image", "vectors", "stream", "config", "error", "Error", "Result"]),
        ("score", &["stage", "sample", "image", "stream", "vectors", "error", "Error", "Result"]),
        ("store", COMMON),
        ("plan", &["store", "source", "checkpoint", "error", "Error", "Result", "sample"]),
    ];
    // Nothing but the pipeline, the command line and the report may know the stages of others.
    let steps = ["source", "load", "degrade", "score", "sink"];
    let mut findings = Vec::new();
    for source in sources() {
        let own = source.module().to_owned();
        for (number, line) in source.lines() {
            for module in imported(line).into_iter().filter(|module| *module != own) {
                let at = format!("src/{}:{number}", source.name);
                if let Some((_, modules)) = allowed.iter().find(|(name, _)| *name == own)
                    && !modules.contains(&module.as_str())
                {
                    findings.push(format!("{at}: {own} must not import {module}"));
                } else if module == "pipeline" || module == "cli" {
                    findings.push(format!("{at}: nobody imports {module}"));
                } else if steps.contains(&own.as_str()) && ["degrade", "score"].contains(&module.as_str()) {
                    findings.push(format!("{at}: {own} must not import {module}"));
                }
            }
        }
    }
    report("imports that the design does not have", findings);
}

#[test]
fn only_the_pipeline_spawns() {
    let patterns = [
        "tokio::spawn",
        "task::spawn(",
        "thread::spawn",
        "thread::scope",
        "Builder::new().name(",
        "mpsc",
        "oneshot",
        "async_channel",
        "broadcast::",
        "watch::",
        "JoinSet",
        "rayon",
    ];
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "pipeline") {
        for (number, line) in source.lines() {
            if let Some(pattern) = patterns.iter().find(|pattern| line.contains(**pattern))
                && !source.is_excused(number)
                // Kernels share the threads of candle's matrix products.
                && (*pattern, source.module()) != ("rayon", "restore")
                // librdkafka wants a thread that polls, whatever else waits.
                && !(*pattern == "mpsc" && source.name.starts_with("source/kafka/"))
            {
                findings.push(format!("src/{}:{number}: `{pattern}` belongs to pipeline.rs", source.name));
            }
        }
    }
    report("tasks and channels outside pipeline.rs", findings);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut findings = Vec::new();
    for folder in ["src", "tests", "benches"] {
        let folder = root().join(folder);
        let mut files = Vec::new();
        if folder.is_dir() {
            collect(&folder, &mut files);
        }
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let first = text.lines().next().unwrap_or_default();
            if !first.starts_with("//! ") || first.len() < 12 || first.contains("TODO") {
                findings.push(format!("{}: begins with `{first}`", path.display()));
            }
        }
    }
    report("files without a `//!` header", findings);
}

#[test]
fn code_neither_panics_on_purpose_nor_prints() {
    let patterns =
        [".unwrap()", ".expect(", "println!(", "eprintln!(", "dbg!(", "todo!(", "unimplemented!(", "process::exit("];
    let mut findings = Vec::new();
    for source in sources() {
        for (number, line) in source.lines() {
            if let Some(pattern) = patterns.iter().find(|pattern| line.contains(**pattern))
                && !line.contains("const {")
                && !source.is_excused(number)
            {
                findings.push(format!("src/{}:{number}: `{pattern}`", source.name));
            }
        }
    }
    report("panics and prints outside tests", findings);
}

#[test]
fn files_stay_short() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines = source.code.lines().count();
        if lines > MAX_LINES && !source.header.contains("long because") {
            findings
                .push(format!("src/{}: {lines} lines (say `long because …` in its header, or split it)", source.name));
        }
    }
    report("long files", findings);
}

#[test]
fn dependencies_are_in_alphabetical_order() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut findings = Vec::new();
    for section in manifest.split("\n[").filter(|section| section.contains("dependencies]")) {
        let names: Vec<&str> =
            section.lines().skip(1).filter_map(|line| line.split_once('=').map(|(n, _)| n.trim())).collect();
        for pair in names.windows(2).filter(|pair| pair[0] > pair[1]) {
            findings.push(format!("Cargo.toml: {} stands after {}", pair[1], pair[0]));
        }
    }
    report("dependencies out of order", findings);
}

#[test]
fn the_toolchain_is_pinned_once() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let version = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned).unwrap_or_default();
        line.split('"').nth(1).unwrap_or_default().to_owned()
    };
    let (channel, minimum) =
        (version(&read("rust-toolchain.toml"), "channel"), version(&read("Cargo.toml"), "rust-version"));
    assert!(!minimum.is_empty() && channel.starts_with(&minimum), "toolchain {channel}, rust-version {minimum}");
}
