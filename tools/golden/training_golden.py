#!/usr/bin/env python3
"""Writes tests/data/train/step.safetensors: loss and gradients of one training step of a small Llama whose linear layers
run their three products in low precision, by Hugging Face transformers, torch's autograd and PyPI's ml_dtypes. Run once,
in .cache/venv-oracle with ml_dtypes added; commit the file.

    python tools/golden/training_golden.py

What the products read is put on its grid here by ml_dtypes' conversions and by counting tiles one by one; only the random
numbers of stochastic rounding are made as src/train makes them. Weights and ids are a formula that the test repeats; of
each gradient every 7th element is kept. Everything is f32.
"""
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

WINDOWS, LENGTH, SEED, STEP, KEPT = 3, 50, 11, 5, 7
KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SCHEME = [["fp8", "fp4", "mxfp4", "nvfp4", "fp4/fp8/fp8", "bf16", "fp8"],
          ["fp4", "fp8/fp4/fp8", "nvfp4", "bf16/bf16/fp4", "fp8", "fp4", "mxfp4"]]
M64 = (1 << 64) - 1


def mix64(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def counter_bits(seed, stream, index):
    key = mix64((seed + 0x9E3779B97F4A7C15 * (stream + 1)) & M64)
    return mix64(key ^ mix64((index + 0x9E3779B97F4A7C15) & M64))


def uniforms(key, count):
    """In (0, 1), as train/fake_quantize.h makes them."""
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint32) + np.uint32(key & 0xFFFFFFFF)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= (x >> np.uint32(16)) ^ np.uint32(key >> 32)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
    return ((x >> np.uint32(16)).astype(np.float64) + 0.5) / 65536


def tile_scale(kind, largest, tensor_largest):
    f32 = np.float32
    if largest == 0:
        return f32(0)
    if kind == "fp8":
        return f32(largest) / f32(448)
    if kind == "fp4":
        return f32(largest) / f32(6)
    if kind == "mxfp4":
        return f32(2.0 ** (np.floor(np.log2(largest)) - 2))
    over_all = f32(tensor_largest) / f32(448 * 6)
    block = f32(f32(largest) / f32(6)) / over_all
    return f32(np.float32(np.asarray(block).astype(ml_dtypes.float8_e4m3fn)) * over_all)


def on_grid(kind, x, contracted, weight=False, key=None):
    """`contracted`: the dimension the product sums over, 0 or 1."""
    if kind == "bf16":
        return x
    x = x.detach().numpy()
    run = {"mxfp4": 32, "nvfp4": 16}.get(kind, 128)
    tile = [run, run] if weight and run == 128 else [1, 1]
    tile[contracted] = run
    element, largest_code = ((ml_dtypes.float8_e4m3fn, 448) if kind == "fp8" else (ml_dtypes.float4_e2m1fn, 6))
    random = None if key is None else uniforms(key, x.size).reshape(x.shape)
    out = np.zeros_like(x)
    for r in range(0, x.shape[0], tile[0]):
        for c in range(0, x.shape[1], tile[1]):
            part = x[r:r + tile[0], c:c + tile[1]]
            scale = tile_scale(kind, np.abs(part).max(), np.abs(x).max())
            if scale == 0:
                continue
            scaled = np.clip(part * (np.float32(1) / scale), -largest_code, largest_code)
            if random is None:
                codes = scaled.astype(element).astype(np.float32)
            else:
                grid = np.unique(np.arange(16, dtype=np.uint8).view(element).astype(np.float64))
                low = grid[np.clip(np.searchsorted(grid, scaled, side="right") - 1, 0, len(grid) - 1)]
                high = grid[np.clip(np.searchsorted(grid, scaled, side="left"), 0, len(grid) - 1)]
                share = np.where(high > low, (scaled - low) / np.maximum(high - low, 1e-30), 0)
                codes = np.where(share > 1 - random[r:r + tile[0], c:c + tile[1]], high, low).astype(np.float32)
            out[r:r + tile[0], c:c + tile[1]] = codes * scale
    return torch.from_numpy(out)


class Quantized(torch.autograd.Function):
    @staticmethod
    def forward(context, x, w, kinds, index):
        context.save_for_backward(x, w)
        context.kinds, context.index = kinds, index
        flat = x.reshape(-1, x.shape[-1])
        y = on_grid(kinds[0], flat, 1) @ on_grid(kinds[0], w, 1, weight=True).T
        return y.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(context, dy):
        x, w = context.saved_tensors
        flat, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]).contiguous()
        keys = [counter_bits(SEED, 0x726F756E64000000 + STEP, 3 * context.index + product) if "fp4" in kind else None
                for product, kind in enumerate(context.kinds)]
        kinds = context.kinds
        dx = on_grid(kinds[1], dy, 1, key=keys[1]) @ on_grid(kinds[1], w, 0, weight=True)
        dw = on_grid(kinds[2], dy, 0, key=keys[2]).T @ on_grid(kinds[2], flat, 0)
        return dx.reshape(x.shape), dw, None, None


class QuantizedLinear(torch.nn.Module):
    def __init__(self, linear, kinds, index):
        super().__init__()
        self.weight, self.kinds, self.index = linear.weight, kinds, index

    def forward(self, x):
        return Quantized.apply(x, self.weight, self.kinds, self.index)


def formula(tensor, count, scale, offset):
    """Of tensor number `tensor`: pseudo-random multiples of 2^-10 * scale in [-0.5, 0.5) * scale + offset."""
    bits = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(977 * (tensor + 1))) % np.uint64(1 << 32)
    bits = ((bits ^ (bits >> np.uint64(15))) * np.uint64(2246822519)) % np.uint64(1 << 32)
    return ((bits >> np.uint64(22)).astype(np.float32) / 1024 - 0.5) * np.float32(scale) + np.float32(offset)


def main():
    torch.set_num_threads(1)
    config = LlamaConfig(hidden_size=136, intermediate_size=144, num_hidden_layers=2, vocab_size=64, head_dim=8,
                         max_position_embeddings=64, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
                         attn_implementation="eager", tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config).eval()
    parameters = dict(model.named_parameters())
    names = ["model.embed_tokens.weight"]
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        names += [prefix + name + ".weight" for name in (
            "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
    names.append("model.norm.weight")
    assert set(names) == set(parameters)
    with torch.no_grad():
        for index, name in enumerate(sorted(names)):
            value = parameters[name]
            norm = value.dim() == 1
            value.copy_(torch.from_numpy(formula(index, value.numel(), 0.5, 1.0 if norm else 0.0)).reshape(value.shape))
    for layer in range(2):
        for place, kind in enumerate(KINDS):
            owner = model.model.layers[layer].self_attn if place < 4 else model.model.layers[layer].mlp
            kinds = SCHEME[layer][place].split("/")
            kinds = kinds * 3 if len(kinds) == 1 else kinds
            setattr(owner, kind, QuantizedLinear(getattr(owner, kind), kinds, 7 * layer + place))
    ids = torch.from_numpy(((formula(1000, WINDOWS * LENGTH, 1, 0.5)) * 64).astype(np.int64)).reshape(WINDOWS, LENGTH)
    logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 64), ids[:, 1:].reshape(-1))
    loss.backward()
    tensors = {f"gradient.{name}": parameters[name].grad.reshape(-1)[::KEPT].contiguous().clone() for name in names}
    out = Path(__file__).resolve().parents[2] / "tests" / "data" / "train" / "step.safetensors"
    save_file(tensors, str(out), {"loss": repr(loss.item()), "scheme": json.dumps(SCHEME)})
    out.chmod(0o644)
    print(f"loss {loss.item():.6f}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
