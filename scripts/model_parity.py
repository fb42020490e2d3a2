#!/usr/bin/env python3
"""Restores the same photographs with our program and with PyTorch, and compares pixels and PSNR.

    cargo build --release --locked
    python scripts/model_parity.py MODEL PHOTOS [PHOTOS ...] [--binary target/release/lm4lv] [--count 24] [--only mae_r,parallel-2]

MODEL is a model folder; the photographs are brought to its size, degraded with numpy's seeded noise (by a task's name: `…noise…` Gaussian noise
of sigma 18, `…mask…` a tenth of the 4×4 cells black) and written as PNG. Ours is

    lm4lv restore INPUTS -o OUT --model MODEL --task TASK --format folder ...

and PyTorch is `lm4lv_torch.py`, f32 on the CPU. Prints a Markdown table for each task: the autoencoder alone, autoregressive decoding, parallel decoding with a fixed
number of passes and with the defaults. Exit status 1 if outputs differ by more than one grey level on more than 0.1 % of the values, or mean PSNR by more than 0.02 dB.
With the default tolerance an image at the threshold may take a pass more on one side: there mean PSNR within 0.05 dB is asked for, and within 0.1 dB of autoregressive.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from PIL import Image

import lm4lv_torch as reference

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARALLEL = "restore.lm4lv.decoder.parallel"
# Name → arguments of ours, and the same for the reference.
HOW = {
    "mae_r": (["--restorer", "mae_r"], ("mae_r", {})),
    "linear": (["--restorer", "linear"], ("linear", {})),
    "vit_llm": (["--restorer", "vit_llm"], ("vit_llm", {})),
    "autoregressive": (["--decoder", "autoregressive"], ("autoregressive", {})),
    "parallel": (["--decoder", "parallel"], ("parallel", {})),
}
for passes in (1, 2, 3):
    given = ["--decoder", "parallel", "--set", f"{PARALLEL}.tolerance=0", "--set", f"{PARALLEL}.max_passes={passes}"]
    HOW[f"parallel-{passes}"] = (given, ("parallel", {"tolerance": 0.0, "max_passes": passes}))
DEFAULT = ["mae_r", "parallel-1", "parallel-2", "parallel", "autoregressive"]


def ours(binary, inputs, names, out, model, task, arguments):
    """Runs our program; restored images in the order of `names`, and seconds."""
    command = [binary, "restore", inputs, "-o", out, "--model", model, "--format", "folder", *arguments]
    if "mae_r" not in arguments:
        command += ["--task", task]
    began = time.monotonic()
    run = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    seconds = time.monotonic() - began
    if run.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit status {run.returncode}\n{run.stderr}")
    images = []
    for name in names:
        found = sorted(p for p in out.rglob(name) if p.is_file())
        if len(found) != 1:
            sys.exit(f"{out}: {len(found)} files named {name}\n{run.stderr}")
        images.append(np.asarray(Image.open(found[0]).convert("RGB")))
    return np.stack(images), seconds


def theirs(model, degraded, how, options, batch):
    """PyTorch's images, and seconds."""
    began = time.monotonic()
    parts = [model.restore(degraded[at : at + batch], how, **options) for at in range(0, len(degraded), batch)]
    return np.concatenate(parts), time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("photos", type=pathlib.Path, nargs="+")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/lm4lv")
    parser.add_argument("--count", type=int, default=24, help="photographs of each folder at most")
    parser.add_argument("--crop", action="store_true", help="cut the middle out instead of resizing all of it")
    parser.add_argument("--only", default=",".join(DEFAULT), help=f"of {', '.join(HOW)}")
    parser.add_argument("--tasks", help="of the model; default: all whose name says how to degrade")
    parser.add_argument("--batch", type=int, default=8, help="PyTorch's")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's")
    parser.add_argument("--keep", type=pathlib.Path, help="leave inputs and outputs here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hows = args.only.split(",")
    if unknown := [how for how in hows if how not in HOW]:
        parser.error(f"--only {', '.join(unknown)}: of {', '.join(HOW)}")

    models = reference.load_folder(args.model)
    kinds = {task: next((kind for kind in reference.DEGRADE if kind in task), None) for task in models}
    tasks = args.tasks.split(",") if args.tasks else [task for task, kind in kinds.items() if kind]
    side = next(iter(models.values())).side
    clean = np.concatenate([reference.photographs(folder, args.count, side, args.crop)[1] for folder in args.photos])
    names = [f"{i:03}.png" for i in range(len(clean))]
    work = args.keep or pathlib.Path(tempfile.mkdtemp(prefix="lm4lv-parity-"))

    wrong = []
    for task in tasks:
        rng = np.random.default_rng(0)
        degraded = np.stack([reference.DEGRADE[kinds[task]](image, rng) for image in clean])
        inputs = work / task / "inputs"
        inputs.mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, degraded):
            Image.fromarray(image).save(inputs / name)
        print(f"\n### {task}, {len(clean)} photographs, degraded {reference.mean_psnr(degraded, clean):.2f} dB\n")
        print("| | PyTorch, dB | lm4lv, dB | within 1 level | largest difference | PyTorch, s | lm4lv, s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        scores = {}
        for how in hows:
            arguments, (method, options) = HOW[how]
            out = work / task / how
            shutil.rmtree(out, ignore_errors=True)
            a, a_seconds = theirs(models[task], degraded, method, options, args.batch)
            b, b_seconds = ours(args.binary, inputs, names, out, args.model, task, arguments)
            if a.shape != b.shape:
                sys.exit(f"{task} {how}: PyTorch's images are {a.shape}, ours {b.shape}")
            difference = np.abs(a.astype(int) - b)
            within = float((difference <= 1).mean())
            scores[how] = x, y = reference.mean_psnr(a, clean), reference.mean_psnr(b, clean)
            print(f"| {how} | {x:.3f} | {y:.3f} | {within:.5%} | {difference.max()} | {a_seconds:.1f} | {b_seconds:.1f} |", flush=True)
            if how != "parallel" and within < 0.999:
                wrong.append(f"{task}, {how}: {within:.4%} of the values within one level")
            if abs(x - y) > (0.05 if how == "parallel" else 0.02):
                wrong.append(f"{task}, {how}: {x:.3f} dB and {y:.3f} dB")
        if {"parallel", "autoregressive"} <= set(hows) and abs(scores["parallel"][1] - scores["autoregressive"][1]) > 0.1:
            wrong.append(f"{task}: parallel {scores['parallel'][1]:.3f} dB, autoregressive {scores['autoregressive'][1]:.3f} dB")
    if not args.keep:
        shutil.rmtree(work)
    print("\n" + ("\n".join(wrong) or "the two agree"))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
