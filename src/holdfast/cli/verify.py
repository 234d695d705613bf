"""``holdfast verify``: is every byte what it was when saved?"""

from __future__ import annotations

import click

from holdfast import looking
from holdfast.cli.options import json_option
from holdfast.cli.output import answer, answer_json

_HELP = """\b
Examples:
  holdfast verify model.pt
  holdfast verify runs/iris               of a run: its latest checkpoint
  holdfast verify runs/iris/*.pt          all of them

Read every byte and compare it with the CRC-32 the file carries. torch.load does not do that. Exit
code 1 if any file is damaged or cannot be read.
"""


@click.command(help=_HELP, short_help="Is every byte what it was when saved?")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option("ok, files (each: path, ok, report, error)")
@click.pass_context
def command(ctx: click.Context, paths: tuple[str, ...], as_json: bool) -> None:
    """Verify checkpoints."""
    results = [looking.check(path) for path in paths]
    is_ok = all(result.ok for result in results)
    if as_json:
        answer_json({"ok": is_ok, "files": [result.to_json() for result in results]})
    else:
        for result in results:
            answer(result.to_text())
    ctx.exit(0 if is_ok else 1)
