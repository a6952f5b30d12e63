#!/usr/bin/env python3
"""Writes tests/data/tokenizer/: tiny tokenizers trained here, and the ids that PyPI's tokenizers and sentencepiece give.

Needs `pip install tokenizers sentencepiece transformers` (tools/golden is run by hand; the tests read only what it wrote). Vectors of
real vocabularies are made when ../shared/data/tokenizers is there; their tests skip where it is not.
"""
import contextlib
import io
import json
import pathlib
import random
import tempfile

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/tokenizer"
SHARED = ROOT.parent / "shared/data/tokenizers"

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind; it's been there since 1987.",
    "In the beginning there was a word, and the word was split into bytes: 0x41, 0x42, 3.14159 and 2,718.",
    "Wörter mit Umlauten über Größe, naïve café déjà vu. Привет, мир! Здравствуй, мир. 你好，世界。こんにちは世界",
    "def main():\n    for i in range(10):\n        print(i, 100 * i)\n\n\treturn None\r\n",
    "She'll say they've won; I'd say we're done. IT'S WHAT THEY'RE AFTER! the theatre, then the other, these, those",
    "🙂🙂 👨‍👩‍👧 ½ ² Ⅷ ٣٤٥  spaces   and    more     spaces",
] * 3


def texts():
    """Unicode-rich and awkward: every one is valid UTF-8."""
    fixed = [
        "", " ", "  ", "\t", "\n", "\n\n\n", "\r\n\r\n  x", " a", "a ", "  a  b   c    ", "\0", "a\0b", "Hello, world!",
        " Hello world", "don't DON'T Don’t I'll WE'VE it'ſ o'clock 's's", "1", " 1", "  1", "12345 678", "a1b22c333 4444",
        "\n 1\n\n 22  333   4444", "1,234.5 x 10² ½ ٣٤ Ⅷ ㈠", "e\u0301 é ẛ̣ ﬁ Å 가 ᄀ\u1161", "ied 4 ½ months", "Führer Größe",
        "你好，世界。こんにちは 안녕하세요 नमस्ते مرحبا שלום ไทย", "🙂👨‍👩‍👧‍👦🇩🇪🏳️‍🌈 🦙.cpp", "a\u00a0b\u2003c\u3000 d\u180ee\u200bf\u2028g\u0085h",
        "▁x▁▁ y ▁", "x = [1, 2,3];  // done\n\n\ty +=\t\t2;\r", "<|endoftext|>", "x <|endoftext|> y<|im_start|>user\nhi<|im_end|>",
        "<s>a</s> <unk>b<0x41>", "<tool> <tool>x<TOOL> keep <tool>s", "word wordy aword word. (word)", "a" * 70, " " * 41 + "x",
        "ab" * 40, "the theatre then these those other", "\U0010ffff\ufffd\ufeff", "İıſK ß ẞ ŉ",
    ]
    rng = random.Random(3)
    pools = [(0x20, 0x7F), (0, 0x20), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xD80), (0x1E00, 0x2100),
             (0x2100, 0x2C00), (0x3000, 0x3400), (0x4E00, 0x5100), (0xAC00, 0xAE00), (0x1D400, 0x1D800), (0x1F300, 0x1F900)]
    for _ in range(60):
        text = ""
        for _ in range(rng.randrange(1, 25)):
            low, high = rng.choice(pools) if rng.random() < 0.5 else pools[0]
            text += chr(rng.randrange(low, high)) if rng.random() < 0.7 else rng.choice([" ", "  ", "\n", "'s", "12", " 7", "\r\n", " the"])
        fixed.append(text)
    return fixed


def save(tokenizer, name, **changes):
    content = json.loads(tokenizer.to_str())
    content.update(changes)
    (OUT / name).write_text(json.dumps(content, ensure_ascii=False, indent=None) + "\n", encoding="utf8")
    content["truncation"] = content["padding"] = None
    return Tokenizer.from_str(json.dumps(content))


def byte_level(name, pre_tokenizer, normalizer=None, vocab_size=420, ignore_merges=False, bos=None, **changes):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False, special=False),
                          AddedToken("word", single_word=True, normalized=True, special=False)])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return save(tokenizer, name, **changes)


def llama2_style(name):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(content=" ", left=1)])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    # Words, so that merges stay inside them as in the real one; ASCII, so that other characters fall back to bytes.
    words = [word for line in CORPUS if line.isascii() for word in line.replace("\n", " ").split(" ")]
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=480, special_tokens=specials, show_progress=False))
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # byte tokens belong to the model, not to the added ones
    return save(Tokenizer.from_str(json.dumps(content)), name)


def opt_style(name):
    """vocab.json, merges.txt and a configuration as in facebook/opt-125m, which alone tells of the special tokens."""
    folder = OUT / name
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.model.save(str(folder))
    named = {key: {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False,
                   "single_word": False}
             for key, content in (("unk_token", "</s>"), ("bos_token", "</s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"))}
    config = {"errors": "replace", **named, "add_prefix_space": False, "add_bos_token": True,
              "tokenizer_class": "GPT2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf8")
    return AutoTokenizer.from_pretrained(folder).backend_tokenizer


def sentencepiece_model(name, **options):
    # The trainer writes its settings into the model: relative names keep folders of this machine out of it.
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if options.pop("own_rules", False):
            pathlib.Path("rules.tsv").write_text("FB01\t66 69\tfi\nBD\t31 2F 32\n2075\t35\nA0\t20\n", encoding="utf8")
            options["normalization_rule_tsv"] = "rules.tsv"
        lines = [line for text in CORPUS for line in text.splitlines() if line]
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, hard_vocab_limit=False,
                                                 minloglevel=2, **options)
    model = model.getvalue()
    (OUT / name).write_bytes(model)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def qwen_from_shared():
    vocab = json.loads((SHARED / "qwen2.5/vocab.json").read_text(encoding="utf8"))
    lines = (SHARED / "qwen2.5/merges.txt").read_text(encoding="utf8").split("\n")
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(line.split(" ")) for line in lines if line]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    config = json.loads((SHARED / "qwen2.5/tokenizer_config.json").read_text(encoding="utf8"))
    for _, token in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0])):
        added = AddedToken(token["content"], single_word=token["single_word"], lstrip=token["lstrip"], rstrip=token["rstrip"],
                           normalized=token["normalized"], special=token["special"])
        (tokenizer.add_special_tokens if token["special"] else tokenizer.add_tokens)([added])
    return tokenizer


def smollm2_from_shared():
    content = json.loads((SHARED / "smollm2/tokenizer.json").read_text(encoding="utf8"))
    content["truncation"] = None
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                                      content["pre_tokenizer"]]}
    return Tokenizer.from_str(json.dumps(content))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    byte = pre_tokenizers.ByteLevel
    made = {
        "digits.json": byte_level("digits.json", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                                         byte(add_prefix_space=False)]),
                                  truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}),
        "prefix_space.json": byte_level("prefix_space.json", byte(add_prefix_space=True), normalizers.NFKC()),
        "llama3.json": byte_level("llama3.json", pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), byte(add_prefix_space=False, use_regex=False)]),
            ignore_merges=True, bos="<|im_start|>"),
        "qwen2.json": byte_level("qwen2.json", pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2), "isolated"), byte(add_prefix_space=False, use_regex=False)]), normalizers.NFC()),
        "llama2.json": llama2_style("llama2.json"),
        "opt": opt_style("opt"),
        "bpe.model": sentencepiece_model("bpe.model", model_type="bpe", vocab_size=460, byte_fallback=True,
                                         normalization_rule_name="identity", remove_extra_whitespaces=False,
                                         character_coverage=0.98, user_defined_symbols=["<tool>", "==>"]),
        "unigram.model": sentencepiece_model("unigram.model", model_type="unigram", vocab_size=180, own_rules=True,
                                             character_coverage=0.98),
    }
    if SHARED.exists():
        made["gpt2"] = Tokenizer.from_file(str(SHARED / "gpt2/tokenizer.json"))
        made["smollm2"] = smollm2_from_shared()
        made["qwen2.5"] = qwen_from_shared()
        made["llama2"] = sentencepiece.SentencePieceProcessor(str(SHARED / "llama2/tokenizer.model"))
    cases = texts()
    golden = {"texts": cases, "ids": {}}
    for name, tokenizer in made.items():
        if isinstance(tokenizer, sentencepiece.SentencePieceProcessor):
            golden["ids"][name] = [tokenizer.encode(text) for text in cases]
        else:
            golden["ids"][name] = [tokenizer.encode(text, add_special_tokens=False).ids for text in cases]
    lines = ['"texts": ' + json.dumps(golden["texts"])]
    lines += [json.dumps(name) + ": " + json.dumps(ids, separators=(",", ":")) for name, ids in golden["ids"].items()]
    (OUT / "golden.json").write_text("{" + lines[0] + ',\n"ids": {\n' + ",\n".join(lines[1:]) + "\n}}\n", encoding="ascii")


if __name__ == "__main__":
    main()
