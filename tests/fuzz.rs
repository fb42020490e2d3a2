//! The fuzz targets as plain tests: each over its corpus, which holds every finding, and over some thousand mutations of it.
//!
//! `scripts/fuzz.sh` lets libFuzzer loose on the same bodies. A failure says where the bytes lie that made it; put them into
//! `fuzz/corpus/<target>` with the mend.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(unreachable_pub, reason = "the bodies are a library of their own in fuzz/")]
#[expect(unsafe_code, reason = "counts memory in a global allocator")]
#[path = "../fuzz/src/lib.rs"]
mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Runs `body` over the corpus of `target`, then over `mutations` files made of it, the same in each run.
fn replay(target: &str, body: fn(&[u8]), mutations: u64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(corpus.len() >= 10, "{} has no corpus", folder.display());
    for (file, bytes) in files.iter().zip(&corpus) {
        attempt(body, bytes, || file.display().to_string());
    }
    for seed in 0..mutations {
        let bytes = mutated(&corpus, &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x006c_6d34_6c76));
        attempt(body, &bytes, || {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{seed}"));
            std::fs::write(&file, &bytes).unwrap();
            format!("mutation {seed}: {}", file.display())
        });
    }
}

fn attempt(body: fn(&[u8]), bytes: &[u8], name: impl FnOnce() -> String) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(bytes))) {
        eprintln!("failed on {}", name());
        resume_unwind(panic);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// A file of the corpus with up to four edits.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes.insert(at, random.below(256) as u8),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let copied = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copied);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    bytes
}

#[test]
fn decode() {
    replay("decode", bodies::decode, 10_000);
}

#[test]
fn reference() {
    replay("reference", bodies::reference, 20_000);
}

#[test]
fn pipeline() {
    replay("pipeline", bodies::pipeline, 10_000);
}

#[test]
fn footer() {
    replay("footer", bodies::footer, 5000);
}

#[test]
fn plan() {
    replay("plan", bodies::plan, 10_000);
}

#[test]
fn resize() {
    replay("resize", bodies::resize, 2000);
}

#[test]
fn degrade() {
    replay("degrade", bodies::degrade, 1000);
}

#[test]
fn weights() {
    replay("weights", bodies::weights, 20_000);
}
