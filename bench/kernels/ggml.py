"""ggml's own matrix products, by ctypes on the shared libraries of PyPI's llama-cpp-python (tools/peer_venv).

Weights lie in the buffer type that llama.cpp would choose (AMX, repacked) or in the plain one; a graph holds one product
for each of many matrices, more bytes together than any cache holds, so that each product reads cold weights and what a
call costs is spread over all of them.
"""
import ctypes
import os
import time

import gguf
import llama_cpp
import numpy

LIBRARIES = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")


def library(name):
    """The one that llama_cpp has loaded. Of each there are copies under three names in the package, and another copy has buffer
    types of its own, which this one's products take for plain memory: repacked weights go through the wrong kernels then."""
    loaded = ctypes.CDLL(os.path.join(LIBRARIES, f"{name}.so.0"))
    with open("/proc/self/maps") as maps:
        copies = {line.split()[-1] for line in maps if os.path.basename(line.split()[-1]).startswith(f"{name}.so")}
    assert len(copies) == 1, f"several copies of {name} are loaded: {copies}"
    return loaded


BASE, CPU, REGISTRY = library("libggml-base"), library("libggml-cpu"), library("libggml")
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "q2_K": 10, "q3_K": 11, "q4_K": 12, "q6_K": 14, "iq2_xxs": 16, "q2_0": 42}
COLD_BYTES = 1280 << 20


class InitParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def function(where, name, result, *arguments):
    found = getattr(where, name)
    found.restype, found.argtypes = result, arguments
    return found


P, I64, SIZE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
init = function(BASE, "ggml_init", P, InitParams)
free = function(BASE, "ggml_free", None, P)
tensor_overhead = function(BASE, "ggml_tensor_overhead", SIZE)
graph_overhead = function(BASE, "ggml_graph_overhead_custom", SIZE, SIZE, ctypes.c_bool)
new_tensor_2d = function(BASE, "ggml_new_tensor_2d", P, P, ctypes.c_int, I64, I64)
mul_mat = function(BASE, "ggml_mul_mat", P, P, P, P)
new_graph = function(BASE, "ggml_new_graph_custom", P, P, SIZE, ctypes.c_bool)
expand = function(BASE, "ggml_build_forward_expand", None, P, P)
row_size = function(BASE, "ggml_row_size", SIZE, ctypes.c_int, I64)
quantize_chunk = function(BASE, "ggml_quantize_chunk", SIZE, ctypes.c_int, P, P, I64, I64, I64, P)
tensor_set = function(BASE, "ggml_backend_tensor_set", None, P, P, SIZE, SIZE)
tensor_get = function(BASE, "ggml_backend_tensor_get", None, P, P, SIZE, SIZE)
alloc_tensors = function(BASE, "ggml_backend_alloc_ctx_tensors_from_buft", P, P, P)
buffer_free = function(BASE, "ggml_backend_buffer_free", None, P)
buffer_type_name = function(BASE, "ggml_backend_buft_name", ctypes.c_char_p, P)
plain_buffer_type = function(BASE, "ggml_backend_cpu_buffer_type", P)
supports_op = function(BASE, "ggml_backend_dev_supports_op", ctypes.c_bool, P, P)
registry_of = function(BASE, "ggml_backend_dev_backend_reg", P, P)
proc_address = function(BASE, "ggml_backend_reg_get_proc_address", P, P, ctypes.c_char_p)
gallocr_new = function(BASE, "ggml_gallocr_new", P, P)
gallocr_alloc = function(BASE, "ggml_gallocr_alloc_graph", ctypes.c_bool, P, P)
gallocr_free = function(BASE, "ggml_gallocr_free", None, P)
compute = function(BASE, "ggml_backend_graph_compute", ctypes.c_int, P, P)
device_by_type = function(REGISTRY, "ggml_backend_dev_by_type", P, ctypes.c_int)
log_set = function(BASE, "ggml_log_set", None, P, P)
cpu_init = function(CPU, "ggml_backend_cpu_init", P)
set_threads = function(CPU, "ggml_backend_cpu_set_n_threads", None, P, ctypes.c_int)
QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, P)(lambda level, text, data: None)
log_set(ctypes.cast(QUIET, P), None)


def buffer_types():
    """All that the CPU backend knows, those that llama.cpp prefers first, the plain one last."""
    device = device_by_type(0)
    address = proc_address(registry_of(device), b"ggml_backend_dev_get_extra_bufts")
    extra = ctypes.CFUNCTYPE(ctypes.POINTER(P), P)(address)(device)
    found = []
    while extra[len(found)]:
        found.append(extra[len(found)])
    return found + [plain_buffer_type()]


def context(tensors, graph_size=0):
    return init(InitParams(tensor_overhead() * (tensors + 8) + graph_overhead(max(graph_size, 1), False), None, True))


def random_rows(type_name, rows, cols, seed=1):
    """`rows` random rows of variance 1 / cols in this type, as bytes; a flat importance matrix where one is wanted."""
    values = numpy.random.default_rng(seed).standard_normal((rows, cols), dtype=numpy.float32) / numpy.sqrt(cols)
    values = values.astype(numpy.float32)
    number = TYPES[type_name]
    out = numpy.empty(rows * row_size(number, cols), dtype=numpy.uint8)
    flat = numpy.ones(cols, dtype=numpy.float32)
    written = quantize_chunk(number, values.ctypes.data, out.ctypes.data, 0, rows, cols, flat.ctypes.data)
    assert written == out.size, (type_name, written, out.size)
    return out


def dequantized(type_name, data, cols):
    """[rows, cols] in f32, of random_rows()."""
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType(TYPES[type_name])).reshape(-1, cols)


class Products:
    """Matrices [rows, cols] of one type in one buffer type, over COLD_BYTES of them."""

    def __init__(self, type_name, rows, cols, buffer_type, threads):
        self.rows, self.cols = rows, cols
        number = TYPES[type_name]
        self.bytes = row_size(number, cols) * rows
        self.count = max(2, -(-COLD_BYTES // self.bytes))
        self.weights_context = context(self.count)
        self.weights = [new_tensor_2d(self.weights_context, number, cols, rows) for _ in range(self.count)]
        self.buffer = alloc_tensors(self.weights_context, buffer_type)
        assert self.buffer, "no memory for the weights"
        self.few = random_rows(type_name, 16, cols)
        self.type_name = type_name
        data = numpy.tile(self.few, -(-rows // 16))[: self.bytes]
        for tensor in self.weights:
            tensor_set(tensor, data.ctypes.data, 0, self.bytes)
        self.backend = cpu_init()
        set_threads(self.backend, threads)

    def times(self, batch, repeats, products):
        """Seconds of one product with `batch` rows of activations, of the mean over a graph, `repeats` times."""
        graph_context = context(products + 1, products + 8)
        x_context = context(1)
        x = new_tensor_2d(x_context, TYPES["f32"], self.cols, batch)
        x_buffer = alloc_tensors(x_context, plain_buffer_type())
        values = numpy.random.default_rng(2).standard_normal((batch, self.cols), dtype=numpy.float32)
        tensor_set(x, values.ctypes.data, 0, values.nbytes)
        seconds, at = [], 0
        exact = values @ dequantized(self.type_name, self.few, self.cols).T
        allocator = gallocr_new(plain_buffer_type())
        for repeat in range(-1, repeats):  # the first makes room
            free(graph_context)
            graph_context = context(products + 1, products + 8)
            graph = new_graph(graph_context, products + 8, False)
            for _ in range(products):
                y = mul_mat(graph_context, self.weights[at], x)
                expand(graph, y)
                at = (at + 1) % self.count
            assert gallocr_alloc(allocator, graph)
            start = time.perf_counter()
            status = compute(self.backend, graph)
            elapsed = time.perf_counter() - start
            assert status == 0
            if repeat < 0:
                self.check(y, exact)
            if repeat >= 0:
                seconds.append(elapsed / products)
        gallocr_free(allocator)
        buffer_free(x_buffer)
        free(x_context)
        free(graph_context)
        return seconds

    def check(self, y, exact):
        """That the last product of a graph, whose memory nothing else has taken, is the product of the weights: activations
        are rounded to 8 bits, which leaves one part in a hundred."""
        found = numpy.empty((len(exact), self.rows), dtype=numpy.float32)
        tensor_get(y, found.ctypes.data, 0, found.nbytes)
        wanted = numpy.tile(exact, (1, -(-self.rows // 16)))[:, : self.rows]
        error = numpy.linalg.norm(found - wanted) / numpy.linalg.norm(wanted)
        assert error < 0.03, f"{self.type_name}: the product is wrong by {error:.3f} of its norm"

    def close(self):
        buffer_free(self.buffer)
        free(self.weights_context)


def supported(type_name, rows, cols, buffer_type):
    """Whether the CPU backend multiplies such weights in such a buffer."""
    probe = context(3)
    weights = new_tensor_2d(probe, TYPES[type_name], cols, rows)
    buffer = alloc_tensors(probe, buffer_type)
    if not buffer:
        free(probe)
        return False
    other = context(3)
    product = mul_mat(other, weights, new_tensor_2d(other, TYPES["f32"], cols, 1))
    answer = supports_op(device_by_type(0), product)
    buffer_free(buffer)
    free(probe)
    free(other)
    return answer
