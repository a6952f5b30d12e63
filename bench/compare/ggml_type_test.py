"""Quantise → dequantise of each type, on Gaussian matrices: run by hand with tools/peer_venv's Python.

A second reader (PyPI's gguf, numpy) finds the same weights in the packed bytes; more bits of a family err less; importance
takes error from the columns that have it, to those that have not; padding changes whole blocks not at all.
"""
import sys

import gguf
import numpy
from ggml_type import NAMES, GgmlType

FAMILIES = (("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), ("Q2_K", "Q3_K", "Q4_K"))
failures = 0
random = numpy.random.default_rng(1)


def check(what, held):
    global failures
    failures += not held
    print(f"{'ok' if held else 'FAILED'}: {what}")


def round_trip(name, values, importance):
    ggml_type = GgmlType(name)
    return ggml_type.dequantize(ggml_type.quantize(values, importance), values.shape[1])


def error(name, values, importance):
    """Mean squared error of each column."""
    return ((round_trip(name, values, importance) - values) ** 2).mean(0)


values = random.standard_normal((64, 1024), dtype=numpy.float32)
flat = numpy.ones(1024, numpy.float32)
errors = {name: error(name, values, flat).mean() for name in NAMES}
for name in NAMES:
    ggml_type = GgmlType(name)
    packed = ggml_type.quantize(values, flat)
    check(f"{name} takes {ggml_type.bits_per_weight} bits per weight",
          8 * packed.size == ggml_type.bits_per_weight * values.size)
    read = gguf.quants.dequantize(packed, ggml_type.number)
    check(f"{name}: gguf reads what ggml reads", abs(read - round_trip(name, values, flat)).max() < 1e-6)
    # No code does better on a Gaussian than its rate-distortion bound; rounding to so many uniform levels without a scale
    # does 4 times worse.
    bound = 4 ** -ggml_type.bits_per_weight
    check(f"{name}: squared error {errors[name]:.4f}, {errors[name] / bound:.2f} times the bound", 1 < errors[name] / bound < 4)

for family in FAMILIES:
    found = [errors[name] for name in family]
    check(" > ".join(family) + ": less error with more bits", all(a > b for a, b in zip(found, found[1:])))

uneven = numpy.where(random.random(1024) < 0.25, 100, 1).astype(numpy.float32)
for name in NAMES:
    before, after = error(name, values, flat), error(name, values, uneven)
    heavy, light = uneven > 1, uneven == 1
    check(f"{name}: important columns err {after[heavy].mean() / before[heavy].mean():.3f} times as much, the others "
          f"{after[light].mean() / before[light].mean():.3f} times",
          after[heavy].mean() < 0.97 * before[heavy].mean() and after[light].mean() > before[light].mean())

for name in (name for name in NAMES if 576 % GgmlType(name).block):
    padded = round_trip(name, values[:, :576], flat[:576])
    check(f"{name}: whole blocks of padded rows are those of unpadded ones",
          padded.shape == (64, 576) and (padded[:, :512] == round_trip(name, values, flat)[:, :512]).all())
    share = ((padded - values[:, :576]) ** 2)[:, 512:].mean() / errors[name]
    check(f"{name}: a block with 64 weights errs {share:.2f} times as much as a full one", 0.5 < share < 1.1)
sys.exit(failures > 0)
