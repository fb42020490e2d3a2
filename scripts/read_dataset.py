#!/usr/bin/env python3
"""Reads a dataset that lm4lv made with the tools people use, and fails if one of them disagrees with the others.

    pip install datasets pillow pyarrow polars duckdb webdataset      # and torch, for the DataLoader
    lm4lv run pipelines/quickstart.yaml
    lm4lv export out/quickstart --to out/wds --format webdataset
    lm4lv export out/quickstart --to out/basicsr --format basicsr
    lm4lv export out/quickstart --to out/folder --format folder
    python scripts/read_dataset.py out/quickstart --webdataset out/wds --basicsr out/basicsr --folder out/folder

Checked: Hugging Face `datasets` shows pictures (PIL) of the recorded size; pyarrow, Polars, DuckDB and `datasets` count the
same rows in DIR/data; a DataLoader over the WebDataset shards and one over the BasicSR folders give every pair once, input
and target of equal shape. Without torch the same loops run without a DataLoader, and that is said.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow.dataset
from PIL import Image

try:
    import torch
    from torch.utils.data import DataLoader
except ImportError:
    torch = None


def check(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(f"FAILED: {what}")


def read_table(folder: Path) -> int:
    """Rows of DIR/data by four readers, and pictures by `datasets`. Gives the number of rows that did not fail."""
    data = folder / "data"
    pattern = str(data / "**" / "*.parquet")
    counts = {
        "pyarrow": pyarrow.dataset.dataset(data, format="parquet").count_rows(),
        "Polars": polars.scan_parquet(data).select(polars.len()).collect().item(),
        "DuckDB": duckdb.sql(f"SELECT count(*) FROM read_parquet('{pattern}')").fetchall()[0][0],
    }
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        # One split, whatever `sink.split` calls it.
        (rows,) = datasets.load_dataset(str(folder), cache_dir=cache).values()
        counts["datasets"] = len(rows)
        for name, count in counts.items():
            print(f"{name:>10}: {count} rows")
        check(len(set(counts.values())) == 1, "the readers count different rows")
        images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        check(bool(images), "datasets sees no image column")
        good = 0
        for row in rows:
            if row["status"] != "success":
                check(all(row[name] is None for name in images), f"{row['key']}: failed, but has a picture")
                continue
            good += 1
            for name in images:
                check(row[name] is None or isinstance(row[name], Image.Image), f"{row['key']}: {name} is no picture")
            check(row["input"].size == (row["width"], row["height"]), f"{row['key']}: input has not the recorded size")
        first = next(row for row in rows if row["status"] == "success")
        print(f"{'pictures':>10}: {', '.join(images)}; the first is {first['input']}")
        # Windows cannot remove a cache that is still mapped.
        del rows, row, first
    by_status = duckdb.sql(f"SELECT status, count(*) FROM read_parquet('{pattern}') GROUP BY status ORDER BY status")
    print(f"{'status':>10}: {dict(by_status.fetchall())}")
    return good


def loader(dataset):
    """A DataLoader where torch is installed, else the samples themselves."""
    if torch is None:
        return dataset
    return DataLoader(dataset, batch_size=None, num_workers=2)


def pair(sample: dict) -> tuple:
    """Key, and input and target as [H, W, 3] arrays (or tensors)."""
    # A copy each: torch wants memory that may be written to.
    images = {name.split(".")[0]: np.array(value) for name, value in sample.items() if "." in name}
    arrays = [images["input"], images.get("target", images["input"])]
    return sample["__key__"], *(arrays if torch is None else map(torch.from_numpy, arrays))


def read_webdataset(folder: Path, rows: int) -> None:
    """Every sample of the shards once."""
    import webdataset

    shards = sorted(str(shard) for shard in folder.glob("shard-*.tar"))
    check(bool(shards), f"{folder}: no shards")
    split = webdataset.split_by_worker
    dataset = webdataset.WebDataset(shards, shardshuffle=False, workersplitter=split, empty_check=False).decode("pil")
    keys = set()
    for key, degraded, clean in loader(dataset.map(pair)):
        check(key not in keys, f"{key}: twice")
        check(degraded.shape == clean.shape, f"{key}: input and target differ in shape")
        keys.add(key)
    check(len(keys) == rows, f"{len(keys)} samples in the shards, {rows} rows in the dataset")
    print(f"{'webdataset':>10}: {len(keys)} samples in {len(shards)} shards, {via()}")


class Pairs:
    """A folder pair, as BasicSR's PairedImageDataset reads it."""

    def __init__(self, folder: Path):
        self.folder = folder
        lines = (folder / "meta_info.txt").read_text(encoding="utf-8").splitlines()
        self.names = [line.split(" ")[0] for line in lines]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        if index >= len(self):
            raise IndexError(index)
        read = lambda side: np.array(Image.open(self.folder / side / self.names[index]).convert("RGB"))
        return {"lq": read("lq"), "gt": read("gt")}


def read_basicsr(folder: Path) -> None:
    """Every pair of the folders once, none left over."""
    sides = [sorted(path.name for path in (folder / side).iterdir()) for side in ("lq", "gt")]
    check(sides[0] == sides[1], "lq and gt have different names")
    pairs = Pairs(folder)
    check(sorted(pairs.names) == sides[0], "meta_info.txt and the folders have different names")
    count = sum(1 for sample in loader(pairs) if sample["lq"].shape == sample["gt"].shape)
    check(count == len(pairs), "lq and gt differ in shape")
    print(f"{'basicsr':>10}: {count} pairs, {via()}")


def read_folder(folder: Path, rows: int) -> None:
    """The folder export as a Hugging Face imagefolder."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache)
        check(len(loaded) == rows, f"imagefolder has {len(loaded)} rows, the dataset {rows}")
        check(isinstance(loaded[0]["input"], Image.Image), "imagefolder gives no picture")
        print(f"{'folder':>10}: {len(loaded)} rows with {', '.join(loaded.column_names[:4])}, …")
        del loaded


def via() -> str:
    return "through a PyTorch DataLoader" if torch else "without a DataLoader (torch is not installed)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset's folder")
    parser.add_argument("--webdataset", type=Path, help="its export in that format")
    parser.add_argument("--basicsr", type=Path, help="its export in that format")
    parser.add_argument("--folder", type=Path, help="its export in that format")
    args = parser.parse_args()
    rows = read_table(args.dataset)
    if args.webdataset:
        read_webdataset(args.webdataset, rows)
    if args.basicsr:
        read_basicsr(args.basicsr)
    if args.folder:
        read_folder(args.folder, rows)
    print("all readers agree")


if __name__ == "__main__":
    main()
