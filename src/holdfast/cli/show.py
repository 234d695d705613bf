"""``holdfast show``: what is inside a checkpoint."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import click

from holdfast import looking
from holdfast.cli import show_program, text
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table
from holdfast.formats.at_rest import collector_at_rest
from holdfast.report.facts import Summary
from holdfast.report.outline import Row, outline
from holdfast.report.paths import first_few
from holdfast.report.values import text_of

if TYPE_CHECKING:
    from holdfast.checkpoint import Checkpoint

_HELP = """\b
Examples:
  holdfast show model.pt                  everything in it
  holdfast show model.pt model.fc.weight  one tensor, with its numbers
  holdfast show model.pt optimizer        one part, all of it
  holdfast show runs/iris                 of a run: its latest checkpoint
  holdfast show runs/iris@best:loss model of its best: one part
  holdfast show model.pt --depth 1        only the parts and their sizes
  holdfast show model.pt --grep 'bias$'   only names that match

What is inside a checkpoint: parts, tensors, plain values, where it comes from. Only headers are
read, and of a tensor that is named its numbers; nothing is run, and torch is not needed. Of an
optimizer that is not named, sums are shown instead of every tensor.
"""


@click.command(help=_HELP, short_help="What is inside a checkpoint.")
@click.argument("path")
@click.argument("name", required=False)
@click.option("--depth", type=click.IntRange(min=1), help="Fold names below this many steps.")
@click.option("--grep", metavar="REGEX", help="Only names in which this is found.")
@json_option(
    "file, format, file_nbytes, record, parts, dtypes, total, tensors, values, opaques, "
    "optimizers, metadata, programs, program, symbols, notes, is_complete; for one tensor also "
    "numbers (nested lists; null above 10,000)"
)
def command(
    path: str, name: str | None, depth: int | None, grep: str | None, as_json: bool
) -> None:
    """Print what a checkpoint holds."""
    with collector_at_rest(), looking.open(path) as checkpoint:
        summary = checkpoint.summary(name=name, grep=grep)
        if as_json:
            answer_json({**summary.to_json(), **_numbers(checkpoint, summary, name)})
            return
        _print_head(summary)
        if name is not None and _is_one_value(summary, name):
            answer(f"{name} = {summary.values[0].text}")
            return
        is_short = name is None and grep is None
        answer_table(_cells(row) for row in outline(summary, depth=depth, is_short=is_short))
        if name is not None and _is_one_tensor(summary, name):
            answer()
            answer(checkpoint.text(name))
            return
        _print_foot(summary, path, is_short=is_short and depth is None)


def _print_head(summary: Summary) -> None:
    answer_table([[Cell(summary.file, bold=True)]])
    answer(f"{summary.format}, {text.size(summary.file_nbytes)}")
    for line in text.record_lines(summary.record or {}):
        answer(line)
    for key, value in list(summary.metadata.items())[:_METADATA]:
        answer_table([[Cell(f"{text.shortened(key)}: {text_of(value)}", dim=True)]])
    if len(summary.metadata) > _METADATA:
        answer(f"… and {len(summary.metadata) - _METADATA} more (--json has them all)")
    if summary.program is not None:
        answer_table(show_program.rows(summary.program))
    answer()


#: Lines of a container's own text that a person reads before the tree.
_METADATA = 20


def _cells(row: Row) -> list[Cell]:
    name = f"{'  ' * row.level}{text.shortened(row.name)}"
    if row.kind == "tensor":
        shape, size = _shape_cell(row.shape or ()), _size_cell(row.nbytes)
        return [Cell(name), _dtype_cell(row.dtype), shape, size, _note_cell(row.text)]
    if row.kind in ("part", "group", "state"):
        elements = text.count(row.numel, "element") if row.tensors else ""
        return [
            Cell(name, bold=row.kind == "part"),
            _dtype_cell(row.dtype),
            Cell(text.count(row.tensors, "tensor") if row.tensors else ""),
            _size_cell(row.nbytes) if row.tensors else Cell(""),
            _note_cell(f"{elements} {row.text}" if row.text else elements),
        ]
    return [Cell(f"{name} = {row.text}", fg="yellow" if row.kind == "opaque" else None)]


# Most of the tensors of a large model look like others of it.


@lru_cache(1000)
def _dtype_cell(dtype: str | None) -> Cell:
    return Cell(dtype or "", fg="cyan")


@lru_cache(1000)
def _shape_cell(shape: tuple[int, ...]) -> Cell:
    return Cell(text.shape(shape))


@lru_cache(1000)
def _size_cell(nbytes: int) -> Cell:
    return Cell(text.size(nbytes), right=True)


@lru_cache(1000)
def _note_cell(note: str) -> Cell:
    return Cell(note, dim=True)


def _print_foot(summary: Summary, path: str, *, is_short: bool) -> None:
    total = summary.total
    answer()
    answer(
        f"{text.count(total.tensors, 'tensor')}, {text.count(total.numel, 'element')}, "
        f"{text.size(total.nbytes)}"
        + "".join(f"; {each.name} {text.size(each.nbytes)}" for each in summary.dtypes)
    )
    for optimizer in summary.optimizers if is_short else ():
        if optimizer.name and optimizer.tensors:
            answer(
                f"State of {optimizer.name}: {text.count(optimizer.tensors, 'tensor')}, "
                f"{text.size(optimizer.nbytes)}; one by one: holdfast show {path} {optimizer.name}"
            )
    if summary.programs:
        answer(
            f"Holds code, never read as code: {text.count(len(summary.programs), 'file')} "
            f"({first_few(tuple(map(text.shortened, summary.programs)))})"
        )
    if summary.symbols:
        few = first_few(tuple(map(text.shortened, summary.symbols)))
        symbols = text.count(len(summary.symbols), "symbol")
        answer(f"Names {symbols} outside the closed table: {few}; holdfast scan {path} says more.")
    for note in summary.notes:
        answer(f"Note: {note}")
    if not summary.is_complete:
        answer(
            "Note: this tree describes more than can be listed: what is listed is not all of it."
        )


# ---- one thing, by its name


def _is_one_tensor(summary: Summary, name: str) -> bool:
    return [each.name for each in summary.tensors] == [name] and not summary.opaques


def _is_one_value(summary: Summary, name: str) -> bool:
    return [each.name for each in summary.values] == [name] and not summary.tensors


def _numbers(checkpoint: Checkpoint, summary: Summary, name: str | None) -> dict[str, Any]:
    if name is None or not _is_one_tensor(summary, name):
        return {}
    return {"numbers": checkpoint.numbers(name)}
