"""``holdfast scan``: what would a file run, were it loaded elsewhere?"""

from __future__ import annotations

import click

from holdfast import looking
from holdfast.cli.options import json_option
from holdfast.cli.output import answer, answer_json

_HELP = """\b
Examples:
  holdfast scan model.pt
  holdfast scan downloads/*.bin downloads/*.ckpt
  holdfast scan folder                    every file in it, of a run too
  holdfast scan model.pt --json

List every class and function that the pickles in a file would call, were it loaded with torch.load
or pickle. Archives, packed files, and files that are broken or made to hide something are looked
through as well. Nothing in them is run.

Clean means: everything named is in one closed table of plain data. It is no list of known evils:
what nobody knows is not clean. Programs (TorchScript, .pt2, ONNX) are never clean.

Exit code 1 if any file is not clean.
"""


@click.command(help=_HELP, short_help="Would loading it elsewhere run anything?")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option(
    "ok, files (each: path, ok, error, report: file, kind, verdict, ok, pickles, places, programs, "
    "problems)"
)
@click.pass_context
def command(ctx: click.Context, paths: tuple[str, ...], as_json: bool) -> None:
    """Scan files."""
    results = [looking.check(path, looking.scan) for path in paths]
    is_ok = all(result.ok for result in results)
    if as_json:
        answer_json({"ok": is_ok, "files": [result.to_json() for result in results]})
    else:
        for result in results:
            answer(result.to_text())
    ctx.exit(0 if is_ok else 1)
