#!/usr/bin/env python3
"""Writes tests/fixtures/source/: small Parquet files as pyarrow, Polars, DuckDB and Hugging Face datasets write them, and
expected.json with the records that a source must make of them.

    pip install pyarrow polars duckdb datasets pillow
    python scripts/make_source_fixtures.py            # write
    python scripts/make_source_fixtures.py --check    # write elsewhere, compare, exit 1 on a difference

Files are compared by what they hold (types, values, metadata), not by their bytes: writers put their version into them.
"""

import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

import datasets
import duckdb
import polars
import pyarrow
import pyarrow.parquet
from PIL import Image

HERE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "source"


def png(i):
    """A PNG of 3x2 pixels that differs with i."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (i * 20 % 256, i * 7 % 256, 99)).save(file, "PNG")
    return file.getvalue()


def inline(data, path=None):
    return {"sha256": hashlib.sha256(data).hexdigest(), "path": path}


def record(key, reference, **more):
    return {"key": key, "reference": reference, **more}


def pyarrow_urls(path):
    """Integer keys with a null, a dictionary, several row groups and page sizes, a list, a date."""
    n = 40
    urls = [None if i == 5 else f"https://example.org/{i}.jpg" for i in range(n)]
    ids = [None if i == 7 else 1000 + i for i in range(n)]
    table = pyarrow.table({
        "id": pyarrow.array(ids, pyarrow.int64()),
        "url": pyarrow.array(urls),
        "caption": pyarrow.array([f"caption {i} é" for i in range(n)], pyarrow.large_string()),
        "sigma": pyarrow.array([i / 4 for i in range(n)], pyarrow.float32()),
        "status": pyarrow.array([["ok", "failed", None][i % 3] for i in range(n)]).dictionary_encode(),
        "tags": pyarrow.array([[str(j) for j in range(i % 3)] for i in range(n)]),
        "when": pyarrow.array([i for i in range(n)], pyarrow.date32()),
    })
    pyarrow.parquet.write_table(table, path, row_group_size=16, data_page_size=64, compression="gzip")
    return [record(str(ids[i]) if ids[i] else urls[i], urls[i]) for i in range(n)]


def pyarrow_dictionary(path):
    """The reference itself as a dictionary, data pages of version 2 with an index, brotli."""
    paths = [["a/b.png", "c.png", None][i % 3] for i in range(20)]
    table = pyarrow.table({
        "Image_Path": pyarrow.array(paths, pyarrow.dictionary(pyarrow.int8(), pyarrow.string())),
        "task": pyarrow.array([f"task{i % 2}" for i in range(20)]),
    })
    pyarrow.parquet.write_table(
        table, path, row_group_size=7, compression="brotli", data_page_version="2.0", write_page_index=True
    )
    return [record(path or "", path, task=f"task{i % 2}") for i, path in enumerate(paths)]


def pyarrow_struct(path):
    """struct<bytes, path> without marks: bytes, a path alone, neither, and a null."""
    rows = [
        {"bytes": png(0), "path": "zero.png"},
        {"bytes": None, "path": "photos/one.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": png(4), "path": None},
    ]
    kind = pyarrow.struct([("bytes", pyarrow.large_binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"photo": pyarrow.array(rows, kind), "n": pyarrow.array(range(5), pyarrow.uint8())})
    pyarrow.parquet.write_table(table, path, compression="lz4")
    zero, four = inline(png(0), "zero.png"), inline(png(4))
    return [
        record(zero["sha256"], zero),
        record("photos/one.png", "photos/one.png"),
        record("", None),
        record("", None),
        record(four["sha256"], four),
    ]


def pyarrow_webdataset(path):
    """Bytes in a column called after the extension, keys called as in a WebDataset."""
    table = pyarrow.table({
        "__key__": pyarrow.array([f"{i:05}" for i in range(6)]),
        "png": pyarrow.array([None if i == 2 else png(i) for i in range(6)], pyarrow.binary()),
        "json": pyarrow.array(["{}"] * 6),
    })
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)
    return [record(f"{i:05}", None if i == 2 else inline(png(i))) for i in range(6)]


def polars_paths(path):
    """Views and large lists."""
    frame = polars.DataFrame({
        "uid": [f"u{i}" for i in range(30)],
        "file_name": [f"dir {i % 3}/é {i}.webp" for i in range(30)],
        "category": polars.Series([["a", "b"][i % 2] for i in range(30)], dtype=polars.Categorical),
        "scores": [[i / 2, 1.0] for i in range(30)],
    })
    frame.write_parquet(path, compression="zstd", row_group_size=9)
    return [record(f"u{i}", f"dir {i % 3}/é {i}.webp") for i in range(30)]


def duckdb_urls(path):
    """Names in capitals, a huge integer, a timestamp, a struct."""
    duckdb.sql(
        "SELECT 'https://example.org/' || i || '.png' AS \"URL\", (18446744073709551000 + i)::UBIGINT AS \"ID\", "
        "TIMESTAMP '2026-11-01' + to_days(i::INTEGER) AS taken, {'w': i, 'h': 'x' || i} AS size, i % 2 = 0 AS even "
        f"FROM range(25) t(i)"
    ).write_parquet(str(path), compression="snappy")
    return [record(str(18446744073709551000 + i), f"https://example.org/{i}.png") for i in range(25)]


def huggingface(path):
    """What Dataset.to_parquet writes: two image features and a class label."""
    features = datasets.Features({
        "clean": datasets.Image(),
        "noisy": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
    })
    rows = {
        "clean": [{"bytes": png(i), "path": f"{i}.png"} for i in range(8)],
        "noisy": [{"bytes": png(i + 8), "path": None} for i in range(8)],
        "label": [i % 2 for i in range(8)],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path), batch_size=3)
    noisy = [inline(png(i + 8)) for i in range(8)]
    return [record(noisy[i]["sha256"], noisy[i], target=inline(png(i), f"{i}.png")) for i in range(8)]


MAKERS = [pyarrow_urls, pyarrow_dictionary, pyarrow_struct, pyarrow_webdataset, polars_paths, duckdb_urls, huggingface]


def write(folder):
    expected = {}
    for maker in MAKERS:
        name = f"{maker.__name__}.parquet"
        expected[name] = maker(folder / name)
    text = json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
    (folder / "expected.json").write_text(text, encoding="utf-8")


def differs(a, b):
    if not b.exists():
        return True
    if a.suffix == ".json":
        return a.read_bytes() != b.read_bytes()
    a, b = pyarrow.parquet.read_table(a), pyarrow.parquet.read_table(b)
    return not (a.schema.equals(b.schema, check_metadata=True) and a.equals(b))


def main():
    if sys.argv[1:] == ["--check"]:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            names = {path.name for path in Path(folder).iterdir()} | {path.name for path in HERE.iterdir()}
            bad = sorted(name for name in names if not (Path(folder) / name).exists() or differs(Path(folder) / name, HERE / name))
        for name in bad:
            print(f"{name} differs: run this script without --check and look at the difference", file=sys.stderr)
        sys.exit(1 if bad else 0)
    HERE.mkdir(parents=True, exist_ok=True)
    write(HERE)


if __name__ == "__main__":
    main()
