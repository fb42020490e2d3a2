#!/usr/bin/env python3
"""Makes the inputs of `pipelines/*.yaml`: `refs.parquet`, `pairs.parquet` and `spoiled.parquet` there, from `pipelines/photos`.

    python scripts/make_inputs.py            write them
    python scripts/make_inputs.py --check    compare with what is there, exit status 1 where it differs

refs.parquet names the photographs, with a caption and a noise level to keep. pairs.parquet holds pairs to score: the degraded
image's bytes (JPEG quality 30 by Pillow) beside the clean image's path. spoiled.parquet holds photographs to restore: the middle of
each, noisy or with cells blacked out (PNG), beside the clean middle, with the demo model's name for what was done to it. Needs
Pillow, numpy and pyarrow.

Another version of Pillow or pyarrow may write other bytes for the same pictures, so `--check` compares schemas, values and
pixels, not files.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "pipelines"
CAPTIONS = {
    "astronaut.jpg": "an astronaut in an orange suit before a flag",
    "chelsea.png": "a tabby cat looking up",
    "coffee.jpg": "a cup of coffee with a spoon on a wooden table",
    "hubble.jpg": "galaxies on a black sky",
    "rocket.jpg": "a rocket leaving its launch pad at dusk",
}
SIGMAS = [10.0, 15.0, 25.0, 35.0, 50.0]


def refs() -> pa.Table:
    rows = [
        {"id": Path(name).stem, "image": f"photos/{name}", "caption": caption, "sigma": sigma}
        for (name, caption), sigma in zip(CAPTIONS.items(), SIGMAS, strict=True)
    ]
    types = [("id", pa.string()), ("image", pa.string()), ("caption", pa.string()), ("sigma", pa.float64())]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


def pairs() -> pa.Table:
    rows = []
    for name in CAPTIONS:
        buffer = io.BytesIO()
        Image.open(FOLDER / "photos" / name).convert("RGB").save(buffer, "JPEG", quality=30)
        stem = Path(name).stem
        rows.append({"id": stem, "degraded": {"bytes": buffer.getvalue(), "path": f"{stem}.jpg"}, "clean": f"photos/{name}"})
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.Table.from_pylist(rows, schema=pa.schema([("id", pa.string()), ("degraded", image), ("clean", pa.string())]))


def spoiled() -> pa.Table:
    rng, side = np.random.default_rng(0), 112

    def png(levels: np.ndarray) -> dict[str, object]:
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "PNG", optimize=True)
        return {"bytes": buffer.getvalue(), "path": None}

    rows = []
    for number, name in enumerate(CAPTIONS):
        photo = Image.open(FOLDER / "photos" / name).convert("RGB")
        photo = photo.resize((photo.width * 2 // 5, photo.height * 2 // 5), Image.Resampling.BICUBIC)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        clean = np.asarray(photo.crop((left, top, left + side, top + side)))
        if number % 2 == 0:
            task, bad = "gaussian_noise_18", np.clip(np.rint(clean + rng.normal(0, 18, clean.shape)), 0, 255)
        else:
            cells = np.kron(rng.random((side // 4, side // 4)) < 0.1, np.ones((4, 4), bool))
            task, bad = "mask_4px_10pct", np.where(cells[..., None], 0, clean)
        rows.append({"id": Path(name).stem, "task": task, "degraded": png(bad.astype(np.uint8)), "clean": png(clean)})
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types = [("id", pa.string()), ("task", pa.string()), ("degraded", image), ("clean", image)]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, bytes) and isinstance(b, bytes):
        x, y = (np.asarray(Image.open(io.BytesIO(v)).convert("RGB"), dtype=float) for v in (a, b))
        return x.shape == y.shape and float(np.abs(x - y).mean()) < 0.5
    return a == b


def main() -> int:
    wrong = 0
    for name, table in {"refs.parquet": refs(), "pairs.parquet": pairs(), "spoiled.parquet": spoiled()}.items():
        path = FOLDER / name
        if "--check" not in sys.argv[1:]:
            pq.write_table(table, path, compression="zstd", store_schema=False)
            print(f"{path.name}: {path.stat().st_size} bytes")
            continue
        there = pq.read_table(path)
        equal = there.schema.equals(table.schema) and there.num_rows == table.num_rows
        equal = equal and all(same(a, b) for a, b in zip(there.to_pylist(), table.to_pylist(), strict=True))
        print(f"{path.name}: {'as made' if equal else 'differs'}")
        wrong += not equal
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
