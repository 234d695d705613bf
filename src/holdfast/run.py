"""The one object a training script holds: resume, steps, save."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.distributed.meeting import is_one_of_several, meet
from holdfast.distributed.stopping import StopTogether
from holdfast.distributed.writer import writer_of
from holdfast.errors import (
    FileError,
    FormatError,
    HoldfastError,
    NoCheckpointError,
    RanksError,
    SaveFailedError,
    UntrustedError,
    UsageError,
)
from holdfast.formats.dcp.headers import HeadersError
from holdfast.io import settings
from holdfast.looking import is_whole
from holdfast.restoring import load_parts, step_behind
from holdfast.runs import finding, prune, where
from holdfast.runs import keep as keeping
from holdfast.runs.entry import Entry
from holdfast.runs.every import Every
from holdfast.runs.folder import RunFolder
from holdfast.runs.naming import Template
from holdfast.saving import options, telling, workers
from holdfast.saving.metrics import check_metrics
from holdfast.saving.signals import StopSignals
from holdfast.saving.stepping import Stepping, whole
from holdfast.spec.rename import Rules
from holdfast.state.capture import check
from holdfast.state.match import Options
from holdfast.state.parts import as_parts
from holdfast.state.report import LoadReport

if TYPE_CHECKING:
    from holdfast.distributed.ranks import Ranks
    from holdfast.saving.pending import PendingSave

log = logging.getLogger("holdfast")

T = TypeVar("T")

#: A checkpoint that fails with one of these is skipped by ``resume()`` for the one before it.
FALLS_BACK = (FormatError, FileError, UntrustedError)
#: What stays where nobody says; a Run that only reads prunes nothing by it.
DEFAULT_KEEP = keeping.latest(3)


class Run(RunFolder):
    """A folder of checkpoints of one training, and the live parts they restore.

    Args:
        folder: where the checkpoints are; created at the first resume or save.
        keep: which checkpoints stay; see ``holdfast.keep``.
        every: when a call of ``save`` does save; None: always.
        background: save behind the training: ``save`` returns when a copy of the state is made;
            with ``"overlap"`` what only the optimizers change is copied while training goes on, up
            to their next step; ``"overlap-checked"`` also compares checksums. False: ``save``
            returns when the checkpoint is durable.
        name: the template of the file names, with ``{step}`` and ``{time:...}``.
        strict: how restoring matches, as in ``load_state``.
        rename: rules for names in checkpoints, as in ``load_state``. What the run itself saves has
            the names of its parts: rules do not touch a checkpoint whose names fit as they are.
        start_from: a checkpoint to begin from while the run has none of its own.
        start_step: the first step then, where that checkpoint does not say.
        grace: seconds a step may last after a stop signal before that is warned of.
        parts: the live objects by name; one that is None is absent. Without any, the object reads.

    Raises:
        CaptureError: a part that cannot be saved.
        UsageError: a wrong option, or an optimizer with parameters that belong to no part.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: keeping.Keep | None = DEFAULT_KEEP,
        every: Every | None = None,
        background: bool | str = True,
        name: str = "step-{step:08d}",
        strict: bool | str = True,
        rename: Rules | None = None,
        start_from: str | os.PathLike[str] | None = None,
        start_step: int | None = None,
        grace: float = 30,
        **parts: Any,
    ) -> None:
        super().__init__(folder)
        start = (start_from, start_step)
        options.check_options(keep, every, grace, strict=strict, rename=rename, start=start)
        options.check_background(background)
        #: A dict saved with each checkpoint; ``resume`` fills it.
        self.extra: dict[str, Any] = {}
        #: What the last resume restored and what not; None before one, or where it began at 0.
        self.report: LoadReport | None = None
        self._parts = as_parts(parts)
        if self._parts:
            settings.check()
        if start_step is not None:
            start_step = whole(start_step, "start_step is a whole number from 0 on")
        self._start_from, self._start_step = start_from, start_step
        self._options = Options(strict=strict, rename=rename, rename_at_need=True)
        template = Template(name)
        #: Whether resume() was called and no step was begun since.
        self._is_positioned = False
        check(self._parts, self.extra, spread=is_one_of_several())
        options.warn_of_stray_tensors(self._parts)
        #: The processes of this training; None where it is one.
        self._ranks = meet(self.folder) if self._parts else None
        self._writer = writer_of(
            self.folder, keep, every, template, self._ranks, background=background
        )
        together = None if self._ranks is None else StopTogether(self._ranks)
        signals = StopSignals(grace)
        self._stepping = Stepping(self._parts, lambda: self.extra, signals, together=together)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {', '.join(self._parts) or 'reading'})"

    def resume(self, which: str | int = "latest", *, required: bool = False) -> int:
        """Restore all parts, ``extra`` and the global generators; return the next step to do.

        ``latest`` goes back past checkpoints that are damaged and says which. Anything else
        (``best:loss``, a step) is that checkpoint or an error; later saves branch off from it.
        Without any checkpoint this is 0, or what ``start_from`` gives.

        Raises:
            NoCheckpointError: there is none and one was required, or not one can be read.
            MismatchError: the checkpoint does not fit the parts; nothing has changed.
            LockedError: another process writes to this run.
        """
        self._need_parts("resume")
        self.report = None
        entries = self._writer.open()
        if which == "latest":
            report = self._resume_latest(entries)
        else:
            report = self._restore(finding.find(entries, which, folder=self.folder))
        if report is None and (required or self._start_from is None):
            self._none_there(required)
        self._is_positioned = True
        if report is None and self._start_from is not None:
            self._begin_from(self._start_from)
        elif report is None:
            self._writer.begin(None)
        return self._writer.next_step

    def _resume_latest(self, entries: list[Entry]) -> LoadReport | None:
        skipped = [entry for entry in entries if entry.problem is not None]
        problem = next((entry.problem for entry in reversed(skipped)), None)
        ours = [e for e in entries if e.problem is None and e.sequence is not None]
        for entry in reversed(ours):
            try:
                report = self._restore(entry)
            except FALLS_BACK as error:
                log.warning("skipped %s, which cannot be restored: %s", entry.path, error)
                skipped.append(entry)
                problem = problem or error
            else:
                telling.say_went_back(skipped, entry)
                return report
        if problem is not None:
            raise NoCheckpointError(
                "none of the checkpoints of this run can be restored",
                file=self.folder,
                found=", ".join(entry.name for entry in skipped),
                cure=_cure_of_all(problem),
            ) from problem
        return None

    def _restore(self, entry: Entry) -> LoadReport:
        report = self._load(entry.path, self._options, rng=True)
        self.extra.clear()
        if report.id is not None:  # what other code stored is in the report, and not saved again
            self.extra.update(report.extra)
        self._writer.begin(entry)
        telling.say_resumed(report, entry)
        self.report = report
        return report

    def _load(self, path: Path, options: Options, *, rng: bool) -> LoadReport:
        """Restore the parts; of several processes all do, or none."""
        ranks = self._ranks
        if ranks is None:
            return load_parts(path, self._parts, options, rng=rng)
        try:
            return self._load_together(ranks, path, options, rng=rng, shares_headers=True)
        except FALLS_BACK as error:
            # Pieces that are written otherwise: whoever else found what else, all look at all.
            is_other = isinstance(error, HeadersError)
            if not ranks.agree("run.resume()", lambda: is_other, any):
                raise
        return self._load_together(ranks, path, options, rng=rng, shares_headers=False)

    def _load_together(
        self, ranks: Ranks, path: Path, options: Options, *, rng: bool, shares_headers: bool
    ) -> LoadReport:
        load = partial(
            load_parts,
            *(path, self._parts, options),
            rng=rng,
            rank=(ranks.rank, ranks.size),
            shares_headers=shares_headers,
        )
        try:
            return ranks.together("run.resume()", lambda ready: load(ready=ready))
        except RanksError as error:
            if isinstance(error.error, FALLS_BACK):  # what all of them fall back from
                raise error.error from error
            raise

    def _none_there(self, required: bool) -> None:
        if required:
            raise NoCheckpointError(
                "there is no checkpoint to resume from",
                file=self.folder,
                cure="Leave required=True out to start at step 0.",
            )
        telling.say_none_there(self.folder, self.checkpoints())

    def _begin_from(self, source: str | os.PathLike[str]) -> None:
        path, first = self._agreed(lambda: self._start(source))
        options = replace(self._options, rename_at_need=False)  # nothing of it was saved here
        report = self._load(path, options, rng=False)
        self._writer.begin(None, parent=report.id, first_step=first, source=path)
        telling.say_started(report, path, first)
        self.report = report

    def _start(self, source: str | os.PathLike[str]) -> tuple[Path, int]:
        path = where.resolve(source)
        return path, self._start_step if self._start_step is not None else step_behind(path)

    def _agreed(self, look: Callable[[], T]) -> T:
        """What this process sees; of several it is what rank 0 sees."""
        if self._ranks is None:
            return look()
        found: T = self._ranks.agree(
            "run.resume()", look if self._ranks.leads else lambda: None, lambda said: said[0]
        )
        return found

    def load(self, which: str | int = "latest", **parts: Any) -> LoadReport:
        """Load a checkpoint of this run into the parts given here; the run's position stays.

        Raises:
            NoCheckpointError: there is no such checkpoint.
            MismatchError: it does not fit; nothing has changed.
        """
        if not parts:
            raise UsageError(
                "load() takes the parts to load into",
                cure='run.load("best:loss", model=model); to go back with all parts: '
                'run.resume("best:loss")',
            )
        entry = self._find(which)
        rank = (0, 1) if self._ranks is None else (self._ranks.rank, self._ranks.size)
        return load_parts(entry.path, as_parts(parts), self._options, rng=False, rank=rank)

    def steps(self, stop: int) -> Iterator[int]:
        """Resume now, and return an iterator over the steps still to do, up to ``stop`` - 1.

        When a step's body ends: the last step, and the one a signal stops at, are saved if they
        are not yet, and are durable before this ends. A signal then ends the process with
        ``SystemExit(75)``, Ctrl-C with ``KeyboardInterrupt``.
        """
        self._need_parts("steps")
        stop = whole(stop, "steps() counts whole steps")
        start = self._writer.next_step if self._is_positioned else self.resume()
        if start >= stop:
            log.info("Nothing left to do: %d of %d", min(start, stop), stop)
            return iter(())
        # A loop begun again, after this one was left in the middle of a step, restores again.
        self._is_positioned = False
        return self._stepping.run(range(start, stop), self._save_now, self.wait)

    def save(
        self,
        step: int | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> PendingSave | None:
        """Save the step just done; None when ``every`` says not now or the step is saved already.

        Inside ``steps()`` the step is known; elsewhere it is required. ``metrics`` are numbers.
        With ``wait`` the checkpoint is durable when this returns.

        Raises:
            UsageError: another step than the current one, a step behind the last one saved, or
                other metrics for a step that is saved.
            FileError, CaptureError: it could not be saved; the checkpoints before it are there.
        """
        self._need_parts("save")
        self._writer.finish(waits=False)
        step = self._stepping.step_to_save(step)
        is_asked = self._ranks is None or self._ranks.leads  # metrics are those of rank 0
        self._stepping.metrics = check_metrics(metrics) if is_asked else {}
        if not self._stepping.must_save(step) and not self._writer.is_due(step):
            return None
        pending = self._save_now(step, self._stepping.metrics)
        if wait and pending is not None:
            pending.wait()
        return pending

    def _save_now(self, step: int, metrics: Mapping[str, Any]) -> PendingSave | None:
        self._is_positioned = False
        with workers.deferred():
            saved = self._writer.save(step, metrics, self._parts, self.extra)
        if saved is None:
            return None
        pending, captured = saved
        self._stepping.note_saved(captured)
        return pending

    @property
    def should_stop(self) -> bool:
        """Whether a stop signal came; for loops that do not use ``steps()``.

        Signals are listened for from the first look at this on, until ``close()``.
        """
        return self._stepping.should_stop()

    def checkpoints(self) -> list[Entry]:
        """The checkpoints of the folder, oldest to newest, when the save in flight has ended."""
        self._writer.finish()
        return super().checkpoints()

    def wait(self) -> None:
        """Return when every save asked for is durable.

        Raises:
            SaveFailedError: one has failed.
        """
        self._writer.finish()

    def close(self) -> None:
        """Finish the saves in flight, give back the lock and the signal handlers."""
        try:
            self._writer.close()
        finally:
            self._stepping.signals.restore()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stopped = self._stepping.stopped_by(error)
        try:
            self.close()
        except SaveFailedError as failed:
            if error is None:
                raise
            log.error("%s", failed)  # what ended the block is not hidden behind it
        if stopped is not None:
            raise stopped from error

    def prune(self, *, dry_run: bool = True) -> prune.Plan:
        """Say which checkpoints ``keep`` would remove and why; with dry_run=False remove them.

        Raises:
            UsageError: this Run only reads, and was not told what to keep.
            LockedError: another process writes to this run.
            FileError: not all could be removed.
        """
        if self._writer.keep is DEFAULT_KEEP and not self._parts:
            raise options.keep_not_given(self.folder)
        return self._writer.prune(dry_run=dry_run, is_whole=is_whole)

    def _need_parts(self, what: str) -> None:
        if not self._parts:
            raise options.parts_not_given(what, self.folder)


def _cure_of_all(newest: HoldfastError) -> str:
    """What to do where no checkpoint of a run can be restored, and why the newest cannot."""
    if isinstance(newest, FileError) and newest.errno is not None:
        said = os.strerror(newest.errno)
        return f"Of the newest the system says: {said}. Try again when that is mended."
    return "holdfast verify says what is damaged. To begin anew, use another folder."
