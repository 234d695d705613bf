"""``holdfast prune``: remove the checkpoints of a run that no policy keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from holdfast import looking
from holdfast.cli import text
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table, say
from holdfast.errors import UsageError
from holdfast.runs import keep_text, removing
from holdfast.runs.prune import Decision, Plan

_HELP = """\b
Examples:
  holdfast prune runs/iris --keep latest:3 --keep best:loss --dry-run
  holdfast prune runs/iris --keep best:accuracy:max --yes
  holdfast prune runs/iris --keep every:1000 --keep every:60m

Remove the checkpoints of a run that no --keep keeps, after showing which and asking. What stays
whatever is asked: the newest, the newest that verified, pinned ones, those that cannot be read, and
files that no run of holdfast saved. A run that is being trained is refused: it prunes for itself.
"""


@click.command(help=_HELP, short_help="Remove what no policy keeps.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    multiple=True,
    metavar="POLICY",
    help="latest:N, best:METRIC[:min|max], every:STEPS or every:MINUTESm; may be given often.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would go, and why.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option("is_done, nbytes, doomed (names), decisions (each: name, path, step, is_kept, why)")
def command(run: Path, keep: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Prune a run."""
    plan = removing.plan_of_run(run, keep_text.parse(keep), is_whole=looking.is_whole)
    if not as_json:
        answer_table(_cells(decision) for decision in plan.decisions)
    is_done = bool(plan.doomed) and not dry_run and (yes or _is_wanted(plan))
    if is_done:
        plan = plan.as_done(removing.remove(run, plan))
    if as_json:
        answer_json({"is_done": is_done, **plan.to_json()})
    elif is_done:
        answer(f"removed {_amount(plan)}")
    else:
        say(f"{_amount(plan)} would go" if plan.doomed else "nothing to remove")


def _cells(decision: Decision) -> list[Cell]:
    verb = Cell("stays", fg="green") if decision.is_kept else Cell("goes", fg="red")
    size = Cell(text.size(decision.entry.nbytes), right=True)
    return [Cell(decision.entry.name), verb, size, Cell(decision.why, dim=True)]


def _is_wanted(plan: Plan) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            "nobody is there to ask whether to remove them",
            found=f"{_amount(plan)} to remove",
            cure="Add --yes to remove them, or --dry-run only to see them.",
        )
    return click.confirm(f"Remove {_amount(plan)}?", err=True)


def _amount(plan: Plan) -> str:
    return f"{text.count(len(plan.doomed), 'checkpoint')}, {text.size(plan.nbytes)}"
