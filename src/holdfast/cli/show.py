"""``holdfast show``: what is inside a checkpoint."""

from __future__ import annotations

import click

from holdfast import looking
from holdfast.cli import text
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table
from holdfast.report.outline import Row, outline
from holdfast.report.summary import Summary

_HELP = """\b
Examples:
  holdfast show model.pt                  everything in it
  holdfast show runs/iris                 of a run: its latest checkpoint
  holdfast show runs/iris@best:loss model only one part
  holdfast show model.pt --depth 1        only the parts and their sizes
  holdfast show model.pt --grep 'bias$'   only names that match

What is inside a checkpoint: parts, tensors, plain values, where it comes from. Only headers are
read, nothing is run, and torch is not needed.
"""


@click.command(help=_HELP, short_help="What is inside a checkpoint.")
@click.argument("path")
@click.argument("name", required=False)
@click.option("--depth", type=click.IntRange(min=1), help="Fold names below this many steps.")
@click.option("--grep", metavar="REGEX", help="Only names in which this is found.")
@json_option(
    "file, format, file_nbytes, record, parts, dtypes, total, tensors, values, opaques, notes, "
    "is_complete"
)
def command(
    path: str, name: str | None, depth: int | None, grep: str | None, as_json: bool
) -> None:
    """Print what a checkpoint holds."""
    summary = looking.open(path).summary(name=name, grep=grep)
    if as_json:
        answer_json(summary.to_json())
        return
    _print_head(summary)
    answer_table(_cells(row) for row in outline(summary, depth=depth))
    _print_foot(summary)


def _print_head(summary: Summary) -> None:
    answer_table([[Cell(summary.file, bold=True)]])
    answer(f"{summary.format}, {text.size(summary.file_nbytes)}")
    for line in text.record_lines(summary.record or {}):
        answer(line)
    answer()


def _cells(row: Row) -> list[Cell]:
    name = Cell("  " * row.level + text.name(row.name), bold=row.kind == "part")
    if row.kind in ("part", "group"):
        return [
            name,
            Cell(""),
            Cell(text.count(row.tensors, "tensor") if row.tensors else ""),
            Cell(text.size(row.nbytes) if row.tensors else "", right=True),
            Cell(text.count(row.numel, "element") if row.tensors else "", dim=True),
        ]
    if row.kind == "tensor":
        return [
            name,
            Cell(row.dtype or "", fg="cyan"),
            Cell(text.shape(row.shape or ())),
            Cell(text.size(row.nbytes), right=True),
            Cell(row.text, dim=True),
        ]
    return [Cell(f"{name.text} = {row.text}", fg="yellow" if row.kind == "opaque" else None)]


def _print_foot(summary: Summary) -> None:
    total = summary.total
    answer()
    answer(
        f"{text.count(total.tensors, 'tensor')}, {text.count(total.numel, 'element')}, "
        f"{text.size(total.nbytes)}"
        + "".join(f"; {each.name} {text.size(each.nbytes)}" for each in summary.dtypes)
    )
    for note in summary.notes:
        answer(f"Note: {note}")
    if not summary.is_complete:
        answer("Note: this tree has over a million entries; what is listed is not all of it.")
