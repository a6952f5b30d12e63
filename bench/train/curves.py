"""The grid's loss curves as one SVG: each scheme's training loss above BF16's of the same seed and step (which see the same
text), mean over seeds, smoothed. A colour for each scheme, dashes where it was run at a lower share than its highest."""
import math
import statistics

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 520, 80, 220, 40, 50
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22",
           "#393b79", "#637939", "#8c6d31", "#843c39"]


def gaps(runs, base, window):
    """[(step, gap)], a running mean over `window` steps."""
    steps = [line["step"] for line in base[0]]
    gap = [statistics.mean(run[i]["loss"] - bf16[i]["loss"] for run, bf16 in zip(runs, base)) for i in range(len(steps))]
    return [(steps[i], statistics.mean(gap[max(0, i - window + 1):i + 1])) for i in range(len(steps))]


def ticks(low, high):
    """Multiples of 1, 2 or 5 times a power of ten: about six of them."""
    rough = (high - low) / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def curves_svg(curves):
    base = curves["bf16"]
    window = max(1, len(base[0]) // 10)
    lines = {name: gaps(runs, base, window) for name, runs in curves.items() if name != "bf16"}
    steps = [step for line in lines.values() for step, _ in line]
    values = [value for line in lines.values() for _, value in line] + [0.0]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    across = max(1, max(steps) - min(steps))

    def x(step):
        return LEFT + (step - min(steps)) / across * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">training loss above BF16, nats per token (mean over seeds and {window} steps)</text>']
    for value in ticks(low, high):
        out.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for step in ticks(min(steps), min(steps) + across):
        out.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step:.6g}</text>')
    schemes = list(dict.fromkeys(name.split()[0] for name in lines))
    last_of = {name.split()[0]: name for name in lines}  # shares ascend
    for i, (name, line) in enumerate(lines.items()):
        scheme = name.split()[0]
        colour = COLOURS[schemes.index(scheme) % len(COLOURS)]
        dashes = "" if last_of[scheme] == name else ' stroke-dasharray="5 4"'
        path = "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in line)
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'
                   f'<path d="M{WIDTH - RIGHT + 12} {TOP + 16 * i}h20" stroke="{colour}" stroke-width="3"{dashes}/>'
                   f'<text x="{WIDTH - RIGHT + 38}" y="{TOP + 16 * i + 4}">{name}</text>')
    return "\n".join(out) + "\n</svg>\n"
