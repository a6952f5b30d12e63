"""Real models against Hugging Face transformers (PyPI), run by `make slow`: what `convert` writes must load there and
compute what the original computes, whatever the rewrite, and `perplexity` must give transformers' number.

    transformers_test.py PROGRAM SHARED_FOLDER SMOLLM2_GGUF SCRATCH_FOLDER
"""
import json
import pathlib
import subprocess
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

program, shared, smollm2, scratch = sys.argv[1], *map(pathlib.Path, sys.argv[2:5])
scratch.mkdir(parents=True, exist_ok=True)
torch.set_grad_enabled(False)
disable_progress_bar()
failures = 0


def convert(model, name, *options):
    folder = scratch / name
    subprocess.run([program, "convert", model, "-o", folder, *options], check=True, stdout=subprocess.DEVNULL)
    return folder


def logits(folder, ids):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits.double()


def check(what, error, allowed):
    global failures
    failures += not error <= allowed
    print(f"{'ok' if error <= allowed else 'FAILED'}: {what}: {error:.2e}, allowed {allowed:.2e}")


def same_function(name, wanted, folder, ids):
    """Largest error of the logits beside their spread. f32 rounds each of some hundred operations in a row to 1e-7, on
    activations of which some are a hundred times larger than their like: 1e-4 is seen. A wrong rewrite gives about 1."""
    found = logits(folder, ids)
    check(name, ((found - wanted).abs().max() / wanted.std()).item(), 1e-3)


REWRITES = {"folded": ["--fold-norms"], "givens": ["--rotate", "givens"], "hadamard": ["--rotate", "hadamard"]}
torch.manual_seed(1)

stories = shared / "models/stories260K"
ids = torch.randint(0, 512, (2, 96))
wanted = logits(stories / "hf", ids)
gguf = stories / "stories260Ktok512.f32.gguf"
same_function("stories260K from GGUF", wanted, convert(gguf, "stories"), ids)
for name, options in REWRITES.items():
    same_function(f"stories260K {name}", wanted, convert(gguf, f"stories-{name}", *options), ids)

ids = torch.randint(0, 49152, (2, 64))
plain = convert(smollm2, "smollm2")
wanted = logits(plain, ids)
for name, options in REWRITES.items():
    same_function(f"SmolLM2-135M {name}", wanted, convert(smollm2, f"smollm2-{name}", *options), ids)

text = shared / "data/text/wiki.test.raw"
tokenizer = Tokenizer.from_file(str(shared / "data/tokenizers/smollm2/tokenizer.json"))
tokenizer.no_truncation()
ids = torch.tensor([tokenizer.encode(text.read_text()[:20000], add_special_tokens=False).ids[:512]])
rows = logits(plain, ids)[0, :-1].log_softmax(-1)
wanted_nll = -rows.gather(1, ids[0, 1:, None]).mean().item()
result = scratch / "perplexity.json"
subprocess.run([program, "perplexity", smollm2, "--text", text, "--context", "512", "--windows", "1", "--json", result,
                "--quiet"], check=True, stdout=subprocess.DEVNULL)
found_nll = json.loads(result.read_text())["result"]["window_nll"][0]
# Keys and values are kept as f16: each of 30 layers errs by at most 2^-11 of what its attention adds, which moves a token's
# loss by about as many nats; the errors of 511 tokens are independent.
check("SmolLM2-135M's loss on a window of WikiText-2", abs(found_nll - wanted_nll), 1e-5 + 30 * 2**-11 / 511**0.5)
sys.exit(failures > 0)
