"""The record of a checkpoint to be saved: its place in the lineage, and where it comes from."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from holdfast.runs import provenance
from holdfast.runs.prune import NAME_KEY
from holdfast.spec.record import Record
from holdfast.state.capture import Captured

log = logging.getLogger("holdfast")


class Place(NamedTuple):
    """Where in a run a checkpoint is: its name, its step, its number and what it goes on from."""

    name: str
    step: int
    sequence: int
    parent: str | None


class Recorder:
    """Makes the records of one run; ``best`` are the metrics it keeps by, with their modes."""

    def __init__(self, best: Mapping[str, str]) -> None:
        self._best = dict(best)
        self._began = time.monotonic()
        self._provenance: dict[str, Any] | None = None
        self._warned_of: set[str] = set()

    def record(
        self,
        place: Place,
        metrics: dict[str, float],
        captured: Captured,
        now: datetime,
        source: Mapping[str, str],
    ) -> Record:
        """The record of what was captured ``now``; ``source`` is what the run began from."""
        if self._provenance is None:
            self._provenance = provenance.collect()
        self._warn_of_missing(metrics)
        return Record(
            id=uuid.uuid4().hex,
            step=place.step,
            sequence=place.sequence,
            parent=place.parent,
            time=now.astimezone(timezone.utc).isoformat(timespec="milliseconds"),
            elapsed=round(time.monotonic() - self._began, 3),
            metrics=metrics,
            best=self._best,
            parameters=captured.parameters,
            converted=captured.converted,
            provenance={**self._provenance, **source, NAME_KEY: place.name},
        )

    def _warn_of_missing(self, metrics: Mapping[str, float]) -> None:
        for metric in set(self._best) - set(metrics) - self._warned_of:
            self._warned_of.add(metric)
            log.warning(
                "keep.best(%r) never keeps a checkpoint without that metric, and this one has %s. "
                "Give it: run.save(metrics={%r: ...}).",
                metric,
                ", ".join(map(repr, metrics)) or "none",
                metric,
            )
