#!/usr/bin/env python3
"""A byte-level BPE tokenizer of a stated size, learned on the text a small model is trained on, as a folder that
`scalebits train` takes: make_tokenizer.py FOLDER SIZE TEXT... Needs .cache/venv-oracle (tools/oracle_venv)."""
import json
import pathlib
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def main():
    folder, size, texts = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")


main()
