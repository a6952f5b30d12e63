#!/usr/bin/env python3
"""Reads a tensor of a scalebits artifact as f32 in the original channel order, by docs/format.md and numpy alone:
tools/read_artifact.py ARTIFACT TENSOR OUT.npy"""
import json
import sys
import numpy as np
PLANES = [[], [1], [2], [2, 1], [4], [4, 1], [4, 2], [4, 2, 1], [4, 4]]
DTYPES = {"U8": "u1", "U16": "<u2", "U32": "<u4", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

def tile_codes(width, tile):  # 128 · width bytes → [16 rows, 64 inputs]
    codes, low = np.zeros((16, 64), np.uint8), 0
    for p in PLANES[width]:  # p bits of each code; F = 8/p fields per byte; input = 4F · vector + 4 · field + k
        vectors, tile = tile[:128 * p].reshape(2 * p, 16, 4), tile[128 * p:]  # [vector, row, byte k]
        fields = np.stack([vectors >> (p * field) & (1 << p) - 1 for field in range(8 // p)], 2)
        codes, low = codes | fields.transpose(1, 0, 2, 3).reshape(16, 64) << low, low + p
    return codes

def side_codes(bits, entries):  # [groups, 2 · bits bytes] → [16 rows, groups], as f64
    return (np.unpackbits(entries, axis=1, bitorder="little").reshape(-1, 16, bits) @ (2.0 ** np.arange(bits))).T

def read_matrix(blob, form, base):
    rows, cols, block_rows, block_cols, group, scale_bits, zero_bits, step, zero_range = form
    base, step, zero_range = (float(np.float32(x)) for x in (base, step, zero_range * (zero_bits > 0)))
    out, tag = np.zeros((-(-rows // 16) * 16, -(-cols // 64) * 64), np.float32), 0
    at = -(-(-(-rows // block_rows) * -(-cols // block_cols)) // 128) * 64  # past the tags
    for top in range(0, rows, max(64, block_rows)):
        bottom, strips = min(rows, top + max(64, block_rows)), []
        for left in range(0, cols, block_cols):
            inputs = min(block_cols, -(-(cols - left) // 64) * 64)  # of whole tiles
            for block in range(top, bottom, block_rows):
                width, tag = int(blob[tag // 2]) >> tag % 2 * 4 & 15, tag + 1
                strips += [(r, left, inputs, width) for r in range(block, min(bottom, block + block_rows), 16) if width]
        entry, side = 2 * (scale_bits + zero_bits), at
        at += -(-sum(-(-inputs // group) * entry for _, _, inputs, _ in strips) // 64) * 64  # the codes lie behind
        for row, left, inputs, width in strips:
            groups, tiles = -(-inputs // group), inputs // 64
            entries = blob[side:side + groups * entry].reshape(groups, entry)
            codes = [tile_codes(width, tile) for tile in blob[at:at + tiles * 128 * width].reshape(tiles, -1)]
            scale = base * np.exp2(side_codes(scale_bits, entries[:, :2 * scale_bits]) * step) / (2 ** width - 1)
            zero = side_codes(zero_bits, entries[:, 2 * scale_bits:]) - 2.0 ** (zero_bits - 1)
            zero = (2 ** width - 1) / 2 + zero * (zero_range * 2 ** width / 2.0 ** (zero_bits - 1))
            scale, zero = (np.repeat(x.astype(np.float32), group, 1)[:, :inputs] for x in (scale, zero))
            out[row:row + 16, left:left + inputs] = scale * (np.hstack(codes).astype(np.float32) - zero)
            side, at = side + groups * entry, at + tiles * 128 * width
    return out[:rows, :cols]

file, name = np.fromfile(sys.argv[1], np.uint8), sys.argv[2]
data = 8 + int(file[:8].view("<u8")[0])
header = json.loads(file[8:data].tobytes())
meta = json.loads(header.pop("__metadata__")["scalebits"])
names = sorted(header, key=lambda n: header[n]["data_offsets"])  # tensors are referred to by their position in the file
tensors = {n: file[data:][slice(*e["data_offsets"])].view(DTYPES[e["dtype"]]) for n, e in header.items()}
values = tensors[name].reshape(header[name]["shape"])
values = (values.astype("<u4") << 16).view("<f4") if header[name]["dtype"] == "BF16" else values.astype("<f4")
for position, form, base, *orders in meta["matrices"]:
    if names[position] == name:
        values = read_matrix(tensors[name], meta["formats"][form], base)
        for axis, table in enumerate(orders):  # stored row or column i is the original's order[i]
            values = values if table < 0 else np.take(values, np.argsort(tensors[names[table]]), axis)
np.save(sys.argv[3], values)
