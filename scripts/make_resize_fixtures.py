#!/usr/bin/env python3
"""Makes `tests/fixtures/resize/pillow.json`: SHA-256 of what Pillow's `Image.resize` gives, for many sizes and all filters.

    python scripts/make_resize_fixtures.py            # writes
    python scripts/make_resize_fixtures.py --check    # compares, exit status 1 on a difference

Sources are the lossless `pipelines/photos/chelsea.png` and a noise of any size that `tests/resize.rs` makes by the same
formula. The hash is over the `[H, W, 3]` bytes. Needs numpy and Pillow 13 or later: since then some sizes are resampled
vertically first.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "tests" / "fixtures" / "resize" / "pillow.json"
PHOTO = ROOT / "pipelines" / "photos" / "chelsea.png"
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# The sizes that the photograph (451×300) is brought to.
PHOTO_SIZES = [
    (224, 224), (256, 256), (512, 512), (902, 600), (150, 100), (64, 48), (90, 60), (451, 300), (451, 100), (200, 300),
    (451, 301), (452, 300), (450, 299), (700, 50), (37, 500), (1000, 3), (3, 1000), (1, 1), (2, 2), (16, 16), (17, 13),
    (1353, 900), (336, 224), (1, 300), (451, 1),
]  # fmt: skip
# The sizes of a noise, and what it is brought to.
NOISE_SIZES = [
    ((1, 1), (1, 1)), ((1, 1), (5, 7)), ((1, 1), (300, 1)), ((2, 3), (7, 5)), ((1, 500), (500, 1)), ((500, 1), (1, 500)),
    ((4096, 3), (17, 2)), ((4096, 3), (3, 4096)), ((33, 31), (16, 16)), ((33, 31), (66, 62)), ((33, 31), (32, 30)),
    ((640, 2), (64, 3)), ((17, 1), (16, 1)), ((255, 255), (224, 224)), ((13, 2000), (200, 40)), ((3, 9000), (100, 7)),
    ((20000, 2), (2, 3)), ((2, 20000), (3, 5000)), ((48, 47), (49, 48)), ((100, 100), (70, 39)), ((100, 100), (70, 40)),
    ((64, 64), (63, 62)), ((64, 64), (63, 61)), ((300, 451), (224, 224)), ((9, 2000), (200, 2100)),
]  # fmt: skip


def noise(width: int, height: int) -> Image.Image:
    y, x, c = np.meshgrid(*(np.arange(n, dtype=np.uint64) for n in (height, width, 3)), indexing="ij")
    mixed = (x * 73856093) ^ (y * 19349663) ^ (c * 83492791)
    mixed = ((mixed & 0xFFFFFFFF) * 2654435761 & 0xFFFFFFFF) >> 24
    return Image.fromarray(mixed.astype(np.uint8))


def made() -> list[dict]:
    photo = Image.open(PHOTO).convert("RGB")
    jobs = [("photo", photo, size) for size in PHOTO_SIZES]
    jobs += [("noise", noise(*source), size) for source, size in NOISE_SIZES]
    return [
        {
            "source": name,
            "from": list(image.size),
            "to": list(size),
            "sha256": {
                key: hashlib.sha256(np.asarray(image.resize(size, value)).tobytes()).hexdigest()
                for key, value in FILTERS.items()
            },
        }
        for name, image, size in jobs
    ]


def main() -> int:
    if int(PIL.__version__.split(".")[0]) < 13:
        print(f"needs Pillow 13 or later, this is {PIL.__version__}")
        return 64
    if "--check" not in sys.argv[1:]:
        FIXTURE.parent.mkdir(parents=True, exist_ok=True)
        FIXTURE.write_text(json.dumps(made(), indent=1) + "\n")
        print(f"wrote {FIXTURE.relative_to(ROOT)}")
        return 0
    committed = json.loads(FIXTURE.read_text())
    fresh = made()
    different = sum(a != b for a, b in zip(committed, fresh)) + abs(len(committed) - len(fresh))
    print(f"{len(fresh)} sizes by {len(FILTERS)} filters, {different} differ from {FIXTURE.relative_to(ROOT)}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
