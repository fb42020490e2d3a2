#!/usr/bin/env python3
"""Cuts a byte-level `tokenizer.json` down to what some texts need, with the texts' ids by the whole one: a fixture of a few kB.

    pip install tokenizers
    python scripts/lm4lv_torch.py --llm SmolLM2-135M-Instruct.Q4_1.gguf --tokenizer-json tokenizer.json
    python scripts/make_tokenizer_fixture.py tokenizer.json [--check]

SmolLM2's (Apache-2.0, Hugging Face) has 49,152 tokens. Here all merges stay whose product is a part of a text, in their order, and all
ids are the original's, so that the texts' ids are too: that is asserted. `--check` compares with the committed files and writes nothing.
"""

import argparse
import json
import pathlib
import sys

from tokenizers import Tokenizer

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "tokenizer"
PROMPT = ["### Human: ", "### Human: <Img>", "<Img>", "</Img> ", "\n### Assistant: "]
OTHERS = ["", " ", "  \n\t", "It's 2024: naïve cafés, 3.14 € 日本", "Human", " Human", "<|im_start|>user\nHi<|im_end|>", "\r\n\x00 🙂"]


def cut(whole, texts):
    """The `tokenizer.json` with the tokens that `texts` need."""
    pre = Tokenizer.from_str(json.dumps(whole)).pre_tokenizer
    words = {word for text in texts for word, _ in pre.pre_tokenize_str(text)}
    model = whole["model"]
    keep = {char for word in words for char in word} | {token["content"] for token in whole["added_tokens"]}
    merges = [pair for pair in model["merges"] if any("".join(pair) in word for word in words)]
    keep |= {part for pair in merges for part in (*pair, "".join(pair))}
    vocab = {token: number for token, number in model["vocab"].items() if token in keep}
    return whole | {"model": model | {"vocab": vocab, "merges": merges}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    texts = PROMPT + OTHERS
    whole = json.loads(args.tokenizer.read_text())
    small = cut(whole, texts)
    ids, again = ([Tokenizer.from_str(json.dumps(t)).encode(x, add_special_tokens=False).ids for x in texts] for t in (whole, small))
    assert ids == again, "the cut tokenizer makes other ids"
    files = {
        "smollm2.json": json.dumps(small, ensure_ascii=True, indent=0) + "\n",
        "smollm2_ids.json": json.dumps([{"text": x, "ids": i} for x, i in zip(texts, ids)], indent=1) + "\n",
    }
    if args.check:
        different = [name for name, text in files.items() if (FIXTURES / name).read_text() != text]
        print(f"{len(files)} files, {len(different)} differ: {', '.join(different) or 'none'}")
        return int(bool(different))
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (FIXTURES / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
