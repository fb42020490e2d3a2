#!/usr/bin/env python3
"""Runs the quick start's photographs from and into an S3-compatible server, and compares with the same run on disk; then
runs the tests of the chain of parts on that server.

    python scripts/object_store.py [--binary target/release/lm4lv] [--cases 100]

Needs `pip install "moto[server]" boto3 pyarrow`. The server listens on loopback only and ends with the script. Checked:
references and output in a bucket, three shards at once, a second run that writes nothing, verify, and row-for-row equality
with a local run in every column that is not volatile or a place. `cargo test --test chain` then sends every request of its
promises and of so many generated schedules to the server, over HTTP and with our client.
"""

import argparse
import logging
import os
import pathlib
import subprocess
import sys
import tempfile

import boto3
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "pipelines" / "photos"
VOLATILE = {"fetch_ms", "decode_ms", "degrade_ms", "score_ms", "encode_ms", "attempts", "run", "writer"}
PLACE = {"partition", "offset", "source_file", "source_row", "url", "key"}

PIPELINE = """
source: {{ folder: {{ path: "{photos}", include: ["*.jpg", "*.png"], rows_per_partition: 1 }} }}
degrade:
  seed: 3
  variants: 4
  recipe: [ {{ gaussian_noise: {{ sigma: [5, 50] }} }}, {{ jpeg: {{ quality: [30, 95] }} }} ]
load: {{ resize: {{ size: 96, mode: shortest_side }} }}
score: [psnr.lm4lv]
sink: {{ dir: "{out}", rows_per_part: 3 }}
run: {{ workers: 1 }}
"""


def rows(files):
    """(file name, variant) → the row without what may differ."""
    found = {}
    for table in files:
        for row in table.to_pylist():
            name = (pathlib.PurePosixPath(row["key"]).name, row["variant"])
            assert name not in found, f"{name} is there twice"
            assert row["status"] == "success", row["error_message"]
            found[name] = {k: v for k, v in row.items() if k not in VOLATILE | PLACE}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "lm4lv"))
    parser.add_argument("--cases", type=int, default=100, help="generated schedules; 0: no tests of the chain")
    arguments = parser.parse_args()
    binary = pathlib.Path(arguments.binary).resolve()

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    s3.create_bucket(Bucket="photos")
    names = sorted(p.name for p in PHOTOS.iterdir() if p.suffix in {".jpg", ".png"})
    for name in names:
        s3.upload_file(str(PHOTOS / name), "photos", f"set/{name}")

    environment = {**os.environ, **keys, "AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true"}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def write(name, photos, out):
            (folder / name).write_text(PIPELINE.format(photos=photos, out=out))

        def lm4lv(*arguments):
            return subprocess.Popen([binary, *arguments], cwd=folder, env=environment)

        def expect(*arguments):
            code = lm4lv(*arguments).wait()
            assert code == 0, f"lm4lv {' '.join(arguments)}: exit {code}"

        write("local.yaml", PHOTOS, "local")
        write("remote.yaml", "s3://photos/set", "s3://photos/out")
        expect("run", "local.yaml")
        shards = [lm4lv("run", "remote.yaml", "--shard", f"{i}/3") for i in range(3)]
        codes = [shard.wait() for shard in shards]
        assert codes == [0, 0, 0], f"shards ended with {codes}"
        objects = {o["Key"]: o["LastModified"] for o in s3.list_objects_v2(Bucket="photos", Prefix="out/data/")["Contents"]}
        expect("run", "remote.yaml")
        again = {o["Key"]: o["LastModified"] for o in s3.list_objects_v2(Bucket="photos", Prefix="out/data/")["Contents"]}
        assert objects == again, "the second run wrote something"
        expect("verify", "s3://photos/out", "--complete")

        local = rows(pq.read_table(p) for p in sorted((folder / "local" / "data").rglob("*.parquet")))
        remote = rows(
            pq.read_table(pa.BufferReader(s3.get_object(Bucket="photos", Key=key)["Body"].read())) for key in sorted(objects)
        )
        assert len(local) == 4 * len(names), len(local)
        assert local == remote, "the rows differ"
        print(f"{len(local)} rows in {len(objects)} objects, the same as on disk", flush=True)

    if arguments.cases:
        s3.create_bucket(Bucket="chain")
        environment |= {"LM4LV_S3_BUCKET": "chain", "LM4LV_CASES": str(arguments.cases)}
        command = ["cargo", "test", "--release", "--locked", "--test", "chain"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        stored = s3.list_objects_v2(Bucket="chain")["KeyCount"]
        assert stored > 0, "the tests were not run on the server"
    server.stop()


if __name__ == "__main__":
    sys.exit(main())
