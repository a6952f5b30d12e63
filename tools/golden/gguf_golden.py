#!/usr/bin/env python3
"""Writes tests/data/checkpoint/gguf_blocks.safetensors: random blocks of every GGUF type that the project reads, as raw
bytes and as PyPI's `gguf` decodes them. Run once, in a virtual environment with: numpy gguf safetensors.

    python tools/golden/gguf_golden.py
"""
import pathlib

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from safetensors.numpy import save_file

# Where the f16 scales of a block lie. Random bits there would give NaN, Inf and scales no model has.
SCALES_AT = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.IQ4_NL: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}
ELEMENTS = 2048


def main():
    random = np.random.default_rng(20240607)
    tensors = {}
    for kind, offsets in SCALES_AT.items():
        block_elements, block_bytes = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ELEMENTS // block_elements, block_bytes), dtype=np.uint8)
        for offset in offsets:
            scales = (random.standard_normal(len(blocks)) * 10.0 ** random.uniform(-6, 1, len(blocks))).astype(np.float16)
            scales[0] = 0  # and one block without any scale
            blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(-1, 2)
        tensors[f"{kind.name}.bytes"] = blocks
        tensors[f"{kind.name}.values"] = gguf.dequantize(blocks, kind).reshape(-1)
    folder = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "gguf_blocks.safetensors", metadata={"gguf": "PyPI gguf", "seed": "20240607"})


if __name__ == "__main__":
    main()
