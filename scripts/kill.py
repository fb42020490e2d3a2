#!/usr/bin/env python3
"""Kills, freezes and doubles a run, and compares every row of what comes out with an undisturbed run.

    python scripts/kill.py [--binary target/release/lm4lv] [--seed n] [--rows 2000] [--kills 50] [--zombies 10]

Needs `pip install pyarrow`: the rows are read by somebody else's reader. Three parts, all from one seed, which is printed:

1. the reference: three shards at once, two workers each;
2. one process with one worker, killed with SIGKILL at random moments and started again each time, until it ends by itself.
   Of the kills, `--both` must have found a part that this life published and one that was open (bytes on scratch, no footer);
3. rounds of two processes on the same shard at once, one of them frozen with SIGSTOP at a random moment and thawed when the
   other has published some more, or is done; each must end as documented.

After each, `lm4lv verify --complete`, no row twice, and all rows equal to the reference in every column that
`schemas/results.json` does not call volatile. Exits with 1 at the first difference.
"""

import argparse
import fnmatch
import json
import pathlib
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = json.loads((ROOT / "schemas" / "results.json").read_text())["columns"]
# `<step>_ms` stands for many.
VOLATILE = [re.sub("<.*>", "*", column["name"]) for column in COLUMNS if column["volatile"]]
SIZE = 256
ROWS_PER_PART = 5

PIPELINE = """
source: {{ folder: {{ path: images, rows_per_partition: 125 }} }}
degrade:
  seed: 7
  recipe:
    - gaussian_noise: {{ sigma: [5, 50] }}
    - gaussian_blur: {{ k: 9, sigma: [0.3, 1.9] }}
    - jpeg: {{ quality: [30, 95] }}
score: [psnr.lm4lv, ssim.lm4lv]
sink: {{ dir: {out}, rows_per_part: {rows_per_part} }}
run: {{ workers: {workers} }}
"""


def png(draw):
    """A PNG of coloured blocks of 8 × 8 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = []
    for _ in range(SIZE // 8):
        colours = draw.randbytes(3 * SIZE // 8)
        line = b"".join(colours[3 * i : 3 * i + 3] * 8 for i in range(SIZE // 8))
        lines.append((b"\0" + line) * 8)
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(lines), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Place:
    """A folder with images, pipeline files and datasets."""

    def __init__(self, folder, binary, images):
        self.folder, self.binary, self.images = folder, binary, images
        self.parts_in_all = sum(-(-min(125, images - at) // ROWS_PER_PART) for at in range(0, images, 125))

    def pipeline(self, out, workers):
        text = PIPELINE.format(out=out, workers=workers, rows_per_part=ROWS_PER_PART)
        (self.folder / f"{out}.yaml").write_text(text)

    def start(self, out, *more):
        command = [self.binary, "run", f"{out}.yaml", "--progress", "none", *more]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def parts(self, out):
        return sum(1 for _ in (self.folder / out / "data").glob("*/*.parquet"))

    def is_open(self, out):
        """True if a part without a footer lies on scratch, once its writer is dead."""
        for file in (self.folder / out / ".lm4lv" / "scratch").glob("lm4lv-*/*.parquet"):
            bytes = file.read_bytes()
            if len(bytes) <= 4 or not bytes.endswith(b"PAR1"):
                return True
        return False

    def rows(self, out):
        """(key, variant) → the row without its volatile columns."""
        found = {}
        for file in sorted((self.folder / out / "data").glob("*/*.parquet")):
            table = pq.ParquetFile(file).read()
            columns = [c for c in table.column_names if not any(fnmatch.fnmatch(c, volatile) for volatile in VOLATILE)]
            for row in table.select(columns).to_pylist():
                at = (row["key"], row["variant"])
                check(at not in found, f"{out}: {at} is there twice")
                check(row["status"] == "success", f"{out}: {at}: {row['error_message']}")
                found[at] = row
        return found

    def compare(self, out, reference):
        verified = subprocess.run([self.binary, "verify", out, "--complete"], cwd=self.folder, capture_output=True, text=True)
        check(verified.returncode == 0, f"verify {out}: exit {verified.returncode}\n{verified.stdout}{verified.stderr}")
        rows = self.rows(out)
        check(rows.keys() == reference.keys(), f"{out}: {len(rows)} rows, not {len(reference)}")
        different = {at: {c for c in row if row[c] != reference[at][c]} for at, row in rows.items() if row != reference[at]}
        check(not different, f"{out}: {len(different)} rows differ, such as {list(different.items())[:3]}")


def check(condition, what):
    if not condition:
        sys.exit(f"FAILED: {what}")


def finish(process, what, code=0):
    _, said = process.communicate(timeout=600)
    check(process.returncode == code, f"{what}: exit {process.returncode}\n{said}")


def wait_for_parts(place, out, parts, *processes):
    """Until there are so many parts, or one of the processes is done. True if none is."""
    while all(process.poll() is None for process in processes):
        if place.parts(out) >= parts:
            return True
        time.sleep(0.001)
    return False


def kill_rounds(place, draw, kills, both):
    """Kills at random moments, a share of what is left to do apart, so that the last comes before the end."""
    place.pipeline("killed", workers=1)
    found = {"published and open": 0, "published only": 0, "open only": 0, "neither": 0}
    for kill in range(kills):
        before = place.parts("killed")
        step = (place.parts_in_all - before) / (kills - kill + 1)
        process = place.start("killed")
        # One in ten while it starts, the others while it works.
        if draw.random() >= 0.1:
            wait_for_parts(place, "killed", before + draw.randint(1, max(1, int(step))), process)
        time.sleep(draw.uniform(0, 0.04))
        check(process.poll() is None, f"it ended with {process.returncode} before kill {kill + 1}: fewer kills, or more rows")
        process.kill()
        process.communicate()
        published, is_open = place.parts("killed") > before, place.is_open("killed")
        name = {(1, 1): "published and open", (1, 0): "published only", (0, 1): "open only", (0, 0): "neither"}
        found[name[published, is_open]] += 1
    left = place.parts_in_all - place.parts("killed")
    finish(place.start("killed"), "the run after the last kill")
    print(f"{kills} kills, found at them: " + ", ".join(f"{n} {what}" for what, n in found.items()) + f"; {left} parts were left", flush=True)
    check(found["published and open"] >= both, f"only {found['published and open']} of the kills found both, {both} were wanted")


def zombie_round(place, draw, out):
    """Two processes at one shard; one is frozen, and thawed later."""
    place.pipeline(out, workers=1)
    zombie = place.start(out)
    time.sleep(draw.uniform(0, 0.1))
    other = place.start(out)
    frozen_at = draw.randint(0, place.parts_in_all // 2)
    wait_for_parts(place, out, frozen_at, zombie, other)
    time.sleep(draw.uniform(0, 0.02))
    check(zombie.poll() is None and other.poll() is None, f"{out}: one was done before the other was frozen: more rows")
    zombie.send_signal(signal.SIGSTOP)
    frozen_at = place.parts(out)
    if draw.random() < 0.5:
        finish(other, f"{out}: the one that went on")
    else:
        wait_for_parts(place, out, draw.randint(frozen_at, place.parts_in_all), other)
    thawed_at = place.parts(out)
    zombie.send_signal(signal.SIGCONT)
    finish(zombie, f"{out}: the zombie")
    if other.returncode is None:
        finish(other, f"{out}: the other")
    return frozen_at, thawed_at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "lm4lv"))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--both", type=int, help="kills that must find both (default: three of five)")
    parser.add_argument("--zombies", type=int, default=10)
    arguments = parser.parse_args()
    both = arguments.kills * 3 // 5 if arguments.both is None else arguments.both
    print(f"--seed {arguments.seed} --rows {arguments.rows} --kills {arguments.kills} --zombies {arguments.zombies}", flush=True)
    draw = random.Random(arguments.seed)

    with tempfile.TemporaryDirectory() as folder:
        place = Place(pathlib.Path(folder), str(pathlib.Path(arguments.binary).resolve()), arguments.rows)
        (place.folder / "images").mkdir()
        for i in range(arguments.rows):
            (place.folder / "images" / f"{i:05}.png").write_bytes(png(draw))

        began = time.monotonic()
        place.pipeline("calm", workers=2)
        shards = [place.start("calm", "--shard", f"{i}/3") for i in range(3)]
        for i, shard in enumerate(shards):
            finish(shard, f"shard {i}/3")
        reference = place.rows("calm")
        check(len(reference) == arguments.rows, f"the reference has {len(reference)} rows")
        place.compare("calm", reference)
        print(f"reference: {len(reference)} rows in {place.parts('calm')} parts, {time.monotonic() - began:.0f} s", flush=True)

        if arguments.kills:
            kill_rounds(place, draw, arguments.kills, both)
            place.compare("killed", reference)
            print("killed: every row once, the same as the reference", flush=True)
        for round in range(arguments.zombies):
            out = f"zombie-{round}"
            frozen_at, thawed_at = zombie_round(place, draw, out)
            place.compare(out, reference)
            print(f"{out}: frozen at {frozen_at} of {place.parts_in_all} parts, thawed at {thawed_at}: every row once, the same", flush=True)


if __name__ == "__main__":
    sys.exit(main())
