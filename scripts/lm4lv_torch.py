#!/usr/bin/env python3
"""LM4LV in PyTorch (f32, CPU), written to be read: what our Rust is compared with. A module for the other scripts; run, it makes a table.

    pip install torch transformers safetensors gguf tokenizers pillow numpy
    python scripts/lm4lv_torch.py --mae DIR --llm FILE.gguf --adapter noise=FILE --adapter mask=FILE --photos DIR [--count 24]
    python scripts/lm4lv_torch.py --llm FILE.gguf --tokenizer-json OUT.json      # rebuilds the tokenizer that a GGUF file carries

The first form degrades the photographs (resized to the model's size with Pillow, numpy's seeded noise) and prints PSNR on RGB, 4 pixels
cropped: degraded, the autoencoder alone, autoregressive decoding, and parallel decoding by passes and by tolerance.

The model is that of arXiv 2405.15734 with transformers' `ViTMAEForPreTraining` (masking off) and `LlamaModel`. B images, N tokens an
image (patches + 1), C the autoencoder's width, H the language model's:

    features = encoder(pixels)                                     [B, N, C]
    prompt   = before | adapter(features) | between | task | after [B, P, H]
    token i  = deadapter(hidden state of the position before it)   [B, C], its own input embedding is adapter(token i)
    output   = decoder(tokens)                                     [B, 3, S, S]
"""

import argparse
import collections
import itertools
import json
import pathlib
import re
import sys

import numpy as np
import torch
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
ADAPTER = ["adapter.weight", "adapter.bias", "deadapter.weight", "deadapter.bias", "learnable_task_token"]

# Ids of the pieces before V, between V and T, and after T (see `Prompt`).
Prompt = collections.namedtuple("Prompt", "before between after")
SMOLLM2 = Prompt(
    before=[1, 3757, 4996, 42, 2067, 2777, 87, 46],
    between=[9617, 2777, 87, 46, 216],
    after=[198, 3757, 20108, 42, 216, 44, 2777, 87, 46],
)

# ---- files -------------------------------------------------------------------------------------------------------------------


def quietly():
    """transformers without progress bars and without its list of tensors that were not wanted."""
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_mae(folder):
    """A Hugging Face `ViTMAEForPreTraining` folder, masking off."""
    from transformers import ViTMAEForPreTraining

    quietly()
    mae = ViTMAEForPreTraining.from_pretrained(folder, dtype=torch.float32).eval()
    mae.config.mask_ratio = 0.0
    return mae


def load_llm(path):
    """A Hugging Face LLaMA folder or a GGUF file, as a `LlamaModel` (no head: LM4LV generates features, not words)."""
    from transformers import LlamaModel

    quietly()
    path = pathlib.Path(path)
    if path.suffix != ".gguf":
        return LlamaModel.from_pretrained(path, dtype=torch.float32).eval()
    config, tensors = read_gguf(path)
    llm = LlamaModel(config)
    llm.load_state_dict(tensors)
    return llm.eval()


def gguf_value(reader, key, default=None):
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def read_gguf(path):
    """`LlamaConfig` and the dequantised tensors, named as in Hugging Face's files.

    A GGUF file holds the rows of q and k of each head as pairs (0, d/2), (1, d/2 + 1), …, for rope on neighbours; Hugging Face rotates
    halves against each other, so they are put back.
    """
    import gguf
    from transformers import LlamaConfig

    reader = gguf.GGUFReader(path)
    arch = gguf_value(reader, "general.architecture")
    if arch != "llama":
        raise ValueError(f"{path}: architecture {arch}, not llama")
    heads = int(gguf_value(reader, "llama.attention.head_count"))
    kv_heads = int(gguf_value(reader, "llama.attention.head_count_kv", heads))
    width = int(gguf_value(reader, "llama.embedding_length"))

    def unpermute(w, heads):
        return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)

    parts = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    tensors = {}
    for t in reader.tensors:
        w = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", t.name)
        if layer:
            if layer[2] == "attn_q":
                w = unpermute(w, heads)
            elif layer[2] == "attn_k":
                w = unpermute(w, kv_heads)
            name = f"layers.{layer[1]}.{parts[layer[2]]}.weight"
        elif t.name in ("output.weight", "rope_freqs.weight"):
            continue
        else:
            name = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}[t.name]
        tensors[name] = torch.from_numpy(np.ascontiguousarray(w))
    # A model folder may keep the prompt's embeddings only, in a file of their own.
    tensors.setdefault("embed_tokens.weight", torch.zeros(1, width))
    config = LlamaConfig(
        vocab_size=tensors["embed_tokens.weight"].shape[0],
        hidden_size=width,
        intermediate_size=int(gguf_value(reader, "llama.feed_forward_length")),
        num_hidden_layers=int(gguf_value(reader, "llama.block_count")),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=int(gguf_value(reader, "llama.attention.key_length", width // heads)),
        rms_norm_eps=float(gguf_value(reader, "llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": float(gguf_value(reader, "llama.rope.freq_base", 10000.0))},
        max_position_embeddings=int(gguf_value(reader, "llama.context_length")),
        pad_token_id=None,
    )
    return config, tensors


def load_adapter(path):
    """`.safetensors`, or the authors' `.pt`; f32. Names that are not an adapter's are an error (`query` may be there)."""
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    unknown = sorted(set(tensors) - {*ADAPTER, "query"})
    missing = sorted(set(ADAPTER) - set(tensors))
    if unknown or missing:
        raise ValueError(f"{path}: unknown {unknown}, missing {missing}")
    return {name: t.float() for name, t in tensors.items()}


def load_folder(folder):
    """A model folder (`model.json`) → task's name → `Lm4lv`; they share the frozen parts."""
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "model.json").read_text())
    mae, llm = load_mae(folder / manifest["mae"]), load_llm(folder / manifest["llm"]["path"])
    prompt = Prompt(**{part: manifest["prompt"][part] for part in Prompt._fields})
    table = None
    if manifest["llm"].get("embeddings"):
        kept = load_file(folder / manifest["llm"]["embeddings"])
        table = torch.zeros(int(kept["ids"].max()) + 1, kept["embeddings"].shape[1])
        table[kept["ids"].long()] = kept["embeddings"].float()
    tasks = {name: load_adapter(folder / task["adapter"]) for name, task in manifest["tasks"].items()}
    return {name: Lm4lv(mae, llm, adapter, prompt, table) for name, adapter in tasks.items()}


def tokenizer_from_gguf(path):
    """The byte-level BPE tokenizer that a GGUF file carries, as `tokenizers.Tokenizer`.

    `tokenizer.ggml.tokens` in the order of their ids and `tokenizer.ggml.merges` are those of the `tokenizer.json` that the file was made
    from; tokens of type 3 (control) are its special added tokens, type 4 (user defined) its other ones. How text is cut before the merges is not in the file
    but named (`tokenizer.ggml.pre`): `smollm` puts each digit by itself, then splits by GPT-2's pattern. There is no normaliser.
    """
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    reader = gguf.GGUFReader(path)
    model, pre = gguf_value(reader, "tokenizer.ggml.model"), gguf_value(reader, "tokenizer.ggml.pre")
    if (model, pre) != ("gpt2", "smollm"):
        raise ValueError(f"{path}: tokenizer {model}/{pre}, only gpt2/smollm is known here")
    tokens = gguf_value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in gguf_value(reader, "tokenizer.ggml.merges")]
    types = gguf_value(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == 4])
    return tokenizer


def prompt_ids(tokenizer, bos, before=("### Human: ", "<Img>"), between=("</Img> ",), after=("\n### Assistant: ", "<Img>")):
    """`Prompt` of text pieces, each tokenised by itself without special tokens."""

    def ids(pieces):
        return [i for piece in pieces for i in tokenizer.encode(piece, add_special_tokens=False).ids]

    return Prompt([bos, *ids(before)], ids(between), ids(after))


# ---- images ------------------------------------------------------------------------------------------------------------------


def load_image(path, side, crop=False):
    """Image file → `[side, side, 3]` u8: Pillow's bicubic, the aspect ratio ignored; or cut out of its middle."""
    image = Image.open(path).convert("RGB")
    if crop:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return np.asarray(image.crop((left, top, left + side, top + side)))
    return np.asarray(image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC))


def pixel_values(images):
    """`[B, S, S, 3]` u8 → normalised `[B, 3, S, S]` f32."""
    x = (np.asarray(images, np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def add_noise(image, rng, sigma=18.0):
    return np.clip(image + rng.normal(0.0, sigma, image.shape), 0, 255).round().astype(np.uint8)


def mask_cells(image, rng, cell=4, share=0.1):
    """A tenth of the cells black, each drawn by itself."""
    height, width = image.shape[:2]
    black = rng.random((-(-height // cell), -(-width // cell))) < share
    return np.where(black.repeat(cell, 0).repeat(cell, 1)[:height, :width, None], 0, image).astype(np.uint8)


DEGRADE = {"noise": add_noise, "mask": mask_cells}


def psnr(a, b, crop=4):
    """dB on RGB u8, `crop` pixels of border left out, 100 for identical images."""
    a, b = (np.asarray(x, np.float64)[crop:-crop, crop:-crop] for x in (a, b))
    error = np.mean((a - b) ** 2)
    return 100.0 if error == 0 else 10 * np.log10(255.0**2 / error)


# ---- the model ---------------------------------------------------------------------------------------------------------------


class Lm4lv:
    """The parts together. All methods take and give batches, f32, without gradients."""

    def __init__(self, mae, llm, adapter, prompt, embeddings=None):
        """`embeddings`: `[vocabulary, H]`, where not the language model's own."""
        self.mae, self.llm = mae, llm
        self.side = mae.config.image_size
        self.tokens = (self.side // mae.config.patch_size) ** 2 + 1
        self.adapter, self.prompt_ids = adapter, prompt
        if llm is not None:
            table = llm.embed_tokens.weight.detach() if embeddings is None else embeddings
            self.embedded = [table[torch.tensor(ids)][None] for ids in prompt]

    # Autoencoder and adapters.

    @torch.inference_mode()
    def encode(self, pixels):
        """`[B, 3, S, S]` → features `[B, N, C]`, CLS first."""
        order = torch.arange(self.tokens - 1, dtype=torch.float32).expand(len(pixels), -1)
        return self.mae.vit(pixels, noise=order).last_hidden_state

    @torch.inference_mode()
    def decode(self, tokens):
        """`[B, N, C]` → `[B, 3, S, S]` in [0, 1]."""
        order = torch.arange(self.tokens - 1).expand(len(tokens), -1)
        patches = self.mae.decoder(tokens, order).logits
        image = self.mae.unpatchify(patches)
        mean, std = (torch.from_numpy(x)[:, None, None] for x in (MEAN, STD))
        return (image * std + mean).clamp(0, 1)

    @staticmethod
    def quantize(image):
        """`[B, 3, S, S]` in [0, 1] → `[B, S, S, 3]` u8, cut off as the authors do."""
        return (image * 255).floor().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def adapt(self, tokens):
        return torch.nn.functional.linear(tokens, self.adapter["adapter.weight"], self.adapter["adapter.bias"])

    def deadapt(self, hidden):
        return torch.nn.functional.linear(hidden, self.adapter["deadapter.weight"], self.adapter["deadapter.bias"])

    # Language model.

    @torch.inference_mode()
    def prompt(self, features):
        """Features of the degraded images → `[B, P, H]`."""
        batch = len(features)
        before, between, after = (e.expand(batch, -1, -1) for e in self.embedded)
        task = self.adapter["learnable_task_token"].expand(batch, -1, -1)
        return torch.cat([before, self.adapt(features), between, task, after], 1)

    @torch.inference_mode()
    def hidden(self, embeddings, cache=None):
        """One causal pass: `[B, T, H]` → hidden states after the final RMSNorm `[B, T, H]`; behind the `cache`, which grows by them."""
        out = self.llm(inputs_embeds=embeddings, past_key_values=cache, use_cache=cache is not None)
        return out.last_hidden_state

    @torch.inference_mode()
    def autoregressive(self, features):
        """Visual tokens `[B, N, C]`, one after the other."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.llm.config)
        last = self.hidden(self.prompt(features), cache)[:, -1:]
        tokens = [self.deadapt(last)]
        while len(tokens) < self.tokens:
            last = self.hidden(self.adapt(tokens[-1]), cache)
            tokens.append(self.deadapt(last))
        return torch.cat(tokens, 1)

    @torch.inference_mode()
    def passes(self, features):
        """Yields the tokens `[B, N, C]` after pass 1, 2, 3, … of parallel decoding, from the degraded images' own tokens."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.llm.config)
        prompt, guess = self.prompt(features), features
        length = prompt.shape[1]
        # The output at the prompt's last position is token 0, that at token i token i + 1: the last guess is never looked at.
        hidden = self.hidden(torch.cat([prompt, self.adapt(guess[:, :-1])], 1), cache)
        tokens = self.deadapt(hidden[:, length - 1 :])
        while True:
            yield tokens
            cache.crop(length - cache.get_seq_length())
            hidden = self.hidden(self.adapt(tokens[:, :-1]), cache)
            tokens = torch.cat([tokens[:, :1], self.deadapt(hidden)], 1)

    def parallel(self, features, tolerance=0.05, max_passes=8):
        """Tokens and the passes that each image took: it is done when a pass moves its tokens by less than `tolerance` (root mean square)."""
        done = torch.zeros(len(features), dtype=torch.bool)
        taken = torch.zeros(len(features), dtype=torch.int64)
        tokens = features.clone()
        for number, fresh in enumerate(itertools.islice(self.passes(features), max_passes), 1):
            moved = (fresh - tokens).square().mean((1, 2)).sqrt()
            taken[~done] = number
            tokens = torch.where(done[:, None, None], tokens, fresh)
            done |= moved < tolerance
            if done.all():
                break
        return tokens, taken

    # Restoring, variant by variant: features → tokens.

    def linear(self, features):
        return self.deadapt(self.adapt(features))

    def vit_llm(self, features):
        """One pass over prompt and queries: the adapter file's `query` `[1, N, H]`, or zeros."""
        prompt = self.prompt(features)
        query = self.adapter.get("query", torch.zeros(1, self.tokens, prompt.shape[2])).expand(len(prompt), -1, -1)
        return self.deadapt(self.hidden(torch.cat([prompt, query], 1))[:, prompt.shape[1] :])

    def restore(self, images, how="parallel", **options):
        """`[B, S, S, 3]` u8 → the same, restored; `how`: mae_r, linear, vit_llm, autoregressive or parallel."""
        features = self.encode(pixel_values(images))
        if how == "mae_r":
            tokens = features
        elif how == "parallel":
            tokens, _ = self.parallel(features, **options)
        else:
            tokens = getattr(self, how)(features)
        return self.quantize(self.decode(tokens))


# ---- the table ---------------------------------------------------------------------------------------------------------------


def photographs(folder, count, side, crop=False):
    files = sorted(p for p in pathlib.Path(folder).iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    return [p.name for p in files[:count]], np.stack([load_image(p, side, crop) for p in files[:count]])


def mean_psnr(images, clean):
    return float(np.mean([psnr(a, b) for a, b in zip(images, clean)]))


def table(model, clean, task, upto, seed=0):
    """Prints the rows of one task."""
    rng = np.random.default_rng(seed)
    degraded = np.stack([DEGRADE[task](x, rng) for x in clean])
    parts = []
    for at in range(0, len(clean), 8):
        features = model.encode(pixel_values(degraded[at : at + 8]))
        # [pass, B, N, C], the guess as pass 0; then the exact tokens.
        parts.append((torch.stack([features, *itertools.islice(model.passes(features), upto)]), model.autoregressive(features)))
        print(f"{task}: {at + len(features)} of {len(clean)}", file=sys.stderr, flush=True)
    seen, exact = torch.cat([p for p, _ in parts], 1), torch.cat([e for _, e in parts])

    def row(name, tokens, passes):
        score = mean_psnr(model.quantize(model.decode(tokens)), clean)
        print(f"| {name} | {score:.3f} | {passes} | {(tokens - exact).square().mean().sqrt():.4f} |", flush=True)

    print(f"\n### {task}, {len(clean)} photographs\n")
    print("| | PSNR, dB | passes, mean | distance to autoregressive, rms |\n| --- | ---: | ---: | ---: |")
    print(f"| degraded | {mean_psnr(degraded, clean):.3f} | | |")
    row("mae_r", seen[0], "")
    row("autoregressive", exact, f"{model.tokens} steps")
    for k in sorted({1, 2, 3, 4, 5, 8, upto}):
        if k <= upto:
            row(f"parallel, {k}", seen[k], k)
    moved = (seen[1:] - seen[:-1]).square().mean((2, 3)).sqrt()  # [pass, B]
    for tolerance in (0.005, 0.01, 0.02, 0.03, 0.05, 0.1):
        below = moved < tolerance
        taken = torch.where(below.any(0), below.int().argmax(0), torch.tensor(upto - 1)) + 1
        tokens = torch.stack([seen[k, i] for i, k in enumerate(taken.tolist())])
        row(f"parallel, tolerance {tolerance}, at most {upto}", tokens, f"{taken.float().mean():.2f}")
    print("\nMean movement of pass 1, 2, …: " + ", ".join(f"{x:.4f}" for x in moved.mean(1).tolist()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mae", type=pathlib.Path)
    parser.add_argument("--llm", type=pathlib.Path, required=True)
    parser.add_argument("--adapter", action="append", default=[], metavar="TASK=FILE", help=f"tasks: {', '.join(DEGRADE)}")
    parser.add_argument("--photos", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--passes", type=int, default=8, help="cap of the parallel decoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokenizer-json", type=pathlib.Path, help="write the GGUF file's tokenizer here, and check the prompt's ids")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.tokenizer_json:
        tokenizer = tokenizer_from_gguf(args.llm)
        tokenizer.save(str(args.tokenizer_json))
        ids = prompt_ids(tokenizer, 1, before=("### Human: <Img>",))
        print(json.dumps({"as trained": ids._asdict(), "separately": prompt_ids(tokenizer, 1)._asdict()}))
        return int(ids != SMOLLM2)
    mae, llm = load_mae(args.mae), load_llm(args.llm)
    _, clean = photographs(args.photos, args.count, mae.config.image_size)
    for task, file in (x.split("=", 1) for x in args.adapter):
        table(Lm4lv(mae, llm, load_adapter(file), SMOLLM2), clean, task, args.passes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
