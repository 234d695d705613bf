"""What a viewer shows: one run, one checkpoint, or two; nothing else can be asked for."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast import looking
from holdfast.arrays.read import Reader
from holdfast.checkpoint import Checkpoint
from holdfast.errors import NoCheckpointError
from holdfast.report.areas import Area
from holdfast.report.choosing import ByName
from holdfast.report.facts import Summary
from holdfast.report.leaves import Leaf, leaves
from holdfast.report.rows import Line
from holdfast.runs import where
from holdfast.runs.entry import Entry
from holdfast.runs.listing import list_run, taken_names
from holdfast.runs.reading import is_checkpoint_folder
from holdfast.spec.index import SIZED
from holdfast.viewer.headers import Headers, stamp_of

#: Checkpoints that stay open, and tensors in all of them; of a run one looks at few at a time, and
#: a tensor takes about four kilobytes.
_MOST_OPEN = 8
_MOST_TENSORS = 250_000


@dataclass(slots=True)
class Opened:
    """One checkpoint that was looked at, and what is known of it."""

    key: str
    checkpoint: Checkpoint
    summary: Summary
    stamp: tuple[int, ...]
    arranged: dict[tuple[str, str, tuple[str, ...]], list[Line]] = field(default_factory=dict)
    areas: list[Area] | None = None
    _tensors: dict[str, Leaf] | None = None

    def reader(self, *, verify: bool = True) -> Reader:
        """A reader of its tensors."""
        return Reader(self.checkpoint.index, self.checkpoint.source, verify=verify)

    def tensor(self, name: str) -> Leaf:
        """The tensor of that name; raises MissingPartError."""
        if self._tensors is None:
            found = leaves(self.checkpoint.tree).found
            self._tensors = {leaf.name: leaf for leaf in found if isinstance(leaf.value, SIZED)}
        name = named(name, self._tensors) or name
        if name not in self._tensors:
            ByName(self.checkpoint.tree).find(name, self.summary.file)  # raises the letter
            raise NoCheckpointError("no tensor bears that name", file=self.summary.file)
        return self._tensors[name]


class Shown:
    """What is shown, by key: a file's name within a run, ``a`` and ``b`` of two."""

    def __init__(self, run: Path | None, files: dict[str, Path]) -> None:
        self.run, self._files = run, files
        self.listed: tuple[object, dict[str, Any]] | None = None  # the run, as it was last
        self.listing = threading.Lock()
        self.compared: OrderedDict[object, dict[str, Any]] = OrderedDict()  # pairs, by their stamps
        self.comparing = threading.Lock()
        self.verified: dict[str, tuple[tuple[int, ...], bool]] = {}  # by name, of which state
        self._headers = Headers()
        self._open: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def keys(self) -> list[str]:
        """The keys of what is shown; of a run those of the checkpoints that are there now."""
        return list(self._files) if self.run is None else [each.name for each in self.entries()]

    @property
    def name(self) -> str | None:
        """What the run is called; None where none is shown."""
        return None if self.run is None else self.run.resolve().name

    @property
    def paths(self) -> list[Path]:
        """The paths of all that is shown."""
        if self.run is None:
            return list(self._files.values())
        return [entry.path for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """The checkpoints of the run; headers are read of those that are new since the last time.

        Raises what ``list_run`` raises.
        """
        assert self.run is not None
        return list_run(self.run, read=self._headers.read)

    def has(self, key: str) -> bool:
        """Whether a key is of something that is shown."""
        return key in self._files if self.run is None else self._in_run(key) is not None

    def stamp(self) -> dict[str, tuple[int, ...]]:
        """What tells the run's folder from what it was before, without reading its files.

        Raises:
            NoCheckpointError, FileError: it is not there, or may not be read.
        """
        assert self.run is not None
        return {name: stamp_of(self.run / name) for name in taken_names(self.run)}

    def path(self, key: str) -> Path:
        """The path of a key.

        Raises:
            NoCheckpointError: nothing of that name is shown.
        """
        found = self._files.get(key) if self.run is None else self._in_run(key)
        if found is not None:
            return found
        raise NoCheckpointError(
            "no checkpoint of that name is shown here",
            file=self.run or ", ".join(map(str, self._files.values())),
            found=repr(key)[:200],
            cure="It may have been pruned since, or be a link that leads out of the folder: "
            "the run's page lists what is there.",
        )

    def _in_run(self, key: str) -> Path | None:
        """What a key names in the run's folder, and not by way of a link elsewhere."""
        assert self.run is not None
        name = named(key, taken_names(self.run))
        if name is None or name.startswith("."):
            return None
        path = self.run / name
        return path if path.resolve().is_relative_to(self.run.resolve()) else None

    def open(self, key: str) -> Opened:
        """The checkpoint of a key; opened anew where its file is another one by now.

        Raises what ``holdfast.open`` raises.
        """
        path = self.path(key)
        stamp = stamp_of(path)
        with self._lock:
            known = self._open.get(key)
            if known is not None and known.stamp == stamp:
                self._open.move_to_end(key)
                return known
            checkpoint = looking.open(path)
            made = Opened(key, checkpoint, checkpoint.summary(), stamp)
            self._open[key] = made
            while len(self._open) > 1 and self._is_too_much():
                self._open.popitem(last=False)  # closed when nobody uses it any more
            return made

    def _is_too_much(self) -> bool:
        tensors = sum(each.summary.total.tensors for each in self._open.values())
        return len(self._open) > _MOST_OPEN or tensors > _MOST_TENSORS


def shown(path: str | os.PathLike[str], other: str | os.PathLike[str] | None = None) -> Shown:
    """What ``holdfast view PATH [OTHER]`` shows.

    Raises:
        NoCheckpointError: nothing is there.
        UsageError: a path means nothing.
    """
    if other is not None:
        return Shown(None, {"a": where.resolve(path), "b": where.resolve(other)})
    found = where.parse(path)
    if found.which is None and found.path.is_dir() and not is_checkpoint_folder(found.path):
        if not list_run(found.path):
            raise NoCheckpointError("this run has no checkpoint", file=found.path)
        return Shown(found.path, {})
    file = where.resolve(path)
    return Shown(None, {as_text(file.resolve().name): file})


def as_text(name: str) -> str:
    """A name that an address can hold: names of files may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def named(key: str, names: Collection[str]) -> str | None:
    """The name that an address means; None where there is none."""
    if key in names:
        return key
    if "\\u" not in key:
        return None
    return next((name for name in names if as_text(name) == key), None)
