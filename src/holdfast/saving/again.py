"""Whether a step that is to be saved is saved already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from holdfast.errors import UsageError


def is_saved(
    step: int,
    metrics: Mapping[str, float],
    head_step: int | None,
    head_metrics: Mapping[str, float] | None,
    folder: Path,
) -> bool:
    """Whether ``step`` is the head, the checkpoint that training has reached, and not behind it.

    ``head_metrics`` is None where the head is no checkpoint of this run.

    Raises:
        UsageError: the step is behind the head, or saved with other metrics.
    """
    if head_step is None or step > head_step:
        return False
    if step < head_step or head_metrics is None:
        raise UsageError(
            "this step is behind the one that training has reached",
            file=folder,
            wanted=f"a step after {head_step}",
            found=f"step {step}",
            cure="Count steps through all epochs; to go back call run.resume(step) first.",
        )
    if metrics and repr(metrics) != repr(dict(head_metrics)):
        raise UsageError(
            f"step {step} is saved already, with other metrics",
            file=folder,
            wanted=repr(dict(head_metrics)),
            found=repr(metrics),
            cure="Save each step once, with all its metrics.",
        )
    return True
