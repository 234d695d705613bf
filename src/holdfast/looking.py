"""Look at checkpoints: what they hold, and whether their bytes are whole. No torch is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, UsageError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.summary import Summary, summarize
from holdfast.report.verify import VerifyReport, verify_index
from holdfast.runs import listing, where
from holdfast.spec.index import Index
from holdfast.spec.record import Record


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint, known from its headers alone; no tensor has been read."""

    path: Path
    index: Index

    @property
    def tree(self) -> Any:
        """Nested dict, list and tuple of plain values and tensor references."""
        return self.index.tree

    @property
    def record(self) -> Record | None:
        """What holdfast recorded when it saved it; None where other code did."""
        return self.index.record

    def summary(self, *, name: str | None = None, grep: str | None = None) -> Summary:
        """What it holds, or what of it bears ``name`` or matches ``grep``, as facts.

        Raises:
            MissingPartError: nothing bears ``name``.
            UsageError: ``grep`` is no regular expression.
        """
        return summarize(self.index, name=name, grep=grep)

    def verify(self) -> VerifyReport:
        """Read every byte that has a CRC and say which are not what they were when saved."""
        return verify(self.path)


def open(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the headers of the checkpoint that ``path`` names: a file, ``RUN``, ``RUN@best:loss``.

    Raises:
        NoCheckpointError: nothing is there.
        FormatError: it is no checkpoint, or a damaged one.
        FileError: it may not be read.
    """
    found = where.resolve(path)
    with open_source(found) as source:
        return Checkpoint(found, read_index(source))


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Read every byte of the checkpoint that ``path`` names and compare with the CRCs it carries.

    Raises:
        NoCheckpointError: nothing is there.
        FormatError: its headers are damaged, or it is no checkpoint.
        FileError: it may not be read.
    """
    with open_source(where.resolve(path)) as source:
        return verify_index(read_index(source), source)


def find(run: str | os.PathLike[str], *which: str | int) -> list[Path]:
    """The paths of the checkpoints of a run that ``which`` names: ``latest``, ``best:loss``, 100.

    Raises:
        NoCheckpointError: there is no such checkpoint, or no such folder.
        UsageError: ``which`` means nothing.
    """
    entries = listing.list_run(Path(run))
    return [listing.find(entries, each, folder=run).path for each in which]


@dataclass(frozen=True, slots=True)
class Check:
    """What verifying one of several paths gave: a report, or the error that kept it from one."""

    path: str
    report: VerifyReport | None = None
    error: HoldfastError | None = None

    @property
    def ok(self) -> bool:
        """Whether it could be read and nothing is known to be damaged."""
        return self.report is not None and self.report.ok

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "path": self.path,
            "ok": self.ok,
            "report": None if self.report is None else self.report.to_json(),
            "error": None if self.error is None else str(self.error),
        }

    def to_text(self) -> str:
        """The report, or the error's letter."""
        return str(self.error) if self.report is None else self.report.to_text()


def check(path: str | os.PathLike[str]) -> Check:
    """Verify, and take an error as an answer, so that one bad file does not hide the others.

    Raises:
        UsageError: ``path`` means nothing.
    """
    try:
        return Check(os.fspath(path), verify(path))
    except UsageError:
        raise
    except HoldfastError as error:
        return Check(os.fspath(path), error=error)


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint can be read and every CRC it carries is right."""
    return check(path).ok
