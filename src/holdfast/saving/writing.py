"""The writing side of a run: lock, names, order, lineage, commit, pruning."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.errors import FileError, SaveFailedError, UsageError
from holdfast.io.commit import Fill, check_space, explain
from holdfast.io.folders import make_folders
from holdfast.runs import leftovers, listing
from holdfast.runs import prune as pruning
from holdfast.runs.entry import Entry
from holdfast.runs.every import Every
from holdfast.runs.keep import Keep
from holdfast.runs.lock import RunLock
from holdfast.runs.naming import Template, free_name
from holdfast.runs.prune import Plan
from holdfast.runs.removing import newest_whole, trash_same
from holdfast.saving.background import Background, seen_at_exit
from holdfast.saving.foreground import SaveInfo, save_file, watched
from holdfast.saving.head import Head
from holdfast.saving.metrics import as_metrics
from holdfast.saving.pending import PendingSave
from holdfast.saving.planned import plan
from holdfast.saving.recording import Place, Recorder
from holdfast.spec.record import Record
from holdfast.spec.record import encode as encode_record
from holdfast.state.capture import Captured, capture
from holdfast.state.parts import Part
from holdfast.tensors.encode import encode

log = logging.getLogger("holdfast")

#: How many sequence numbers are left to checkpoints that the system does not let us read when a run
#: is opened: they may be readable again later, and must not come after what is saved now.
UNREADABLE = 1_000_000

#: Which writer of this process holds which folder: a new one finishes and replaces the old one.
_owners: weakref.WeakValueDictionary[Path, RunWriter] = weakref.WeakValueDictionary()


class RunWriter:
    """Saves checkpoints into one run folder, one at a time, each with its place in the lineage.

    In the background the head, what training has reached, moves when a copy of the state is made,
    and back again if writing it fails.
    """

    def __init__(
        self,
        folder: Path,
        keep: Keep | None,
        every: Every | None,
        template: Template,
        *,
        background: bool | str = False,
    ) -> None:
        self.folder, self.keep, self.every, self.template = folder, keep, every, template
        self._background = Background(background) if background else None
        self._lock = RunLock(folder)
        self._pid = os.getpid()
        #: Threads may save and look at the run; each has its turn.
        self._turn = threading.RLock()
        self._recorder = Recorder({} if keep is None else keep.metrics())
        self._is_replaced = False
        self._source: dict[str, str] = {}
        self._entries: list[Entry] = []
        self._sequence = 0
        self._head = self._head_before = Head.now(None, None)
        self._resumed_id: str | None = None
        self._verified_id: str | None = None

    @property
    def next_step(self) -> int:
        """The step behind the head; 0 without one."""
        return 0 if self._head.step is None else self._head.step + 1

    def open(self) -> list[Entry]:
        """Take the lock, remove what dead writers left, and list the folder, oldest to newest.

        Raises:
            LockedError: another process writes to this run.
            FileError: the folder cannot be made or written to.
        """
        return self._open()

    def _open(self) -> list[Entry]:
        self._refuse_in_child()
        owner = _owners.get(self.folder)
        if owner is not None and owner is not self:
            owner.give_up()
        self.finish()
        if self._lock.is_held and not self._lock.is_in_place:
            log.warning(
                "%s was removed or replaced while this run was saving there: checkpoints saved "
                "before may be gone",
                self.folder,
            )
            self._lock.release()
        if not self._lock.is_in_place:
            if listing.is_there(self.folder):
                listing.taken_names(self.folder)  # a file, or not to be read: a letter says so
            try:
                make_folders(self.folder)
            except OSError as error:
                raise explain(error, self.folder) from error
            self._lock.acquire()
            self._swept_and_listed()
        else:
            self._entries = listing.list_run(self.folder)
        self._sequence = listing.next_sequence(self._entries)
        if any(isinstance(entry.problem, FileError) for entry in self._entries):
            self._sequence += UNREADABLE
        _owners[self.folder] = self
        self._is_replaced = False
        return list(self._entries)

    def _swept_and_listed(self) -> None:
        """Who holds the lock has listed the folder: saves count on from what is there."""
        try:
            leftovers.sweep(self.folder)
            self._entries = listing.list_run(self.folder)
        except BaseException:
            self._lock.release()
            raise

    def begin(
        self,
        entry: Entry | None,
        *,
        parent: str | None = None,
        first_step: int | None = None,
        source: Path | None = None,
    ) -> None:
        """Go on from a checkpoint of this run that was restored, from outside, or from nothing."""
        self._source = {} if source is None else {"start_from": str(source)}
        if entry is not None:
            self._head = Head.now(entry.id, entry.step, entry.metrics)
            self._resumed_id = self._verified_id = entry.id
        else:
            self._head = Head.now(parent, None if first_step is None else first_step - 1)

    def is_due(self, step: int) -> bool:
        """Whether ``every`` says to save this step now."""
        seconds = time.monotonic() - self._head.saved_at
        return self.every is None or self.every.is_due(step, self._head.step, seconds)

    def save(
        self,
        step: int,
        metrics: Mapping[str, Any],
        parts: Mapping[str, Part],
        extra: Mapping[str, Any],
    ) -> tuple[PendingSave, Captured] | None:
        """Save the state as it is now; None when this step is saved already.

        In the background only a copy is made here, after the save before it has ended.

        Raises:
            UsageError: the step is behind the head, or saved with other metrics.
            FileError, CaptureError: nothing was saved; what was there is untouched.
            SaveFailedError: the save before it has failed.
        """
        self._refuse_in_child()
        with self._turn, seen_at_exit():
            started = time.monotonic()
            self.finish()
            waited = time.monotonic() - started
            floats = as_metrics(metrics)
            if not self._lock.is_in_place:
                self._open_unasked()
            if self._is_saved(step, floats):
                return None
            captured = self._captured(parts, extra)
            now = datetime.now().astimezone()
            name = self._named(
                free_name(self.template.format(step, now), listing.taken_names(self.folder))
            )
            sequence = max(self._sequence, listing.next_sequence(self._entries))
            place = Place(name, step, sequence, self._head.id)
            record = self._recorder.record(place, floats, captured, now, self._source)
            pending = self._begin(captured, self.folder / name, record, parts, (started, waited))
            self._head_before, self._head = self._head, Head.now(record.id, step, record.metrics)
            return pending, captured

    def _named(self, name: str) -> str:
        """What a checkpoint of this state is called, where a file of it is called so."""
        return name

    def _captured(self, parts: Mapping[str, Part], extra: Mapping[str, Any]) -> Captured:
        return capture(parts, extra)

    def _telling(self, record: Record) -> contextlib.AbstractContextManager[object]:
        """What is around the writing of a checkpoint: where others wait for it, they are told."""
        return contextlib.nullcontext()

    def _begin(
        self,
        captured: Captured,
        path: Path,
        record: Record,
        parts: Mapping[str, Part],
        times: tuple[float, float],
    ) -> PendingSave:
        """Write the file, here or behind the training."""
        started, waited = times
        step, name = record.step or 0, os.fspath(path)
        planned = plan(encode(captured.tree), path.name, encode_record(record))

        def save(nbytes: int, fill: Fill) -> SaveInfo:
            with self._telling(record):
                info = save_file(name, nbytes, fill, started=started)
            self._committed(path, record, info)
            return info

        if self._background is not None:
            check_space(path, planned.nbytes)  # now, and not when a copy has been made
        if self._background is not None and self._background.has_room(planned):
            pending = self._background.submit(step, planned, parts, save, waited)
        else:
            pending = PendingSave(
                step, partial(save, planned.nbytes, watched(planned)), waited=waited
            )
            pending.job.run()
            pending.wait()
        return pending

    def finish(self, *, waits: bool = True) -> None:
        """Wait for the save in flight; without ``waits`` only look whether it has failed.

        Raises:
            SaveFailedError: it has failed; what training has reached is again what it was.
        """
        if self._background is None:
            return
        if os.getpid() != self._pid:
            self._background.forget()
            return
        if waits:
            self._background.wait()
        with self._turn:
            try:
                is_good = self._background.finish()
            except SaveFailedError:
                self._head = self._head_before
                raise
            if not is_good:  # somebody was told already
                self._head = self._head_before

    def _open_unasked(self) -> None:
        """A save without a resume before it: the run goes on, as a branch of its own."""
        if self._is_replaced:
            raise UsageError(
                "this Run was replaced by a newer one on the same folder",
                file=self.folder,
                cure="Save with the new one, or call resume() to take the folder back.",
            )
        there = {entry.id for entry in self._open() if entry.sequence is not None}
        if there and self._head.id not in there:
            log.warning(
                "%s already holds checkpoints and was not resumed: what is saved now is a new "
                "beginning beside them. To go on with them call run.resume(), or run.steps().",
                self.folder,
            )

    def _is_saved(self, step: int, metrics: Mapping[str, float]) -> bool:
        is_there = any(known.id == self._head.id for known in self._entries)
        if not is_there and self._head.metrics is not None and step == self._head.step:
            return False  # it has gone with the folder
        if not self._head.is_saved(step, metrics, self.folder):
            return False
        log.info("step %d is saved already", step)
        return True

    def _committed(self, path: Path, record: Record, info: SaveInfo) -> None:
        """Only now the checkpoint exists: list it, then prune."""
        entry = Entry(
            path, record, nbytes=info.nbytes, mtime=time.time(), step=record.step,
            order_by="sequence",
        )  # fmt: skip
        readable = [known for known in self._entries if known.problem is None]
        self._entries = [*readable, entry, *(k for k in self._entries if k.problem is not None)]
        self._verified_id = record.id
        if not self._lock.is_in_place:  # the folder, or the lock, is somebody else's by now
            log.warning("%s is not pruned: its lock is not held any more", self.folder)
            return
        try:
            self._prune(self.keep, self._protected(), False, None)
        except FileError as error:  # the checkpoint just saved is durable all the same
            log.warning("%s is not pruned: %s", self.folder, error.what)

    def prune(self, *, dry_run: bool, is_whole: Callable[[Path], bool] | None = None) -> Plan:
        """Plan what ``keep`` removes, and unless it is a dry run remove it.

        Where another object of this process writes to the folder, that one prunes and goes on; else
        the lock is held meanwhile. ``is_whole`` verifies a checkpoint, for a process that has
        restored and saved none itself.

        Raises:
            LockedError: another process writes to this run.
            NoCheckpointError: there is no such folder.
            FileError: not all could be removed.
        """
        writer = _owners.get(self.folder, self)
        writer.finish()
        writer = writer if writer._lock.is_in_place else self
        keep, protected = self.keep, self._protected() | writer._protected()
        if dry_run or writer._lock.is_in_place:
            return writer._prune(keep, protected, dry_run, is_whole)
        self._refuse_in_child()
        listing.taken_names(self.folder)
        with RunLock(self.folder):
            return self._prune(keep, protected, dry_run, is_whole)

    def _protected(self) -> dict[str, str]:
        protected = {self._resumed_id: "the one resumed from"}
        protected[self._verified_id] = "the newest that verified"
        return {id: why for id, why in protected.items() if id is not None}

    def _prune(
        self,
        keep: Keep | None,
        protected: dict[str, str],
        dry_run: bool,
        is_whole: Callable[[Path], bool] | None,
    ) -> Plan:
        if not self._lock.is_in_place:
            self._entries = listing.list_run(self.folder)
        self._entries = listing.still_there(self._entries, self.folder)
        if self._verified_id is None and is_whole is not None:
            protected = protected | newest_whole(self._entries, is_whole)
        decided = pruning.plan(self._entries, keep, protected=protected)
        if decided.doomed and not dry_run:
            gone = set(trash_same(decided.doomed))
            decided = decided.as_done(gone)
            self._entries = [entry for entry in self._entries if entry.path not in gone]
        return decided

    def give_up(self) -> None:
        """Finish, and leave the folder to a newer Run of this process."""
        try:
            self.close()
        except SaveFailedError as error:
            log.error("the Run before this one on %s ended so: %s", self.folder, error)
        self._is_replaced = True

    def close(self) -> None:
        """Finish the save in flight; give back the lock and the memory.

        Raises:
            SaveFailedError: that save has failed.
        """
        try:
            self.finish()
        finally:
            # An interruption leaves it in flight: it needs the memory, and the lock to prune.
            if self._background is None or not self._background.is_busy:
                self._lock.release()
                if self._background is not None:
                    self._background.close()

    def _refuse_in_child(self) -> None:
        if os.getpid() != self._pid:
            raise UsageError(
                "a forked child cannot save to the run of its parent",
                file=self.folder,
                wanted=f"process {self._pid}",
                found=f"process {os.getpid()}",
                cure="Save in the process that made the Run.",
            )
