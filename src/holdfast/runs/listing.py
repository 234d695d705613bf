"""What lies in a run folder, oldest to newest. The folder is the database: nothing else is asked.

The order of what a run of holdfast saved is the record's ``sequence``, never file time and never
the name. What other code wrote comes before it, ordered by the step or epoch it holds, else by file
time; what cannot be read comes last. Each entry says what its place was found by.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.errors import FileError, HoldfastError, NoCheckpointError, NotACheckpointError
from holdfast.runs.entry import Entry, OrderBy
from holdfast.runs.finding import find
from holdfast.runs.naming import pin_name
from holdfast.runs.reading import explained, is_checkpoint_folder, read_briefly
from holdfast.spec.index import Index
from holdfast.spec.record import Record

__all__ = ["Entry", "find", "list_run", "next_sequence", "order", "still_there", "taken_names"]

#: Files of these suffixes are listed even when their bytes are no checkpoint's (any more).
_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
_NEVER = (".pin", ".lock", ".tmp")

#: What checkpoints of any suffix start with: a zip, and torch's older format.
_MAGICS = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")

#: The names under which other code keeps its count, at the top of the tree.
_STEP_KEYS = ("step", "global_step", "iteration")
_EPOCH_KEYS = ("epoch",)


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint not yet in its place: the entry, and the counts its tree holds."""

    entry: Entry
    counted_step: int | None = None
    counted_epoch: int | None = None


def list_run(folder: str | Path, *, read: Callable[[Path], Index] = read_briefly) -> list[Entry]:
    """The checkpoints of a run folder, oldest to newest; those that cannot be read come last.

    Only headers are read, no lock is taken and nothing is created. An empty folder gives an empty
    list.

    Raises:
        NoCheckpointError: there is no such folder.
        FileError: it is a file, or may not be read.
    """
    folder = Path(folder)
    names = taken_names(folder)
    visible = sorted(name for name in names if not name.startswith(".") and _may_be(name))
    found = [_look(folder / name, pin_name(name) in names, read) for name in visible]
    return order([one for one in found if one is not None])


def taken_names(folder: Path) -> set[str]:
    """Every name in a folder, whatever bears it.

    Raises:
        NoCheckpointError: there is no such folder.
        FileError: it is a file, or may not be read.
    """
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, ValueError) as error:  # ValueError: no path can hold a NUL
        raise NoCheckpointError(
            "there is no such folder", file=folder, cure="Is the path right, and the disk there?"
        ) from error
    except NotADirectoryError as error:
        raise FileError(
            "a run is a folder, and this is a file",
            errno=errno.ENOTDIR,
            file=folder,
            cure="Give the folder that holds the checkpoints.",
        ) from error
    except OSError as error:
        raise explained(error, folder) from error


def is_there(path: Path) -> bool:
    """Whether anything bears that path; raises FileError where that cannot be said."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise explained(error, path) from error
    return True


def still_there(entries: Iterable[Entry], folder: Path) -> list[Entry]:
    """The entries whose names are still in the folder, each pinned or not as it is by now.

    Raises:
        NoCheckpointError: there is no such folder.
        FileError: it is a file, or may not be read.
    """
    names = taken_names(folder)
    there = (entry for entry in entries if entry.name in names)
    return [replace(entry, is_pinned=pin_name(entry.name) in names) for entry in there]


def next_sequence(entries: Iterable[Entry]) -> int:
    """The sequence of the next save: above all that are there, and all that unreadable ones had."""
    entries = list(entries)
    known = [entry.sequence for entry in entries if entry.sequence is not None]
    return max(known, default=-1) + 1 + sum(entry.problem is not None for entry in entries)


def order(found: Sequence[Found]) -> list[Entry]:
    """Oldest to newest: other code's, then what runs saved by sequence, then the unreadable.

    Of other code's files, those that hold a step come last, by step; where more of them hold an
    epoch than a step, epochs decide. Those that hold neither come first, by file time.
    """
    foreign = [one for one in found if one.entry.problem is None and one.entry.sequence is None]
    steps = sum(one.counted_step is not None for one in foreign)
    epochs = sum(one.counted_epoch is not None for one in foreign)
    count_by: OrderBy = "epoch" if epochs > steps else "step"
    placed = [_placed(one, count_by) for one in found]
    return [entry for _, entry in sorted(placed, key=lambda pair: pair[0])]


_Key = tuple[int, float, str, float, str]


def _placed(one: Found, count_by: OrderBy) -> tuple[_Key, Entry]:
    entry = one.entry
    if entry.problem is not None:
        return (3, 0, "", entry.mtime, entry.name), entry
    if entry.record is not None and entry.record.sequence is not None:
        key = (2, entry.record.sequence, entry.record.time or "", entry.mtime, entry.name)
        return key, replace(entry, step=entry.record.step, order_by="sequence")
    counts = {"step": one.counted_step, "epoch": one.counted_epoch}
    count = counts[count_by]
    if count is not None:
        key = (1, count, "", entry.mtime, entry.name)
        return key, replace(entry, step=count, order_by=count_by)
    other = next((value for value in counts.values() if value is not None), None)
    return (0, 0, "", entry.mtime, entry.name), replace(entry, step=other, order_by="time")


def _may_be(name: str) -> bool:
    return not name.endswith(_NEVER)


def _look(path: Path, is_pinned: bool, read: Callable[[Path], Index]) -> Found | None:
    """One checkpoint of the folder; None for what is none, or is gone by now."""
    if _is_other_name_of_a_sibling(path) or not _is_candidate(path):
        return None
    entry = Entry(path, is_pinned=is_pinned)
    with contextlib.suppress(OSError):  # a link to nothing has no size; reading it says so
        entry = replace(entry, nbytes=_nbytes(path), mtime=path.stat().st_mtime)
    try:
        index = read(path)
    except HoldfastError as problem:
        is_named_so = path.suffix.lower() in _SUFFIXES
        is_other = isinstance(problem, NotACheckpointError) and not is_named_so
        return None if is_other or _is_gone(path) else Found(replace(entry, problem=problem))
    return _found(entry, index.record, index.tree)


def _found(entry: Entry, record: Record | None, tree: Any) -> Found:
    step = _count(tree, _STEP_KEYS)
    if record is not None and record.step is not None:
        step = record.step
    return Found(replace(entry, record=record), step, _count(tree, _EPOCH_KEYS))


def _count(tree: Any, keys: tuple[str, ...]) -> int | None:
    if not isinstance(tree, Mapping):
        return None
    values = (tree.get(key) for key in keys)
    plain = (value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return next(plain, None)


def _is_candidate(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return path.suffix.lower() in _SUFFIXES
    if stat.S_ISDIR(mode):
        return is_checkpoint_folder(path)
    if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
        return False
    return path.suffix.lower() in _SUFFIXES or _starts_like_one(path)


def _starts_like_one(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_MAGICS)
    except OSError:
        return False


def _is_other_name_of_a_sibling(path: Path) -> bool:
    """Whether it is a link such as ``latest.pt``, that names a checkpoint listed anyway."""
    try:
        if not path.is_symlink():
            return False
    except OSError:  # reading it says so
        return False
    # realpath takes what resolve() dies of: links that lead in a circle.
    return Path(os.path.realpath(path)).parent == Path(os.path.realpath(path.parent))


def _is_gone(path: Path) -> bool:
    """Whether it is known not to be there: what cannot be looked at is no more than unreadable."""
    try:
        return not is_there(path)
    except FileError:
        return False


def _nbytes(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
