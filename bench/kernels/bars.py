"""What issue 4 asks for, worked out from the steps of one run of bench/kernels/compare."""
import statistics

MAIN = "4096x14336"
MIXED = "mixed 2/3/4/8"


class Figures:
    """Looks figures up in the steps of a run; a figure that was measured several times is the median."""

    def __init__(self, record):
        self.steps = record["steps"]
        ours = [s["result"] for s in self.steps if s["name"].startswith(("products", "model"))]
        self.bandwidth = max(rate["best"] for result in ours for rate in result["reading_bytes_per_second"].values())
        peers = [p["gigabytes_per_second"] * 1e9 for s in self.steps if s["name"].startswith("peer products")
                 for p in s["result"]["products"] if p["megabytes"] > 10]
        self.bandwidth = max([self.bandwidth] + peers)
        self.peaks = {}
        for result in ours:
            for name, rate in result["operations_per_second"].items():
                self.peaks[name] = max(self.peaks.get(name, 0), rate["best"])

    def ours(self, weights, batch, field="microseconds", step="products", shape=None, pages="ordinary"):
        found = [p[field] for s in self.steps if s["name"] == step for p in s["result"]["products"]
                 if (p["shape"], p["pages"], p["weights"], p["batch"]) == (shape or MAIN, pages, weights, batch)]
        return statistics.median(found) if found and not isinstance(found[0], str) else (found[0] if found else None)

    def ratio(self, what, step="products", shape=None):
        found = [r["value"] for s in self.steps if s["name"] == step for r in s["result"]["ratios"]
                 if r["shape"] == (shape or MAIN) and r["pages"] == "ordinary" and r["what"].startswith(what)]
        return statistics.median(found) if found else None

    def peer(self, kind, batch, field="microseconds", step="peer products", shape=None):
        """Of the buffer type that is fastest at this batch."""
        best = {}
        for s in self.steps:
            if s["name"] == step:
                for p in s["result"]["products"]:
                    if (p["shape"], p["type"], p["batch"]) == (shape or MAIN, kind, batch):
                        best.setdefault(p["buffer"], []).append((p["microseconds"], p[field]))
        found = [(statistics.median(t for t, _ in times), statistics.median(v for _, v in times)) for times in best.values()]
        return min(found)[1] if found else None

    def model(self, step, work, context=0, batch=1, tokens=None):
        """Seconds per token of one sequence; of the peer's ways of loading the fastest."""
        found = {}
        for s in self.steps:
            if s["name"] == step:
                times = s["result"]["model"]["times"] if "model" in s["result"] else s["result"]["times"]
                for t in times:
                    if (t["work"], t["context"], t["batch"]) == (work, context, batch) and tokens in (None, t["tokens"]):
                        found.setdefault(t.get("way", ""), []).append(t["seconds"] / t["tokens"])
        return min(statistics.median(times) for times in found.values()) if found else None

    def share_at_the_time(self, step):
        """Of the bandwidth that the same call found, minutes before at most, decoding one sequence: median."""
        found = [t["roofline_share"] for s in self.steps if s["name"] == step for t in s["result"]["model"]["times"]
                 if (t["work"], t["context"], t["batch"]) == ("decode", 0, 1)]
        return statistics.median(found)

    def bytes_per_token(self, step):
        return next((s["result"]["model"]["bytes_per_token"] for s in self.steps if s["name"] == step), None)


def ratio_of(above, below):
    return None if above is None or below is None else above / below


def bars(f):
    """(work, what is compared, value, bar, whether less is better)."""
    rows = []

    def add(work, what, value, bar=None, less=True):
        if value is not None:
            rows.append((work, what, value, bar, less))

    for weights, kinds, bar in (("uniform 4", ["q4_0"], 1.08), ("uniform 3", ["q3_K"], 1.12),
                                ("uniform 2", ["q2_K", "iq2_xxs"], 1.08), (MIXED, [], 1.12)):
        time = f.ours(weights, 1)
        work = f"{weights}, {MAIN}, 1 row"
        add(work, "time / plain read of the same bytes", f.ours(weights, 1, "over_plain_read"), bar)
        megabytes = f.ours(weights, 1, "megabytes")
        if time:
            add(work, "time / roofline (best bandwidth of the run)", time / (megabytes * 1e12 / f.bandwidth))
        add(work, "the same on huge pages: time / plain read", f.ours(weights, 1, "over_plain_read", pages="huge"))
        for kind in kinds:
            add(work, f"{kind}'s time / ours", ratio_of(f.peer(kind, 1), time), None if kind == "q4_0" else 2.2, False)
    add(MIXED, "time / share-weighted uniform", f.ratio(f"batch 1: {MIXED} / share"), 1.04)
    add(MIXED, "time with orders / without", f.ratio(f"batch 1: {MIXED} / without"), 1.03)
    add("2 bits", "time / time at 4 bits", f.ratio("batch 1: time at 2"), 0.56)
    for batch in (2, 4, 8, 16):
        add(f"{MIXED}, {batch} rows", "time / time of 1 row", ratio_of(f.ours(MIXED, batch), f.ours(MIXED, 1)),
            1.5 if batch == 4 else None)
        for kind in ("q2_K", "q3_K"):
            add(f"{MIXED}, {batch} rows", f"{kind}'s time / ours", ratio_of(f.peer(kind, batch), f.ours(MIXED, batch)),
                2 if batch == 16 and kind == "q2_K" else None, False)
    add(f"{MIXED}, 256 rows", f"share of the peak of {f.ours(MIXED, 256, 'kernel')}", f.ours(MIXED, 256, "peak_share"),
        0.25 if "amx" in (f.ours(MIXED, 256, "kernel") or "") else 0.6, False)
    for kind in ("q3_K", "q2_K", "q4_0"):
        add(f"{MIXED}, 256 rows", f"{kind}'s time / ours", ratio_of(f.peer(kind, 256), f.ours(MIXED, 256)),
            3 if kind == "q3_K" else None, False)
    for step in ("products, avx512-vnni", "products, avx-vnni", "products, avx2", "products, AVX2"):
        for weights in ("uniform 2", "uniform 3", "uniform 4", MIXED):
            add(f"{step}: {weights}, 1 row", "time / plain read", f.ours(weights, 1, "over_plain_read", step))
        add(f"{step}: {MIXED}, 256 rows", f"share of the peak of {f.ours(MIXED, 256, 'kernel', step)}",
            f.ours(MIXED, 256, "peak_share", step), 0.6 if "512" in step else None, False)
        if "avx2" in step.lower():
            for weights, kind in (("uniform 2", "q2_K"), ("uniform 2", "iq2_xxs"), ("uniform 3", "q3_K"), ("uniform 4", "q4_0")):
                add(f"{step}: {weights}, 1 row", f"time of {kind} forced to AVX2 / ours",
                    ratio_of(f.peer(kind, 1, step="peer products, AVX2"), f.ours(weights, 1, step=step)), 1.5, False)
    for model in ("1.1b", "3b"):
        step = f"model {model}"
        ours, weights = f.model(step, "decode"), f.bytes_per_token(step)
        if ours:
            add(f"{model}, decode", "tokens/s", 1 / ours, None, False)
            add(f"{model}, decode", "share of the roofline", weights / f.bandwidth / ours, 0.8, False)
            add(f"{model}, decode", "share of the bandwidth at that time", f.share_at_the_time(step), None, False)
        for kind in ("q2_K", "q3_K", "q4_0", "iq2_xxs"):
            peer = f.model(f"peer {step} {kind}", "decode")
            if peer:
                add(f"{model}, decode", f"tokens/s of llama.cpp {kind}", 1 / peer, None, False)
                add(f"{model}, decode", f"{kind}'s time / ours", ratio_of(peer, ours), 2.2 if kind == "q2_K" else None, False)
            for length in (256, 512, 4096):
                add(f"{model}, prompt of {length}", f"{kind}'s time / ours",
                    ratio_of(f.model(f"peer {step} {kind}", "prompt", tokens=length), f.model(step, "prompt", tokens=length)),
                    None, False)
        add(f"{model}, decode after 4096 tokens", "q2_K's time / ours",
            ratio_of(f.model(f"peer {step} q2_K", "decode", 4096), f.model(step, "decode", 4096)), None, False)
    add("SmolLM2, load to first token", "time / llama.cpp's (its file Q4_1, 98 MB)",
        ratio_of(f.model("model SmolLM2", "load to first token"), f.model("peer model SmolLM2", "load to first token")), 1.0)
    return rows


def table(record):
    f = Figures(record)
    lines = ["# Kernels and runtime beside llama.cpp", "",
             f"`{record['command']}` at {record['commit']}, {record['date']}, {record['seconds'] / 60:.0f} minutes; "
             f"{record['processor']}, {record['threads']} threads; load {record['load_before']:.2f} before, "
             f"{record['load_after']:.2f} after.",
             f"Best bandwidth seen: {f.bandwidth / 1e9:.1f} GB/s. 8-bit operations per second in registers: "
             + ", ".join(f"{name} {peak / 1e12:.2f} T" for name, peak in f.peaks.items()) + "."]
    if max(record["load_before"], max(s["load"] for s in record["steps"]) - record["threads"]) > 0.5:
        lines.append("**The machine was not quiet: these figures are not to be relied on.**")
    if "note" in record:
        lines.append(f"**{record['note']}**")
    if record["missing_sets"]:
        lines.append(f"This machine lacks {', '.join(record['missing_sets'])}.")
    lines += ["", "The peer is llama.cpp as PyPI's `llama-cpp-python` builds it for this machine (`tools/peer_venv`), at the "
              "buffer type or way of loading that is fastest for each line; its models have one type throughout, Q6_K for "
              "embedding and head. Ours: medians, cold, from f32 to f32, ordinary pages of a mapped file.", "",
              "| work | what | value | bar | |", "|---|---|---|---|---|"]
    for work, what, value, bar, less in bars(f):
        wanted = "" if bar is None else f"{'≤' if less else '≥'} {bar:g}"
        met = "" if bar is None else "met" if (value <= bar if less else value >= bar) else "**missed**"
        lines.append(f"| {work} | {what} | {value:.3g} | {wanted} | {met} |")
    lines += ["", "All figures: the `.json` of this name."]
    return "\n".join(lines) + "\n"
