#!/usr/bin/env python3
"""Times lm4lv on a Kafka topic beside a Python consumer that does the same, both in turn, and prints medians and ratios.

    python scripts/kafka_peers.py --brokers localhost:9092 [--binary target/release/lm4lv] [--rounds 3]

Needs `pip install -r scripts/requirements-peers.txt`, a broker (topics of its own are made and deleted), and a quiet machine. Three
jobs, each written to Parquet with zstd:

* `references`: 1,000,000 JSON messages of about 100 bytes, not loaded, parts of 50,000 rows;
* `images`: 20,000 JPEG files of about 59 kB as they are, parts of 2,000 rows;
* `degrade`: 2,000 of them decoded, made noisy, scored and encoded as JPEG, beside lm4lv itself on a Parquet file of the same bytes.

The peer is `confluent_kafka.Consumer.consume(1000)`, `json`, `pyarrow`, one process, a synchronous commit after each part: at least once.
lm4lv writes every offset exactly once. `--unsynced libeatmydata.so` also runs lm4lv with fsync made a no-op, to show what durability costs.
"""

import argparse
import io
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent


def images():
    """Two dozen JPEG files of about 59 kB: crops of the repository's photographs, noisy so that they are as large as photographs."""
    import numpy
    from PIL import Image

    rng = numpy.random.default_rng(7)
    files = []
    for name in sorted((ROOT / "pipelines" / "photos").glob("*.jpg")):
        photo = Image.open(name).convert("RGB")
        for _ in range(5):
            x, y = (int(rng.integers(0, side - 300)) for side in photo.size)
            crop = numpy.asarray(photo.crop((x, y, x + 300, y + 300)), dtype=numpy.float32)
            noisy = numpy.clip(crop + rng.normal(0, 12, crop.shape), 0, 255).astype(numpy.uint8)
            for quality in range(99, 50, -1):
                file = io.BytesIO()
                Image.fromarray(noisy).save(file, "JPEG", quality=quality)
                if file.tell() <= 60_000:
                    break
            files.append(file.getvalue())
    return files


def fill(brokers, topic, values):
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": brokers})
    for made in admin.create_topics([NewTopic(topic, 4, 1)]).values():
        made.result()
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for number, value in enumerate(values):
        while True:
            try:
                producer.produce(topic, value, key=str(number).encode(), partition=number % 4)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()


def peer(brokers, topic, total, out, rows_per_part, inline):
    """The other side, in a process of its own."""
    import pyarrow
    import pyarrow.parquet
    from confluent_kafka import Consumer

    os.makedirs(out)
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": uuid.uuid4().hex,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    })
    consumer.subscribe([topic])
    names = ["key", "image" if inline else "url", "partition", "offset", "timestamp"]
    rows, read, parts = [], 0, 0
    while read < total:
        for message in consumer.consume(1000, 1.0):
            if message.error():
                raise SystemExit(message.error())
            place = (message.partition(), message.offset(), message.timestamp()[1])
            if inline:
                rows.append((message.key(), message.value(), *place))
            else:
                value = json.loads(message.value())
                rows.append((value["key"], value["reference"], *place))
            read += 1
        if len(rows) >= rows_per_part or (rows and read >= total):
            columns = {name: list(column) for name, column in zip(names, zip(*rows))}
            codec = {name: "none" if name == "image" else "zstd" for name in names}
            pyarrow.parquet.write_table(pyarrow.table(columns), f"{out}/{parts:05}.parquet", compression=codec)
            consumer.commit(asynchronous=False)
            rows, parts = [], parts + 1
    consumer.close()


def timed(command, environment=None):
    """Seconds, CPU seconds and peak MiB of a command."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    peak = 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        # Of the process after it became the command: what `ru_maxrss` says may be ours, from before.
        lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = max([peak, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="localhost:9092")
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "lm4lv"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", default="references,images,degrade")
    parser.add_argument("--unsynced", help="a library that makes fsync a no-op, for LD_PRELOAD")
    parser.add_argument("--peer", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        topic, total, out, rows, inline = args.peer
        return peer(args.brokers, topic, int(total), out, int(rows), inline == "1")
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="kafka-peers-"))
    binary = str(pathlib.Path(args.binary).resolve())
    jobs = {
        "references": (1_000_000, 50_000, 0),
        "images": (20_000, 2_000, 1),
        "degrade": (2_000, 2_000, 1),
    }
    print(f"{'job':<12}{'side':<16}{'messages/s':>12}{'CPU us':>9}{'MiB':>7}")
    for job in args.jobs.split(","):
        total, rows, inline = jobs[job]
        topic = f"{job}-{uuid.uuid4().hex[:8]}"
        if inline:
            files = images()
            values = [files[number % len(files)] for number in range(total)]
        else:
            values = (
                json.dumps({"key": f"k{n}", "reference": f"https://example.com/images/{n:08}.jpg"}).encode()
                for n in range(total)
            )
        fill(args.brokers, topic, values)
        refs = scratch / f"{job}.parquet"
        if job == "degrade":
            import pyarrow
            import pyarrow.parquet

            keys = [str(number) for number in range(total)]
            pyarrow.parquet.write_table(pyarrow.table({"key": keys, "image": values}), refs, row_group_size=200)

        def ours(kind, out):
            kafka = f'kafka: {{ brokers: "{args.brokers}", topic: {topic}, group: {uuid.uuid4().hex}, until: end }}'
            source = f"parquet: {{ path: {refs} }}" if kind == "parquet" else kafka
            text = f"source: {{ {source} }}\nsink: {{ dir: {out}, rows_per_part: {rows}, max_part_mib: 256"
            if job == "degrade":
                text += ", encoding: { jpeg: {} } }\nload: {}\ndegrade: { seed: 7, recipe: [ { gaussian_noise: { sigma: 25 } } ] }\n"
                text += "score: [psnr.lm4lv, ssim.lm4lv]\n"
            else:
                text += " }\n"
            file = scratch / "pipeline.yaml"
            file.write_text(text)
            return [binary, "run", str(file), "--progress", "none"]

        def sides(out):
            yield "lm4lv", ours("kafka", out), None
            if job == "degrade":
                yield "lm4lv, Parquet", ours("parquet", out), None
            else:
                yield "confluent-kafka", [
                    sys.executable, __file__, "--brokers", args.brokers, "--peer", topic, str(total), str(out), str(rows), str(inline),
                ], None
            if args.unsynced:
                yield "lm4lv, unsynced", ours("kafka", out), {"LD_PRELOAD": args.unsynced}

        measured = {}
        for _ in range(args.rounds):
            out = scratch / "out"
            for name, _, _ in list(sides(out)):
                shutil.rmtree(out, ignore_errors=True)
                command, environment = next((c, e) for n, c, e in sides(out) if n == name)
                measured.setdefault(name, []).append(timed(command, environment))
        medians = {}
        for name, runs in measured.items():
            took, cpu, mib = (statistics.median(run[at] for run in runs) for at in range(3))
            medians[name] = total / took
            print(f"{job:<12}{name:<16}{total / took:>12,.0f}{cpu / total * 1e6:>9.1f}{mib:>7.0f}")
        ours_rate, *others = medians.values()
        print(f"{job:<12}ratios          {'  '.join(f'{ours_rate / other:.2f}' for other in others)}")
    shutil.rmtree(scratch)
    return None


if __name__ == "__main__":
    main()
