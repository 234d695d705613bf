"""Rank 0: it writes, or lets all write, and tells the others when a checkpoint is durable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.distributed import letters, spread
from holdfast.distributed.folders import SharedFolder
from holdfast.distributed.planning import check_count, file_of
from holdfast.distributed.shares import with_shares
from holdfast.distributed.spread import Offer
from holdfast.distributed.writing import (
    Begun,
    RanksWriter,
    Said,
    Shared,
    nothing,
    save_call,
    writes_key,
)
from holdfast.formats.dcp.description import Description, Value
from holdfast.formats.dcp.layout import NAME
from holdfast.formats.dcp.seal import joined, seal
from holdfast.io.checksum import crc32
from holdfast.io.commit import Fill
from holdfast.io.commit_folder import NewFolder
from holdfast.runs.naming import split_suffix
from holdfast.runs.prune import Plan
from holdfast.saving.foreground import SaveInfo
from holdfast.saving.metrics import as_metrics
from holdfast.saving.pending import PendingSave
from holdfast.saving.sliced import Sliced
from holdfast.spec.record import MEMBER, Record
from holdfast.spec.record import encode as encode_record
from holdfast.state.capture import Captured, capture, flat_of
from holdfast.state.parts import Part


class Leading(RanksWriter):
    """Rank 0: it writes, and tells the others when a checkpoint is durable."""

    _said: list[Said]
    _shared: Shared | None = None
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

        def write(said: list[Any]) -> Begun:
            nonlocal saved
            self._forget_last()
            self._said, self._shared, self._unmade = said[1:], None, None
            for rank, each in enumerate(self._said, 1):
                if each.offer is not None:  # told once, whatever becomes of this save
                    self._spread.learn(rank, each.offer)
            _check_same_kind(self._said, is_spread=spread.has_spread(parts))
            saved = super(Leading, self).save(step, metrics, parts, extra)
            id = None if saved is None else self._head.id
            return Begun(id, as_metrics(metrics), self._shared)

        self._ranks.agree(save_call(step), super().finish, write)
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
        division = self._spread.divided(offers)
        check_count(division, len(values))
        number = self._spread.number
        self._spread.know(division.writes[0], number)
        planned = self._spread.file(flat, values)
        nbytes = division.nbytes + sum(map(len, values.values()))
        folder = NewFolder(path, nbytes)
        try:
            for rank, offer in enumerate(offers[1:], 1):
                if offer.division != number:
                    self._ranks.tell(writes_key(record.id, rank), division.writes[rank])
            found = spread.described_values(flat.paths, division, values)
            describe = partial(self._spread.description, flat.paths, division)
            counts = [len(each) for each in division.writes]
            counts[0] += len(values)
            made = _Folder(folder, path, nbytes, record, describe, found, counts)
            save = partial(self._write_shared, made, planned, times[0])
            pending, is_behind = self._submitted(record.step or 0, planned, save, times[1])
        except BaseException:
            folder.abandon()
            raise
        self._shared = Shared(str(folder.temp), str(path), number)
        self._unmade = None if is_behind else pending
        return pending

    def _write_shared(
        self, made: _Folder, planned: Sliced, started: float, nbytes: int, fill: Fill
    ) -> SaveInfo:
        record, folder = made.record, made.folder
        shared = SharedFolder(self._ranks, record.id)
        with self._telling(record), folder, shared.failing():
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
            nothing,
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
    counts: Sequence[int]

    def describe(self, crcs: Sequence[Sequence[int]]) -> int:
        """Write what the files hold, then the record with their checksums; the bytes of both."""
        for rank, each in enumerate(crcs):
            if len(each) != self.counts[rank]:
                raise letters.wrote_other(rank, self.counts[rank], len(each))
        files = [file_of(rank) for rank in range(len(crcs))]
        data = self.description().data(self.values)
        checksums = {
            **{file: joined(each) for file, each in zip(files, crcs, strict=True) if each},
            NAME: joined([crc32(data)]),
        }
        record = seal(encode_record(self.record), checksums)
        for name, each in ((NAME, data), (MEMBER, record)):
            self.folder.put(name, each)
        return len(data) + len(record)


def _offered(said: Said) -> Offer:
    assert said.offer is not None
    return said.offer


def _check_same_kind(said: list[Said], *, is_spread: bool) -> None:
    """Find a rank whose models are spread where those of rank 0 are not, or the other way."""
    for rank, each in enumerate(said, 1):
        if (each.offer is not None) != is_spread:
            kinds = ("whole models", "models that are spread over processes")
            raise letters.has_other(rank, kinds[is_spread], kinds[not is_spread])
