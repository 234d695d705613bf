"""Look at checkpoints: what they hold, and whether their bytes are whole. No torch is needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.checkpoint import Checkpoint
from holdfast.errors import HoldfastError, NoCheckpointError, UsageError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.runs import where
from holdfast.spec.index import Index

# Imported where they are called: looking at headers needs none of it, and half the time so.
if TYPE_CHECKING:
    from holdfast.converting.report import ConvertReport
    from holdfast.report.diff import DiffReport
    from holdfast.report.scan import ScanReport
    from holdfast.report.stats import StatsReport
    from holdfast.report.verify import VerifyReport
    from holdfast.runs.entry import Entry
    from holdfast.spec.rename import Rules


def open(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the headers of the checkpoint that ``path`` names: a file, ``RUN``, ``RUN@best:loss``.

    Any format that holdfast reads, a folder too; which one it is, its bytes say.

    Raises:
        NoCheckpointError: nothing is there.
        FormatError: it is no checkpoint, or a damaged one.
        FileError: it may not be read.
        UsageError: ``path`` means nothing (``RUN@nonsense``).
    """
    found = where.resolve(path)
    source = open_source(found)
    try:
        return Checkpoint(found, read_index(source), source)
    except BaseException:
        source.close()
        raise


def verify(
    path: str | os.PathLike[str], *, on_progress: Callable[[int], object] | None = None
) -> VerifyReport:
    """Read the checkpoint that ``path`` names whole and compare with every CRC it carries.

    ``on_progress`` is called with the number of bytes of each piece read, from several threads.

    Raises:
        NoCheckpointError: nothing is there.
        FormatError: its headers are damaged, or it is no checkpoint.
        FileError: it may not be read.
    """
    from holdfast.report.verify import verify_index

    with open_source(where.resolve(path)) as source:
        return verify_index(read_index(source), source, on_progress=on_progress)


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    part: str | None = None,
    dtype: str | None = None,
    rename: Rules | None = None,
    shard_size: str | int | None = None,
    plain: bool = False,
    dry_run: bool = False,
) -> ConvertReport:
    """Write the weights of any readable checkpoint in another format, without torch.

    ``.safetensors``, ``.pt``, or ``.dcp``, a folder of ``torch.distributed.checkpoint``. The source
    is never changed; what is new is there whole or not at all. Tensors go through one
    by one, so memory does not grow with the file. Models that were pickled whole become their state
    dicts. A ``.pt`` or ``.dcp`` without other options keeps everything of a checkpoint that is
    plain.

    Args:
        src: a file, a checkpoint folder, ``RUN``, ``RUN@best:loss`` or ``RUN@100``.
        dst: its suffix says the format; with ``shard_size`` a folder that is written anew.
        part: the part that is taken, such as ``model``; needed where several could be meant.
        dtype: floating-point tensors become this: ``bf16``, ``fp16``, ``fp32``, ``fp8_e4m3``, …
        rename: ``{"old": "new"}`` with exact names, prefixes or ``*`` patterns, or a function.
        shard_size: ``"5GB"`` or bytes: several safetensors files with an index.
        plain: a plain dict of tensors, which LibTorch reads from C++ (``torch::pickle_load``).
        dry_run: write nothing, and say what would be.

    Raises:
        NoCheckpointError: nothing is there.
        FormatError: the source is no checkpoint, or a damaged one.
        UsageError: options that do not go together, or a tensor the format cannot hold.
        MissingPartError: nothing bears the name ``part``.
        DamagedError: the source's bytes are not those that were saved; nothing was written.
        FileError: the file system said no; what was there before is untouched.
    """
    from holdfast.converting import convert as converting
    from holdfast.io.commit import explain

    options = converting.Options(part, dtype, rename, shard_size, plain, dry_run)
    target = Path(dst)
    converting.check(target, options)
    found = where.resolve(src)
    with open_source(found) as source:
        index = read_index(source)
        try:
            is_of_source = _is_of_source(target, found, index)
        except OSError as error:
            raise explain(error, target) from error
        if is_of_source:
            raise UsageError(
                "the source is never changed, and the target is the source or a file of it",
                file=target,
                cure="Give another name, or another folder.",
            )
        return converting.convert(index, source, target, options)


def _is_of_source(target: Path, source: Path, index: Index) -> bool:
    """Whether a target is a file or folder that a checkpoint is read from, or lies in it."""
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        return True
    if not target.exists():
        return False
    files = {source, *(Path(each.file) for each in (*index.extents.values(), *index.other))}
    return any(file.exists() and target.samefile(file) for file in files)


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    part: str | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> DiffReport:
    """What is different between two checkpoints: tensors, plain values, the record.

    Tensors go together by name, else by name without what wrappers put there (``module.``), else by
    content. Memory holds a few pieces of them, whatever their size; docs/looking.md says which are
    read whole.

    Args:
        a: a file, a checkpoint folder, ``RUN``, ``RUN@best:loss`` or ``RUN@100``.
        b: the other one; changes are from ``a`` to ``b``.
        part: compare only what lies below this name, such as ``model``; a checkpoint without such a
            part is taken whole, so that a file of weights is compared with a checkpoint's model.
        on_progress: called with the bytes of each pair when it is compared, from several threads.

    Raises:
        NoCheckpointError: nothing is there.
        FormatError: one is no checkpoint, or its bytes are not those that were saved.
        FileError: one may not be read.
        MissingPartError: neither has a part of that name.
    """
    from holdfast.arrays.read import Reader
    from holdfast.measuring.diff import Half
    from holdfast.measuring.diff import diff as compare

    with open(a) as left, open(b) as right:
        halves = [Half(each.index, Reader(each.index, each.source)) for each in (left, right)]
        return compare(*halves, part=part, on_progress=on_progress)


def stats(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    grep: str | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> StatsReport:
    """What the numbers in a checkpoint's tensors are like, and what of them looks wrong.

    Each tensor is read once, piece by piece: memory holds a few pieces, whatever their size;
    docs/looking.md says which are read whole.

    Args:
        path: a file, a checkpoint folder, ``RUN``, ``RUN@best:loss`` or ``RUN@100``.
        name: only the tensor of that name, or those below it (``model``, ``model.fc``).
        grep: only names in which this regular expression is found.
        on_progress: called with the bytes of each tensor when it is read, from several threads.

    Raises:
        NoCheckpointError: nothing is there.
        FormatError: it is no checkpoint; one damaged tensor is flagged as unreadable instead.
        FileError: it may not be read.
        MissingPartError: nothing bears ``name``.
        UsageError: ``grep`` is no regular expression.
    """
    from holdfast.arrays.read import Reader
    from holdfast.measuring.stats import all_stats
    from holdfast.report.choosing import chosen
    from holdfast.report.leaves import leaves
    from holdfast.report.stats import StatsReport
    from holdfast.spec.index import SIZED

    with open(path) as checkpoint:
        everything, is_complete = leaves(checkpoint.tree)
        found = chosen(everything, name, grep, checkpoint.index.file)
        tensors = [leaf for leaf in found if isinstance(leaf.value, SIZED)]
        reader = Reader(checkpoint.index, checkpoint.source)
        made = all_stats(tensors, reader, on_progress=on_progress)
        return StatsReport(checkpoint.index.file, made, is_complete)


def scan(path: str | os.PathLike[str]) -> ScanReport:
    """List what the pickles in ``path`` would call, were they loaded elsewhere; nothing is run.

    Of a folder, of a run too, every file is looked through; ``RUN@best:loss`` is one checkpoint.
    It may be any file: what is no checkpoint, broken or hostile is looked through as far as its
    bytes allow. Archives and packed files inside it are looked through too.

    Raises:
        NoCheckpointError: nothing is there.
        FileError: it may not be read.
    """
    from holdfast.report.crawl import scan_source

    found = where.parse(path)
    whole = found.path if found.which is None and found.path.is_dir() else where.resolve(path)
    with open_source(whole) as source:
        return scan_source(source)


def find(run: str | os.PathLike[str], *which: str | int) -> list[Path]:
    """The paths of the checkpoints of a run that ``which`` names: ``latest``, ``best:loss``, 100.

    Raises:
        NoCheckpointError: there is no such checkpoint, or no such folder.
        UsageError: ``which`` means nothing.
    """
    from holdfast.runs import listing
    from holdfast.runs.finding import say_passed_over

    entries = listing.list_run(Path(run))
    found = [listing.find(entries, each, folder=run).path for each in which]
    for each in which:
        say_passed_over(entries, each)
    return found


def all_of(path: str | os.PathLike[str]) -> list[str]:
    """The paths of all checkpoints of a run, oldest to newest; of what is no run, the path itself.

    Those that cannot be read are among them.

    Raises:
        NoCheckpointError: there are none.
    """
    entries = _entries_of(path)
    return [os.fspath(path)] if entries is None else [str(entry.path) for entry in entries]


def latest_of(path: str | os.PathLike[str]) -> list[str]:
    """The path itself; of a run the newest that can be read, behind all that may be newer.

    Raises:
        NoCheckpointError: there are none.
    """
    from holdfast.runs.finding import may_be_newer

    entries = _entries_of(path) or []
    broken = [str(entry.path) for entry in may_be_newer(entries)]
    readable = [str(entry.path) for entry in entries if entry.problem is None]
    return [*broken, *readable[-1:]] if broken else [os.fspath(path)]


def _entries_of(path: str | os.PathLike[str]) -> list[Entry] | None:
    """What a run holds, oldest to newest; None where a path names no run."""
    from holdfast.runs.reading import is_checkpoint_folder

    found = where.parse(path)
    if found.which is not None or not found.path.is_dir() or is_checkpoint_folder(found.path):
        return None
    from holdfast.runs import listing

    entries = listing.list_run(found.path)
    if not entries:
        raise NoCheckpointError("this run has no checkpoint", file=found.path)
    return entries


@dataclass(frozen=True, slots=True)
class Check:
    """What looking at one of several paths gave: a report, or the error that kept it from one."""

    path: str
    report: VerifyReport | ScanReport | None = None
    error: HoldfastError | None = None

    @property
    def ok(self) -> bool:
        """Whether it could be read and is not damaged, or clean where it was scanned."""
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
        return f"{self.path}: {self.error}" if self.report is None else self.report.to_text()


def check(
    path: str | os.PathLike[str],
    look: Callable[[str | os.PathLike[str]], VerifyReport | ScanReport] = verify,
) -> Check:
    """Verify or scan, and take an error as an answer: one bad file does not hide the others.

    Raises:
        UsageError: ``path`` means nothing.
    """
    try:
        return Check(os.fspath(path), look(path))
    except UsageError:
        raise
    except HoldfastError as error:
        return Check(os.fspath(path), error=error)


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint can be read and every CRC it carries is right."""
    return check(path).ok
