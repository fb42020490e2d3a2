#!/usr/bin/env python3
"""Makes `pipelines/photos` from the photographs that the scikit-image 0.16.2 wheel ships (see its README for credits).

    pip download --no-deps --only-binary=:all: --python-version 37 --platform manylinux1_x86_64 scikit-image==0.16.2
    python scripts/make_photos.py scikit_image-0.16.2-cp37-cp37m-manylinux1_x86_64.whl

With `--check` nothing is written: the wheel's photographs are compared with the committed ones, and the exit status is 1
where one differs by more than JPEG does. (Later encoders may write other bytes, so bytes are not compared.)

Needs Pillow and numpy. Longest side 512, Lanczos; JPEG quality 92, 4:4:4.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "pipelines" / "photos"
# The file in the wheel, and ours.
PHOTOS = {
    "astronaut.png": "astronaut.jpg",
    "chelsea.png": "chelsea.png",
    "coffee.png": "coffee.jpg",
    "hubble_deep_field.jpg": "hubble.jpg",
    "rocket.jpg": "rocket.jpg",
}
LONGEST = 512


def photo(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = LONGEST / max(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def main() -> int:
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    check = "--check" in sys.argv[1:]
    if len(arguments) != 1:
        print(__doc__)
        return 64
    worst = 0
    with zipfile.ZipFile(arguments[0]) as wheel:
        for theirs, ours in PHOTOS.items():
            data = wheel.read(f"skimage/data/{theirs}")
            path = FOLDER / ours
            if path.suffix == Path(theirs).suffix and max(Image.open(io.BytesIO(data)).size) <= LONGEST:
                made = data  # as the package ships it
            else:
                buffer = io.BytesIO()
                photo(data).save(buffer, "JPEG", quality=92, subsampling=0, optimize=True)
                made = buffer.getvalue()
            if not check:
                path.write_bytes(made)
                print(f"{path.name}: {len(made)} bytes")
                continue
            expected = np.asarray(Image.open(io.BytesIO(made)).convert("RGB"), np.float64)
            found = np.asarray(Image.open(path).convert("RGB"), np.float64)
            rms = float(np.sqrt(np.mean((expected - found) ** 2))) if expected.shape == found.shape else float("inf")
            print(f"{path.name}: rms difference {rms:.3f} levels")
            worst = max(worst, rms)
    return int(worst > 1.0)


if __name__ == "__main__":
    sys.exit(main())
