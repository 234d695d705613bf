"""Which ways of saving are measured with a workload, and which not, and why."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.benchmark import names, peers, savers
from holdfast.benchmark.savers import Saver
from holdfast.io import memory

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Each way in the order of the table.
SAVERS: tuple[type[Saver], ...] = (
    savers.TorchSave,
    savers.TorchSaveWithoutCrc,
    savers.TorchSaveAndRename,
    savers.Safetensors,
    peers.DcpSave,
    peers.DcpAsync,
    peers.DcpAsyncKept,
    peers.DcpAsyncPinned,
    peers.DcpAsyncProcess,
    peers.TorchCheckpointing,
    peers.TorchCheckpointingAsync,
    savers.SaveState,
    savers.RunSave,
    savers.RunSaveOverlap,
)
#: With large files the rename takes no time that could be seen.
_ONLY_WITH_IRIS = (savers.TorchSaveAndRename,)
#: Of the memory that is free, this share is used.
_SHARE = 0.8
#: Open files that each tensor takes on its way to another process, which torch closes late.
_FILES_PER_TENSOR = 3
#: Open files that are left to everything else.
_OTHER_FILES = 256
#: Where Linux has shared memory; one who writes more there than it holds is killed.
_SHARED = Path("/dev/shm")


def choose(workload: str) -> list[Saver]:
    """The ways that are measured with this workload, where nothing speaks against it."""
    kinds = [kind for kind in SAVERS if workload == names.IRIS or kind not in _ONLY_WITH_IRIS]
    return [kind() for kind in kinds]


@dataclass(slots=True)
class Room:
    """Bytes of memory, and of shared memory, and files that are left; None where nobody says."""

    memory: float | None
    shared: float | None
    files: int | None = None

    @classmethod
    def here(cls, taken: int = 0) -> Room:
        """What there is now, when so many bytes are to be taken by others."""
        free = memory.available()
        shared = shutil.disk_usage(_SHARED).free * _SHARE if _SHARED.is_dir() else None
        return cls(None if free is None else (free - taken) * _SHARE, shared, _files())

    def refuses(self, saver: Saver, nbytes: int, tensors: int) -> str | None:
        """Why a saver would not fit, with a state of so many bytes; None where it does."""
        wanted = saver.copies * nbytes
        if self.memory is not None and wanted > self.memory:
            return f"needs {_mib(wanted)} of memory, {_mib(self.memory)} are left"
        if saver.shares and self.shared is not None and wanted > self.shared:
            return f"needs {_mib(wanted)} of shared memory, {_mib(self.shared)} are left"
        files = tensors * _FILES_PER_TENSOR + _OTHER_FILES
        if saver.shares and self.files is not None and files > self.files:
            return f"needs {files:,} open files, {self.files:,} are allowed"
        return None

    def take(self, saver: Saver, nbytes: int) -> None:
        """Count what a saver keeps from save to save."""
        wanted = saver.copies * nbytes if saver.keeps else 0
        if self.memory is not None:
            self.memory -= wanted
        if saver.shares and self.shared is not None:
            self.shared -= wanted


def _files() -> int | None:
    return None if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _mib(nbytes: float) -> str:
    return f"{max(0, int(nbytes)) >> 20:,} MiB"


def sort_out(
    candidates: Sequence[Saver], nbytes: int, tensors: int, room: Room
) -> tuple[list[Saver], dict[str, str]]:
    """Those that can be measured with a state of so many bytes; for the others, why not."""
    chosen, skipped = [], {}
    for saver in candidates:
        why = saver.why_not() or room.refuses(saver, nbytes, tensors)
        if why is not None:
            skipped[saver.name] = why
            continue
        chosen.append(saver)
        room.take(saver, nbytes)
    return chosen, skipped
