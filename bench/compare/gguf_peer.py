"""Writes a copy of a Hugging Face folder in which each decoder linear went through a quantisation type of llama.cpp.

All other tensors stay as they are, byte for byte. One type for all decoder linears, where llama.cpp's mixtures have better
ones for some. Rows that the type's blocks do not divide are padded with zeros, which the rate does not count: to the
type's favour, as llama.cpp itself would take another type for them. Prints what it did as one line of JSON.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
from importlib.metadata import version

import numpy
from ggml_type import NAMES, GgmlType
from tensors import f32_tensors, fail

LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight")


def round_trip(ggml_type, name, weight, importance):
    """Replaces a matrix by its dequantised self. Returns its squared error and its squares, both weighed by importance."""
    if not numpy.isfinite(weight).all():
        fail(f"tensor {name}: wanted finite weights, found others")
    rounded = ggml_type.dequantize(ggml_type.quantize(weight, importance), weight.shape[1])
    errors = ((rounded - weight).astype(float) ** 2 @ importance).sum(), (weight.astype(float) ** 2 @ importance).sum()
    weight[:] = rounded
    return errors


def checked_importance(path, weights):
    found = f32_tensors(path)
    for name, weight in weights.items():
        if name not in found:
            fail(f"{path}: wanted the importance of {name}'s inputs, found none")
        if found[name].shape != weight.shape[1:]:
            fail(f"{path}: tensor {name}: wanted {weight.shape[1]} inputs, found the shape {found[name].shape}")
        if not (numpy.isfinite(found[name]).all() and (found[name] >= 0).all() and found[name].any()):
            fail(f"{path}: tensor {name}: wanted finite values, none negative, not all 0, found others")
    return found


def main():
    parser = argparse.ArgumentParser(prog="gguf_peer", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL_FOLDER", help="safetensors, F32")
    parser.add_argument("--type", required=True, choices=NAMES)
    parser.add_argument("--importance", required=True, type=pathlib.Path, metavar="FILE", help="by bench/compare/importance.py")
    parser.add_argument("-o", "--out", required=True, type=pathlib.Path, metavar="OUT_FOLDER", help="must not exist")
    options = parser.parse_args()
    if options.out.exists():
        fail(f"{options.out} exists already")
    if not list(options.model.glob("*.safetensors")):
        fail(f"{options.model}: wanted a folder with safetensors, found none")

    partial = options.out.with_name(options.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(options.model, partial)
    weights = {}
    for path in sorted(partial.glob("*.safetensors")):
        path.chmod(0o644)
        weights.update(f32_tensors(path, LINEAR.fullmatch, "r+"))
    if not weights:
        fail(f"{options.model}: wanted decoder linears named as Llama's, found none")
    importance = checked_importance(options.importance, weights)

    ggml_type = GgmlType(options.type)
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # ggml's calls release the interpreter
        errors = list(pool.map(lambda name: round_trip(ggml_type, name, weights[name], importance[name]), weights))
    for weight in weights.values():
        weight.flush()
    partial.rename(options.out)
    error, squares = map(sum, zip(*errors))
    print(json.dumps({"type": options.type, "llama_cpp_python": version("llama_cpp_python"),
                      "bits_per_weight": ggml_type.bits_per_weight,
                      "matrices": len(weights), "weights": sum(weight.size for weight in weights.values()),
                      "weighted_relative_error": error / squares}))


main()
