"""Saving behind the training: one save in flight, waited for by the next and by the exit."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from holdfast.errors import HoldfastError, SaveFailedError
from holdfast.io import memory
from holdfast.io.arena import Arena
from holdfast.io.commit import Fill
from holdfast.io.direct import start_threads
from holdfast.io.threads import Threads
from holdfast.saving import devices, exit_status
from holdfast.saving.copied import Copied
from holdfast.saving.foreground import SaveInfo
from holdfast.saving.image import Image
from holdfast.saving.overlap import StepHooks, storages_for_later
from holdfast.saving.pending import PendingSave
from holdfast.saving.planned import Planned
from holdfast.saving.sliced import Sliced
from holdfast.saving.sliced_image import SlicedImage
from holdfast.state.parts import Part

log = logging.getLogger("holdfast")

#: Memory is left for others, at least this share of what is available.
_SPARE = 0.1


class Background:
    """The saves of one run, behind the training, and the memory they are copied into.

    ``mode`` is True, ``"overlap"`` or ``"overlap-checked"``, as ``Run`` has it.
    """

    def __init__(self, mode: bool | str = True) -> None:
        self._mode = mode
        self._pid = os.getpid()
        self._hooks = StepHooks(self._before_step)
        self._image: Copied | None = None
        self._arena: Arena | None = None
        self._pending: PendingSave | None = None
        self._has_warned = False

    def has_room(self, planned: Planned | Sliced) -> bool:
        """Whether there are threads, and memory for a copy of the whole file; made if need be."""
        if _exiting.is_set():  # nobody would wait for it
            return False
        if not (start_threads() and _start_thread()):
            self._warn("no thread can be started")
            return False
        have = 0 if self._arena is None else self._arena.nbytes
        if planned.nbytes <= have and devices.suits(self._arena, planned.gpu):
            return True
        wanted = planned.nbytes + planned.nbytes // 64  # pickles and records vary in length
        free = memory.available()
        if free is None or wanted - have <= free * (1 - _SPARE):
            self._arena = None  # first, so that never two are there
            try:
                self._arena = devices.arena_for(planned.gpu, wanted)
            except (MemoryError, OSError):
                free = 0
            else:
                return True
        self._warn(
            "there is no memory for a copy of the state "
            f"({wanted >> 20:,} MiB wanted, {free >> 20:,} MiB free)"
        )
        return False

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s: the training waits for each save. To have it so without this warning: "
                "Run(..., background=False).",
                why,
            )

    def can_begin(self) -> bool:
        """Whether there is a thread for it, and somebody who will wait."""
        return not _exiting.is_set() and _start_thread()

    def submit(
        self,
        step: int,
        planned: Planned | Sliced,
        parts: Mapping[str, Part],
        save: Callable[[int, Fill], SaveInfo],
        waited: float,
    ) -> PendingSave:
        """Copy the state, and have ``save`` write the copy; ``has_room`` has said yes."""
        image = self._image = self._copied(planned, parts)
        pending = PendingSave(
            step,
            partial(save, image.nbytes, image.fill),
            waited=waited,
            progress=lambda: image.progress,
        )
        return self.do(pending)

    def _copied(self, planned: Planned | Sliced, parts: Mapping[str, Part]) -> Copied:
        assert self._arena is not None
        if isinstance(planned, Sliced):  # all of it now: optimizers of shares have no hooks of ours
            return SlicedImage(planned, self._arena)
        later = {}
        if self._mode is not True:
            self._hooks.watch(parts)
            later = storages_for_later(
                parts, planned.encoded, checked=self._mode == "overlap-checked"
            )
        return Image(planned, self._arena, later)

    def do(self, pending: PendingSave) -> PendingSave:
        """Have the thread do it, as the save in flight."""
        _finish_in_child_too()
        thread = _thread()
        try:
            self._pending = pending
            _unfinished.append(pending)  # from now on whoever exits waits for it
            thread.do(pending.job)
        except BaseException:  # Ctrl-C in between: it must be done, or the exit would wait forever
            if pending not in _unfinished:
                _unfinished.append(pending)
            thread.do(pending.job)
            raise
        return pending

    @property
    def is_busy(self) -> bool:
        """Whether a save is in flight."""
        return self._pending is not None and not self._pending.done

    def wait(self) -> None:
        """Return when the save in flight has ended, if there is one; any thread may wait."""
        pending = self._pending
        if pending is not None:
            pending.job.wait()

    def forget(self) -> None:
        """In a forked child: the save in flight is the parent's."""
        self._pending = self._image = None

    def finish(self) -> bool:
        """Take leave of a save that has ended; whether it has not failed. One thread at a time.

        Raises:
            SaveFailedError: it has failed, and nobody was told yet.
        """
        pending = self._pending
        if pending is None or not pending.done:
            return True
        failure: BaseException | None = None
        try:
            if self._image is not None:
                self._image.end()
        except RuntimeError as found:  # CUDA's, and nothing has waited for the copies before
            failure = found
        finally:
            self._pending = self._image = None
            _unfinished.remove(pending)
        if (error := pending.tell() or failure) is not None:
            raise _failed(pending, error) from error
        return pending.job.error is None

    def _before_step(self) -> None:
        image = self._image  # another thread may take leave of it meanwhile
        if image is not None and os.getpid() == self._pid:  # in a child it is the parent's
            image.copy_rest()

    def close(self) -> None:
        """Give the memory back, when no save is in flight."""
        self._arena = self._image = None
        self._hooks.remove()


def _failed(pending: PendingSave, error: BaseException) -> SaveFailedError:
    what = f"the save of step {pending.step} has failed"
    if not isinstance(error, HoldfastError):
        cure = "The checkpoints before it are still there."
        found = f"{type(error).__qualname__}: {error}".removesuffix(": ")
        return SaveFailedError(what, found=found, cure=cure)
    return SaveFailedError(
        f"{what}: {error.what}",
        file=error.file,
        wanted=error.wanted,
        found=error.found,
        cure=error.cure,
    )


@functools.cache
def _thread() -> Threads:
    return Threads(1, "holdfast-save")


def _start_thread() -> bool:
    try:
        _thread()
    except RuntimeError as error:
        log.debug("no thread can be started to save with: %s", error)
        return False
    return True


#: Saves whose end nobody has seen yet.
_unfinished: list[PendingSave] = []
#: Set when they have been waited for, the last time.
_exiting = threading.Event()


@contextlib.contextmanager
def seen_at_exit() -> Iterator[None]:
    """Let a save that fails while the process exits be seen in its status."""
    try:
        yield
    except BaseException:
        if _exiting.is_set():
            exit_status.fail()
        raise


def _finish_at_exit() -> bool:
    """Let every save come to its end; one that fails now must not pass for a success."""
    failed = []
    _exiting.set()
    for pending in list(_unfinished):
        try:
            error = pending.tell()
        except BaseException as interruption:  # Ctrl-C: it is not waited for any longer
            error = interruption
        if error is not None:
            failed.append(_failed(pending, error))
    if failed:
        exit_status.fail()  # first: perhaps nobody reads what is printed
        for letter in failed:
            print(f"{type(letter).__name__}: {letter}", file=sys.stderr)
    return not failed


atexit.register(_finish_at_exit)


@functools.cache
def _finish_in_child_too() -> None:
    """A child of ``multiprocessing`` ends without what is registered for the exit."""
    if multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _finish_child, exitpriority=0)


def _finish_child() -> None:
    is_good = False
    try:
        is_good = _finish_at_exit()
        for stream in (sys.stdout, sys.stderr):
            if not is_good and stream is not None and not stream.closed:
                stream.flush()
    finally:  # also where nobody reads what is printed
        if not is_good:
            os._exit(1)  # as such a child ends anyhow, but with the status it is to have


def _forget_in_child() -> None:
    _thread.cache_clear()
    _finish_in_child_too.cache_clear()
    _unfinished.clear()
    _exiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
