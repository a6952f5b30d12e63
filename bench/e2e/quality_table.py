"""Prints the runs of bench/e2e/quality as Markdown, and writes their figures to bench/results/quality.json."""
import json
import pathlib
import subprocess
import sys

runs, program = pathlib.Path(sys.argv[1]), sys.argv[2]
rows = []
for path in sorted(runs.glob("*.json")):
    name = path.stem
    measured = json.loads(path.read_text())
    sizes = json.loads(subprocess.check_output([program, "inspect", str(runs / f"{name}.safetensors"), "--json"]))
    report = json.loads((runs / f"{name}.report").read_text())
    rows.append({
        "run": name,
        "linear_bpw": sizes["sizes"]["linear_bpw"],
        "code_bits": sizes["sizes"]["code_bits"],
        "perplexity": measured["result"]["perplexity"],
        "perplexity_error": measured["result"]["standard_error"],
        "nll_windows": measured["result"]["window_nll"],
        "kl": measured["divergence"]["kl"],
        "kl_p99": measured["divergence"]["percentile_99"],
        "top1": measured["divergence"]["top1_agreement"],
        "seconds": report["seconds"],
        "recipe": sizes["recipe"],
    })
reference = json.loads(next(runs.glob("*.json")).read_text())["reference_result"]["perplexity"]
pathlib.Path("bench/results/quality.json").write_text(json.dumps({"reference_perplexity": reference, "rows": rows}, indent=1) + "\n")


def paired(run, base):
    """Mean difference of the windows' losses and its standard error: the same windows, so their own spread cancels."""
    deltas = [a - b for a, b in zip(run["nll_windows"], base["nll_windows"])]
    mean = sum(deltas) / len(deltas)
    variance = sum((d - mean) ** 2 for d in deltas) / (len(deltas) - 1)
    return mean, (variance / len(deltas)) ** 0.5


def table(title, chosen, base_name=None):
    if not chosen:
        return
    base = next((r for r in chosen if r["run"] == base_name), None)
    extra = " nats more than the first |" if base else ""
    print(f"\n## {title}\n\n| run | linear bpw | code bits | perplexity |{extra} KL | KL 99% | same top token | seconds |")
    print("|---|---|---|---|" + ("---|" if base else "") + "---|---|---|---|")
    for r in chosen:
        delta = ""
        if base:
            delta = " |" if r is base else " {:+.3f} ± {:.3f} |".format(*paired(r, base))
        print(f"| {r['run']} | {r['linear_bpw']:.3f} | {r['code_bits']:.3f} | {r['perplexity']:.2f} |{delta} {r['kl']:.4f} | "
              f"{r['kl_p99']:.2f} | {100 * r['top1']:.1f}% | {r['seconds']:.0f} |")


def by_perplexity(prefix, without="\0"):
    return sorted((r for r in rows if r["run"].startswith(prefix) and not r["run"].startswith(without)),
                  key=lambda r: (not r["run"].endswith("none-off"), r["perplexity"]))


print(f"# Quality per byte on R (full precision: {reference:.2f})\n\nMade by `bench/e2e/quality`, which says what R, the measure "
      f"and each run's options are. Products of the search: {', '.join(sorted({r['recipe']['compute'] for r in rows}))}; "
      "evaluation: f32. Nearest rounding with a clip search throughout. The differences are paired: mean over the 12 windows ± "
      "its standard error. Seconds are of a machine that was at times doing other work.")
table("The search, at its own rate", [r for r in rows if r["run"].startswith("search")])
table("One descent from 5 bits to 2.25 bpw, and plans for other sizes from it",
      [r for r in rows if r["run"].startswith(("descent", "frontier"))])
table("Uniform", sorted((r for r in rows if r["run"].startswith("uniform")), key=lambda r: r["linear_bpw"]))
table("Each switch in turn, at 3.0 bpw", by_perplexity("ablation", without="ablation-low"), "ablation-none-off")
table("The same at 2.25 bpw", by_perplexity("ablation-low"), "ablation-low-none-off")
