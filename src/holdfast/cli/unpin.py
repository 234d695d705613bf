"""``holdfast unpin``: let checkpoints of a run go again."""

from __future__ import annotations

import click

from holdfast import looking
from holdfast.cli.options import json_option
from holdfast.cli.output import answer, answer_json
from holdfast.runs import pins

_HELP = """\b
Examples:
  holdfast unpin runs/iris 100
  holdfast unpin runs/iris 100 best:loss latest

Take pins away: what the policies do not keep may then be removed.
"""


@click.command(help=_HELP, short_help="Take pins away.")
@click.argument("run", type=click.Path())
@click.argument("which", nargs=-1, required=True, metavar="STEP...")
@json_option("unpinned (paths)")
def command(run: str, which: tuple[str, ...], as_json: bool) -> None:
    """Unpin checkpoints."""
    unpinned = looking.find(run, *which)
    for path in unpinned:
        pins.unpin(path)
    if as_json:
        answer_json({"unpinned": [str(path) for path in unpinned]})
        return
    for path in unpinned:
        answer(f"unpinned {path}")
