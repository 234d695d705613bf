"""The writing side of a run on several ranks: what all of them share, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.distributed import letters
from holdfast.distributed.ranks import Ranks
from holdfast.distributed.shares import Share
from holdfast.distributed.spread import Offer, Spread
from holdfast.io.commit import Fill
from holdfast.runs import listing
from holdfast.runs.entry import Entry
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep
from holdfast.runs.naming import Template
from holdfast.saving.foreground import SaveInfo
from holdfast.saving.pending import PendingSave
from holdfast.saving.sliced import Sliced
from holdfast.saving.writing import RunWriter
from holdfast.spec.record import MEMBER


class Said(NamedTuple):
    """What another rank says at a save: what is its own, and its pieces of what is spread."""

    share: Share
    offer: Offer | None


class Shared(NamedTuple):
    """Where all ranks write to, what that will be, and the number of who writes what."""

    temp: str
    target: str
    division: int


class Begun(NamedTuple):
    """What rank 0 says of a save that has begun; ``id`` is None where the step is saved already.

    ``shared`` is None where rank 0 writes all.
    """

    id: str | None
    metrics: Mapping[str, float]
    shared: Shared | None


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


def save_call(step: int) -> str:
    """What messages call a save."""
    return f"run.save(step={step})"


def writes_key(id: str, rank: int) -> str:
    """Where rank 0 says what a rank writes of a save."""
    return f"writes/{id}/{rank}"


def nothing(*_: Any) -> Any:
    """What a rank says, or rank 0 decides, where it is enough that all are there."""
    return None


def never(_: list[Any]) -> Any:
    """What the others decide."""
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
