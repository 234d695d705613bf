"""``holdfast list``: the checkpoints of a run."""

from __future__ import annotations

import click

from holdfast.cli import text
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table
from holdfast.runs.entry import Entry
from holdfast.runs.marks import Overview, overview

_HELP = """\b
Examples:
  holdfast list runs/iris
  holdfast list runs/iris --json

The checkpoints of a run, oldest to newest, with their metrics: which is the latest, which is best,
which are pinned, which cannot be read. Of a folder that other code wrote, it says what the order
goes by: the step or epoch each file holds, else the file's time. Times are UTC.
"""


@click.command(help=_HELP, short_help="The checkpoints of a run.")
@click.argument("run", type=click.Path())
@json_option(
    "folder, latest, best, nbytes, checkpoints (each: name, path, step, order_by, id, sequence, "
    "parent, time, metrics, nbytes, mtime, is_pinned, problem, marks)"
)
def command(run: str, as_json: bool) -> None:
    """Print the checkpoints of a run."""
    seen = overview(run)
    if as_json:
        answer_json(seen.to_json())
        return
    titles = ["name", "step", "sequence", "saved", "size", *seen.metrics, "marks"]
    head = [Cell(title, dim=True, right=title in ("step", "sequence", "size")) for title in titles]
    head[5:-1] = [Cell(name, dim=True, right=True) for name in seen.metrics]
    rows = [
        _cells(entry, marks, seen) for entry, marks in zip(seen.entries, seen.marks, strict=True)
    ]
    answer_table([head, *rows])
    answer()
    answer(f"{text.count(len(seen.entries), 'checkpoint')}, {text.size(seen.nbytes)}")
    if seen.has_foreign:
        answer(
            "What no run of holdfast saved is ordered by the step or epoch it holds, or by time."
        )


def _cells(entry: Entry, marks: tuple[str, ...], seen: Overview) -> list[Cell]:
    record = None if entry.record is None else entry.record.to_json()
    metrics = {} if record is None else record["metrics"]
    return [
        Cell(entry.name, bold=entry.name == seen.latest),
        Cell("" if entry.step is None else str(entry.step), right=True),
        Cell("" if entry.sequence is None else str(entry.sequence), right=True),
        Cell(text.moment(None if record is None else record["time"], entry.mtime)),
        Cell(text.size(entry.nbytes), right=True),
        *(Cell(text.number(metrics.get(name)), right=True) for name in seen.metrics),
        Cell(", ".join(marks), fg="red" if entry.problem is not None else "green"),
    ]
