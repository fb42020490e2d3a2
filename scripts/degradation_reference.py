#!/usr/bin/env python3
"""Checks the LM4LV presets against an independent implementation in numpy, scipy and OpenCV.

    degradation_reference.py DATASET [DATASET ...] [--tolerance-random 0.15 0.01] [--repeat 4] [--json]

Each DATASET was written by `lm4lv run` from one preset without resizing between source and target (PNG columns), with
the scores psnr.lm4lv and ssim.lm4lv. For every row the degradation is done again here, from the row's clean image, by the
textbook formula and with the parameters that the row recorded, but with numpy's own random numbers. Then the mean PSNR and
SSIM over the dataset must agree: within 0.05 dB and 0.003 where nothing but the parameters is random, within 0.15 dB and
0.01 where pixels are. So that the difference shows the implementation and not the draw, the random ones are drawn
`--repeat` times over here, and are best run with some `variants` there.

Prints a table, with the figures of the LM4LV paper beside (calibrated presets: for reading, not a check), and exits 1
if something disagrees. Needs numpy, scipy, opencv-python, pillow and pyarrow.
"""

import argparse
import io
import json
import pathlib
import sys

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

import basicsr_scores

PAPER = {
    "denoise": (23.11, 0.49),
    "deblur": (30.88, 0.83),
    "derain": (20.52, 0.84),
    "pepper": (19.22, 0.51),
    "mask": (20.54, 0.83),
}
TASK = {
    "gaussian_noise": "denoise",
    "gaussian_blur": "deblur",
    "rain": "derain",
    "pepper": "pepper",
    "mask": "mask",
    "rotate": "rotate",
    "flip": "flip",
}
RANDOM = {"denoise", "derain", "pepper", "mask"}


# Each takes x, [H, W, 3] f64 in [0, 1], the recorded parameters, and a numpy generator.


def gaussian_noise(x, params, rng):
    if params["mode"] == "per_channel":
        noise = rng.normal(0.0, 1.0, x.shape)
    elif params["mode"] == "gray":
        noise = rng.normal(0.0, 1.0, x.shape[:2] + (1,))
    else:
        raise ValueError(f"no reference for mode {params['mode']}")
    return x + params["sigma"] / 255.0 * noise


def gaussian_blur(x, params, _):
    sigma_x, sigma_y = params.get("sigma_x", params.get("sigma")), params.get("sigma_y", params.get("sigma"))
    half = params["k"] // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    theta = np.deg2rad(params["theta"])
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    inverse = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    at = np.stack([u, v], axis=-1)
    kernel = np.exp(-0.5 * np.einsum("ijk,kl,ijl->ij", at, inverse, at))
    kernel /= kernel.sum()
    # scipy's `mirror` is OpenCV's reflect101.
    return np.stack([ndimage.convolve(x[..., c], kernel, mode="mirror") for c in range(3)], axis=-1)


def rain(x, params, rng):
    """PromptGIP's rain with OpenCV's own filters and warp."""
    length, width = params["length"], params["width"]
    streak = cv2.warpAffine(
        np.eye(length),
        cv2.getRotationMatrix2D((length / 2, length / 2), params["theta"] - 45, 1 - length / 100),
        (length, length),
    )
    streak = cv2.GaussianBlur(streak, (width, width), 0)
    bump = np.array([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]])
    for _ in range(params["layers"]):
        drops = rng.uniform(0, 256, x.shape[:2])
        drops[drops < 256 - params["value"] / 100] = 0
        rain = cv2.filter2D(cv2.filter2D(drops, -1, bump), -1, streak)
        span = rain.max() - rain.min()
        r = ((rain - rain.min()) / (span if span > 0 else 1))[..., None]
        x = x * (1 - r if params["blend"] == "alpha" else 1) + params["gain"] * r
    return x


def pepper(x, params, rng):
    shape = x.shape if params["mode"] == "per_channel" else x.shape[:2] + (1,)
    return np.where(rng.random(shape) < params["p"], params["fill"] / 255.0, x)


def mask(x, params, rng):
    if params["shape"] != "grid" or not isinstance(params["fill"], (int, float)):
        raise ValueError(f"no reference for {params}")
    cell, (height, width) = params["cell"], x.shape[:2]
    cells = rng.random((-(-height // cell), -(-width // cell))) < params["ratio"]
    covered = np.kron(cells, np.ones((cell, cell), bool))[:height, :width]
    return np.where(covered[..., None], params["fill"] / 255.0, x)


def rotate(x, params, _):
    if params["angle"] % 90:
        raise ValueError("no reference for angles that are no multiple of 90 degrees")
    return np.rot90(x, -int(params["angle"] // 90))


def flip(x, params, _):
    return {
        "horizontal": lambda: x[:, ::-1],
        "vertical": lambda: x[::-1],
        "transpose": lambda: x.transpose(1, 0, 2),
    }[params["direction"]]()


OPERATIONS = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "rain": rain,
    "pepper": pepper,
    "mask": mask,
    "rotate": rotate,
    "flip": flip,
}


def degraded(clean, ops, rng):
    """`clean` ([H, W, 3] uint8) after `ops` (pairs of name and parameters), uint8, rounded once at the end."""
    x = clean.astype(np.float64) / 255.0
    for name, params in ops:
        x = OPERATIONS[name](x, params, rng)
    return np.floor(np.clip(x, 0, 1) * 255.0 + 0.5).astype(np.uint8)


def rows(dataset):
    """(key and variant, clean image, other image, operations, our PSNR, our SSIM) of every row that succeeded."""
    import pyarrow.parquet as pq

    columns = ["key", "variant", "status", "ops", "input", "target", "input_psnr_lm4lv", "input_ssim_lm4lv"]
    for path in sorted((pathlib.Path(dataset) / "data").rglob("*.parquet")):
        for row in pq.read_table(path, columns=columns, partitioning=None).to_pylist():
            if row["status"] != "success":
                continue
            ops = [(op["op"], json.loads(op["params"])) for op in row["ops"] if not op["step"].startswith("load.")]
            # For rotate and flip the input is the source and the target is the degraded image.
            turned = all(name in ("rotate", "flip") for name, _ in ops)
            clean, other = (row["input"], row["target"]) if turned else (row["target"], row["input"])
            pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in (clean, other)]
            yield (row["key"], row["variant"]), *pixels, ops, row["input_psnr_lm4lv"], row["input_ssim_lm4lv"]


def compare(rows, repeat, seed=0):
    """A row of the table: means, standard errors and differences, over rows as `rows` gives them."""
    ours, theirs, task, wrong = [], [], None, []
    for n, (name, clean, other, ops, psnr, ssim) in enumerate(rows):
        task = TASK[ops[-1][0]] if ops else "identity"
        times = repeat if task in RANDOM else 1
        made = [degraded(clean, ops, np.random.default_rng([seed, n, i])) for i in range(times)]
        if task in ("rotate", "flip"):
            if not np.array_equal(made[0], other):
                wrong.append(f"{name}: not the same pixels")
            if made[0].shape != clean.shape:
                continue
        theirs.append(np.mean([[basicsr_scores.psnr(m, clean), basicsr_scores.ssim(m, clean)] for m in made], axis=0))
        again = (basicsr_scores.psnr(other, clean), basicsr_scores.ssim(other, clean))
        if psnr is not None:
            ours.append((psnr, ssim))
            if abs(psnr - again[0]) > 1e-6 or abs(ssim - again[1]) > 1e-5:
                wrong.append(f"{name}: recorded {psnr:.6f}/{ssim:.6f}, of the pixels {again[0]:.6f}/{again[1]:.6f}")
        else:
            ours.append(again)
    ours, theirs = np.array(ours).reshape(-1, 2), np.array(theirs).reshape(-1, 2)
    n = len(ours)
    error = lambda values: values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(2)
    return {
        "task": task,
        "n": n,
        "ours": ours.mean(axis=0) if n else np.full(2, np.nan),
        "ours_error": error(ours),
        "reference": theirs.mean(axis=0) if n else np.full(2, np.nan),
        "reference_error": error(theirs),
        "difference": (ours - theirs).mean(axis=0) if n else np.zeros(2),
        "difference_error": error(ours - theirs),
        "wrong": wrong,
    }


def report(results, random_tolerance, as_json=False):
    """Prints the table; True if all agree."""
    good = True
    lines = []
    for r in results:
        random = r["task"] in RANDOM
        tolerance = np.array(random_tolerance if random else (0.05, 0.003))
        agrees = not r["wrong"] and bool(np.all(np.abs(r["difference"]) <= tolerance))
        good &= agrees
        lines.append((r, tolerance, agrees))
    if as_json:
        plain = lambda v: v.tolist() if isinstance(v, np.ndarray) else v
        print(json.dumps([{k: plain(v) for k, v in r.items()} | {"agrees": a} for r, _, a in lines], indent=2))
        return good
    print(f"{'task':<8} {'n':>5}  {'PSNR ours':>15} {'reference':>15} {'diff':>8} {'paper':>6}"
          f"   {'SSIM ours':>15} {'reference':>15} {'diff':>8} {'paper':>6}")
    for r, tolerance, agrees in lines:
        cells = [f"{r['task'] or '-':<8} {r['n']:>5} "]
        for i, digits in ((0, 2), (1, 4)):
            pair = lambda name: f"{r[name][i]:.{digits}f} ± {r[name + '_error'][i]:.{digits}f}"
            paper = PAPER.get(r["task"])
            cells.append(f" {pair('ours'):>15} {pair('reference'):>15} {r['difference'][i]:>+8.{digits + 1}f}"
                         f" {'-' if paper is None else f'{paper[i]:.2f}':>6} ")
        print("".join(cells), "" if agrees else f"  DIFFERS (allowed {tolerance[0]:.3f} dB, {tolerance[1]:.4f})")
        for line in r["wrong"][:5]:
            print("   ", line)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="a folder written by lm4lv run, one preset each")
    parser.add_argument("--tolerance-random", nargs=2, type=float, default=(0.15, 0.01), metavar=("DB", "SSIM"))
    parser.add_argument("--repeat", type=int, default=4, help="draws of each random degradation (default 4)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = [compare(rows(dataset), options.repeat) for dataset in options.datasets]
    return 0 if report(results, options.tolerance_random, options.json) else 1


if __name__ == "__main__":
    sys.exit(main())
