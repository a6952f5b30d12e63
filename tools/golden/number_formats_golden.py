#!/usr/bin/env python3
"""Writes tests/data/train/number_formats.safetensors: what PyPI's ml_dtypes says of E2M1, E4M3 and E8M0. Run once, in a
virtual environment with: numpy ml_dtypes safetensors.

    python tools/golden/number_formats_golden.py

Every code's value (`e2m1.values`, `e4m3.values`, `e8m0.values`), and for a set of floats (`inputs`: every code, every
tie between neighbours, the floats next to both, subnormals, random ones, all within the format's range) the rounded
values (`e2m1.rounded`, `e4m3.rounded`; ml_dtypes turns an E4M3 overflow into NaN, where training saturates, so inputs
beyond the range are left to the test).
"""
import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

TYPES = {"e2m1": (ml_dtypes.float4_e2m1fn, 16), "e4m3": (ml_dtypes.float8_e4m3fn, 256),
         "e8m0": (ml_dtypes.float8_e8m0fnu, 256)}


def main():
    random = np.random.default_rng(20261122)
    tensors = {}
    for name, (kind, codes) in TYPES.items():
        values = np.arange(codes, dtype=np.uint8).view(kind).astype(np.float32)
        tensors[f"{name}.values"] = values
        if name == "e8m0":
            continue
        finite = np.unique(values[np.isfinite(values)])
        ties = (finite[1:] + finite[:-1]) / 2
        points = np.concatenate([finite, ties]).astype(np.float32)
        limit = finite[-1]
        spread = (random.uniform(-1, 1, 1000) * limit * 2.0 ** random.integers(-20, 1, 1000)).astype(np.float32)
        inputs = np.concatenate([points, np.nextafter(points, np.float32(np.inf)),
                                 np.nextafter(points, np.float32(-np.inf)), spread])
        inputs = inputs[np.abs(inputs) <= limit]
        tensors[f"{name}.inputs"] = inputs
        tensors[f"{name}.rounded"] = inputs.astype(kind).astype(np.float32)
    folder = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "number_formats.safetensors", metadata={"ml_dtypes": ml_dtypes.__version__})


if __name__ == "__main__":
    main()
