"""What writes a run: this process alone, rank 0 for all, or one that waits for rank 0."""

from __future__ import annotations

from pathlib import Path

from holdfast.distributed.following import Following
from holdfast.distributed.leading import Leading
from holdfast.distributed.ranks import Ranks
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep
from holdfast.runs.naming import Template
from holdfast.saving.writing import RunWriter


def writer_of(
    folder: Path,
    keep: Keep | None,
    every: Every | None,
    template: Template,
    ranks: Ranks | None,
    *,
    background: bool | str,
) -> RunWriter:
    """What writes a run: this process alone, rank 0 for all, or what waits for rank 0."""
    if ranks is None:
        return RunWriter(folder, keep, every, template, background=background)
    kind = Leading if ranks.leads else Following
    return kind(folder, keep, every, template, ranks, background=background)
