"""``holdfast pin``: keep checkpoints of a run for ever."""

from __future__ import annotations

import click

from holdfast import looking
from holdfast.cli.options import json_option
from holdfast.cli.output import answer, answer_json
from holdfast.runs import pins

_HELP = """\b
Examples:
  holdfast pin runs/iris 100
  holdfast pin runs/iris 100 best:loss latest

Keep checkpoints of a run for ever: no policy and no holdfast prune removes a pinned one.
"""


@click.command(help=_HELP, short_help="Keep checkpoints for ever.")
@click.argument("run", type=click.Path())
@click.argument("which", nargs=-1, required=True, metavar="STEP...")
@json_option("pinned (paths)")
def command(run: str, which: tuple[str, ...], as_json: bool) -> None:
    """Pin checkpoints."""
    pinned = looking.find(run, *which)
    for path in pinned:
        pins.pin(path)
    if as_json:
        answer_json({"pinned": [str(path) for path in pinned]})
        return
    for path in pinned:
        answer(f"pinned {path}")
