#!/usr/bin/env python3
"""Undoes one rule of delivery at a time, and shows that the property test of the chain fails for each.

    python scripts/undo_rules.py [--cases 1000]
    python scripts/undo_rules.py --check        only whether the patches apply, which takes no time

Works on a copy of the working tree in a temporary folder, which builds into this repository's `target` under a version of
its own, so that its dependencies need no second build and nothing it makes is taken for ours. The patches below make each
rule one that an environment variable undoes, so one build serves all. `tests/chain/faults.rs` must pass with every rule, and
fail without any one of them. A patch that does not apply any more is said: then say here what the rule looks like now.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEST = "every_position_exactly_once_whatever_happens"

# Rule → (file, text, text that leaves the rule out where `undone`), each text to be found once.
RULES = {
    # Rows of an older epoch are taken as if they were of this one.
    "epochs": [
        ("src/sink/lane.rs", "if !self.taking || item.epoch != self.epoch {", "if !self.taking || (item.epoch != self.epoch && !UNDONE) {"),
        (
            "src/sink/lane.rs",
            "items: u64, next: u64) -> Result<()> {\n        if !self.taking || epoch != self.epoch {",
            "items: u64, next: u64) -> Result<()> {\n        if !self.taking || (epoch != self.epoch && !UNDONE) {",
        ),
    ],
    # A part's id tells only who wrote it, not which file it is.
    "part-ids": [
        (
            "src/sink/part.rs",
            "dataset: dataset.id.clone(),\n        part,",
            "dataset: dataset.id.clone(),\n        part: if UNDONE { factory.writer.clone() } else { part },",
        ),
    ],
    # The parts of a partition are published last one first.
    "order": [
        ("src/sink/lane.rs", "self.closed.pop_front()", "(if UNDONE { self.closed.pop_back() } else { self.closed.pop_front() })"),
        ("src/sink/chain.rs", "if footer.from != self.end ||", "if (footer.from != self.end && !UNDONE) ||"),
    ],
    # A part overwrites whatever has its name.
    "create-if-absent": [
        (
            "src/store/folder.rs",
            "PutOptions { mode: PutMode::Create,",
            "PutOptions { mode: if UNDONE { PutMode::Overwrite } else { PutMode::Create },",
        ),
    ],
}

UNDONE = """
/// True if the environment says so.
pub fn undone(rule: &str) -> bool {
    static UNDO: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    UNDO.get_or_init(|| std::env::var("LM4LV_UNDO").unwrap_or_default()) == rule
}
"""


def copy(to):
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    for name in ("Cargo.toml", "Cargo.lock"):
        text, found = re.subn(r'(name = "lm4lv"\nversion = ")([^"]+)', r"\1\2-undo", (to / name).read_text())
        assert found == 1, f"{name}: no version of lm4lv"
        (to / name).write_text(text)


def undo(folder):
    """Makes every rule one that can be undone."""
    for rule, patches in RULES.items():
        for file, old, new in patches:
            text = (folder / file).read_text()
            if text.count(old) != 1:
                sys.exit(f"{rule}: the patch does not apply any more: {text.count(old)} times in {file}:\n{old}")
            (folder / file).write_text(text.replace(old, new.replace("UNDONE", f'crate::undone("{rule}")')))
    with (folder / "src/lib.rs").open("a") as lib:
        lib.write(UNDONE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    cases = args.cases
    schedules = {"LM4LV_CASES": str(cases), "LM4LV_SEED": "0"}
    environment = {**os.environ, **schedules, "CARGO_TARGET_DIR": str(ROOT / "target"), "RUST_BACKTRACE": "0"}
    command = ["cargo", "test", "--release", "--locked", "--test", "chain"]
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        copy(folder)
        undo(folder)
        if args.check:
            return
        if subprocess.run([*command, "--no-run"], cwd=folder, env=environment).returncode != 0:
            sys.exit("the patched copy does not build")
        for rule in ["", *RULES]:
            environment["LM4LV_UNDO"] = rule
            run = subprocess.run([*command, "--", TEST], cwd=folder, env=environment, capture_output=True, text=True)
            found = re.search(r"^LM4LV_SEED=(\d+): (.*)\n(.*)$", run.stdout, re.MULTILINE)
            if not rule:
                if run.returncode != 0:
                    sys.exit(f"it fails as it is:\n{run.stdout}{run.stderr}")
                print(f"as it is: passes {cases} schedules", flush=True)
            elif run.returncode != 0 and found:
                print(f"\nwithout {rule}: fails at schedule {int(found[1]) + 1}: {found[2]}\n  shrunk to {found[3]}", flush=True)
            else:
                print(f"\nwithout {rule}: passes {cases} schedules, or fails otherwise:\n{run.stdout}{run.stderr}", flush=True)
                wrong.append(rule)
    if wrong:
        sys.exit(f"FAILED: the test does not need {', '.join(wrong)}")


if __name__ == "__main__":
    sys.exit(main())
