"""Where answers go: stdout, as text or JSON. Talk goes to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import click

from holdfast.cli.text import safe

#: Controls that JSON leaves as they are, and some terminals obey.
_CONTROLS = re.compile("[\x7f-\x9f]")


class Cell(NamedTuple):
    """One cell of a table: its text, its side, how a terminal shows it (colours as in click)."""

    text: str
    right: bool = False
    bold: bool = False
    dim: bool = False
    fg: str | None = None


def say(text: str) -> None:
    """Talk: to stderr, so that answers can be piped."""
    click.echo(safe(text), err=True)


def answer(text: str = "") -> None:
    """One line of the answer."""
    click.echo(safe(text))


def answer_json(value: Any) -> None:
    """The answer as JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=not _is_utf8(), allow_nan=False)
    click.echo(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def answer_table(rows: Iterable[Sequence[Cell]], *, indent: int = 0) -> None:
    """Rows in columns two spaces apart; no line is ever cut, so that a pipe gets all of it."""
    table = [row if _is_simple(row) else [_on_one_line(cell) for cell in row] for row in rows]
    if not table:
        return
    widths = _widths(table)
    is_colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    line = _styled_line if is_colored else _line
    lines = (" " * indent + line(row, widths) for row in table)
    # Written at once: a hundred thousand writes would take seconds.
    click.echo("\n".join(lines), color=is_colored)


def _is_simple(row: Sequence[Cell]) -> bool:
    """Whether all that a row has is printable ASCII, as nearly all is."""
    whole = "".join([cell[0] for cell in row])
    return whole.isascii() and whole.isprintable()


def _widths(table: Sequence[Sequence[Cell]]) -> list[int]:
    """The width of each column; what stands last in its row needs none."""
    widths = [0] * max(map(len, table))
    for row in table:
        for column, cell in enumerate(row[:-1]):
            width = _width(cell[0])
            if width > widths[column]:
                widths[column] = width
    return widths


def _line(row: Sequence[Cell], widths: Sequence[int]) -> str:
    padded = [
        (text.rjust(width) if is_right else text.ljust(width))
        if text.isascii()
        else _padded(text, text, width, is_right)
        for (text, is_right, _, _, _), width in zip(row, widths, strict=False)
    ]
    return "  ".join(padded).rstrip()


def _styled_line(row: Sequence[Cell], widths: Sequence[int]) -> str:
    columns = zip(row, widths, strict=False)
    padded = [_padded(cell.text, _styled(cell), width, cell.right) for cell, width in columns]
    return "  ".join(padded).rstrip()


def _padded(text: str, shown: str, width: int, is_right: bool) -> str:
    """``shown``, which takes the room of ``text``, in a column."""
    gap = " " * (width - _width(text))
    return gap + shown if is_right else shown + gap


def _styled(cell: Cell) -> str:
    if not cell.text or not (cell.bold or cell.dim or cell.fg):
        return cell.text
    return click.style(cell.text, bold=cell.bold or None, dim=cell.dim or None, fg=cell.fg)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    # Only names in other scripts need it, and importing it takes longer than reading most files.
    from rich.cells import cell_len

    return cell_len(text)


def _on_one_line(cell: Cell) -> Cell:
    if cell.text.isascii() and cell.text.isprintable():
        return cell
    return cell._replace(text=safe(cell.text).replace("\n", " "))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
