"""The group of commands: how they are found, and how errors become letters and exit codes."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from holdfast.cli.output import say
from holdfast.errors import HoldfastError, UsageError

#: Each command is the object ``command`` in the module of its name, loaded when it is called.
COMMANDS = (
    "show",
    "list",
    "verify",
    "scan",
    "diff",
    "stats",
    "convert",
    "export",
    "call",
    "path",
    "pin",
    "unpin",
    "prune",
    "view",
    "demo",
    "bench",
)

_HELP = """\b
Examples:
  holdfast show model.pt            what is inside a checkpoint
  holdfast list runs/iris           the checkpoints of a run
  holdfast verify runs/iris         are the bytes those that were saved?
  holdfast scan model.pt            would loading it elsewhere run anything?
  holdfast diff old.pt new.pt       which layers moved?
  holdfast stats model.pt           is anything NaN?
  holdfast view runs/iris           all of it in the browser
  holdfast path runs/iris best:loss

Keep PyTorch training state: look at it, check it, choose what to keep. A path is a file, RUN (a
folder; its latest checkpoint), RUN@best:loss or RUN@100. Nothing in a file is run,
but a program that you call and trust.

Exit codes: 0 fine, 1 the check or the work failed, 2 wrong use, 130 interrupted.
"""


class Commands(click.Group):
    """A group that imports a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"holdfast.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of holdfast is printed as its letter, never as a traceback."""
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            say(f"Error: {error}")
            ctx.exit(2 if isinstance(error, UsageError) else 1)
        except (KeyboardInterrupt, click.Abort):
            say("Interrupted.")
            ctx.exit(130)


def _version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        click.echo(f"holdfast {importlib.import_module('importlib.metadata').version('holdfast')}")
        ctx.exit()


@click.command(cls=Commands, help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Print the version and leave.",
)
def cli() -> None:
    """Keep PyTorch training state."""


def main(args: list[str] | None = None, *, prog_name: str = "holdfast") -> None:
    """Run the command line; ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    cli.main(args, prog_name=prog_name)
