"""What the tests of `scalebits train` have in common: a byte tokenizer, a text and a configuration small enough to train
on in seconds, and the call, alone or by processes together."""
import json
import os
import pathlib
import random
import shutil
import subprocess

STEPS = 60
port = random.randrange(20000, 32000)  # below the ports that connections are given


def byte_names():
    """GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


class Workplace:
    def __init__(self, program, folder):
        self.program, self.folder = program, pathlib.Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        tokenizer = self.folder / "tokenizer"
        tokenizer.mkdir(parents=True)
        vocab = {name: byte for byte, name in enumerate(byte_names())} | {"<|endoftext|>": 256}
        (tokenizer / "tokenizer.json").write_text(json.dumps({
            "version": "1.0", "normalizer": None,
            "added_tokens": [{"id": 256, "content": "<|endoftext|>", "special": True, "single_word": False,
                              "lstrip": False, "rstrip": False, "normalized": False}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}}))
        (tokenizer / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
        self.text = self.folder / "text.txt"
        self.text.write_text("".join(f"{i % 7} and {i % 5} make {i % 7 + i % 5}. " for i in range(600)))
        (self.folder / "config.json").write_text(json.dumps({
            "model": {"layers": 2, "hidden": 64, "intermediate": 128, "heads": 4}, "tokenizer": str(tokenizer),
            "window_length": 64, "batch_windows": 8, "validation_windows": 4, "steps": STEPS, "warmup_steps": 5,
            "learning_rate": 0.005, "validation_interval": 20, "checkpoint_interval": 15, "scheme": "snip",
            "update_interval": 20, "fp4_share": 0.75}))

    def command(self, run, *more, text=None):
        return [self.program, "train", "--config", str(self.folder / "config.json"), "--data", str(text or self.text), "-o",
                str(self.folder / run), "--threads", "1", *more]

    def lines(self, run):
        """The log without its times and without a line that is being written."""
        whole = (self.folder / run / "log.jsonl").read_text().split("\n")[:-1]
        return [{key: value for key, value in json.loads(line).items() if "second" not in key} for line in whole]

    def logged(self, run):
        log = self.folder / run / "log.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def result(self, run):
        """The bytes that a run ends in."""
        last = self.folder / run / f"checkpoint-{STEPS:08}"
        return [(last / name).read_bytes() for name in ("model.safetensors", "config.json")]


def refused(place, status, words, run, *more, text=None, **how):
    found = subprocess.run(place.command(run, "--quiet", *more, text=text), stderr=subprocess.PIPE, text=True, **how)
    assert found.returncode == status and all(word in found.stderr for word in words), (found.returncode, words, found.stderr)


def together(place, size, run, *more, own=lambda rank: ()):
    """The processes, each with its pipes."""
    global port
    port += 1
    job = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [subprocess.Popen(place.command(run, *more, *own(rank)), env=os.environ | job | {"RANK": str(rank)},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(size)]
