"""Real models against Hugging Face transformers (PyPI), run by `make slow`: what `convert` writes must load there and
compute what the original computes, whatever the rewrite, and `perplexity` must give transformers' number.

    transformers_test.py PROGRAM SHARED_FOLDER SMOLLM2_GGUF SCRATCH_FOLDER
"""
import json
import pathlib
import shutil
import subprocess
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM
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


def same_loss(what, model, window, wanted_logits, layers):
    """window: the first ids of the text, [1, context]. Keys and values are kept as f16: each layer errs by at most 2^-11 of
    what its attention adds, which moves a token's loss by about as many nats; the errors of the tokens are independent."""
    rows = wanted_logits[0, :-1].log_softmax(-1)
    wanted_nll = -rows.gather(1, window[0, 1:, None]).mean().item()
    context, result = window.shape[1], scratch / "perplexity.json"
    subprocess.run([program, "perplexity", model, "--text", text, "--context", str(context), "--windows", "1", "--json", result,
                    "--quiet"], check=True, stdout=subprocess.DEVNULL)
    found_nll = json.loads(result.read_text())["result"]["window_nll"][0]
    check(what, abs(found_nll - wanted_nll), 1e-5 + layers * 2**-11 / (context - 1)**0.5)


tokenizer = Tokenizer.from_file(str(shared / "data/tokenizers/smollm2/tokenizer.json"))
tokenizer.no_truncation()
wanted_ids = tokenizer.encode(text.read_text()[:20000], add_special_tokens=False).ids
found_ids = AutoTokenizer.from_pretrained(plain)(text.read_text()[:20000], add_special_tokens=False).input_ids
check("the tokenizer.json made of SmolLM2's GGUF gives transformers the same ids", int(found_ids != wanted_ids), 0)
ids = torch.tensor([wanted_ids[:512]])
same_loss("SmolLM2-135M's loss on a window of WikiText-2", smollm2, ids, logits(plain, ids), 30)

# No real OPT can be fetched here: random weights in the proportions of opt-125m, with a small vocabulary.
opt = scratch / "opt"
model = OPTForCausalLM(OPTConfig(hidden_size=384, word_embed_proj_dim=384, ffn_dim=1536, num_hidden_layers=6, num_attention_heads=6,
                                 vocab_size=1000, max_position_embeddings=256))
for name, parameter in model.named_parameters():
    offset = 1.0 if name.endswith("norm.weight") else 0.0
    parameter.copy_(offset + torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.05))
model.save_pretrained(opt)
for file in (pathlib.Path(__file__).parents[1] / "data/tokenizer/opt").iterdir():
    shutil.copy(file, opt)
ids = torch.randint(0, 1000, (2, 256))
wanted = logits(opt, ids)
same_function("OPT written by transformers", wanted, convert(opt, "opt-converted"), ids)
begun = torch.tensor([AutoTokenizer.from_pretrained(opt)(text.read_text()[:5000]).input_ids[:256]])
begins = begun[0, 0] == 2
ids = begun[:, 1:] if begins else begun
check("OPT's tokenizer begins texts with </s>", int(not begins), 0)
same_loss("OPT's loss on a window of WikiText-2", opt, ids, logits(opt, ids), 6)
for option in (["--fold-norms"], ["--rotate", "hadamard"]):
    status = subprocess.run([program, "convert", opt, "-o", scratch / "opt-refused", *option], capture_output=True).returncode
    check(f"OPT is refused with status 3: {option[0]}", abs(status - 3), 0)
sys.exit(failures > 0)
