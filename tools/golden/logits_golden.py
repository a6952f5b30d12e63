#!/usr/bin/env python3
"""Writes tests/data/graph/<family>.safetensors: a tiny random model of each family with its token ids, the logits and
the gradients that Hugging Face transformers computes for it. Run once, with torch and transformers; commit the files.

Each file holds the model's tensors under the names of src/model/model_spec.h (a Llama's), `ids` (int64 as i32), `logits` (f32) and, as
`gradient.<weight>` (f32), d(mean next-token loss)/dW of each linear layer, the embedding and the head. The metadata key `spec` is the model's
specification as src/model/model_spec.h writes it, `loss` the mean loss in nats.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

WINDOWS, LENGTH = 2, 12
COMMON = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, vocab_size=32, max_position_embeddings=64,
              num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5,
              attn_implementation="eager", bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=2.0)

MODELS = {
    "llama": ("llama", LlamaConfig, LlamaForCausalLM, dict(tie_word_embeddings=True)),
    "llama3_rope": ("llama", LlamaConfig, LlamaForCausalLM, dict(tie_word_embeddings=False, rope_parameters=LLAMA3)),
    "linear_rope": ("llama", LlamaConfig, LlamaForCausalLM,
                    dict(tie_word_embeddings=False, rope_parameters=LINEAR, attention_bias=True, mlp_bias=True)),
    "mistral": ("mistral", MistralConfig, MistralForCausalLM, dict(tie_word_embeddings=False, sliding_window=5)),
    "qwen2": ("qwen2", Qwen2Config, Qwen2ForCausalLM, dict(tie_word_embeddings=True)),
    "qwen3": ("qwen3", Qwen3Config, Qwen3ForCausalLM, dict(tie_word_embeddings=False)),
    # Without pad_token_id, whose row torch would give no gradient.
    "opt": ("opt", OPTConfig, OPTForCausalLM, dict(tie_word_embeddings=True, ffn_dim=24, pad_token_id=None)),
}
OPT_NAMES = {"model.decoder.final_layer_norm": "model.norm", "self_attn_layer_norm": "input_layernorm",
             "final_layer_norm": "post_attention_layernorm", "out_proj": "o_proj", "fc1": "mlp.up_proj",
             "fc2": "mlp.down_proj", "model.decoder.": "model."}


def our_name(family, name):
    for theirs, ours in OPT_NAMES.items() if family == "opt" else ():
        name = name.replace(theirs, ours)
    return name


def opt_spec(config):
    heads = config.num_attention_heads
    return {"family": "opt", "layers": config.num_hidden_layers, "hidden": config.hidden_size,
            "intermediate": config.ffn_dim, "heads": heads, "kv_heads": heads, "head_dim": config.hidden_size // heads,
            "vocab": config.vocab_size, "max_positions": config.max_position_embeddings, "sliding_window": 0,
            "norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": {"kind": "none"},
            "tied_head": config.tie_word_embeddings, "qkv_bias": True, "o_bias": True, "mlp_bias": True,
            "qk_norm": False, "eos_ids": [2], "norm": "layer", "mlp": "relu", "positions": "learned",
            "position_offset": 2}


def spec_of(family, config):
    if family == "opt":
        return opt_spec(config)
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    scaling = {"kind": "none"}
    if kind != "default":
        scaling = {"kind": kind, "factor": rope["factor"]}
    if kind == "llama3":
        scaling |= {"low_freq_factor": rope["low_freq_factor"], "high_freq_factor": rope["high_freq_factor"],
                    "original_max_positions": rope["original_max_position_embeddings"]}
    return {"family": family, "layers": config.num_hidden_layers, "hidden": config.hidden_size,
            "intermediate": config.intermediate_size, "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads, "head_dim": config.head_dim, "vocab": config.vocab_size,
            "max_positions": config.max_position_embeddings,
            "sliding_window": (config.sliding_window or 0) if family == "mistral" else 0,
            "norm_eps": config.rms_norm_eps, "rope_theta": rope.get("rope_theta", 10000.0), "rope_scaling": scaling,
            "tied_head": config.tie_word_embeddings,
            "qkv_bias": family == "qwen2" or getattr(config, "attention_bias", False),
            "o_bias": family == "llama" and getattr(config, "attention_bias", False),
            "mlp_bias": getattr(config, "mlp_bias", False), "qk_norm": family == "qwen3", "eos_ids": [2]}


def main():
    out = Path(__file__).resolve().parents[2] / "tests" / "data" / "graph"
    out.mkdir(parents=True, exist_ok=True)
    for index, (name, (family, config_type, model_type, changes)) in enumerate(MODELS.items()):
        torch.manual_seed(index)
        options = dict(COMMON)
        if family == "qwen2":
            options.pop("head_dim")  # it has none of its own: hidden / heads
            options |= dict(num_attention_heads=2, num_key_value_heads=1)
        if family == "opt":
            for key in ("intermediate_size", "num_key_value_heads", "head_dim", "rms_norm_eps"):
                options.pop(key)
        config = config_type(**options, **changes)
        if family != "opt":
            config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        model = model_type(config).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                # Larger than at initialisation, so that attention is not flat and a wrong angle or norm shows.
                offset = 1.0 if key.endswith("norm.weight") else 0.0
                parameter.copy_(offset + torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.25))
        ids = torch.randint(0, config.vocab_size, (WINDOWS, LENGTH))
        logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, config.vocab_size), ids[:, 1:].reshape(-1))
        loss.backward()
        parameters = {our_name(family, key): value for key, value in model.named_parameters()}
        tensors = {key: value.detach().contiguous().clone() for key, value in parameters.items()}
        for key, value in parameters.items():
            if key.endswith("_proj.weight") or "embed_tokens" in key or "head" in key:
                tensors[f"gradient.{key}"] = value.grad.contiguous().clone()
        tensors["ids"] = ids.to(torch.int32)
        tensors["logits"] = logits.detach().contiguous().clone()
        spec = spec_of(family, config)
        save_file(tensors, str(out / f"{name}.safetensors"), {"spec": json.dumps(spec), "loss": repr(loss.item())})
        (out / f"{name}.safetensors").chmod(0o644)
        print(name, f"loss {loss.item():.4f}", (out / f"{name}.safetensors").stat().st_size, "bytes")


if __name__ == "__main__":
    sys.exit(main())
