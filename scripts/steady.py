#!/usr/bin/env python3
"""Measures that lm4lv's main job (see `peers.py`) is as steady as it is fast, and prints a Markdown table.

    pip install -r scripts/requirements-peers.txt
    cargo build --release --locked
    python scripts/steady.py [--photos DIR ...] [--rows 2000] [--many 100000] [--encoding jpeg] [--only memory,start,cost]

memory  Peak resident memory and time per row of ROWS rows and of MANY (the same images again and again, other keys); and how busy
        two cores were between the first and the last row. `busy` is CPU time over twice the wall time. `ready` adds the time that
        threads waited for a core that others held, and so is what `busy` would be on a machine of one's own. Where the
        summary has no `first_row_s` and `last_row_s` they are taken from the process's start to its end, which is less.
start   From the start of the process to the first finished row, not yet published: `first_row_s` of the summary and what the
        process took before its clock; and as a bound from above that needs no clock inside, a whole run of one row, published.
cost    What exactly-once costs: runs in which strace answers every fsync at once (and does nothing) beside runs in which it lets
        them through, in turn, and the time that threads spent in them. Needs `strace`. Memory of the page cache is not
        freed between them. What is left in both is the making and checking of names, some calls for a part.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

import peers

TICK = 1 / os.sysconf("SC_CLK_TCK")


class Watch(threading.Thread):
    """Samples (time, CPU seconds, seconds that threads waited for a core) of a process."""

    def __init__(self, pid):
        super().__init__()
        self.pid, self.samples, self.peak, self.over = pid, [], 0.0, threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            try:
                fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
                status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
                self.peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024
                waited = 0
                for task in os.listdir(f"/proc/{self.pid}/task"):
                    waited += int(pathlib.Path(f"/proc/{self.pid}/task/{task}/schedstat").read_text().split()[1])
            except (OSError, IndexError, TypeError, ValueError):  # it is gone
                continue
            self.samples.append((time.monotonic(), (int(fields[11]) + int(fields[12])) * TICK, waited / 1e9))

    def between(self, first, last):
        """CPU and waiting seconds, and the wall seconds they are of."""
        inside = [s for s in self.samples if first <= s[0] <= last]
        if len(inside) < 2:
            return 0.0, 0.0, 1.0
        (t0, c0, w0), (t1, c1, w1) = inside[0], inside[-1]
        return c1 - c0, max(w1 - w0, 0.0), t1 - t0


def run(args, refs, extra=(), prefix=()):
    """One run: the summary, and wall, peak MiB, and the watch."""
    out = args.work / "out-steady"
    shutil.rmtree(out, ignore_errors=True)
    command = [*prefix, *peers.lm4lv_command(args.lm4lv, refs, out, args.encoding), *extra]
    os.sync()
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    watch.start()
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    ended = time.monotonic()
    process.returncode = os.waitstatus_to_exitcode(status)
    watch.over.set()
    watch.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{errors}")
    summary = json.loads(output)
    shutil.rmtree(out)
    # What the process took before its clock started; its end is short.
    before = max(ended - began - summary["elapsed_s"], 0.0)
    return {
        "summary": summary,
        "wall": ended - began,
        # Not `ru_maxrss`, which begins with that of this script.
        "peak": watch.peak,
        "cpu": usage.ru_utime + usage.ru_stime,
        "watch": watch,
        "first": began + before + summary["first_row_s"] if summary.get("first_row_s") is not None else began,
        "last": began + before + summary["last_row_s"] if summary.get("last_row_s") is not None else ended,
        "start": before + summary["first_row_s"] if summary.get("first_row_s") is not None else None,
        "errors": errors,
    }


def memory(args, refs):
    print("| rows | peak MiB | ms/row | CPU ms/row | busy | ready |\n| ---: | ---: | ---: | ---: | ---: | ---: |")
    lists = [(args.rows, refs)]
    if args.many > args.rows:
        lists.append((args.many, peers.write_list(args.work / f"refs-{args.many}.parquet", args.many, args.rows)))
    for rows, list_ in lists:
        r = run(args, list_)
        cpu, waited, wall = r["watch"].between(r["first"], r["last"])
        shares = f"{cpu / (2 * wall):.1%} | {min((cpu + waited) / (2 * wall), 1):.1%}"
        times = f"{r['wall'] / rows * 1000:.2f} | {r['cpu'] / rows * 1000:.2f}"
        print(f"| {rows} | {r['peak']:.0f} | {times} | {shares} |", flush=True)
    print()


def start(args, refs):
    whole = [run(args, refs, ["--limit", "1"])["wall"] for _ in range(9)]
    print(f"A run of one row, published: {statistics.median(whole) * 1000:.0f} ms (median of 9, most {max(whole) * 1000:.0f}).")
    inside = [run(args, refs, ["--limit", "200"])["start"] for _ in range(5)]
    if all(t is not None for t in inside):
        print(f"Start to the first finished row: {statistics.median(inside) * 1000:.0f} ms (most {max(inside) * 1000:.0f}).")
    print()


def cost(args, refs):
    if shutil.which("strace") is None:
        sys.exit("cost needs strace")
    trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-T", "-e", "signal=none", "-e", "trace=fsync,fdatasync"]
    inject = [*trace, "-e", "inject=fsync,fdatasync:retval=0"]
    walls, inside, calls = {"synced": [], "not": []}, [], []
    for _ in range(args.runs):
        for name, prefix in [("synced", trace), ("not", inject)]:
            r = run(args, refs, prefix=prefix)
            walls[name].append(r["summary"]["elapsed_s"])
            if name == "synced":
                times = [float(t) for t in re.findall(r"<(\d+\.\d+)>$", r["errors"], re.MULTILINE)]
                inside.append(sum(times))
                calls.append(len(times))
    synced, free = statistics.median(walls["synced"]), statistics.median(walls["not"])
    print(f"{args.rows} rows with fsync {synced:.2f} s, without {free:.2f} s: {synced / free - 1:+.1%}", end="; ")
    share = statistics.median(inside) / synced
    print(f"{statistics.median(calls):.0f} calls took {statistics.median(inside):.2f} s of a thread, {share:.1%} of the run.\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = [peers.ROOT / "pipelines" / "photos"]
    parser.add_argument("--photos", type=pathlib.Path, nargs="+", default=photos, help="folders (default: pipelines/photos)")
    parser.add_argument("--work", type=pathlib.Path, default=peers.ROOT / "target" / "peers", help="images and outputs go here")
    parser.add_argument("--lm4lv", type=pathlib.Path, default=peers.ROOT / "target" / "release" / "lm4lv", help="the binary")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--many", type=int, default=100_000, help="writes this many images: 10 GB as JPEG; 0: not")
    parser.add_argument("--runs", type=int, default=5, help="of each kind, for the cost")
    parser.add_argument("--encoding", choices=list(peers.ENCODINGS), default="jpeg")
    parser.add_argument("--only", default="memory,start,cost")
    args = parser.parse_args()
    args.work = args.work.resolve()
    refs, say = peers.make_inputs([folder.resolve() for folder in args.photos], args.work, args.rows)
    print(f"{say}, output {args.encoding}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start\n", flush=True)
    for name in args.only.split(","):
        {"memory": memory, "start": start, "cost": cost}[name](args, refs)


if __name__ == "__main__":
    sys.exit(main())
