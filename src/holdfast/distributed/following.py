"""Another rank: it gives its share, writes what is its own, and waits for rank 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.distributed import letters, spread
from holdfast.distributed.folders import SharedFolder
from holdfast.distributed.shares import OWN, share_of
from holdfast.distributed.writing import (
    Begun,
    RanksWriter,
    Said,
    never,
    nothing,
    save_call,
    writes_key,
)
from holdfast.errors import HoldfastError, RanksError
from holdfast.io.commit import Fill
from holdfast.runs.prune import Plan
from holdfast.saving.foreground import SaveInfo
from holdfast.saving.head import Head
from holdfast.saving.pending import PendingSave
from holdfast.state.capture import Captured, capture
from holdfast.state.flat import Flat
from holdfast.state.parts import Part

log = logging.getLogger("holdfast")


class Following(RanksWriter):
    """Another rank: it gives its share, and waits for rank 0."""

    def save(
        self,
        step: int,
        metrics: Mapping[str, Any],
        parts: Mapping[str, Part],
        extra: Mapping[str, Any],
    ) -> tuple[PendingSave, Captured] | None:
        """Give this rank's share; what is returned ends when rank 0's checkpoint is durable."""
        self._refuse_in_child()
        started, waited = time.monotonic(), 0.0
        watched = {name: part for name, part in parts.items() if part.is_watched}
        captured: Captured | None = None
        flat: Flat | None = None

        def say() -> Said:
            nonlocal captured, waited, flat
            super(Following, self).finish()
            waited = time.monotonic() - started
            captured = capture(watched, extra, spread=True)
            share = share_of(parts)
            if not spread.has_spread(parts):
                return Said(share, None)
            shared = {n: part for n, part in parts.items() if not isinstance(part, OWN)}
            flat = spread.captured_flat(shared, extra)
            return Said(share, self._spread.offer(flat))

        try:
            begun: Begun = self._ranks.agree(save_call(step), say, never)
        except BaseException:
            self._spread.forget()
            raise
        assert captured is not None
        if begun.id is None:
            log.info("step %d is saved already", step)
            return None
        if flat is not None and begun.shared is not None:
            pending, is_behind = self._begin_shared(step, flat, begun, (started, waited))
        else:
            hear = partial(self._written, begun.id, started, 0)
            pending = PendingSave(step, hear, waited=waited)
            is_behind = self._background is not None and self._background.can_begin()
            if is_behind and self._background is not None:
                self._background.do(pending)
        if not is_behind:
            pending.job.run()
            pending.wait()
        self._head_before, self._head = self._head, Head.now(begun.id, step, begun.metrics)
        return pending, captured

    def _begin_shared(
        self, step: int, flat: Flat, begun: Begun, times: tuple[float, float]
    ) -> tuple[PendingSave, bool]:
        """Copy this rank's pieces, and write them behind the training where that can be."""
        assert begun.id is not None
        assert begun.shared is not None
        id, (temp, target, number) = begun.id, begun.shared
        shared = SharedFolder(self._ranks, id)
        with shared.failing():
            if self._spread.number != number:
                key = writes_key(id, self._ranks.rank)
                self._spread.know(self._ranks.hear(key), number)
                self._ranks.forget(key)
            planned = self._spread.file(flat, {})

            def save(nbytes: int, fill: Fill) -> SaveInfo:
                shared.write(Path(temp), Path(target), nbytes, fill, planned.crcs)
                return self._written(id, times[0], nbytes)

            return self._submitted(step, planned, save, times[1])

    def _written(self, id: str, started: float, nbytes: int) -> SaveInfo:
        error: HoldfastError | None = self._ranks.hear(f"saved/{id}")
        if isinstance(error, RanksError) and error.error is not None:
            raise error  # it says already where that was
        if error is not None:
            raise letters.failed(0, error)
        return SaveInfo(None, nbytes, time.monotonic() - started)

    def prune(self, *, dry_run: bool, is_whole: Callable[[Path], bool] | None = None) -> Plan:
        """As ``RunWriter.prune``; rank 0 removes."""
        if dry_run:
            return super().prune(dry_run=True, is_whole=is_whole)
        plan: Plan = self._ranks.agree("run.prune(dry_run=False)", nothing, never)
        return plan
