#!/usr/bin/env python3
"""Tokens per second of llama.cpp on a model of a stated shape: peer_model.py OUT.json --spec SPEC.json [options].

SPEC.json is what `scalebits inspect --json` says under "spec". The GGUF file has random weights of one type throughout,
embedding and head of --head's type, and is kept in --folder. With --gguf a model that exists is loaded instead. Every way
of loading that could be faster is tried: mapped or read, repacked or not. Run it with tools/peer_venv's Python.
"""
import argparse
import ctypes
import json
import os
import statistics
import sys
import time

import llama_cpp
import numpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ggml  # noqa: E402

# The first two are the fastest at one kind of work each: repacked weights at decoding, some types' stored ones at prompts.
WAYS = [("mapped, repacked", llama_cpp.LLAMA_LOAD_MODE_MMAP, True), ("mapped, as stored", llama_cpp.LLAMA_LOAD_MODE_MMAP, False),
        ("read, repacked", llama_cpp.LLAMA_LOAD_MODE_NONE, True)]
QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)  # must live as long as the library


def write_gguf(path, spec, type_name, head_type):
    import gguf

    def matrix(kind, rows, cols):
        few = ggml.random_rows(kind, 16, cols).reshape(16, -1)
        return numpy.tile(few, (-(-rows // 16), 1))[:rows]

    writer = gguf.GGUFWriter(path + ".partial", "llama")
    hidden, head_dim = spec["hidden"], spec["head_dim"]
    writer.add_context_length(spec["max_positions"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(spec["layers"])
    writer.add_feed_forward_length(spec["intermediate"])
    writer.add_head_count(spec["heads"])
    writer.add_head_count_kv(spec["kv_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(spec["rope_theta"])
    writer.add_layer_norm_rms_eps(spec["norm_eps"])
    writer.add_vocab_size(spec["vocab"])
    writer.add_tokenizer_model("none")
    shapes = {"attn_q": (spec["heads"] * head_dim, hidden), "attn_k": (spec["kv_heads"] * head_dim, hidden),
              "attn_v": (spec["kv_heads"] * head_dim, hidden), "attn_output": (hidden, spec["heads"] * head_dim),
              "ffn_gate": (spec["intermediate"], hidden), "ffn_up": (spec["intermediate"], hidden),
              "ffn_down": (hidden, spec["intermediate"])}
    number = lambda kind: gguf.GGMLQuantizationType(ggml.TYPES[kind])  # noqa: E731
    ones = numpy.ones(hidden, dtype=numpy.float32)
    writer.add_tensor("token_embd.weight", matrix(head_type, spec["vocab"], hidden), raw_dtype=number(head_type))
    for layer in range(spec["layers"]):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
        for name, (rows, cols) in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(type_name, rows, cols), raw_dtype=number(type_name))
    writer.add_tensor("output_norm.weight", ones)
    if not spec["tied_head"]:
        writer.add_tensor("output.weight", matrix(head_type, spec["vocab"], hidden), raw_dtype=number(head_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(path + ".partial", path)


class Loaded:
    def __init__(self, path, load_mode, repack, threads, context, sequences):
        start = time.perf_counter()
        params = llama_cpp.llama_model_default_params()
        params.load_mode, params.use_extra_bufts, params.n_gpu_layers = load_mode, repack, 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        assert self.model, path
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = context, 512, 512, sequences
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = True
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        assert self.context, "no context"
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.read([1])
        self.likeliest()
        self.first_token_seconds = time.perf_counter() - start

    def read(self, tokens):
        """Appends to sequence 0; 512 at a time."""
        for first in range(0, len(tokens), 512):
            part = tokens[first:first + 512]
            array = (llama_cpp.llama_token * len(part))(*part)
            assert llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(part))) == 0

    def likeliest(self, row=-1):
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(numpy.ctypeslib.as_array(logits, shape=(self.vocab,)).argmax())

    def keep(self, tokens):
        memory = llama_cpp.llama_get_memory(self.context)
        for sequence in range(llama_cpp.llama_n_seq_max(self.context)):
            assert llama_cpp.llama_memory_seq_rm(memory, sequence, tokens if sequence == 0 else 0, -1)

    def write(self, tokens):
        token = 1
        start = time.perf_counter()
        for _ in range(tokens):
            self.read([token])
            token = self.likeliest()
        return time.perf_counter() - start

    def write_together(self, sequences, tokens):
        batch = llama_cpp.llama_batch_init(sequences, 0, 1)
        next_tokens = [1] * sequences
        start = time.perf_counter()
        for position in range(tokens):
            batch.n_tokens = sequences
            for i in range(sequences):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = next_tokens[i], position, 1, 1
                batch.seq_id[i][0] = i
            assert llama_cpp.llama_decode(self.context, batch) == 0
            next_tokens = [self.likeliest(i) for i in range(sequences)]
        seconds = time.perf_counter() - start
        llama_cpp.llama_batch_free(batch)
        return seconds

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def measure(path, way, options):
    numbers = lambda text: [int(part) for part in text.split(",") if part]  # noqa: E731
    prompts, contexts, sequences = map(numbers, (options.prompts, options.contexts, options.sequences))
    name, load_mode, repack = way
    room = max([0] + prompts + [c + options.tokens for c in contexts] + [s * options.tokens for s in sequences]) + 64
    loads, rows = [], []
    for _ in range(options.repeats):
        loaded = Loaded(path, load_mode, repack, options.threads, room, max([1] + sequences))
        loads.append(loaded.first_token_seconds)
        if len(loads) < options.repeats:
            loaded.close()

    def add(work, seconds, tokens, context=0, batch=1):
        rows.append({"way": name, "work": work, "tokens": tokens, "context": context, "batch": batch, "seconds": seconds,
                     "tokens_per_second": tokens * batch / seconds})
        print(f"{options.label:8} {name:18} {work:20} context {context:5} batch {batch:2} {1e3 * seconds:9.1f} ms "
              f"{tokens * batch / seconds:8.2f} tokens/s", flush=True)

    add("load to first token", statistics.median(loads), 1)
    random = numpy.random.default_rng(3)
    text = lambda count: random.integers(0, loaded.vocab, count).tolist()  # noqa: E731
    for length in prompts:
        seconds = []
        for _ in range(options.repeats + 1):
            loaded.keep(0)
            tokens = text(length)
            start = time.perf_counter()
            loaded.read(tokens)
            loaded.likeliest()
            seconds.append(time.perf_counter() - start)
        add("prompt", statistics.median(seconds[1:]), length)
    for context in contexts:
        loaded.keep(0)
        loaded.read(text(context))
        seconds = []
        for _ in range(options.repeats):
            loaded.keep(context)
            seconds.append(loaded.write(options.tokens))
        add("decode", statistics.median(seconds), options.tokens, context)
    for count in sequences:
        seconds = []
        for _ in range(options.repeats):
            loaded.keep(0)
            seconds.append(loaded.write_together(count, options.tokens))
        add("decode", statistics.median(seconds), options.tokens, 0, count)
    loaded.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--spec")
    parser.add_argument("--gguf")
    parser.add_argument("--folder", default=".cache/bench/kernels")
    parser.add_argument("--label", default="model", help="part of the GGUF's name")
    parser.add_argument("--type", default="q2_K")
    parser.add_argument("--head", default="q6_K")
    parser.add_argument("--prompts", default="256,512")
    parser.add_argument("--contexts", default="0")
    parser.add_argument("--sequences", default="4,16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", type=int, default=len(WAYS), help="how many ways of loading to try")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    llama_cpp.llama_log_set(QUIET, ctypes.c_void_p())
    path = options.gguf
    if path is None:
        path = f"{options.folder}/{options.label}-{options.type}-{options.head}.gguf"
        if not os.path.exists(path):
            write_gguf(path, json.load(open(options.spec)), options.type, options.head)
        options.label = options.type
    rows = []
    for way in WAYS[:options.ways]:
        rows += measure(path, way, options)
    with open(options.out, "w") as file:
        json.dump({"gguf": path, "bytes": os.path.getsize(path), "threads": options.threads, "times": rows}, file, indent=1)


main()
