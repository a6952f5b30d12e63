"""The importance matrix of a model, as llama.cpp defines it: for each decoder linear, the mean over calibration tokens of the
square of each of its inputs, in full precision. Run with tools/oracle_venv's Python:

    importance.py MODEL_FOLDER --tokenizer TOKENIZER_JSON [--split-digits] --text FILE… [--windows 128] -o OUT.safetensors

Windows of 512 tokens, as many of each text, spread evenly over it, no BOS. Writes f32 [inputs] for each linear, under the
name of its weight. --split-digits restores the step that the re-saved tokenizer.json of SmolLM2 has lost.
"""
import argparse
import os
import pathlib
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

LENGTH = 512


def read_tokenizer(path, split_digits):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    if split_digits:
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
    return tokenizer


def windows(tokenizer, path, count):
    ids = tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False).ids
    if len(ids) < count * LENGTH:
        sys.exit(f"importance.py: {path}: wanted {count} windows of {LENGTH} tokens, found {len(ids)} tokens")
    starts = torch.linspace(0, len(ids) - LENGTH, count).long()
    return [torch.tensor([ids[start:start + LENGTH]]) for start in starts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL_FOLDER")
    parser.add_argument("--tokenizer", required=True, type=pathlib.Path, metavar="TOKENIZER_JSON")
    parser.add_argument("--split-digits", action="store_true")
    parser.add_argument("--text", required=True, type=pathlib.Path, nargs="+", metavar="FILE")
    parser.add_argument("--windows", type=int, default=128, help="of all texts together")
    parser.add_argument("-o", "--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    if options.windows < len(options.text) or options.windows % len(options.text):
        parser.error(f"wanted as many windows of each of {len(options.text)} texts, found {options.windows} in all")

    torch.set_grad_enabled(False)
    disable_progress_bar()
    tokenizer = read_tokenizer(options.tokenizer, options.split_digits)
    each = options.windows // len(options.text)
    batches = [batch for path in options.text for batch in windows(tokenizer, path, each)]
    decoder = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).model  # the head is not asked
    sums = {}

    def watch(name, linear):
        sums[name] = torch.zeros(linear.in_features, dtype=torch.float64)

        def add(_, inputs):
            sums[name] += inputs[0].reshape(-1, linear.in_features).double().square().sum(0)

        linear.register_forward_pre_hook(add)

    for name, module in decoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            watch(f"model.{name}.weight", module)
    for done, batch in enumerate(batches, 1):
        decoder(batch)
        print(f"\rimportance.py: window {done} of {len(batches)}", end="\n" if done == len(batches) else "", file=sys.stderr)
    means = {name: (total / (len(batches) * LENGTH)).float() for name, total in sums.items()}
    partial = options.out.with_name(options.out.name + ".partial")
    save_file(means, partial)
    os.replace(partial, options.out)
    print(f"importance.py: {len(means)} linears, {len(batches) * LENGTH} tokens")


main()
