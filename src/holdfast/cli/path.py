"""``holdfast path``: the path of one checkpoint of a run, for scripts."""

from __future__ import annotations

import click

from holdfast import looking
from holdfast.cli.options import json_option
from holdfast.cli.output import answer_json

_HELP = """\b
Examples:
  holdfast path runs/iris latest
  holdfast path runs/iris best:loss
  holdfast path runs/iris best:accuracy:max
  holdfast path runs/iris 100
  cp "$(holdfast path runs/iris best:loss)" best.pt

The path of one checkpoint of a run. The latest is the newest that can be read; it is not read in
full for that (holdfast verify does).
"""


@click.command(help=_HELP, short_help="The path of one checkpoint of a run.")
@click.argument("run", type=click.Path())
@click.argument("which")
@json_option("path")
def command(run: str, which: str, as_json: bool) -> None:
    """Print the path of a run's checkpoint."""
    found = looking.find(run, which)[0]
    if as_json:
        answer_json({"path": str(found)})
    else:
        click.echo(str(found))
