"""The writing side of a run on several ranks: rank 0 writes, the others know when it is done."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.distributed import letters, spread
from holdfast.distributed.folders import SharedFolder
from holdfast.distributed.planning import file_of
from holdfast.distributed.ranks import Ranks
from holdfast.distributed.shares import OWN, Share, share_of, with_shares
from holdfast.distributed.spread import Offer, Spread
from holdfast.errors import HoldfastError, RanksError
from holdfast.formats.dcp.description import Description, Value
from holdfast.formats.dcp.metadata import NAME
from holdfast.formats.dcp.seal import joined, seal
from holdfast.io.checksum import crc32
from holdfast.io.commit import Fill
from holdfast.io.commit_folder import NewFolder
from holdfast.io.sink import Sink
from holdfast.runs import listing
from holdfast.runs.entry import Entry
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep
from holdfast.runs.naming import Template, split_suffix
from holdfast.runs.prune import Plan
from holdfast.saving.foreground import SaveInfo
from holdfast.saving.head import Head
from holdfast.saving.metrics import as_metrics
from holdfast.saving.pending import PendingSave
from holdfast.saving.sliced import Sliced
from holdfast.saving.writing import RunWriter
from holdfast.spec.record import MEMBER, Record
from holdfast.spec.record import encode as encode_record
from holdfast.state.capture import Captured, capture, flat_of
from holdfast.state.flat import Flat
from holdfast.state.parts import Part

log = logging.getLogger("holdfast")


class _Said(NamedTuple):
    """What another rank says at a save: what is its own, and its pieces of what is spread."""

    share: Share
    offer: Offer | None


class _Shared(NamedTuple):
    """Where all ranks write to, what that will be, and whether each writes something new."""

    temp: str
    target: str
    is_new: bool


class _Begun(NamedTuple):
    """What rank 0 says of a save that has begun; ``id`` is None where the step is saved already.

    ``shared`` is None where rank 0 writes all.
    """

    id: str | None
    metrics: Mapping[str, float]
    shared: _Shared | None


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
        self._spread = Spread()

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

    def _submitted(
        self,
        step: int,
        planned: Sliced,
        save: Callable[[int, Fill], SaveInfo],
        waited: float,
    ) -> tuple[PendingSave, bool]:
        """A save of this rank's file, and whether it goes on behind the training."""
        pending = PendingSave(step, partial(save, planned.nbytes, planned.fill), waited=waited)
        if self._background is None:
            return pending, False
        if not planned.nbytes:  # nothing to copy: there are more ranks than shares
            is_behind = self._background.can_begin()
            return self._background.do(pending) if is_behind else pending, is_behind
        if self._background.has_room(planned):
            return self._background.submit(step, planned, {}, save, waited), True
        return pending, False

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

    _said: list[_Said]
    _shared: _Shared | None = None
    _last_told: str | None = None
    #: A save that is to be made when all ranks know of it.
    _unmade: PendingSave | None = None

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
            self._said, self._shared, self._unmade = said[1:], None, None
            _check_same_kind(self._said, is_spread=spread.has_spread(parts))
            saved = super(Leading, self).save(step, metrics, parts, extra)
            id = None if saved is None else self._head.id
            return _Begun(id, as_metrics(metrics), self._shared)

        self._ranks.agree(_call(step), super().finish, write)
        if self._unmade is not None:
            self._unmade.job.run()
            try:
                self._unmade.wait()
            except BaseException:
                self._head = self._head_before
                raise
        return saved

    @property
    def _is_spread(self) -> bool:
        return self._said[0].offer is not None

    def _named(self, name: str) -> str:
        return split_suffix(name)[0] if self._is_spread else name

    def _captured(self, parts: Mapping[str, Part], extra: Mapping[str, Any]) -> Captured:
        captured = capture(parts, extra, spread=self._is_spread)
        return with_shares(captured, [each.share for each in self._said])

    def _begin(
        self,
        captured: Captured,
        path: Path,
        record: Record,
        parts: Mapping[str, Part],
        times: tuple[float, float],
    ) -> PendingSave:
        if not self._is_spread:
            return super()._begin(captured, path, record, parts, times)
        flat = flat_of(captured.tree, captured.parameters, parts)
        values = spread.encoded_values(flat)
        offers = [self._spread.offer(flat), *(_offered(each) for each in self._said)]
        division, is_new = self._spread.divided(offers)
        planned = self._spread.file(flat, values, division.writes[0])
        nbytes = division.nbytes + sum(map(len, values.values()))
        folder = NewFolder(path, nbytes)
        try:
            for rank in range(1, self._ranks.size) if is_new else ():
                self._ranks.tell(_writes(record.id, rank), division.writes[rank])
            found = spread.described_values(flat.paths, division, values)
            describe = partial(self._spread.description, flat.paths, division)
            made = _Folder(folder, path, nbytes, record, describe, found)
            save = partial(self._write_shared, made, planned, times[0])
            pending, is_behind = self._submitted(record.step or 0, planned, save, times[1])
        except BaseException:
            folder.abandon()
            self._spread.forget()
            raise
        self._shared = _Shared(str(folder.temp), str(path), is_new)
        self._unmade = None if is_behind else pending
        return pending

    def _write_shared(
        self, made: _Folder, planned: Sliced, started: float, nbytes: int, fill: Fill
    ) -> SaveInfo:
        record, folder = made.record, made.folder
        shared = SharedFolder(self._ranks, record.id)
        with self._telling(record):
            with folder, shared.failing():
                more = made.describe(shared.lead(folder, nbytes, fill, planned.crcs))
            info = SaveInfo(str(made.path), made.nbytes + more, time.monotonic() - started)
            self._committed(made.path, record, info)
        return info

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


class _Folder(NamedTuple):
    """A folder that all ranks write into, ``nbytes`` of them, and what describes it.

    The description takes time where ranks are many: it is made behind the training.
    """

    folder: NewFolder
    path: Path
    nbytes: int
    record: Record
    description: Callable[[], Description]
    values: Mapping[str, Value]

    def describe(self, crcs: Sequence[Sequence[int]]) -> int:
        """Write what the files hold, then the record with their checksums; the bytes of both."""
        files = [file_of(rank) for rank in range(len(crcs))]
        data = self.description().data(self.values)
        checksums = {
            **{file: joined(each) for file, each in zip(files, crcs, strict=True) if each},
            NAME: joined([crc32(data)]),
        }
        record = seal(encode_record(self.record), checksums)
        for name, each in ((NAME, data), (MEMBER, record)):
            self.folder.add(name, len(each), partial(_put, each))
        return len(data) + len(record)


def _put(data: bytes, sink: Sink) -> None:
    sink(data)


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

        def say() -> _Said:
            nonlocal captured, waited, flat
            super(Following, self).finish()
            waited = time.monotonic() - started
            captured = capture(watched, extra)
            share = share_of(parts)
            if not spread.has_spread(parts):
                return _Said(share, None)
            shared = {n: part for n, part in parts.items() if not isinstance(part, OWN)}
            flat = spread.captured_flat(shared, extra)
            return _Said(share, self._spread.offer(flat))

        try:
            begun: _Begun = self._ranks.agree(_call(step), say, _never)
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
        self, step: int, flat: Flat, begun: _Begun, times: tuple[float, float]
    ) -> tuple[PendingSave, bool]:
        """Copy this rank's pieces, and write them behind the training where that can be."""
        assert begun.id is not None
        assert begun.shared is not None
        id, (temp, target, is_new) = begun.id, begun.shared
        shared = SharedFolder(self._ranks, id)
        with shared.failing():
            writes = self._ranks.hear(_writes(id, self._ranks.rank)) if is_new else None
            if is_new:
                self._ranks.forget(_writes(id, self._ranks.rank))
            planned = self._spread.file(flat, {}, writes)

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
        plan: Plan = self._ranks.agree("run.prune(dry_run=False)", _nothing, _never)
        return plan


def _call(step: int) -> str:
    return f"run.save(step={step})"


def _writes(id: str, rank: int) -> str:
    return f"writes/{id}/{rank}"


def _offered(said: _Said) -> Offer:
    assert said.offer is not None
    return said.offer


def _check_same_kind(said: list[_Said], *, is_spread: bool) -> None:
    """Find a rank whose models are spread where those of rank 0 are not, or the other way."""
    for rank, each in enumerate(said, 1):
        if (each.offer is not None) != is_spread:
            kinds = ("whole models", "models that are spread over processes")
            raise letters.has_other(rank, kinds[is_spread], kinds[not is_spread])


def _nothing(*_: Any) -> Any:
    return None


def _never(_: list[Any]) -> Any:
    raise AssertionError("rank 0 decides")


def _nbytes(path: Path) -> int | None:
    try:
        if not listing.is_there(path):
            return None
        return (path / MEMBER if path.is_dir() else path).stat().st_size
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
