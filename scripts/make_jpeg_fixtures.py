#!/usr/bin/env python3
"""Fixtures for the operation `jpeg`: what Pillow (libjpeg-turbo) makes of synthetic images.

Writes tests/fixtures/degrade/jpeg/<width>x<height>.png: the clean image, and below it what is left of it after
save(quality, subsampling) and load, for every quality of QUALITIES and, within that, every entry of SUBSAMPLING. And files.txt:
size, quality, subsampling, length of the colour profile (its bytes count up) and SHA-256 of the files themselves.
`--check` compares with what is there and exits 1 on a difference. Needs numpy and Pillow.
"""

import hashlib
import io
import pathlib
import sys

import numpy as np
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "degrade" / "jpeg"
LIST = FOLDER / "files.txt"
QUALITIES = [1, 30, 50, 75, 95, 100]
SUBSAMPLING = ["4:2:0", "4:2:2", "4:4:4", "gray"]
SIZES = [(1, 1), (2, 3), (3, 2), (4, 4), (5, 5), (6, 1), (17, 9), (16, 16), (8, 33), (65, 40), (150, 37)]


def picture(width, height):
    """Smooth colours, hard edges and noise, so that every frequency and clipping occur."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([128 + 120 * np.sin(x / 7), 128 + 120 * np.cos(y / 5), (x * 9 + y * 4) % 256], axis=-1)
    image[(x // 6 + y // 5) % 5 == 0] = [255, 0, 0]
    image[(x // 4 - y // 9) % 7 == 0] = [0, 255, 255]
    noisy = (x // 16) % 2 == 1
    image[noisy] += rng.normal(0, 60, image.shape)[noisy]
    return np.clip(image, 0, 255).astype(np.uint8)


def spoiled(clean, quality, subsampling):
    buffer = io.BytesIO()
    image = Image.fromarray(clean)
    if subsampling == "gray":
        image.convert("L").save(buffer, "JPEG", quality=quality)
    else:
        image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer).convert("RGB"))


def sheet(width, height):
    clean = picture(width, height)
    return np.concatenate([clean] + [spoiled(clean, q, s) for q in QUALITIES for s in SUBSAMPLING])


def files():
    """One line for each file."""
    for width, height in SIZES:
        image = Image.fromarray(picture(width, height))
        for quality in QUALITIES:
            for subsampling in SUBSAMPLING:
                # One profile that needs two segments.
                profile = bytes(i % 251 for i in range(70_000 if (width, quality) == (65, 75) else 0))
                options = {"quality": quality, "icc_profile": profile or None}
                buffer = io.BytesIO()
                if subsampling == "gray":
                    image.convert("L").save(buffer, "JPEG", **options)
                else:
                    image.save(buffer, "JPEG", subsampling=subsampling, **options)
                digest = hashlib.sha256(buffer.getvalue()).hexdigest()
                yield f"{width}x{height} {quality} {subsampling} {len(profile)} {digest}\n"


def main():
    check = "--check" in sys.argv[1:]
    FOLDER.mkdir(parents=True, exist_ok=True)
    wrong = sorted({p.name for p in FOLDER.iterdir()} - {f"{w}x{h}.png" for w, h in SIZES} - {LIST.name})
    if not check:
        LIST.write_text("".join(files()))
    elif not LIST.exists() or LIST.read_text() != "".join(files()):
        wrong.append(LIST.name)
    for width, height in SIZES:
        path, pixels = FOLDER / f"{width}x{height}.png", sheet(width, height)
        if not check:
            Image.fromarray(pixels).save(path, optimize=True)
        elif not path.exists() or not np.array_equal(np.asarray(Image.open(path).convert("RGB")), pixels):
            wrong.append(path.name)
    if wrong:
        print("differ from what this script makes:", *wrong, sep="\n  ")
        return 1
    print(f"{len(SIZES)} sheets {'agree' if check else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
