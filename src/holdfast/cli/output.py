"""Where answers go: stdout, as text or JSON. Talk goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
from rich.cells import cell_len

from holdfast.cli.text import safe


@dataclass(frozen=True, slots=True)
class Cell:
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
    click.echo(json.dumps(value, indent=2, ensure_ascii=not _is_utf8(), allow_nan=False))


def answer_table(rows: Iterable[Sequence[Cell]], *, indent: int = 0) -> None:
    """Rows in columns two spaces apart; no line is ever cut, so that a pipe gets all of it."""
    table = [[replace(cell, text=_one_line(cell.text)) for cell in row] for row in rows]
    widths: list[int] = []
    for row in table:
        widths += [0] * (len(row) - len(widths))
        for column, cell in enumerate(row[:-1]):
            widths[column] = max(widths[column], _width(cell.text))
    is_colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for row in table:
        click.echo(" " * indent + _line(row, widths, is_colored), color=is_colored)


def _line(row: Sequence[Cell], widths: Sequence[int], is_colored: bool) -> str:
    padded = []
    for cell, width in zip(row, widths, strict=False):
        gap = " " * (width - _width(cell.text))
        styled = _styled(cell) if is_colored and cell.text else cell.text
        padded.append(gap + styled if cell.right else styled + gap)
    return "  ".join(padded).rstrip()


def _styled(cell: Cell) -> str:
    if not (cell.bold or cell.dim or cell.fg):
        return cell.text
    return click.style(cell.text, bold=cell.bold or None, dim=cell.dim or None, fg=cell.fg)


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _one_line(text: str) -> str:
    return safe(text).replace("\n", " ")


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
