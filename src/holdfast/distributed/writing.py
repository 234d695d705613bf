"""The writing side of a run on several ranks: rank 0 writes, the others know when it is done."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.distributed import letters
from holdfast.distributed.ranks import Ranks
from holdfast.distributed.shares import Share, share_of, with_shares
from holdfast.errors import HoldfastError
from holdfast.runs import listing
from holdfast.runs.entry import Entry
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep
from holdfast.runs.naming import Template
from holdfast.runs.prune import Plan
from holdfast.saving.foreground import SaveInfo
from holdfast.saving.head import Head
from holdfast.saving.metrics import as_metrics
from holdfast.saving.pending import PendingSave
from holdfast.saving.writing import RunWriter
from holdfast.spec.record import Record
from holdfast.state.capture import Captured, capture
from holdfast.state.parts import Part

log = logging.getLogger("holdfast")


class _Begun(NamedTuple):
    """What rank 0 says of a save that has begun; ``id`` is None where the step is saved already."""

    id: str | None
    metrics: Mapping[str, float]


class RanksWriter(RunWriter):
    """One of several; what it says is what all agree on."""

    def __init__(
        self,
        folder: Path,
        keep: Keep | None,
        every: Every | None,
        template: Template,
        ranks: Ranks,
        *,
        background: bool | str = False,
    ) -> None:
        super().__init__(folder, keep, every, template, background=background)
        self._ranks = ranks
        self._looks = 0

    def open(self) -> list[Entry]:
        """As ``RunWriter.open``, on all ranks: they agree on what is there.

        Raises:
            RanksError: a rank sees other files than rank 0.
        """
        self._refuse_in_child()

        def say() -> Any:
            super(RanksWriter, self).finish()
            return self._open() if self._ranks.leads else None  # the lock is rank 0's

        self._entries = self._ranks.agree("run.resume()", say, lambda said: said[0])
        names = [entry.name for entry in self._entries]
        self._ranks.agree("run.resume()", lambda: self._sizes(names), _check_one_folder)
        return list(self._entries)

    def finish(self, *, waits: bool = True) -> None:
        """As ``RunWriter.finish``; a failure is not told before all ranks are at one call."""
        if waits:
            super().finish()

    def _sizes(self, names: list[str]) -> dict[str, int | None]:
        return {name: _nbytes(self.folder / name) for name in names}

    def is_due(self, step: int) -> bool:
        """What rank 0's clock says, where it is asked; steps are the same on all ranks."""
        if self.every is None or not self.every.has_clock:
            return super().is_due(step)
        self._looks += 1
        if not self._ranks.leads:
            # Rank 0 may be ahead, but not past a step that it saves: it waits for all there.
            said = self._ranks.follow("due", lambda said: said[0] >= self._looks)
            return bool(said == (self._looks, True))
        is_due = super().is_due(step)
        self._ranks.tell("due", (self._looks, is_due))
        return is_due


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


class Leading(RanksWriter):
    """Rank 0: it writes, and tells the others when a checkpoint is durable."""

    _shares: list[Share]
    _last_told: str | None = None

    def save(
        self,
        step: int,
        metrics: Mapping[str, Any],
        parts: Mapping[str, Part],
        extra: Mapping[str, Any],
    ) -> tuple[PendingSave, Captured] | None:
        """As ``RunWriter.save``, with the generators and loaders of all ranks."""
        self._refuse_in_child()
        saved: tuple[PendingSave, Captured] | None = None

        def write(said: list[Any]) -> _Begun:
            nonlocal saved
            self._forget_last()
            self._shares = said[1:]
            saved = super(Leading, self).save(step, metrics, parts, extra)
            return _Begun(None if saved is None else self._head.id, as_metrics(metrics))

        self._ranks.agree(_call(step), super().finish, write)
        return saved

    def _captured(self, parts: Mapping[str, Part], extra: Mapping[str, Any]) -> Captured:
        return with_shares(super()._captured(parts, extra), self._shares)

    def _forget_last(self) -> None:
        if self._last_told is not None:  # all ranks have begun the next save
            self._ranks.forget(self._last_told)
            self._last_told = None

    @contextlib.contextmanager
    def _telling(self, record: Record) -> Iterator[None]:
        self._last_told = f"saved/{record.id}"
        try:
            yield
        except BaseException as error:
            self._ranks.tell(self._last_told, letters.as_letter(error))
            raise
        self._ranks.tell(self._last_told, None)

    def prune(self, *, dry_run: bool, is_whole: Callable[[Path], bool] | None = None) -> Plan:
        """As ``RunWriter.prune``; all ranks call it, and this one removes."""
        if dry_run:
            return super().prune(dry_run=True, is_whole=is_whole)
        act = super().prune
        return self._ranks.agree(
            "run.prune(dry_run=False)",
            _nothing,
            lambda _: act(dry_run=False, is_whole=is_whole),
        )


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

        def say() -> Share:
            nonlocal captured, waited
            super(Following, self).finish()
            waited = time.monotonic() - started
            captured = capture(watched, extra)
            return share_of(parts)

        begun: _Begun = self._ranks.agree(_call(step), say, _never)
        assert captured is not None
        if begun.id is None:
            log.info("step %d is saved already", step)
            return None
        pending = PendingSave(step, lambda: self._written(str(begun.id), started), waited=waited)
        if self._background is not None and self._background.can_begin():
            self._background.do(pending)
        else:
            pending.job.run()
            pending.wait()
        self._head_before, self._head = self._head, Head.now(begun.id, step, begun.metrics)
        return pending, captured

    def _written(self, id: str, started: float) -> SaveInfo:
        error: HoldfastError | None = self._ranks.hear(f"saved/{id}")
        if error is not None:
            raise letters.failed(0, error)
        return SaveInfo(None, 0, time.monotonic() - started)

    def prune(self, *, dry_run: bool, is_whole: Callable[[Path], bool] | None = None) -> Plan:
        """As ``RunWriter.prune``; rank 0 removes."""
        if dry_run:
            return super().prune(dry_run=True, is_whole=is_whole)
        plan: Plan = self._ranks.agree("run.prune(dry_run=False)", _nothing, _never)
        return plan


def _call(step: int) -> str:
    return f"run.save(step={step})"


def _nothing(*_: Any) -> Any:
    return None


def _never(_: list[Any]) -> Any:
    raise AssertionError("rank 0 decides")


def _nbytes(path: Path) -> int | None:
    try:
        return path.stat().st_size if listing.is_there(path) else None
    except OSError:
        return None


def _check_one_folder(said: list[dict[str, int | None]]) -> None:
    """Find a rank that sees other files than rank 0: a network file system that lags behind."""
    for rank, seen in enumerate(said):
        other = [name for name, nbytes in seen.items() if nbytes != said[0][name]]
        if other:
            name = other[0]
            wanted = f"{name} of {_shown(said[0][name])}"
            raise letters.sees_other(rank, "another folder than rank 0", wanted, _shown(seen[name]))


def _shown(nbytes: int | None) -> str:
    return "no such file" if nbytes is None else f"{nbytes:,} bytes"
