"""``holdfast view``: a page in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.output import answer, say
from holdfast.errors import MissingExtraError

_HELP = """\b
Examples:
  holdfast view runs/iris                       a run: its checkpoints, metrics, branches
  holdfast view model.pt                        one checkpoint
  holdfast view runs/iris@100 runs/iris         two, compared
  holdfast view runs/iris --static iris.html    one file to send to someone

Look at a run, a checkpoint, or two of them in the browser. The page is served to this machine
alone, under a link with a secret in it; it changes nothing, runs nothing that is in a file, and
asks nothing of the network. Interrupt it with Ctrl-C.
"""


@click.command(help=_HELP, short_help="Look at it in the browser.")
@click.argument("path")
@click.argument("other", required=False)
@click.option("--open/--no-open", "opens", default=True, help="Open the browser.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="By default any.")
@click.option("--static", type=click.Path(path_type=Path), help="Write one file of it instead.")
def command(path: str, other: str | None, opens: bool, port: int, static: Path | None) -> None:
    """Serve the page."""
    try:
        import plotly  # noqa: F401 (its script is served)

        from holdfast.viewer import serving, still
        from holdfast.viewer.shown import shown
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "holdfast":
            raise
        raise MissingExtraError(
            f"holdfast view needs {error.name}, which is not installed",
            cure='pip install "holdfast[view]"',
        ) from error
    what = shown(path, other)
    if static is not None:
        nbytes = still.write(what, static)
        answer(f"{static}: {nbytes:,} bytes")
        return
    say("Ctrl-C ends it.")
    serving.serve(what, port=port, opens=opens, say=answer)
