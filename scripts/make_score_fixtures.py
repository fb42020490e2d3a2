#!/usr/bin/env python3
"""Makes `tests/fixtures/score`: pairs of clean and degraded pictures (PNG) and their scores in f64 (`scores.json`).

    python scripts/make_score_fixtures.py            # writes both; needs torch and torchmetrics too
    python scripts/make_score_fixtures.py --check    # compares, exit status 1 on a difference

Where the expected values come from:

* `skimage`: scikit-image's own functions.
* `torchmetrics`: torchmetrics' own functions in f64. `--check` without that package compares with the same
  formulas in numpy, and says so; with it, it also holds the formulas against the package.
* `lm4lv`, `basicsr_y`: BasicSR's formulas in numpy f64. (Its package does not install beside a current PyTorch. It rounds
  the luma to f32 on the way, which is left out here.)

`--check` makes the pictures again and allows 1 grey level rms, for other versions of the JPEG codec; the scores it
computes from the committed pictures, and allows 1e-9 (relative).

Needs numpy, Pillow and scikit-image.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "fixtures" / "score"
PHOTOS = ROOT / "pipelines" / "photos"

# Name: photograph, and the box (left, upper, right, lower) that is cut out of it.
CLEAN = {
    "cat": ("chelsea.png", (150, 80, 310, 200)),
    "face": ("astronaut.jpg", (160, 20, 287, 151)),
    "cup": ("coffee.jpg", (201, 90, 390, 187)),
    "launch": ("rocket.jpg", (250, 30, 339, 270)),
    "strip": ("hubble.jpg", (20, 200, 470, 220)),
    "tiny": ("chelsea.png", (200, 120, 219, 139)),
    "small": ("astronaut.jpg", (200, 60, 211, 73)),
}


def noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    # RandomState is frozen: the same numbers in every version of numpy.
    return np.clip(np.rint(image + np.random.RandomState(seed).normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def pepper(image: np.ndarray, p: float, seed: int) -> np.ndarray:
    out = image.copy()
    out[np.random.RandomState(seed).random_sample(image.shape[:2]) < p] = 0
    return out


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    taps = np.exp(-(np.arange(-7, 8) ** 2) / (2 * sigma**2))
    padded = np.pad(image.astype(np.float64), ((7, 7), (7, 7), (0, 0)), mode="reflect")
    return np.rint(separable(padded, taps / taps.sum())).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    import io

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def down_up(image: np.ndarray, factor: int) -> np.ndarray:
    picture = Image.fromarray(image)
    small = picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC))


# Name: the clean picture, and how it is spoilt.
SPOILT = {
    "cat_noise18": ("cat", lambda x: noise(x, 18, 1)),
    "cat_blur": ("cat", lambda x: blur(x, 1.5)),
    "cat_same": ("cat", lambda x: x),
    "cat_one_level": ("cat", lambda x: x ^ (np.indices(x.shape).sum(0) == 150).astype(np.uint8)),
    "cat_brighter": ("cat", lambda x: np.minimum(x.astype(int) + 40, 255).astype(np.uint8)),
    "cat_negative": ("cat", lambda x: 255 - x),
    "face_jpeg10": ("face", lambda x: jpeg(x, 10)),
    "face_pepper": ("face", lambda x: pepper(x, 0.05, 2)),
    "cup_down_up": ("cup", lambda x: down_up(x, 4)),
    "cup_noise50": ("cup", lambda x: noise(x, 50, 3)),
    "launch_jpeg50": ("launch", lambda x: jpeg(x, 50)),
    "launch_black": ("launch", lambda x: np.zeros_like(x)),
    "strip_noise5": ("strip", lambda x: noise(x, 5, 4)),
    "tiny_noise": ("tiny", lambda x: noise(x, 25, 5)),
    "small_blur": ("small", lambda x: blur(np.pad(x, ((4, 4), (4, 4), (0, 0)), mode="reflect"), 0.8)[4:-4, 4:-4]),
}


def pictures() -> dict[str, np.ndarray]:
    made = {}
    for name, (photo, box) in CLEAN.items():
        made[name] = np.asarray(Image.open(PHOTOS / photo).convert("RGB").crop(box))
    for name, (clean, spoil) in SPOILT.items():
        made[name] = spoil(made[clean])
    return made


def separable(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Filters `[H, W, C]` along both axes, where the window lies inside."""
    windows = np.lib.stride_tricks.sliding_window_view
    return windows(windows(x, len(taps), 0) @ taps, len(taps), 1) @ taps


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a - b) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wang et al.: an 11×11 Gaussian of sigma 1.5, where it lies inside."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    mean_a, mean_b = separable(a, taps), separable(b, taps)
    variance_a = separable(a * a, taps) - mean_a**2
    variance_b = separable(b * b, taps) - mean_b**2
    covariance = separable(a * b, taps) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )


def luma(x: np.ndarray) -> np.ndarray:
    """MATLAB's BT.601, 16 to 235, not rounded: `[H, W, 1]`."""
    return (x @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[..., None]


def torchmetrics_formulas(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    padding = ((5, 5), (5, 5), (0, 0))
    padded = [np.pad(x, padding, mode="reflect") for x in (a, b)]
    return psnr(a, b), float(np.mean(ssim_map(*padded)))


def torchmetrics_package(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr_of
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim_of

    # Or it takes the logarithms of 255 and of 10 in f32, and is 4e-7 dB off for f64 images too.
    torch.set_default_dtype(torch.float64)
    a, b = (torch.from_numpy(x.transpose(2, 0, 1).copy())[None] for x in (a, b))
    return float(psnr_of(a, b, data_range=255.0)), float(ssim_of(a, b, data_range=255.0))


def has_torchmetrics() -> bool:
    try:
        import torchmetrics  # noqa: F401
    except ImportError:
        return False
    return True


def scores(spoilt: np.ndarray, clean: np.ndarray, with_package: bool) -> dict[str, float | None]:
    a, b = spoilt.astype(np.float64), clean.astype(np.float64)
    cut_a, cut_b = a[4:-4, 4:-4], b[4:-4, 4:-4]
    side = min(clean.shape[:2])
    lm4lv = psnr(cut_a, cut_b)
    from_torchmetrics = torchmetrics_formulas(a, b)
    if with_package:
        package = torchmetrics_package(a, b)
        assert all(near(x, y) for x, y in zip(package, from_torchmetrics)), (package, from_torchmetrics)
        from_torchmetrics = package
    with np.errstate(divide="ignore"):
        from_skimage = float(peak_signal_noise_ratio(clean, spoilt, data_range=255))
    return {
        "psnr.lm4lv": 100.0 if math.isinf(lm4lv) else lm4lv,
        "ssim.lm4lv": float(np.mean(ssim_map(cut_a, cut_b))) if side >= 19 else None,
        "psnr.basicsr_y": psnr(luma(a), luma(b)),
        "ssim.basicsr_y": float(np.mean(ssim_map(luma(a), luma(b)))) if side >= 11 else None,
        "psnr.skimage": from_skimage,
        "ssim.skimage": float(structural_similarity(clean, spoilt, data_range=255, channel_axis=-1)),
        "psnr.torchmetrics": from_torchmetrics[0],
        "ssim.torchmetrics": from_torchmetrics[1],
    }


def near(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and abs(a - b) <= 1e-9 * max(1, abs(b)))


def read(name: str) -> np.ndarray:
    return np.asarray(Image.open(FOLDER / f"{name}.png"))


def main() -> int:
    check = "--check" in sys.argv[1:]
    with_package = has_torchmetrics()
    if not with_package:
        print("torchmetrics is not installed: its scores are compared with the formulas only")
        if not check:
            return 64
    made = pictures()
    if not check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name, pixels in made.items():
            Image.fromarray(pixels).save(FOLDER / f"{name}.png", optimize=True)
    # Infinity has no JSON number: it is written as the string "inf".
    expected = {
        name: {"clean": clean, "scores": scores(read(name), read(clean), with_package)}
        for name, (clean, _) in SPOILT.items()
    }
    path = FOLDER / "scores.json"
    if not check:
        for pair in expected.values():
            pair["scores"] = {k: "inf" if v == math.inf else v for k, v in pair["scores"].items()}
        path.write_text(json.dumps(expected, indent=1) + "\n")
        print(f"wrote {len(made)} pictures and {path.relative_to(ROOT)}")
        return 0
    wrong = []
    for name, pixels in made.items():
        committed = read(name).astype(np.float64)
        if committed.shape != pixels.shape or np.sqrt(np.mean((committed - pixels) ** 2)) > 1:
            wrong.append(f"{name}.png")
    committed = json.loads(path.read_text())
    if committed.keys() != expected.keys():
        wrong.append("the list of pairs")
    for name in committed.keys() & expected.keys():
        for score, value in expected[name]["scores"].items():
            stored = committed[name]["scores"].get(score)
            if not near(math.inf if stored == "inf" else stored, value):
                wrong.append(f"{name} {score}: {stored} is stored, {value} found")
    print(f"{len(made)} pictures and {len(expected)} pairs compared, {len(wrong)} differ", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
