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


def table(title, chosen):
    print(f"\n## {title}\n\n| run | linear bpw | code bits | perplexity | KL | KL 99% | same top token | seconds |\n|---|---|---|---|---|---|---|---|")
    for r in chosen:
        print(f"| {r['run']} | {r['linear_bpw']:.3f} | {r['code_bits']:.3f} | {r['perplexity']:.2f} | {r['kl']:.4f} | {r['kl_p99']:.2f} | "
              f"{100 * r['top1']:.1f}% | {r['seconds']:.0f} |")


print(f"# Quality per byte on R (full precision: {reference:.2f})\n\nMade by `bench/e2e/quality`, which says what R and the measure are. Products of the search: "
      f"{', '.join(sorted({r['recipe']['compute'] for r in rows}))}; evaluation: f32. Nearest rounding with a clip search throughout. Seconds are of a "
      "machine that was also doing other work.")
table("The search, at its own rate", [r for r in rows if r["run"].startswith("search")])
table("Plans for other sizes from the one descent to 2.25 bpw", [r for r in rows if r["run"].startswith("frontier")])
table("Uniform", sorted((r for r in rows if r["run"].startswith("uniform")), key=lambda r: r["linear_bpw"]))
table("Ablation", sorted((r for r in rows if r["run"].startswith("ablation")), key=lambda r: r["perplexity"]))
