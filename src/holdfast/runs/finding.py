"""Find one checkpoint of a run: ``latest``, ``best:loss``, a step, a file name."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from holdfast.errors import NoCheckpointError, UsageError
from holdfast.runs.checking import MODES
from holdfast.runs.entry import Entry
from holdfast.runs.keep import ranking
from holdfast.runs.naming import split_suffix

log = logging.getLogger("holdfast")

_WAYS = "Ask for latest, best:METRIC, best:METRIC:max, a step, or a file name."


def find(entries: Sequence[Entry], which: str | int = "latest", *, folder: object = None) -> Entry:
    """The checkpoint that ``which`` means, of ``entries`` ordered oldest to newest.

    ``latest`` is the newest that can be read. ``best:METRIC`` goes by the mode that
    ``keep.best`` has recorded, ``best:METRIC:min`` and ``:max`` by their own; of equal ones it is
    the newer, and never one where the metric is missing or NaN. A step (an int or digits) is the
    newest checkpoint of that step. A file name may lack its suffix, and only it finds checkpoints
    that cannot be read. ``folder`` is for messages.

    Raises:
        NoCheckpointError: there is no such checkpoint.
        UsageError: ``which`` means nothing, its metric is unknown, or its mode is.
    """
    if isinstance(which, bool) or not isinstance(which, str | int):
        raise UsageError("this picks no checkpoint of a run", found=repr(which), cure=_WAYS)
    readable = [entry for entry in entries if entry.problem is None]
    exact = [entry for entry in entries if entry.name == which]
    stems = [entry for entry in entries if split_suffix(entry.name)[0] == which]
    is_best = isinstance(which, str) and which.startswith("best:")
    if not readable and (which == "latest" or is_best or not (exact or stems)):
        raise _nothing(entries, folder)
    if which == "latest":
        return readable[-1]
    if is_best:
        return _best(readable, str(which), folder)
    step = _step_meant(which)
    of_step = [entry for entry in readable if step is not None and entry.step == step]
    found = exact or of_step or stems
    if found:
        return found[-1]
    raise _no_such(entries, which, step, folder)


def say_passed_over(entries: Sequence[Entry], which: str | int) -> None:
    """Warn of what ``latest`` passes over: one that cannot be read may be the newest."""
    if which != "latest":
        return
    for entry in entries:
        if entry.problem is not None:
            log.warning("skipped %s, which cannot be read: %s", entry.path, entry.problem.what)


def may_be_newer(entries: Sequence[Entry]) -> list[Entry]:
    """Those that cannot be read and whose names or times say that they come after the latest."""
    readable = [entry for entry in entries if entry.problem is None]
    latest = readable[-1] if readable else None
    return [e for e in entries if e.problem is not None and (latest is None or _after(e, latest))]


def _after(entry: Entry, latest: Entry) -> bool:
    numbers = _numbers(entry.name)
    if numbers and latest.step is not None and latest.step in _numbers(latest.name):
        return max(numbers) > latest.step
    return entry.mtime >= latest.mtime


def _step_meant(which: str | int) -> int | None:
    if isinstance(which, int):
        return which
    return int(which) if which.isascii() and which.isdigit() and len(which) < 20 else None


def _best(entries: Sequence[Entry], which: str, folder: object) -> Entry:
    metric, given = _split_best(which)
    known = sorted({name for entry in entries for name in entry.metrics})
    if metric not in known:
        raise UsageError(
            f"no checkpoint here has the metric {metric!r}",
            file=folder,
            wanted=f"one of {', '.join(map(repr, known))}" if known else None,
            found=repr(metric) if known else "no metrics in any checkpoint",
            cure="Metrics are saved with run.save(metrics={...}).",
        )
    order = ranking(
        [entry.metrics for entry in entries], metric, given or _recorded_mode(entries, metric)
    )
    if not order:
        raise NoCheckpointError(
            f"no checkpoint is best: {metric!r} is NaN in each that has it", file=folder
        )
    return entries[order[0]]


def _split_best(which: str) -> tuple[str, str | None]:
    metric = which.removeprefix("best:")
    name, colon, mode = metric.rpartition(":")
    return (name, mode) if colon and mode in MODES else (metric, None)


def _recorded_mode(entries: Sequence[Entry], metric: str) -> str:
    for entry in reversed(entries):
        if entry.record is not None and metric in entry.record.best:
            return entry.record.best[metric]
    raise UsageError(
        f"whether small or large is best is not known of {metric!r}",
        wanted=f"best:{metric}:min or best:{metric}:max",
        found=f"best:{metric}",
        cure=f"A run that keeps by it records it: keep=holdfast.keep.best({metric!r}).",
    )


def _no_such(
    entries: Sequence[Entry], which: str | int, step: int | None, folder: object
) -> NoCheckpointError:
    if step is None:
        names = [entry.name for entry in entries[-3:]]
        return NoCheckpointError(
            f"no checkpoint here is called {which!r}",
            file=folder,
            found=_listed(names, of=len(entries)),
            cure=_WAYS,
        )
    steps = sorted({entry.step for entry in entries if entry.step is not None})
    near = sorted(sorted(steps, key=lambda have: (abs(have - step), have))[:4])
    unreadable = [e for e in entries if e.problem is not None and step in _numbers(e.name)]
    found = _shown_steps(near, of=len(steps))
    if unreadable:
        found += f", and {len(unreadable)} that cannot be read, {_such_as(unreadable)}"
    return NoCheckpointError(
        f"there is no checkpoint of step {step}",
        file=folder,
        found=found,
        cure="List them all: holdfast list " + (str(folder) if folder is not None else "RUN"),
    )


def _shown_steps(near: Sequence[int], *, of: int) -> str:
    if not near:
        return "no checkpoint with a step"
    return f"{'steps' if len(near) > 1 else 'only step'} {_listed(near, of=of)}"


def _listed(some: Sequence[object], *, of: int) -> str:
    more = f" (and {of - len(some)} more)" if of > len(some) else ""
    return ", ".join(map(str, some)) + more


def _nothing(entries: Sequence[Entry], folder: object) -> NoCheckpointError:
    if not entries:
        return NoCheckpointError(
            "there is no checkpoint in this folder",
            file=folder,
            cure="Is it the right folder? A run saves its first checkpoint with run.save().",
        )
    return NoCheckpointError(
        "no checkpoint in this folder can be read",
        file=folder,
        found=f"{len(entries)} that cannot, {_such_as(entries)}",
        cure="holdfast list shows what is wrong with each.",
    )


def _such_as(entries: Sequence[Entry]) -> str:
    newest = entries[-1]
    return f"such as {newest.name}: {'' if newest.problem is None else newest.problem.what}"


def _numbers(name: str) -> set[int]:
    """The numbers in a file name, one of which may be the step of what cannot be read."""
    return {int(digits) for digits in re.findall(r"[0-9]{1,20}", name)}
