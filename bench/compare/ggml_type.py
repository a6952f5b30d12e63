"""A quantisation type of llama.cpp on single matrices, by ggml's own functions out of tools/peer_venv. Run with its Python."""
import ctypes
import pathlib
import sys

import gguf
import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "kernels"))
import ggml  # noqa: E402

NAMES = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_0", "Q4_K")

_type_name = ggml.function(ggml.BASE, "ggml_type_name", ctypes.c_char_p, ctypes.c_int)
_quantize_init = ggml.function(ggml.BASE, "ggml_quantize_init", None, ctypes.c_int)


class GgmlType:
    """`bits_per_weight` counts whole blocks of `block` weights, with their scales."""

    def __init__(self, name):
        self.name, self.number = name, gguf.GGMLQuantizationType[name]
        self.block, self.block_bytes = gguf.GGML_QUANT_SIZES[self.number]
        self.bits_per_weight = 8 * self.block_bytes / self.block
        self._dequantize_row = ggml.function(ggml.BASE, "dequantize_row_" + _type_name(self.number).decode(), None,
                                             ggml.P, ggml.P, ggml.I64)
        _quantize_init(self.number)  # tables, built once for all threads

    def quantize(self, values, importance):
        """Packed rows, u8 [rows, bytes], of f32 `values` [rows, cols], which are padded with zeros to whole blocks: ggml
        has no shorter ones. `importance` [cols] weighs the squared errors of each column; the padding's weigh nothing."""
        rows, cols = values.shape
        padded_cols = -(-cols // self.block) * self.block
        padded = numpy.zeros((rows, padded_cols), numpy.float32)
        padded[:, :cols] = values
        weights = numpy.zeros(padded_cols, numpy.float32)
        weights[:cols] = importance
        packed = numpy.empty((rows, ggml.row_size(self.number, padded_cols)), numpy.uint8)
        written = ggml.quantize_chunk(self.number, padded.ctypes.data, packed.ctypes.data, 0, rows, padded_cols,
                                      weights.ctypes.data)
        assert written == packed.size, (self.name, written, packed.size)
        return packed

    def dequantize(self, packed, cols):
        """The first `cols` of what the packed rows stand for, f32 [rows, cols]."""
        rows, row_bytes = packed.shape
        padded = numpy.empty((rows, row_bytes // self.block_bytes * self.block), numpy.float32)
        self._dequantize_row(packed.ctypes.data, padded.ctypes.data, padded.size)
        return padded[:, :cols]
