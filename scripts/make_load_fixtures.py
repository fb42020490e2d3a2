#!/usr/bin/env python3
"""Writes tests/fixtures/load: small image files of every kind, and the pixels that Pillow finds in them.

Needs numpy and Pillow. `--check` writes nothing and exits 1 if what is committed differs from what would be written.

Beside each file NAME stands NAME.rgb: width and height (u32, little-endian), then [H, W, 3] bytes as
`ImageOps.exif_transpose(Image.open(NAME)).convert("RGB")` gives them. Sixteen-bit grey is the exception: Pillow clips
it at 255, we take the high byte, and so does this script.
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "load"
WIDTH, HEIGHT = 29, 23
FILL_ORDER, EXTRA_SAMPLES = 266, 338


def picture() -> Image.Image:
    """Smooth colour with a sharp edge and some noise."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    rng = np.random.default_rng(7)
    rgb = np.stack([40 + 7 * x, 230 - 8 * y, 120 + 90 * np.sin(x / 4) * np.cos(y / 5)], axis=2)
    rgb[8:15, 10:20] = [200, 30, 60]
    return Image.fromarray(np.clip(rgb + rng.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8))


def saved(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], interlace: int = 0, extra: bytes = b"") -> bytes:
    """A PNG from unfiltered rows; Pillow writes neither 16-bit colour nor Adam7."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def adam7(image: np.ndarray) -> list[bytes]:
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    return [row.tobytes() for x, y, dx, dy in passes for row in image[y::dy, x::dx] if row.size]


def with_alpha_multiplied(tiff: bytes) -> bytes:
    """The same little-endian file, now saying that its colours are multiplied with its alpha; Pillow reads such, but writes none."""
    before, after = (struct.pack("<HHIHH", EXTRA_SAMPLES, 3, 1, kind, 0) for kind in (2, 1))
    assert tiff.count(before) == 1
    return tiff.replace(before, after)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def gif_on_screen(gif: bytes, width: int, height: int) -> bytes:
    """The GIF with another logical screen."""
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


def files() -> dict[str, bytes]:
    image = picture()
    pixels = np.asarray(image)
    grey = image.convert("L")
    alpha = image.convert("RGBA")
    alpha.putalpha(grey)
    few = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=13)
    full = image.convert("P", palette=Image.Palette.ADAPTIVE)
    frames = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    wide = (np.asarray(grey).astype(np.uint16) * 257) ^ 0x35
    wide_rgb = (pixels.astype(">u2") * 257) ^ 0x35

    made = {
        "baseline-420.jpg": saved(image, format="jpeg", quality=85),
        "baseline-422.jpg": saved(image, format="jpeg", quality=85, subsampling=1),
        "baseline-444.jpg": saved(image, format="jpeg", quality=95, subsampling=0),
        "progressive-420.jpg": saved(image, format="jpeg", quality=85, progressive=True),
        "progressive-444.jpg": saved(image, format="jpeg", quality=95, subsampling=0, progressive=True),
        "grey.jpg": saved(grey, format="jpeg", quality=85),
        "rgb.jpg": saved(image, format="jpeg", quality=90, keep_rgb=True),
        "restart.jpg": saved(image, format="jpeg", quality=85, restart_marker_blocks=2),
        "cmyk.jpg": saved(image.convert("CMYK"), format="jpeg", quality=92),
        "cmyk-progressive.jpg": saved(image.convert("CMYK"), format="jpeg", quality=92, progressive=True),
        "rgb.png": saved(image, format="png"),
        "rgba.png": saved(alpha, format="png"),
        "rgb-transparent.png": saved(image, format="png", transparency=(200, 30, 60)),
        "grey.png": saved(grey, format="png"),
        "grey-alpha.png": saved(alpha.convert("LA"), format="png"),
        "grey-1.png": saved(image.convert("1"), format="png"),
        "grey-16.png": saved(Image.fromarray(wide), format="png"),
        "palette.png": saved(full, format="png"),
        "palette-4.png": saved(few, format="png", bits=4),
        "palette-transparent.png": saved(few, format="png", transparency=3),
        "rgb-16.png": png(WIDTH, HEIGHT, 16, 2, [row.tobytes() for row in wide_rgb]),
        "interlaced.png": png(WIDTH, HEIGHT, 8, 2, adam7(pixels), interlace=1),
        "lossy.webp": saved(image, format="webp", quality=80),
        "lossless.webp": saved(image, format="webp", lossless=True),
        "lossy-alpha.webp": saved(alpha, format="webp", quality=80),
        "lossless-alpha.webp": saved(alpha, format="webp", lossless=True, exact=True),
        "animated.webp": saved(frames[0], format="webp", save_all=True, append_images=frames[1:], lossless=True),
        "palette.gif": saved(full, format="gif"),
        "interlaced.gif": saved(few, format="gif", interlace=1),
        "transparent.gif": saved(few, format="gif", transparency=5),
        "animated.gif": saved(few, format="gif", save_all=True, append_images=[few.transpose(Image.Transpose.ROTATE_180)]),
        "on-larger-screen.gif": gif_on_screen(saved(few, format="gif"), 40, 31),
        "on-larger-screen-transparent.gif": gif_on_screen(saved(few, format="gif", transparency=5), 40, 31),
        "beyond-screen.gif": gif_on_screen(saved(few, format="gif"), 10, 12),
        "1.bmp": saved(image.convert("1"), format="bmp"),
        "palette.bmp": saved(full, format="bmp"),
        "rgb.bmp": saved(image, format="bmp"),
        "32.bmp": saved(alpha, format="bmp"),
        "1.tif": saved(image.convert("1"), format="tiff", compression="group4"),
        "1-lowest-first.tif": saved(image.convert("1"), format="tiff", compression="group4", tiffinfo={FILL_ORDER: 2}),
        "lowest-first.tif": saved(image, format="tiff", compression="tiff_lzw", tiffinfo={FILL_ORDER: 2}),
        "multiplied.tif": with_alpha_multiplied(saved(alpha, format="tiff")),
        "grey.tif": saved(grey, format="tiff", compression="packbits"),
        "grey-16.tif": saved(Image.fromarray(wide), format="tiff"),
        "grey-alpha.tif": saved(alpha.convert("LA"), format="tiff"),
        "palette.tif": saved(full, format="tiff"),
        "rgb.tif": saved(image, format="tiff", compression="tiff_lzw"),
        "rgba.tif": saved(alpha, format="tiff", compression="tiff_adobe_deflate"),
        "cmyk.tif": saved(image.convert("CMYK"), format="tiff"),
        "jpeg.tif": saved(image, format="tiff", compression="jpeg", quality=90),
        "big-palette.tif": saved(full, format="tiff", big_tiff=True),
        "pages.tif": saved(frames[0], format="tiff", save_all=True, append_images=frames[1:]),
    }
    for value in range(2, 9):
        made[f"orientation-{value}.jpg"] = saved(image, format="jpeg", quality=95, subsampling=0, exif=orientation(value))
    made["orientation-6.png"] = saved(image, format="png", exif=orientation(6))
    made["orientation-8.webp"] = saved(image, format="webp", lossless=True, exif=orientation(8))
    made["orientation-5.tif"] = saved(image, format="tiff", tiffinfo={0x0112: 5})

    found = {}
    for name, data in made.items():
        rgb = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        if name.startswith("grey-16"):
            rgb = np.repeat((wide >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        found[name + ".rgb"] = struct.pack("<II", rgb.shape[1], rgb.shape[0]) + rgb.tobytes()
    return made | found


def main() -> int:
    wanted = files()
    if "--check" in sys.argv[1:]:
        there = {p.name: p.read_bytes() for p in OUT.iterdir()} if OUT.exists() else {}
        differ = sorted(n for n in wanted.keys() | there.keys() if wanted.get(n) != there.get(n))
        for name in differ:
            print(f"tests/fixtures/load/{name} differs", file=sys.stderr)
        return 1 if differ else 0
    OUT.mkdir(parents=True, exist_ok=True)
    for name, data in wanted.items():
        (OUT / name).write_bytes(data)
    print(f"{len(wanted)} files, {sum(map(len, wanted.values()))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
