"""`zeroshot` against Hugging Face transformers and tokenizers (PyPI), item by item, run by `make slow`: prompts are worded
here anew by the rules of EleutherAI's lm-evaluation-harness, tokens must be the same, log-likelihoods as near as keys and
values in f16 allow.

    zero_shot_test.py PROGRAM SHARED_FOLDER SMOLLM2_GGUF SCRATCH_FOLDER
"""
import json
import pathlib
import re
import subprocess
import sys

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils.logging import disable_progress_bar

ITEMS = 50  # of each task
# Both round keys and values to f16, but of values that differ as f32 sums do, some fall to another neighbour. That is no
# more than the rounding itself: each of 30 layers errs by at most 2^-11 of what its attention adds, which moves a token's
# log-likelihood by about as many nats; errors of tokens, and those of items, are independent. Seen: 0.004; transformers
# in f32 and f64 are 0.008 apart.
TOKEN_ERROR = 30 * 2**-11

program, shared, smollm2, scratch = sys.argv[1], *map(pathlib.Path, sys.argv[2:5])
data = shared / "data/zeroshot"
scratch.mkdir(parents=True, exist_ok=True)
torch.set_grad_enabled(False)
disable_progress_bar()
failures = 0


def check(what, ok, detail=""):
    global failures
    failures += not ok
    print(f"{'ok' if ok else 'FAILED'}: {what}{detail}", flush=True)


def hellaswag_text(text):
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag(record):
    # ctx_b, which the harness capitalises, is what follows the last full stop.
    head, stop, tail = record["ctx"].rpartition(". ")
    return hellaswag_text(head + stop + tail[:1].upper() + tail[1:]), list(map(hellaswag_text, record["endings"]))


def arc(record):
    return f"Question: {record['question']}\nAnswer:", record["choices"]


TASKS = {  # file, measure, record -> context and choices
    "arc_easy": ("arc_easy_test", "acc", arc),
    "arc_challenge": ("arc_challenge_test", "acc_norm", arc),
    "hellaswag": ("hellaswag_val_first2500", "acc_norm", hellaswag),
    "piqa": ("piqa_valid", "acc", lambda r: (f"Question: {r['goal']}\nAnswer:", [r["sol1"], r["sol2"]])),
    "openbookqa": ("openbookqa_test", "acc_norm", lambda r: (r["question"], r["choices"])),
    "boolq": ("boolq_val", "acc", lambda r: (f"{r['passage']}\nQuestion: {r['question']}?\nAnswer:", ["no", "yes"])),
}

tokenizer = Tokenizer.from_file(str(shared / "data/tokenizers/smollm2/tokenizer.json"))
tokenizer.no_truncation()
# The step that this copy of the file has lost.
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer])


def encode(context, choice):
    """Tokens read and how many of them are scored."""
    text = context + " " + choice
    context = context.rstrip()
    whole, before = (tokenizer.encode(t, add_special_tokens=False).ids for t in (text, context))
    return before + whole[len(before):], len(whole) - len(before)


class HalfCache(DynamicCache):
    """Keys and values rounded to f16, as the runtime keeps them."""

    def update(self, keys, values, *rest, **options):
        return super().update(keys.half().float(), values.half().float(), *rest, **options)


def log_likelihoods(model, sequences, scored):
    batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in sequences], batch_first=True)
    hidden = model.model(batch, past_key_values=HalfCache(), use_cache=True).last_hidden_state
    sums = []
    for row, ids, n in zip(hidden, sequences, scored):
        logits = model.lm_head(row[len(ids) - n - 1 : len(ids) - 1]).double()
        sums.append(logits.log_softmax(-1).gather(1, torch.tensor(ids[-n:])[:, None]).sum().item())
    return sums


folder = scratch / "smollm2"
subprocess.run([program, "convert", smollm2, "-o", folder], check=True, stdout=subprocess.DEVNULL)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
report, items = scratch / "report.json", scratch / "items.jsonl"
subprocess.run([program, "zeroshot", smollm2, "--data", data, "--limit", str(ITEMS), "--json", report, "--items", items,
                "--activations", "f32", "--kv", "f16", "--quiet"], check=True)
report = json.loads(report.read_text())
items = [json.loads(line) for line in items.read_text().splitlines()]

customary = []
for result in report["tasks"]:
    name = result["task"]
    file, measure, wording = TASKS[name]
    records = [json.loads(line) for line in (data / f"{file}.jsonl").read_text().splitlines()]
    own = [item for item in items if item["task"] == name]
    lines = [len(records) * (2 * i + 1) // (2 * ITEMS) + 1 for i in range(ITEMS)]
    check(f"{name}: {ITEMS} items spread over the file", [item["line"] for item in own] == lines)
    wrong_tokens, errors, right, right_by_length = 0, [], 0, 0
    for item in own:
        record = records[item["line"] - 1]
        context, choices = wording(record)
        encoded = [encode(context, choice) for choice in choices]
        wrong_tokens += [list(pair) for pair in zip(item["ids"], item["scored"])] != [list(pair) for pair in encoded]
        wanted = log_likelihoods(model, item["ids"], item["scored"])
        errors += [(a - b) / n**0.5 for a, b, n in zip(item["log_likelihoods"], wanted, item["scored"])]
        label = {"true": 1, "false": 0}.get(record["label"], record["label"])
        found = item["log_likelihoods"]
        by_length = [value / len(choice) for value, choice in zip(found, choices)]
        right += found.index(max(found)) == label
        right_by_length += by_length.index(max(by_length)) == label
    check(f"{name}: tokens", wrong_tokens == 0, f": {wrong_tokens} items differ")
    for what, error, allowed in [("largest", max(map(abs, errors)), TOKEN_ERROR),
                                 ("mean", abs(sum(errors) / len(errors)), TOKEN_ERROR / ITEMS**0.5)]:
        check(f"{name}: {what} error of the log-likelihoods by root of their tokens", error <= allowed,
              f": {error:.1e} nats, allowed {allowed:.1e}")
    check(f"{name}: both accuracies", (result["acc"], result["acc_norm"]) == (right / ITEMS, right_by_length / ITEMS),
          f": {right / ITEMS:.2f}, {right_by_length / ITEMS:.2f}")
    check(f"{name}: the customary one is {measure}", result["customary"] == measure)
    customary.append(result[measure])
check("six tasks", len(customary) == 6)
check("their mean", abs(report["mean"] - sum(customary) / 6) < 1e-12)
sys.exit(failures > 0)
