"""The options of a run, checked when it is made: a wrong one must not fail after the first save."""

from __future__ import annotations

from typing import Any

from holdfast.errors import UsageError
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep


def check_options(*, keep: Any, every: Any, grace: Any) -> None:
    """Find options of another kind.

    Raises:
        UsageError: one is.
    """
    if keep is not None and not isinstance(keep, Keep):
        raise UsageError(
            "keep= takes a policy",
            wanted="such as holdfast.keep.latest(3)",
            found=repr(keep),
        )
    if every is not None and not isinstance(every, Every):
        raise UsageError(
            "every= takes a schedule",
            wanted="such as holdfast.every(steps=100)",
            found=repr(every),
        )
    if isinstance(grace, bool) or not isinstance(grace, int | float):
        raise UsageError("grace= is a number of seconds", found=repr(grace))
