#!/usr/bin/env python3
"""Prints how hard the LM4LV presets are on a folder of photographs, beside the paper's figures and a reference in numpy.

    python scripts/calibration.py PHOTOS [--binary target/release/lm4lv] [--variants 4] [--keep DIR]

Runs the binary once for each of the seven presets (224x224 by Pillow's bicubic, PSNR and SSIM as LM4LV's evaluation), then
hands the datasets to `degradation_reference.py`, which does every row again in numpy from its recorded parameters and compares
the means. Exits 1 if they disagree.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TASKS = ["denoise", "deblur", "derain", "pepper", "mask", "rotate", "flip"]

PIPELINE = """
source: {{ folder: {{ path: "{photos}" }} }}
load: {{ resize: {{ size: 224 }} }}
degrade: {{ variants: {variants}, target: {target}, recipe: [ {{ preset: lm4lv.{task} }} ] }}
score: [psnr.lm4lv, ssim.lm4lv]
sink: {{ dir: {task} }}
run: {{ progress: none }}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=pathlib.Path)
    parser.add_argument("--binary", default=str(ROOT / "target" / "release" / "lm4lv"))
    parser.add_argument("--variants", type=int, default=4, help="draws of each random preset")
    parser.add_argument("--keep", type=pathlib.Path, help="make the datasets here and keep them")
    args = parser.parse_args()
    binary = pathlib.Path(args.binary).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for task in TASKS:
            turned = task in ("rotate", "flip")
            text = PIPELINE.format(
                photos=args.photos.resolve(),
                task=task,
                target="degraded" if turned else "source",
                variants=1 if turned else args.variants,
            )
            (folder / f"{task}.yaml").write_text(text)
            subprocess.run([binary, "run", f"{task}.yaml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        reference = ROOT / "scripts" / "degradation_reference.py"
        return subprocess.run([sys.executable, reference, *(folder / task for task in TASKS)]).returncode


if __name__ == "__main__":
    sys.exit(main())
