"""Safetensors files by numpy alone: views of their f32 tensors, which can be written to."""
import json
import os
import sys

import numpy


def fail(message):
    sys.exit(f"{os.path.basename(sys.argv[0])}: {message}")


def f32_tensors(path, wanted=lambda name: True, mode="r"):
    """{name: view of the file} of the wanted tensors, which must be F32. Mode "r+": what is written to a view is written to
    the file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= os.path.getsize(path) - 8:
            fail(f"{path}: wanted a safetensors header within the file's {os.path.getsize(path)} bytes, found one of {length}")
        header = json.loads(file.read(length))
    found = {}
    for name in filter(wanted, header.keys() - {"__metadata__"}):
        entry = header[name]
        if entry["dtype"] != "F32":
            fail(f"{path}: tensor {name}: wanted F32 (`scalebits convert --dtype f32`), found {entry['dtype']}")
        found[name] = numpy.memmap(path, "<f4", mode, 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
    return found
