"""``holdfast verify``: are the bytes those that were saved?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from holdfast import looking
from holdfast.cli.options import json_option
from holdfast.cli.output import answer, answer_json
from holdfast.errors import HoldfastError, UsageError
from holdfast.io.progress import Bar

_HELP = """\b
Examples:
  holdfast verify model.pt
  holdfast verify runs/iris               of a run: its latest checkpoint
  holdfast verify runs/iris --all         every checkpoint of it
  holdfast verify downloads/*.pt

Compare the bytes with every CRC-32 that the file carries. torch.load does not do that.

Each file is good, damaged (the tensors are named), or unknown: nothing is known to be wrong, but
some of it was saved without a checksum, as in safetensors and in torch's older formats.

Exit code 1 if any file is damaged or cannot be read. Of a run, what cannot be read
and may be newer than the latest that can is among them.
"""


@click.command(help=_HELP, short_help="Are the bytes those that were saved?")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--all", "is_all", is_flag=True, help="Of a run: every checkpoint, not the latest.")
@json_option(
    "ok, files (each: path, ok, error, report: file, status, damages, checked_nbytes, members, "
    "unknown_members, unknown, why)"
)
@click.pass_context
def command(ctx: click.Context, paths: tuple[str, ...], is_all: bool, as_json: bool) -> None:
    """Verify checkpoints."""
    wanted = [each for path in paths for each in _meant_by(path, is_all)]
    with Bar(_nbytes_of(wanted)) as bar:
        verify = partial(looking.verify, on_progress=bar.advance)
        results = [looking.check(path, verify) for path in wanted]
    is_ok = all(result.ok for result in results)
    if as_json:
        answer_json({"ok": is_ok, "files": [result.to_json() for result in results]})
    else:
        for result in results:
            answer(result.to_text())
    ctx.exit(0 if is_ok else 1)


def _meant_by(path: str, is_all: bool) -> list[str]:
    """The checkpoints of a run; what cannot be listed is left to be told of with the others."""
    try:
        return looking.all_of(path) if is_all else looking.latest_of(path)
    except UsageError:
        raise
    except HoldfastError:
        return [path]


def _nbytes_of(paths: list[str]) -> int | None:
    """How much there is to read; None where that is not plain, as of folders and of runs."""
    try:
        files = [Path(path) for path in paths]
        if all(file.is_file() for file in files):
            return sum(file.stat().st_size for file in files)
    except (OSError, ValueError):
        pass  # what is wrong with a path is told when it is read
    return None
