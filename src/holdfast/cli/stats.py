"""``holdfast stats``: what the numbers in a checkpoint are like, and what looks wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import click

from holdfast import looking
from holdfast.cli import text
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table
from holdfast.io.progress import Bar
from holdfast.report.bars import bars
from holdfast.report.stats import StatsReport, TensorStats

_HELP = """\b
Examples:
  holdfast stats model.pt
  holdfast stats runs/iris model               of a run: its latest checkpoint, one part
  holdfast stats model.pt --flagged            only what looks wrong
  holdfast stats model.pt --sort norm
  holdfast stats runs/iris@best:loss --check   exit code 1 on NaN or infinity

What the numbers in a checkpoint's tensors are like: mean, standard deviation, least and largest,
norm, a histogram; of complex numbers their magnitudes. What looks wrong is flagged: NaN, infinity,
all zero, constant, rows of zeros, exploding norms, subnormal numbers, bytes that are damaged.
"""

_SORTS: dict[str, Callable[[TensorStats], float]] = {
    "norm": lambda each: -(each.norm or 0.0),
    "std": lambda each: -(each.std or 0.0),
    "mean": lambda each: -abs(each.mean or 0.0),
    "max": lambda each: -max(abs(each.minimum or 0), abs(each.maximum or 0)),
    "zeros": lambda each: -each.zeros,
    "size": lambda each: -each.numel,
}


@click.command(help=_HELP, short_help="What the numbers are like, and what looks wrong.")
@click.argument("path")
@click.argument("name", required=False)
@click.option("--grep", metavar="REGEX", help="Only names in which this is found.")
@click.option("--sort", type=click.Choice(list(_SORTS)), help="The largest first.")
@click.option("--flagged", is_flag=True, help="Only tensors of which something looks wrong.")
@click.option("--check", is_flag=True, help="Exit code 1 on NaN, infinity or damaged bytes.")
@json_option(
    "file, ok, tensors (each: name, part, dtype, shape, numel, counted, minimum, maximum, mean, "
    "std, norm, zeros, nans, infs, subnormals, dead_rows, histogram: edges, counts; flags, why), "
    "is_complete"
)
@click.pass_context
def command(
    ctx: click.Context,
    path: str,
    name: str | None,
    grep: str | None,
    sort: str | None,
    flagged: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Print statistics."""
    with Bar(_nbytes_of(path) if name is None and grep is None else None) as bar:
        report = looking.stats(path, name=name, grep=grep, on_progress=bar.advance)
    shown = [each for each in report.tensors if each.flags or not flagged]
    if sort is not None:
        shown.sort(key=_SORTS[sort])
    if as_json:
        answer_json({**replace(report, tensors=tuple(shown)).to_json(), "ok": report.ok})
    else:
        _print(report, shown)
    ctx.exit(1 if check and not report.ok else 0)


def _nbytes_of(path: str) -> int:
    with looking.open(path) as checkpoint:
        return sum(extent.nbytes for extent in checkpoint.index.extents.values())


def _print(report: StatsReport, shown: Sequence[TensorStats]) -> None:
    answer_table([[Cell(os.fspath(report.file), bold=True)]])
    count = text.count(len(report.tensors), "tensor")
    answer(f"{count}, {len(report.flagged):,} flagged")
    if shown:
        answer()
        answer_table(_rows(shown))
    if not report.is_complete:
        answer()
        answer(
            "Note: this tree describes more than can be listed: what is listed is not all of it."
        )


def _rows(shown: Sequence[TensorStats]) -> Iterator[list[Cell]]:
    heads = ("mean", "std", "min", "max", "norm")
    plain = [Cell(""), Cell(""), Cell("")]
    yield [*plain, *(Cell(head, right=True, dim=True) for head in heads)]
    for each in shown:
        numbers = (each.mean, each.std, each.minimum, each.maximum, each.norm)
        yield [
            Cell(text.shortened(each.name)),
            Cell(each.dtype, fg="cyan"),
            Cell(text.shape(each.shape)),
            *(Cell(_number(number), right=True) for number in numbers),
            Cell(bars(each.histogram.counts)),
            Cell(_said(each), fg="yellow" if each.is_finite else "red"),
        ]


def _number(number: float | None) -> str:
    if isinstance(number, int):
        return str(number)
    return "" if number is None else f"{number:.4g}"


def _said(stats: TensorStats) -> str:
    if stats.flags:
        return "; ".join(flag.text for flag in stats.flags)
    return stats.why or ""
