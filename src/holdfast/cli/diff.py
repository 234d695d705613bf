"""``holdfast diff``: what is different between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from holdfast import looking
from holdfast.cli import text
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table
from holdfast.io.progress import Bar
from holdfast.report.diff import Change, DiffReport, Layer, Side, Sums, ValueChange, layer_of

if TYPE_CHECKING:
    from holdfast.checkpoint import Checkpoint

_HELP = """\b
Examples:
  holdfast diff old.pt new.pt
  holdfast diff runs/iris@100 runs/iris            step 100 and the latest
  holdfast diff runs/iris model.safetensors --part model
  holdfast diff a.pt b.pt --layers --top 10        which layers moved most

What is different between two checkpoints: tensors by how much they changed, plain values, the
record. Tensors go together by name, else by name without what wrappers add (module.), else by what
they hold. relative is the norm of the difference by the norm of the first; cosine says whether the
direction is the same; changed is the share of elements that differ in any bit.

The record (when it was saved, by what, as which step) is shown and does not count.
Exit code 0 if they hold the same, 1 if not (or if one cannot be read).
"""


@click.command(help=_HELP, short_help="What is different between two checkpoints.")
@click.argument("a")
@click.argument("b")
@click.option("--part", metavar="NAME", help="Only this part; a file without it is taken whole.")
@click.option("--layers", is_flag=True, help="One line for each layer, without its tensors.")
@click.option("--top", type=click.IntRange(min=1), help="Only so many layers that changed most.")
@json_option(
    "a, b, equal, same, changes (each: name, kinds, dtypes, shapes, old_name, sums: numel, "
    "changed, share, relative, cosine, largest, strange; why), layers, added, removed, values, "
    "record, same_values, is_complete"
)
@click.pass_context
def command(
    ctx: click.Context,
    a: str,
    b: str,
    part: str | None,
    layers: bool,
    top: int | None,
    as_json: bool,
) -> None:
    """Compare two checkpoints."""
    with looking.open(a) as left, looking.open(b) as right:
        total = _nbytes(left) + _nbytes(right)
    with Bar(total) as bar:
        report = looking.diff(a, b, part=part, on_progress=bar.advance)
    if as_json:
        answer_json(report.to_json())
    else:
        _print(report, is_short=layers, top=top)
    ctx.exit(0 if report.is_equal else 1)


def _nbytes(checkpoint: Checkpoint) -> int:
    return sum(extent.nbytes for extent in checkpoint.index.extents.values())


def _print(report: DiffReport, *, is_short: bool, top: int | None) -> None:
    answer_table([[Cell(f"{report.a} -> {report.b}", bold=True)]])
    answer(report.in_words())
    layers = report.layers()
    if layers:
        answer()
        answer_table(_rows(layers[:top], is_short=is_short))
        if top is not None and len(layers) > top:
            answer(f"… and {text.count(len(layers) - top, 'layer')} more")
    _print_sides("only in the first", report.removed)
    _print_sides("only in the second", report.added)
    _print_values("values", report.values)
    _print_values("record (does not count)", report.record)
    if report.likely_part is not None:
        part = report.likely_part
        answer()
        answer(
            f"Note: some names differ by {part + '.'!r} alone: --part {part} puts them together."
        )
    if not report.is_complete:
        answer()
        answer("Note: a tree describes more than can be listed: what is compared is not all of it.")


def _rows(layers: Sequence[Layer], *, is_short: bool) -> Iterator[list[Cell]]:
    names = ("relative", "cosine", "largest", "changed")
    yield [Cell(""), *(Cell(name, right=True, dim=True) for name in names)]
    for layer in layers:
        if len(layer.changes) == 1 and not is_short:
            yield _tensor(layer.changes[0], layer.changes[0].name)
            continue
        yield [Cell(text.shortened(layer.name), bold=True), *_numbers(layer.sums)]
        for change in layer.changes if not is_short else ():
            yield _tensor(change, f"  {change.name.removeprefix(f'{layer_of(change.name)}.')}")


def _tensor(change: Change, name: str) -> list[Cell]:
    return [Cell(text.shortened(name)), *_numbers(change.sums), Cell(_note(change), dim=True)]


def _note(change: Change) -> str:
    notes = []
    if "reshaped" in change.kinds:
        notes.append(" -> ".join(map(text.shape, change.shapes)))
    if change.dtypes[0] != change.dtypes[1]:
        notes.append(" -> ".join(change.dtypes))
    if change.old_name is not None:
        notes.append(f"was {text.shortened(change.old_name)}")
    if change.why is not None:
        notes.append(change.why)
    if change.sums is not None and change.sums.strange:
        notes.append(f"{change.sums.strange:,} NaN or infinite on one side")
    return ", ".join(notes)


def _numbers(sums: Sums | None) -> list[Cell]:
    if sums is None or not sums.numel:
        return [Cell("", right=True)] * 4
    cosine = "" if sums.cosine is None else f"{sums.cosine:.6f}"
    texts = (f"{sums.relative:.3g}", cosine, f"{sums.largest:.3g}", _share(sums.share))
    return [Cell(each, right=True) for each in texts]


def _share(share: float) -> str:
    """In percent; a few elements of many are not none."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _print_sides(head: str, sides: Sequence[Side]) -> None:
    if sides:
        answer()
        answer(f"{head}:")
        rows = (
            [
                Cell(text.shortened(side.name)),
                Cell(side.dtype, fg="cyan"),
                Cell(text.shape(side.shape)),
                Cell(text.size(side.nbytes), right=True),
            ]
            for side in sides
        )
        answer_table(rows, indent=2)


def _print_values(head: str, values: Sequence[ValueChange]) -> None:
    if values:
        answer()
        answer(f"{head}:")
        rows = (
            [Cell(text.shortened(each.name)), Cell(f"{_or_none(each.a)} -> {_or_none(each.b)}")]
            for each in values
        )
        answer_table(rows, indent=2)


def _or_none(value: str | None) -> str:
    return "(none)" if value is None else value
