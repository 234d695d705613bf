"""Whether what is asked for can be measured here at all."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from holdfast.benchmark import names, workloads
from holdfast.errors import NoSpaceError, UsageError
from holdfast.io.folders import free_nbytes

#: A file of each size is there twice at the most: one that is written, one that is loaded.
_FILES = 2
_SLACK = 64 << 20


def check_room(folder: Path, only: Sequence[str], repeat: int, *, is_quick: bool) -> list[str]:
    """The workloads asked for, in the order of the report.

    Raises:
        UsageError: no such folder, no such workload, or no rounds.
        NoSpaceError: the disk has no room for the largest of them.
    """
    _check_options(folder, only, repeat)
    chosen = [name for name in names.WORKLOADS if not only or name in only]
    wanted = needed(chosen, is_quick=is_quick)
    free = free_nbytes(folder)
    if free is not None and free < wanted:
        raise NoSpaceError(
            "the disk has no room for this benchmark; nothing was written",
            errno=errno.ENOSPC,
            file=folder,
            wanted=f"{wanted:,} bytes free",
            found=f"{free:,}",
            cure="Give another folder, fewer workloads (--only iris), or small ones (--quick).",
        )
    return chosen


def needed(chosen: Sequence[str], *, is_quick: bool) -> int:
    """The bytes of disk that workloads take, one after the other."""
    return max(workloads.NBYTES[name][is_quick] for name in chosen) * _FILES + _SLACK


def _check_options(folder: Path, only: Sequence[str], repeat: int) -> None:
    if not folder.is_dir():
        raise UsageError(
            "the benchmark needs a folder that is there",
            found=str(folder),
            cure="Give one on the disk that your checkpoints are saved to.",
        )
    for name in only:
        if name not in names.WORKLOADS:
            raise UsageError(
                "there is no such workload",
                wanted=", ".join(names.WORKLOADS),
                found=repr(name),
            )
    if repeat < 1:
        raise UsageError("the benchmark takes at least one round", found=f"repeat={repeat}")
