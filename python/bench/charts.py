"""Draws bar charts from stored pyperf results: charts.py OUTPUT.svg TITLE LABEL=RESULT.json ....

With one result a bar is a benchmark; with several, a group of bars is a benchmark and each bar a result, relative to
the first. Plain SVG, no dependency but pyperf.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pyperf

BAR, GAP, LABEL, WIDTH = 16, 10, 300, 560
COLOURS = ("#9aa5b1", "#3e7cb1", "#d9822b", "#5c9e5c", "#a05195")


def medians(path: Path) -> dict[str, float]:
    """The median of each benchmark of a file that is a time, in seconds."""
    suite = pyperf.BenchmarkSuite.load(str(path))
    return {bench.get_name(): bench.median() for bench in suite if bench.get_unit() == "second"}


def rate(seconds: float) -> str:
    """Operations a second, for people."""
    value = 1 / seconds
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}/s"
    return f"{value:.3g}/s"


def chart(title: str, results: dict[str, dict[str, float]]) -> str:
    """One SVG: for each benchmark of the first result a group of bars, as long as its speed beside the fastest."""
    names = [name for name in next(iter(results.values())) if all(name in values for values in results.values())]
    rows: list[str] = []
    y = 44
    for name in names:
        values = {label: result[name] for label, result in results.items()}
        best = min(values.values()) if len(values) > 1 else min(next(iter(results.values())).values())
        rows.append(f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        for index, (label, seconds) in enumerate(values.items()):
            width = max(1.0, WIDTH * best / seconds)
            colour = COLOURS[index % len(COLOURS)]
            shown = f"{label} {rate(seconds)}" if len(values) > 1 else rate(seconds)
            rows.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            rows.append(f'<text x="{LABEL + width + 6:.1f}" y="{y + 12}" class="value">{escape(shown)}</text>')
            y += BAR
        y += GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + 170}" height="{y + 10}">'
        "<style>text{font:12px sans-serif;fill:#222}.value{fill:#555}</style>"
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="12" y="24" style="font-size:15px;font-weight:bold">{escape(title)}</text>'
    )
    return "\n".join([head, *rows, "</svg>"]) + "\n"


def main() -> None:
    """The command line."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    output, title, *pairs = sys.argv[1:]
    results = {label: medians(Path(path)) for label, _, path in (pair.partition("=") for pair in pairs)}
    target = Path(output)
    target.write_text(chart(title, results))
    print(target)


if __name__ == "__main__":
    main()
