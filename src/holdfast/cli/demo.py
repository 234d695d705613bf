"""``holdfast demo``: a training that is killed twice, and what becomes of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from holdfast.cli.options import json_option
from holdfast.cli.output import answer_json
from holdfast.cli.story import Story

_HELP = """\b
Examples:
  holdfast demo
  holdfast demo --folder my-demo

Train a small classifier on the Iris flowers, kill it twice, once in the middle of a save, start it
again, and compare its weights with those of a training that nobody disturbed. Exit code 1 if
anything in the story is not true. Takes under a minute; needs torch.
"""


@click.command(help=_HELP, short_help="A training is killed twice and does not notice.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where to train; must not exist. Default: a new temporary folder.",
)
@json_option("folder, seconds, acts (each: title, facts)")
def command(folder: Path | None, as_json: bool) -> None:
    """Tell the story."""
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    story = Story(folder, is_silent=as_json)
    story.tell()
    if as_json:
        answer_json(story.to_json())
