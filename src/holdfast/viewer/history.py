"""What became of one tensor over a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.measuring.blocks import dtype_of, shape_of, stored, without_numbers
from holdfast.measuring.compare import compared
from holdfast.measuring.stats import all_stats
from holdfast.report.stats import plain
from holdfast.viewer.shown import Opened, Shown


def history(
    shown: Shown, checkpoints: Sequence[dict[str, Any]], name: str
) -> Iterator[dict[str, Any]]:
    """A point for each of the checkpoints of a run's page, with what was measured or a ``problem``.

    ``change`` is relative to ``since``: what the checkpoint went on from, where that is there, else
    the one before it on its branch. ``change_per_step`` is that by the steps between the two; None
    where either has no step, or training went back between them.
    """
    steps: dict[str, int | None] = {}  # of those that were read, by name
    last: dict[int, str] = {}  # the last that was read of each branch
    for each in checkpoints:
        key, step = each["name"], each["step"]
        point: dict[str, Any] = {"key": key, "step": step, "branch": each["branch"]}
        try:
            opened = shown.open(key)
            (made,) = all_stats([opened.tensor(name)], opened.reader())
            if made.why is not None and not made.counted:
                yield point | {"problem": made.why}
                continue
            point |= {what: plain(getattr(made, what)) for what in ("norm", "mean", "std")}
            parent = each["parent_name"]
            since = parent if parent in steps else last.get(each["branch"])
            change = None if since is None else _change(shown.open(since), opened, name)
            by_step = None if since is None else _per_step(change, steps[since], step)
            point |= {"since": since, "change": plain(change), "change_per_step": by_step}
            steps[key] = step
            last[each["branch"]] = key
        except HoldfastError as error:  # that one is damaged, pruned or has no such tensor
            point["problem"] = error.what
        yield point


def _change(before: Opened, after: Opened, name: str) -> float | None:
    a, b = stored(before.tensor(name).value), stored(after.tensor(name).value)
    if shape_of(a) != shape_of(b) or without_numbers(a) or without_numbers(b):
        return None
    return compared(a, b, (dtype_of(a), dtype_of(b)), (before.reader(), after.reader())).relative


def _per_step(change: float | None, before: int | None, after: int | None) -> Any:
    if change is None or before is None or after is None or after <= before:
        return None
    return plain(change / (after - before))
