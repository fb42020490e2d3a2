#!/usr/bin/env python3
"""Times a model folder in our program and in PyTorch, in turn, and prints a Markdown table: f32, the same batch, the same cores.

    cargo build --release --locked
    python scripts/model_peers.py MODEL [--batch 8] [--threads 2] [--rounds 5] [--runs 1] [--compile] [--without-transformers] [--binary target/release/lm4lv]

Ours is `lm4lv bench model MODEL --json`. PyTorch's side is what somebody would write who wants it fast, given our decoder: `inference_mode`; the
language model by hand on `scaled_dot_product_attention`, q, k and v in one product, gate and up in one, and a key/value cache allocated once, with
nothing computed twice; transformers' modules for the autoencoder. Its answers are first compared with `lm4lv_torch.py`'s. `--compile` adds a
column: the same through `torch.compile` with weights frozen (minutes of compiling, not counted). The column `transformers` is its own `LlamaModel`, with the
cache that it offers. Which of PyTorch's ways of attention to use (`enable_gqa` or repeated heads) is tried out first, the faster one is taken.

Rounds alternate between the sides; medians of the rounds' medians. Steps, for B images, P positions of prompt and N tokens:

    encoder      [B, 3, S, S] → [B, N, C]
    prefill      the prompt, B × P
    pass 1       prompt and tokens together, B × (P + N − 1)
    later pass   tokens behind the prompt's cache, B × (N − 1)
    one step     one token behind P + N / 2 others, B × 1
    decoder      [B, N, C] → pixels
    parallel-k   images to images, k passes; autoregressive: from the steps (encoder, prefill, N − 1 steps, decoder)
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

import lm4lv_torch as reference

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = ["encoder", "prefill", "pass 1", "later pass", "one step", "decoder"]
WHOLE = ["parallel-1", "parallel-2", "autoregressive"]


class Llama:
    """A LLaMA for speed: fused products, a cache that is written in place."""

    def __init__(self, llm, batch, length, grouped=True):
        c = llm.config
        self.heads, self.kv, self.d = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.eps, self.grouped = c.rms_norm_eps, grouped or self.heads == self.kv
        self.layers = []
        for layer in llm.layers:
            a, m = layer.self_attn, layer.mlp
            self.layers.append(
                {
                    "norm": layer.input_layernorm.weight.detach(),
                    "qkv": torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]).detach().contiguous(),
                    "out": a.o_proj.weight.detach(),
                    "mlp_norm": layer.post_attention_layernorm.weight.detach(),
                    "gate_up": torch.cat([m.gate_proj.weight, m.up_proj.weight]).detach().contiguous(),
                    "down": m.down_proj.weight.detach(),
                }
            )
        self.norm = llm.norm.weight.detach()
        self.cache = torch.zeros(len(self.layers), 2, batch, self.kv, length, self.d)
        frequencies = c.rope_parameters["rope_theta"] ** (-torch.arange(0, self.d, 2).float() / self.d)
        angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.sin[:, : self.d // 2] *= -1
        self.masks = {}

    def mask(self, at, length):
        """What a position may look at; None where SDPA's own causal mask or none does."""
        if at == 0 or length == 1:
            return None
        if (at, length) not in self.masks:
            allowed = torch.ones(length, at + length, dtype=torch.bool).tril(at)
            self.masks[at, length] = torch.zeros(length, at + length).masked_fill(~allowed, float("-inf"))
        return self.masks[at, length]

    def forward(self, x, at, mask):
        batch, length, _ = x.shape
        cos, sin = self.cos[at : at + length], self.sin[at : at + length]
        both = self.heads + self.kv
        for index, w in enumerate(self.layers):
            h = F.linear(F.rms_norm(x, x.shape[-1:], w["norm"], self.eps), w["qkv"])
            h = h.view(batch, length, -1, self.d).transpose(1, 2)  # [B, heads + 2 kv, T, d]
            turned = h[:, :both]
            turned = turned * cos + torch.roll(turned, self.d // 2, -1) * sin
            keys, values = self.cache[index, :, :, :, : at + length]
            keys[:, :, at:] = turned[:, self.heads :]
            values[:, :, at:] = h[:, both:]
            if not self.grouped:
                keys, values = (t.repeat_interleave(self.heads // self.kv, 1) for t in (keys, values))
            a = F.scaled_dot_product_attention(
                turned[:, : self.heads],
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None and length > 1,
                enable_gqa=self.grouped and self.heads != self.kv,
            )
            x = x + F.linear(a.transpose(1, 2).reshape(batch, length, -1), w["out"])
            gate, up = F.linear(F.rms_norm(x, x.shape[-1:], w["mlp_norm"], self.eps), w["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)

    def __call__(self, x, at):
        return self.forward(x, at, self.mask(at, x.shape[1]))


class Peer:
    """PyTorch's side: each step as a function without arguments."""

    def __init__(self, model, batch, grouped, compiled=False):
        self.model, self.batch = model, batch
        self.pixels = torch.randn(batch, 3, model.side, model.side)
        with torch.inference_mode():
            self.features = model.encode(self.pixels)
            self.start = model.prompt(self.features)
            self.p, self.n = self.start.shape[1], model.tokens
            self.all = torch.cat([self.start, model.adapt(self.features[:, :-1])], 1)
            self.later, self.one = self.all[:, self.p :].contiguous(), self.all[:, -1:].contiguous()
            self.llm = Llama(model.llm, batch, self.p + self.n - 1, grouped)
            self.encode, self.decode = model.encode, model.decode
            if compiled:
                self.llm.forward = torch.compile(self.llm.forward, dynamic=False)
                self.encode, self.decode = (torch.compile(f, dynamic=False) for f in (self.encode, self.decode))
        self.steps = {
            "encoder": lambda: self.encode(self.pixels),
            "prefill": lambda: self.llm(self.start, 0),
            "pass 1": lambda: self.llm(self.all, 0),
            "later pass": lambda: self.llm(self.later, self.p),
            "one step": lambda: self.llm(self.one, self.p + self.n // 2),
            "decoder": lambda: self.decode(self.features),
            "parallel-1": lambda: self.parallel(1),
            "parallel-2": lambda: self.parallel(2),
        }

    def parallel(self, passes):
        """Pixels to pixels."""
        model = self.model
        tokens = self.encode(self.pixels)
        hidden = self.llm(torch.cat([model.prompt(tokens), model.adapt(tokens[:, :-1])], 1), 0)
        tokens = model.deadapt(hidden[:, self.p - 1 :])
        for _ in range(passes - 1):
            tokens = torch.cat([tokens[:, :1], model.deadapt(self.llm(model.adapt(tokens[:, :-1]), self.p))], 1)
        return self.decode(tokens)

    @torch.inference_mode()
    def check(self):
        """Against the reference, after which nothing need be said about correctness."""
        expected = self.model.hidden(self.all)
        for got, part in ((self.llm(self.all, 0), expected), (self.llm(self.later, self.p), expected[:, self.p :])):
            relative = float((got - part).norm() / part.norm())
            assert relative < 1e-4, f"the language model for speed is off by {relative:.1e}"

    @torch.inference_mode()
    def measure(self, runs, only=None):
        return {name: timed(f, runs) for name, f in self.steps.items() if only is None or name in only}


def timed(f, runs):
    """Milliseconds, the median. A short step is run once before, to warm up, and three times at least."""

    def once():
        began = time.perf_counter()
        f()
        return (time.perf_counter() - began) * 1e3

    first = once()
    if first < 1000:
        return statistics.median(once() for _ in range(max(runs, 3)))
    return statistics.median([first, *(once() for _ in range(runs - 1))])


@torch.inference_mode()
def transformers_side(peer, runs):
    """`LlamaModel` with its own caches, the same steps."""
    from transformers import DynamicCache

    llm, at = peer.model.llm, peer.p + peer.n // 2
    prompt, middle = DynamicCache(config=llm.config), DynamicCache(config=llm.config)
    llm(inputs_embeds=peer.start, past_key_values=prompt)
    llm(inputs_embeds=peer.all[:, :at], past_key_values=middle)

    def behind(cache, x):
        length = cache.get_seq_length()
        llm(inputs_embeds=x, past_key_values=cache)
        cache.crop(length - cache.get_seq_length())

    return {
        "prefill": timed(lambda: llm(inputs_embeds=peer.start, past_key_values=DynamicCache(config=llm.config)), runs),
        "pass 1": timed(lambda: llm(inputs_embeds=peer.all, past_key_values=DynamicCache(config=llm.config)), runs),
        "later pass": timed(lambda: behind(prompt, peer.later), runs),
        "one step": timed(lambda: behind(middle, peer.one), runs),
    }


def ours(binary, model, batch, runs, threads):
    command = [binary, "bench", "model", model, "--batch", batch, "--runs", runs, "--device", "cpu", "--dtype", "f32", "--json"]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    run = subprocess.run([str(x) for x in command], capture_output=True, text=True, env=environment)
    if run.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit status {run.returncode}\n{run.stderr}")
    figures = json.loads(run.stdout)["batches"][0]
    took = {step["step"]: step["ms"] for step in figures["steps"]}
    for k, per_second in enumerate(figures["parallel_images_per_s"], 1):
        took[f"parallel-{k}"] = batch / per_second * 1e3
    return took


def with_whole(took, tokens):
    if all(step in took for step in STEPS):
        took["autoregressive"] = took["encoder"] + took["prefill"] + took["one step"] * (tokens - 1) + took["decoder"]
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1, help="of each step in a round")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; needs a C++ compiler")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/lm4lv")
    parser.add_argument("--without-transformers", action="store_true", help="leave out that column, which is never the fastest")
    parser.add_argument("--without-ours", action="store_true", help="PyTorch's side only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model = next(iter(reference.load_folder(args.model).values()))
    ways = {}
    for grouped in (True, False):
        peer = Peer(model, args.batch, grouped)
        took = peer.measure(1, ["pass 1", "later pass", "one step"])
        ways[grouped] = (took["pass 1"] + took["later pass"] + took["one step"] * model.tokens, peer)
        print(f"{'enable_gqa' if grouped else 'repeated heads'}: " + ", ".join(f"{k} {v:.1f} ms" for k, v in took.items()), file=sys.stderr)
    peer = min(ways.values(), key=lambda way: way[0])[1]
    peer.check()
    sides = {"PyTorch": lambda: peer.measure(args.runs)}
    if args.compile:
        # Weights as constants, packed for the kernels. Its own peer: compiling replaces functions.
        from torch._inductor import config as inductor

        inductor.freezing = True
        fast = Peer(model, args.batch, peer.llm.grouped, compiled=True)
        fast.check()
        sides["torch.compile"] = lambda: fast.measure(args.runs)
    if not args.without_transformers:
        sides["transformers"] = lambda: transformers_side(peer, args.runs)
    if not args.without_ours:
        sides["lm4lv"] = lambda: ours(args.binary, args.model, args.batch, args.runs, args.threads)

    rounds = {side: [] for side in sides}
    for number in range(args.rounds):
        for side, measure in sides.items():
            rounds[side].append(with_whole(measure(), model.tokens))
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    medians = {side: {k: statistics.median(r[k] for r in took) for k in took[0]} for side, took in rounds.items()}

    others = [side for side in sides if side != "lm4lv"]
    print(f"Batch {args.batch}, {args.threads} threads, f32, milliseconds; torch {torch.__version__}\n")
    print(f"| | {' | '.join(sides)} | lm4lv is faster by |\n| --- |{' ---: |' * (len(sides) + 1)}")
    for step in STEPS + WHOLE:
        cells = [f"{medians[side][step]:.1f}" if step in medians[side] else "" for side in sides]
        best = min(medians[side][step] for side in others if step in medians[side])
        ratio = f"{best / medians['lm4lv'][step]:.2f}" if "lm4lv" in medians else ""
        print(f"| {step} | {' | '.join(cells)} | {ratio} |")
    print("\nThe last column is against the fastest of the others, step by step.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
