#!/usr/bin/env bash
# Fuzzes what reads strangers' bytes, one target after the other, and keeps what is worth keeping in fuzz/corpus, from where
# `cargo test` takes it (tests/fuzz.rs). Needs a nightly toolchain and `cargo install cargo-fuzz`.
#
#   scripts/fuzz.sh 300                  each target for 300 seconds
#   scripts/fuzz.sh 300 decode plan      these only: decode reference pipeline footer plan resize degrade weights
#
# A finding ends its target and lies in fuzz/artifacts/<target>. Mend it, and copy it to fuzz/corpus/<target> under a name that
# says what it found. Files found by libFuzzer have names of hashes: those are replaced by the next minimised set.
set -euo pipefail
cd "$(dirname "$0")/.."

SECONDS_EACH="${1:?seconds for each target}"
shift
TARGETS=("$@")
if [[ ${#TARGETS[@]} -eq 0 ]]; then
    TARGETS=(decode reference pipeline footer plan resize degrade weights)
fi
# The longest input, and the most files that are kept.
declare -A LONGEST=([decode]=4096 [reference]=512 [pipeline]=4096 [footer]=4096 [plan]=4096 [resize]=32 [degrade]=160 [weights]=4096)

# The decoders of the release, not the newest. No sanitizer: the code is safe Rust, and the bodies count memory themselves.
cp Cargo.lock fuzz/Cargo.lock
BUILD=(-O -s none --codegen-units 16)
cargo +nightly fuzz build "${BUILD[@]}"

for target in "${TARGETS[@]}"; do
    found="fuzz/target/corpus/$target"
    kept="fuzz/corpus/$target"
    mkdir -p "$found"
    dictionary=()
    if [[ -f "fuzz/$target.dict" ]]; then
        dictionary=("-dict=fuzz/$target.dict")
    fi
    cargo +nightly fuzz run "${BUILD[@]}" "$target" "$found" "$kept" -- "${dictionary[@]}" -max_total_time="$SECONDS_EACH" \
        -max_len="${LONGEST[$target]}" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -reload=0
    # The fewest files that reach all that was reached; files with names of their own stay.
    minimised="fuzz/target/minimised/$target"
    rm -rf "$minimised"
    mkdir -p "$minimised"
    cargo +nightly fuzz run "${BUILD[@]}" "$target" "$minimised" "$kept" "$found" -- \
        -set_cover_merge=1 -use_counters=0 -max_len="${LONGEST[$target]}"
    find "$kept" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    for file in "$kept"/*; do
        rm -f "$minimised/$(sha1sum <"$file" | cut -d ' ' -f 1)"
    done
    cp "$minimised"/* "$kept/"
done
