"""Draw what ``holdfast bench --json`` found as bars: seconds until a save is durable.

    python bench/plot.py build/bench/result.json docs/benchmarks.svg

Plain SVG, made here: a library that draws would be a dependency for four pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from xml.sax.saxutils import escape

from holdfast.benchmark import names
from holdfast.benchmark.report import Result, Row, WorkloadResult
from holdfast.benchmark.tables import seconds, title

WIDTH, LABELS, NUMBERS = 760, 250, 70
BAR, GAP, HEAD = 16, 6, 34
#: One colour for the machine's limit, one for us, one for all others.
COLORS = {"limit": "#8a8f98", "ours": "#0a7d5a", "theirs": "#b9bec7"}
#: Ours by name; the rest is theirs.
OURS = (names.SAVE_STATE, names.RUN_SAVE, names.RUN_SAVE_OVERLAP)


def svg(result: Result) -> str:
    """The picture: one block of bars per workload, each to its own scale."""
    blocks, top = [], 10
    for workload in result.workloads:
        bars = _bars(workload)
        if bars:
            blocks.append(_block(title(workload), bars, top))
            top += HEAD + len(bars) * (BAR + GAP) + 14
    style = "<style>text{font:13px sans-serif;fill:#444}.title{font-weight:bold}</style>"
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
        f'viewBox="0 0 {WIDTH} {top}" role="img" aria-label="Seconds until a save is durable">'
    )
    return "\n".join([opening, style, *blocks, "</svg>"]) + "\n"


def _bars(workload: WorkloadResult) -> list[tuple[Row, str]]:
    """Rows and their kinds, the limit first, then from fast to slow."""
    limits = [(each, "limit") for each in workload.limits if each.name == names.WRITE]
    saves = [(each, "ours" if each.name in OURS else "theirs") for each in workload.saves]
    return [*limits, *sorted(saves, key=lambda each: each[0].seconds.median)]


def _block(heading: str, bars: list[tuple[Row, str]], top: int) -> str:
    longest = max(row.seconds.median for row, _ in bars)
    scale = (WIDTH - LABELS - NUMBERS) / longest if longest else 0.0
    lines = [f'<text class="title" x="0" y="{top + 14}">{escape(heading)}</text>']
    for number, (row, kind) in enumerate(bars):
        y, width = top + HEAD + number * (BAR + GAP), row.seconds.median * scale
        lines += [
            f'<text x="{LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" '
            f'fill="{COLORS[kind]}"/>',
            f'<text x="{LABELS + width + 6:.1f}" y="{y + 12}">{seconds(row.seconds.median)}</text>',
        ]
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("result", type=Path)
    options.add_argument("picture", type=Path)
    chosen = options.parse_args()
    result = Result.from_json(json.loads(chosen.result.read_text(encoding="utf-8")))
    chosen.picture.write_text(svg(result), encoding="utf-8")


if __name__ == "__main__":
    main()
