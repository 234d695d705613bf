"""``holdfast bench``: how fast saving and loading are here, beside what people use today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from holdfast.benchmark import names
from holdfast.benchmark.figures import figures
from holdfast.benchmark.report import Result
from holdfast.benchmark.tables import Table, head, tables
from holdfast.cli.line import Line
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table
from holdfast.errors import MissingExtraError

_HELP = """\b
Examples:
  holdfast bench --quick               a minute or two, small sizes: does it work here?
  holdfast bench                       in this folder, all of it; takes a while and 9 GiB of disk
  holdfast bench /data/runs            on the disk that the checkpoints go to
  holdfast bench --only adam --repeat 9
  holdfast bench --json > result.json

Measure this machine's limits, and saving and loading with torch, safetensors,
torch.distributed.checkpoint and holdfast in turn, in one run. Each save is counted until it is
durable. Leave the machine alone meanwhile; what is written is removed at the end. Needs torch.

The workloads: large (1 GiB in large tensors), larger (4 GiB), adam (model and Adam state of a
transformer of 124 million parameters), many (10,000 tensors of 1 KiB), iris (a tiny model).
"""


@click.command(help=_HELP, short_help="How fast are saving and loading on this machine?")
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--quick", "is_quick", is_flag=True, help="Small sizes, and two rounds.")
@click.option("--repeat", type=click.IntRange(min=1), help="Rounds that count. Default: 5.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(names.WORKLOADS),
    help="Measure this workload only; can be repeated.",
)
@json_option(
    "machine, repeat, is_quick, workloads (each: name, nbytes, tensors, limits, saves, steps, "
    "warm, cold, skipped), figures (each: what, workload, wanted, reached, unit, is_met)"
)
def command(
    folder: Path, is_quick: bool, repeat: int | None, only: tuple[str, ...], as_json: bool
) -> None:
    """Measure."""
    result = _measure(folder, only, repeat or (2 if is_quick else 5), is_quick)
    if as_json:
        judged = [figure.to_json() for figure in figures(result)]
        answer_json({**result.to_json(), "figures": judged})
        return
    for line in head(result):
        answer(line)
    for table in tables(result):
        _show(table)


def _measure(folder: Path, only: tuple[str, ...], repeat: int, is_quick: bool) -> Result:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError(
            "the benchmark saves and loads what torch has, and torch is not installed",
            cure='pip install "holdfast[torch]"',
        )
    # Only now: every other command would start more slowly with torch.
    from holdfast.benchmark.running import bench

    with Line() as line:
        return bench(folder, only=only, repeat=repeat, is_quick=is_quick, on_progress=line.show)


def _show(table: Table) -> None:
    answer()
    answer(table.title)
    header = [Cell(name, right=column > 0, dim=True) for column, name in enumerate(table.header)]
    rows = [[_cell(text, column) for column, text in enumerate(row)] for row in table.rows]
    answer_table([header, *rows], indent=2)


def _cell(text: str, column: int) -> Cell:
    colors = {"met": "green", "missed": "red"}
    return Cell(text, right=column > 0, fg=colors.get(text))
