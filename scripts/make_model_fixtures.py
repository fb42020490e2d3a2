#!/usr/bin/env python3
"""Makes `tests/fixtures/models`: tiny seeded random models of every format that is read, and what PyTorch computes with them.

    pip install torch transformers safetensors gguf tokenizers pillow numpy      # versions: scripts/requirements.txt, .ci/run torch
    python scripts/make_model_fixtures.py            # writes
    python scripts/make_model_fixtures.py --check    # compares, exit status 1 on a difference; without torch, says so

`tests/fixtures/models/README.md` says what each file is. The expected tensors come from `lm4lv_torch.py` (transformers' models);
nothing here knows our own program. Weights are drawn by numpy from a seed of their own for each file, large enough that a swapped
dimension or a wrong rope shows, and with norms and biases that are not 1 and 0. `--check` wants the same bytes of what is written without arithmetic, the
same tensors in what `torch.save` wrote, and computed tensors to 1e-4 of their spread (threads and CPUs sum in another order).
"""

import collections
import importlib.util
import io
import json
import os
import pathlib
import pickle
import struct
import sys
import tempfile
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "models"

# ---- sizes -------------------------------------------------------------------------------------------------------------------

MAE = {
    "architectures": ["ViTMAEForPreTraining"],
    "model_type": "vit_mae",
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
TOKENS = (MAE["image_size"] // MAE["patch_size"]) ** 2 + 1
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_bias": False,
    "mlp_bias": False,
}
# Each differs where files differ: theta left out, at the top, or inside `rope_parameters`; a head dimension that is not H / heads.
LLMS = {
    "llm_mha": LLAMA | {"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    "llm_gqa": LLAMA
    | {
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "llm_bin": LLAMA
    | {
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "tie_word_embeddings": True,
    },
}
PROMPT = {"before": [1, 17, 5, 60], "between": [33, 9], "after": [13, 17, 63]}
TASK_TOKENS = 3
MAX_PASSES = 12
# Where no pass moves an image by nearly that much, so that rounding does not decide which is its last.
TOLERANCE = {"llm_mha": 0.056, "llm_gqa": 0.0063, "llm_bin": 0.12, "llm_q4_1": 0.0052}

# ---- weights -----------------------------------------------------------------------------------------------------------------


def drawn(seed, shapes, std, dtype):
    """Name → f32 array whose values `dtype` holds exactly; norm weights around 1."""
    import torch

    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        norm = "norm" in name and name.endswith("weight")
        scale = 0.1 if norm or (name.endswith("bias") and "adapter" not in name) else std
        values = torch.from_numpy((rng.standard_normal(shape) * scale + norm).astype(np.float32))
        tensors[name] = values.to(dtype).float().numpy()
    return tensors


def mae_shapes():
    c, d, p, n = MAE["hidden_size"], MAE["decoder_hidden_size"], MAE["patch_size"], TOKENS
    shapes = {
        "vit.embeddings.cls_token": (1, 1, c),
        "vit.embeddings.position_embeddings": (1, n, c),
        "vit.embeddings.patch_embeddings.projection.weight": (c, 3, p, p),
        "vit.embeddings.patch_embeddings.projection.bias": (c,),
    }

    def layer(prefix, width, inner):
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"):
            shapes[f"{prefix}.{name}.weight"], shapes[f"{prefix}.{name}.bias"] = (width, width), (width,)
        for name, (o, i) in {"intermediate.dense": (inner, width), "output.dense": (width, inner)}.items():
            shapes[f"{prefix}.{name}.weight"], shapes[f"{prefix}.{name}.bias"] = (o, i), (o,)
        for name in ("layernorm_before", "layernorm_after"):
            shapes[f"{prefix}.{name}.weight"] = shapes[f"{prefix}.{name}.bias"] = (width,)

    for i in range(MAE["num_hidden_layers"]):
        layer(f"vit.encoder.layer.{i}", c, MAE["intermediate_size"])
    shapes |= {"vit.layernorm.weight": (c,), "vit.layernorm.bias": (c,)}
    shapes |= {"decoder.mask_token": (1, 1, d), "decoder.decoder_pos_embed": (1, n, d)}
    shapes |= {"decoder.decoder_embed.weight": (d, c), "decoder.decoder_embed.bias": (d,)}
    for i in range(MAE["decoder_num_hidden_layers"]):
        layer(f"decoder.decoder_layers.{i}", d, MAE["decoder_intermediate_size"])
    shapes |= {"decoder.decoder_norm.weight": (d,), "decoder.decoder_norm.bias": (d,)}
    shapes |= {"decoder.decoder_pred.weight": (p * p * 3, d), "decoder.decoder_pred.bias": (p * p * 3,)}
    return shapes


def llm_shapes(config):
    h, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", h // config["num_attention_heads"])
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], h)}
    for i in range(config["num_hidden_layers"]):
        parts = {
            "input_layernorm": (h,),
            "self_attn.q_proj": (q, h),
            "self_attn.k_proj": (kv, h),
            "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, q),
            "post_attention_layernorm": (h,),
            "mlp.gate_proj": (inner, h),
            "mlp.up_proj": (inner, h),
            "mlp.down_proj": (h, inner),
        }
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in parts.items()}
    shapes["model.norm.weight"] = (h,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], h)
    return shapes


def adapter_tensors(dtype):
    c, h = MAE["hidden_size"], LLAMA["hidden_size"]
    shapes = {"adapter.weight": (h, c), "adapter.bias": (h,), "deadapter.weight": (c, h), "deadapter.bias": (c,)}
    shapes["learnable_task_token"] = (1, TASK_TOKENS, h)
    # An embedding is mostly bias: a random language model that is fed its own answers at full strength would be chaotic.
    std = {"adapter.weight": 0.025, "adapter.bias": 0.5, "deadapter.weight": 0.1, "deadapter.bias": 0.1, "learnable_task_token": 0.5}
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items(), 20):
        tensors |= drawn(seed, {name: shape}, std[name], dtype)
    return tensors, drawn(30, {"query": (1, TOKENS, h)}, 0.5, dtype)


def images():
    """Three images of different contrast, `[3, S, S, 3]` u8: smooth, flat with noise, and hard noise."""
    side, rng = MAE["image_size"], np.random.default_rng(6)
    y, x = np.mgrid[:side, :side] / side
    smooth = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], -1) * 255
    flat = 90 + 10 * rng.standard_normal((side, side, 3))
    hard = rng.integers(0, 2, (side, side, 3)) * 255
    return np.clip(np.stack([smooth, flat, hard]), 0, 255).astype(np.uint8)


# ---- files -------------------------------------------------------------------------------------------------------------------


def text(value):
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def safetensors(tensors, dtype=None):
    """Serialised, f32 unless `dtype`."""
    import torch
    from safetensors.torch import save

    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}
    return save({k: v.to(dtype) if dtype and v.dtype == torch.float32 else v for k, v in tensors.items()}, {"format": "pt"})


def saved(value):
    """`torch.save`, as bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def state_dict(tensors, dtype, in_one_storage=False):
    """An ordered dict of tensors with the `_metadata` that `Module.state_dict()` gives it; or all of them views of one storage, as
    DeepSpeed's flattened parameters are."""
    import torch

    out = collections.OrderedDict((k, torch.from_numpy(np.ascontiguousarray(v)).to(dtype)) for k, v in tensors.items())
    if in_one_storage:
        flat, at = torch.cat([v.flatten() for v in out.values()]), 0
        for name, v in out.items():
            out[name], at = flat[at : at + v.numel()].view(v.shape), at + v.numel()
    else:
        out._metadata = collections.OrderedDict({"": {"version": 1}})
    return out


GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_file(config, tensors, kinds):
    """A GGUF file of the llama architecture, as bytes; `kinds(name)`: its quantisation of a matrix. Norms are f32."""
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "llm.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("fixture")
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_rope_dimension_count(config["head_dim"])
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_vocab_size(config["vocab_size"])
        for name, w in tensors.items():
            layer = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            if name == "model.embed_tokens.weight":
                name = "token_embd.weight"
            elif name == "model.norm.weight":
                name = "output_norm.weight"
            else:
                name = f"blk.{layer[0]}.{GGUF_PARTS[layer[1]]}.weight"
            heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])
            if heads:
                # Rows (0, d/2), (1, d/2 + 1), … become neighbours.
                w = w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
            kind = gguf.GGMLQuantizationType.F32 if w.ndim == 1 else kinds(name)
            writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(w), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


class Hostile:
    """Pickled, a call of `os.system`; harmless should anybody run it."""

    def __reduce__(self):
        return os.system, ("exit 7",)


def zipped_pickle(data):
    """What `torch.save` writes around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in {"archive/data.pkl": data, "archive/byteorder": b"little", "archive/version": b"3\n"}.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def hostile_files(files):
    """Broken variants of `files`; which error each is about, is in its name."""
    import torch

    tensors, _ = adapter_tensors(torch.bfloat16)
    missing = {k: v for k, v in tensors.items() if k != "deadapter.bias"}
    wrong = tensors | {"adapter.weight": tensors["adapter.weight"].T}
    nan = tensors | {"adapter.bias": np.full_like(tensors["adapter.bias"], np.nan)}
    mha, gguf = files["adapter.safetensors"], files["llm_q4_1.gguf"]
    return {
        "calls_os_system.pt": zipped_pickle(pickle.dumps(collections.OrderedDict(a=Hostile()), protocol=2)),
        "calls_os_system.bin": pickle.dumps(Hostile(), protocol=2),
        "truncated.safetensors": mha[: len(mha) // 2],
        "header_too_long.safetensors": struct.pack("<Q", 2**60) + mha[8:200],
        "header_not_json.safetensors": struct.pack("<Q", 64) + b"\xff" * 64,
        "truncated.pt": files["adapter.pt"][:4000],
        "missing_tensor.safetensors": safetensors(missing, torch.bfloat16),
        "unknown_tensor.safetensors": safetensors(missing | {"surprise": tensors["deadapter.bias"]}, torch.bfloat16),
        "transposed.safetensors": safetensors(wrong, torch.bfloat16),
        "nan.safetensors": safetensors(nan, torch.bfloat16),
        "truncated.gguf": gguf[: len(gguf) // 4],
        "tensor_count_lies.gguf": gguf[:8] + struct.pack("<Q", 2**56) + gguf[16:4096],
        "kv_count_lies.gguf": gguf[:16] + struct.pack("<Q", 2**56) + gguf[24:4096],
        "string_length_lies.gguf": gguf[:24] + struct.pack("<Q", 2**56) + gguf[32:4096],
        "version_99.gguf": gguf[:4] + struct.pack("<I", 99) + gguf[8:4096],
    }


# ---- tokenizer ---------------------------------------------------------------------------------------------------------------

WORDS = ["▁###", "▁Human", "▁Ass", "istant", "Img", "▁<", "▁</", "</", "##", "▁H", "▁a", "▁the"]
PIECES = ["### Human: ", "<Img>", "</Img> ", "\n### Assistant: ", "<Img>"]
TEXTS = ["", " ", "  two  spaces ", "naïve 中 text", "\n\n", "the Human", "<s>Human</s> the", "a<Img>b", "\t###"]


def sentencepiece_like():
    """A small `tokenizer.json` of the shape that LLaMA 2's has: BPE with byte fallback and Metaspace in front of the text only.

    The merges build each of `WORDS` from the left, except that `▁` comes last where the rest is a word too, as in the real one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted({c for w in WORDS for c in w} | set(":><abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *alphabet]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if word[:end] not in vocabulary:
                merges.append(pair)
                vocabulary.append(word[:end])
    bpe = models.BPE(
        vocab={t: i for i, t in enumerate(vocabulary)}, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


def tokenizer_files():
    """The tokenizer, and ids by the tokenizers package: of texts by themselves, and of the prompt as LM4LV's authors cut it.

    Theirs is three texts, each tokenised by itself: `### Human: `; the turn `<Img><image></Img> <task>\\n### Assistant: `, where `<image>` and
    `<task>` are added tokens that stand for V and T; and `<Img>`. What follows an added token gets no space in front (`legacy=False`).
    """
    tokenizer = sentencepiece_like()
    serialised = text(json.loads(tokenizer.to_str()))

    def entry(x):
        encoded = tokenizer.encode(x, add_special_tokens=False)
        return {"text": x, "ids": encoded.ids, "tokens": encoded.tokens}

    separately = [entry(x) for x in [*PIECES, *TEXTS]]
    tokenizer.add_tokens(["<image>", "<task>"])
    image, task = (tokenizer.token_to_id(t) for t in ("<image>", "<task>"))
    turn = tokenizer.encode(f"<Img><image></Img> <task>{PIECES[3]}", add_special_tokens=False).ids
    v, t = turn.index(image), turn.index(task)
    before = [1, *tokenizer.encode(PIECES[0], add_special_tokens=False).ids, *turn[:v]]
    after = [*turn[t + 1 :], *tokenizer.encode(PIECES[4], add_special_tokens=False).ids]
    ids = {"bos": 1, "texts": separately, "prompt": {"before": before, "between": turn[v + 1 : t], "after": after}}
    return {"tokenizer/tokenizer.json": serialised, "tokenizer/ids.json": text(ids)}


# ---- what is expected --------------------------------------------------------------------------------------------------------


def expected(folder, adapters):
    """File name → named arrays, and facts about them, from the models that lie in `folder`."""
    import itertools

    import lm4lv_torch as reference
    import torch

    mae = reference.load_mae(folder / "mae")
    prompt = reference.Prompt(**PROMPT)
    adapter = {k: torch.from_numpy(v) for k, v in adapters.items()}
    pictures = images()
    pixels = reference.pixel_values(pictures)
    files, facts = {}, {}

    plain = reference.Lm4lv(mae, None, adapter, prompt)
    features = plain.encode(pixels)
    linear = plain.linear(features)
    files["mae"] = {
        "images": pictures,
        "pixel_values": pixels.numpy(),
        "features": features.numpy(),
        "decoded": plain.decode(features).numpy(),
        "mae_r_pixels": plain.quantize(plain.decode(features)),
        "linear_tokens": linear.numpy(),
        "linear_pixels": plain.quantize(plain.decode(linear)),
    }
    sources = {"llm_mha": "llm_mha", "llm_gqa": "llm_gqa", "llm_bin": "llm_bin", "llm_q4_1": "llm_q4_1.gguf"}
    for name, source in sources.items():
        model = reference.Lm4lv(mae, reference.load_llm(folder / source), adapter, prompt)
        start = model.prompt(features)
        guess = torch.cat([start, model.adapt(features[:, :-1])], 1)
        hidden = model.hidden(guess)
        if name == "llm_gqa":
            twin = reference.load_llm(folder / "llm_f16.gguf")(inputs_embeds=guess).last_hidden_state
            assert (twin - hidden).abs().max() < 1e-4, "the GGUF file is another model"
        seen = [features, *itertools.islice(model.passes(features), MAX_PASSES)]
        exact = model.autoregressive(features)
        tokens, taken = model.parallel(features, TOLERANCE[name], MAX_PASSES)
        moved = torch.stack([(b - a).square().mean((1, 2)).sqrt() for a, b in zip(seen, seen[1:])])
        nearest = float((moved / TOLERANCE[name]).log().abs().min())
        # A rounding must not grow from step to step.
        nudged = model.autoregressive(features + 1e-4 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0)))
        gain = float((nudged - exact).abs().max() / 1e-4)
        steady = model.vit_llm(features)
        facts[name] = {"passes": taken.tolist(), "nearest": nearest, "gain": gain, "std": float(exact.std())}
        files[name] = {
            "prompt": start.numpy(),
            "hidden": hidden.numpy(),
            **{f"pass_{k}": seen[k].numpy() for k in (1, 2, 3)},
            "autoregressive": exact.numpy(),
            "parallel": tokens.numpy(),
            "parallel_passes": taken.numpy(),
            "vit_llm": steady.numpy(),
            "autoregressive_pixels": model.quantize(model.decode(exact)),
            "parallel_pixels": model.quantize(model.decode(tokens)),
            "vit_llm_pixels": model.quantize(model.decode(steady)),
        }
        if name == "llm_gqa":
            model.adapter = adapter | {"query": torch.from_numpy(adapter_tensors(torch.bfloat16)[1]["query"])}
            files[name]["vit_llm_with_query"] = model.vit_llm(features).numpy()
    return files, facts


def demo():
    """The committed demo model on the middle of a committed photograph, noisy."""
    import torch

    import lm4lv_torch as reference

    model = reference.load_folder(ROOT / "models" / "lm4lv-mini")["gaussian_noise_18"]
    clean = reference.load_image(ROOT / "pipelines" / "photos" / "chelsea.png", model.side, crop=True)
    noisy = reference.add_noise(clean, np.random.default_rng(0))[None]
    with torch.inference_mode():
        features = model.encode(reference.pixel_values(noisy))
        tokens, passes = model.parallel(features)
        exact = model.autoregressive(features)
    return {
        "image": noisy,
        "features": features.numpy(),
        "pass_1": next(iter(model.passes(features))).detach().numpy(),
        "autoregressive": exact.numpy(),
        "autoregressive_pixels": model.quantize(model.decode(exact)),
        "parallel_passes": passes.numpy(),
        "parallel_pixels": model.quantize(model.decode(tokens)),
        "mae_r_pixels": model.quantize(model.decode(features)),
    }


# ---- all of it ---------------------------------------------------------------------------------------------------------------


def made():
    """Path → bytes, and facts."""
    import gguf
    import torch

    torch.set_num_threads(1)
    files = {}
    weights = drawn(1, mae_shapes(), 0.2, torch.float16)
    files["mae/config.json"] = files["mae_bin/config.json"] = text(MAE)
    files["mae/model.safetensors"] = safetensors(weights)
    files["mae_bin/pytorch_model.bin"] = saved(state_dict(weights, torch.float16))

    llms = {}
    for seed, (name, dtype) in enumerate({"llm_mha": None, "llm_gqa": torch.float16, "llm_bin": torch.bfloat16}.items(), 10):
        llms[name] = drawn(seed, llm_shapes(LLMS[name]), 0.2, dtype or torch.float32)
        files[f"{name}/config.json"] = text(LLMS[name])
    files["llm_mha/model.safetensors"] = safetensors(llms["llm_mha"])
    files["llm_bin/pytorch_model.bin"] = saved(state_dict(llms["llm_bin"], torch.bfloat16))
    gqa, parts = llms["llm_gqa"], {}
    for i, (name, w) in enumerate(gqa.items()):
        # Not cut between layers: a layer's tensors lie in both.
        parts.setdefault(f"model-{i * 2 // len(gqa) + 1:05}-of-00002.safetensors", {})[name] = w
    for part, tensors in parts.items():
        files[f"llm_gqa/{part}"] = safetensors(tensors, torch.float16)
    index = {
        "metadata": {"total_size": sum(w.size * 2 for w in gqa.values())},
        "weight_map": {name: part for part, tensors in parts.items() for name in tensors},
    }
    files["llm_gqa/model.safetensors.index.json"] = text(index)

    kinds = gguf.GGMLQuantizationType
    files["llm_f16.gguf"] = gguf_file(LLMS["llm_gqa"], gqa, lambda _: kinds.F16)
    files["llm_q4_1.gguf"] = gguf_file(LLMS["llm_gqa"], gqa, lambda name: kinds.Q8_0 if name == "token_embd.weight" else kinds.Q4_1)

    adapters, query = adapter_tensors(torch.bfloat16)
    files["adapter.safetensors"] = safetensors(adapters, torch.bfloat16)
    files["adapter_f32_query.safetensors"] = safetensors(adapters | query)
    files["adapter.pt"] = saved(state_dict(adapters, torch.bfloat16))
    files["adapter_one_storage.pt"] = saved(state_dict(adapters, torch.bfloat16, in_one_storage=True))
    files |= {f"hostile/{name}": data for name, data in hostile_files(files).items()}
    files |= tokenizer_files()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        tensors, facts = expected(folder, adapters)
    tensors["demo"] = demo()
    files |= {f"expected/{name}.safetensors": safetensors(arrays) for name, arrays in tensors.items()}
    passes = {name: fact["passes"] for name, fact in facts.items()}
    files["facts.json"] = text({"prompt": PROMPT, "max_passes": MAX_PASSES, "tolerance": TOLERANCE, "passes": passes})
    for name, fact in facts.items():
        print(f"{name}: passes {fact['passes']}, tokens' std {fact['std']:.2f}, gain of a nudge {fact['gain']:.1f}")
        if fact["nearest"] < 0.1 or fact["gain"] > 30 or len(set(fact["passes"])) == 1:
            sys.exit(f"{name}: nearest to the tolerance {fact['nearest']:.3f}, gain {fact['gain']:.1f}: draw others")
    return files


def same(path, committed, fresh):
    """Whether two versions of a file mean the same; see the header."""
    import torch
    from safetensors.torch import load

    if committed == fresh:
        return True
    if path.startswith("hostile/truncated"):
        return True  # Cut from files that are compared themselves.
    if path.startswith("expected/"):
        a, b = load(committed), load(fresh)
        if {k: (v.shape, v.dtype) for k, v in a.items()} != {k: (v.shape, v.dtype) for k, v in b.items()}:
            return False
        for name in a:
            x, y = a[name].double(), b[name].double()
            if a[name].dtype == torch.uint8:
                good = ((x - y).abs() <= 1).double().mean() >= 0.999
            else:
                good = (x - y).abs().max() <= 1e-4 * x.std()
            if not good:
                print(f"{path}: {name} differs by up to {(x - y).abs().max()}")
                return False
        return True
    if path.endswith((".pt", ".bin")) and not path.startswith("hostile/"):
        a, b = (torch.load(io.BytesIO(x), weights_only=True) for x in (committed, fresh))
        return list(a) == list(b) and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    return False


def main():
    needed = [m for m in ("torch", "transformers", "gguf", "tokenizers", "safetensors") if importlib.util.find_spec(m) is None]
    if needed:
        print(f"{', '.join(needed)} not installed: the model fixtures are not {'checked' if '--check' in sys.argv else 'made'}")
        return 0 if "--check" in sys.argv else 64
    files = made()
    if "--check" not in sys.argv[1:]:
        for path, data in files.items():
            (FIXTURES / path).parent.mkdir(parents=True, exist_ok=True)
            (FIXTURES / path).write_bytes(data)
        print(f"wrote {len(files)} files, {sum(map(len, files.values())) / 1e6:.2f} MB, to {FIXTURES.relative_to(ROOT)}")
        return 0
    there = {str(p.relative_to(FIXTURES)) for p in FIXTURES.rglob("*") if p.is_file()} - {"README.md"}
    different = sorted(there ^ set(files))
    different += [path for path in sorted(there & set(files)) if not same(path, (FIXTURES / path).read_bytes(), files[path])]
    print(f"{len(files)} files, {len(different)} differ from {FIXTURES.relative_to(ROOT)}: {', '.join(different) or 'none'}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
