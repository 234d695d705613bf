"""What a run is given, checked when it is made: a mistake must not show at the first save."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from holdfast.errors import UsageError
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep
from holdfast.state.capture import stray_tensors
from holdfast.state.parts import Part

log = logging.getLogger("holdfast")


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


def warn_of_stray_tensors(parts: Mapping[str, Part]) -> None:
    """Name the tensors that modules keep as plain attributes, each with the line that saves it."""
    for tensor, mend in stray_tensors(parts).items():
        log.warning(
            "%r is neither a parameter nor a buffer, so it is not saved. To save it: %s",
            tensor,
            mend,
        )
