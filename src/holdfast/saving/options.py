"""What a run is given, checked when it is made: a mistake must not show at the first save."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.errors import UsageError
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep
from holdfast.state.capture import stray_tensors
from holdfast.state.match import Options
from holdfast.state.parts import Part

log = logging.getLogger("holdfast")


def check_options(
    keep: Any, every: Any, grace: Any, *, strict: Any, rename: Any, start: tuple[Any, Any]
) -> None:
    """Find options of another kind; ``start`` is (start_from, start_step).

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
    Options(strict=strict, rename=rename).check()
    if start[0] is None and start[1] is not None:
        raise UsageError(
            "start_step= says where start_from= begins, and there is no start_from=",
            found=f"start_step={start[1]!r}",
            cure="A run without checkpoints begins at step 0: leave start_step= out.",
        )
    if isinstance(grace, bool) or not isinstance(grace, int | float):
        raise UsageError("grace= is a number of seconds", found=repr(grace))


def check_background(background: Any) -> None:
    """Raise UsageError where ``background`` is none of its four values."""
    if not isinstance(background, bool) and background not in ("overlap", "overlap-checked"):
        raise UsageError(
            "background= is True, False, 'overlap' or 'overlap-checked'",
            found=repr(background)[:100],
        )


def keep_not_given(folder: Path) -> UsageError:
    """The error of a Run that only reads and is to prune by nobody's word."""
    return UsageError(
        "prune() goes by keep=, and this Run, which only reads, was given none",
        file=folder,
        cure="Say it: holdfast.Run(folder, keep=holdfast.keep.latest(3)).prune(dry_run=False)",
    )


def parts_not_given(what: str, folder: Path) -> UsageError:
    """The error of a Run without live parts that is to do what needs them."""
    return UsageError(
        f"{what}() needs live parts, and this Run has none: it reads",
        file=folder,
        cure="Give them: holdfast.Run(folder, model=model, optimizer=optimizer)",
    )


def warn_of_stray_tensors(parts: Mapping[str, Part]) -> None:
    """Name the tensors that modules keep as plain attributes, each with the line that saves it."""
    for tensor, mend in stray_tensors(parts).items():
        log.warning(
            "%r is neither a parameter nor a buffer, so it is not saved. To save it, write %s "
            "where it is assigned.",
            tensor,
            mend,
        )
