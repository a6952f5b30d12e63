#!/usr/bin/env python3
"""Times of ggml's matrix products, cold, beside which ours are put: peer_products.py OUT.json [options].

For each type, shape and number of activation rows, every buffer type that supports it is tried, so that the peer is at
its best. Run it with tools/peer_venv's Python.
"""
import argparse
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ggml  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--shapes", default="4096x14336", help="ROWSxCOLS,…")
    parser.add_argument("--types", default="q4_0,q3_K,q2_K,iq2_xxs")
    parser.add_argument("--batches", default="1,2,4,8,16,256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    rows_of_table = []
    for shape in options.shapes.split(","):
        rows, cols = map(int, shape.split("x"))
        for type_name in options.types.split(","):
            for buffer_type in ggml.buffer_types():
                if not ggml.supported(type_name, rows, cols, buffer_type):
                    continue
                name = ggml.buffer_type_name(buffer_type).decode()
                products = ggml.Products(type_name, rows, cols, buffer_type, options.threads)
                for batch in map(int, options.batches.split(",")):
                    # A graph of small batches goes round all matrices; of large ones, through 2 · 10^10 operations.
                    count = products.count if batch <= 16 else max(1, min(products.count, int(4e10 / (2 * rows * cols * batch))))
                    repeats = options.repeats if batch <= 16 else min(options.repeats, 3)
                    seconds = products.times(batch, repeats, count)
                    median = statistics.median(seconds)
                    rows_of_table.append({
                        "shape": shape, "type": type_name, "buffer": name, "batch": batch,
                        "bits_per_weight": 8 * products.bytes / (rows * cols), "megabytes": products.bytes / 1e6,
                        "microseconds": 1e6 * median, "best_microseconds": 1e6 * min(seconds),
                        "gigabytes_per_second": products.bytes / median / 1e9,
                        "gigaflops": 2e-9 * rows * cols * batch / median})
                    line = rows_of_table[-1]
                    print(f"{shape:12} {type_name:8} {name:12} batch {batch:3} {line['microseconds']:10.1f} us "
                          f"{line['gigabytes_per_second']:6.2f} GB/s {line['gigaflops']:7.1f} GFLOPS", flush=True)
                products.close()
    with open(options.out, "w") as file:
        json.dump({"threads": options.threads, "cold_bytes": ggml.COLD_BYTES, "products": rows_of_table}, file, indent=1)


main()
