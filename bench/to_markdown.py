"""Write what ``holdfast bench --json`` found as Markdown, to the terminal or into the docs.

    python bench/to_markdown.py build/bench/result.json
    python bench/to_markdown.py build/bench/result.json --into docs/benchmarks.md

In the docs it stands between two markers; all else there stays.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from holdfast.benchmark.report import Result
from holdfast.benchmark.tables import Table, head, tables

BEGIN = "<!-- begin: bench/to_markdown.py -->"
END = "<!-- end: bench/to_markdown.py -->"


def markdown(result: Result) -> str:
    """Head and tables."""
    pieces = ["  \n".join(head(result)), *map(_table, tables(result))]
    return "\n\n".join(pieces) + "\n"


def _table(table: Table) -> str:
    rule = ["---", *["--:"] * (len(table.header) - 1)]
    lines = [_row(each) for each in (table.header, rule, *table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines])


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def put_between(text: str, new: str) -> str:
    """``text`` with ``new`` in place of what stands between the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"there are no markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{new}\n{END}{after}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("result", type=Path)
    options.add_argument("--into", type=Path, metavar="FILE")
    chosen = options.parse_args()
    new = markdown(Result.from_json(json.loads(chosen.result.read_text(encoding="utf-8"))))
    if chosen.into is None:
        print(new, end="")
        return
    text = chosen.into.read_text(encoding="utf-8")
    chosen.into.write_text(put_between(text, new), encoding="utf-8")


if __name__ == "__main__":
    main()
