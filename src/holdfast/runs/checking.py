"""Checks of the numbers that policies and schedules take."""

from __future__ import annotations

import math
import operator
from typing import Any

from holdfast.errors import UsageError

#: What "best" can mean of a metric.
MODES = ("min", "max")


def checked_count(function: str, name: str, value: Any) -> int:
    """``value`` as an int from 1 on (NumPy's integers are taken too).

    Raises:
        UsageError: it is something else.
    """
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise UsageError(
            f"{function}() takes {name} as a whole number from 1 on",
            found=f"{name}={value!r}",
        )
    return count


def checked_minutes(function: str, value: Any) -> float:
    """``value`` as a positive, finite number of minutes.

    Raises:
        UsageError: it is something else.
    """
    try:
        minutes = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        minutes = math.nan
    if not (math.isfinite(minutes) and minutes > 0):
        raise UsageError(
            f"{function}() takes minutes as a positive number", found=f"minutes={value!r}"
        )
    return minutes


def shown_period(steps: int | None, minutes: float | None) -> str:
    """The arguments of an ``every()`` as people write them: ``steps=1000, minutes=10``."""
    shown = [] if steps is None else [f"steps={steps}"]
    if minutes is not None:
        shown.append(f"minutes={minutes:g}")
    return ", ".join(shown)
