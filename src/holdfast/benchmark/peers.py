"""Ways of saving that write folders: torch.distributed.checkpoint, torch_checkpointing."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from holdfast.benchmark import names
from holdfast.benchmark.savers import DONE, InFlight, Saver, fsync_path
from holdfast.benchmark.workloads import Workload


class DcpSave(Saver):
    """``dcp.save`` of one process; it syncs the files it writes."""

    name = names.DCP_SAVE

    def why_not(self) -> str | None:
        """Some builds of torch lack it."""
        return None if torch.distributed.is_available() else "this torch has no distributed part"

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Write, and wait for the disk."""
        from torch.distributed.checkpoint.state_dict_saver import save

        save(workload.state(), checkpoint_id=path, no_dist=True)
        return DONE


class DcpAsync(DcpSave):
    """``dcp.async_save`` as it comes: a thread, and a fresh copy of the state for every save."""

    name = names.DCP_ASYNC
    copies = 1
    is_background = True

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Copy the state and return; a thread writes it."""
        from torch.distributed.checkpoint.state_dict_saver import async_save

        options: Any = {"no_dist": True, **self._options()}
        saved = async_save(workload.state(), checkpoint_id=path, **options)
        return _in_flight(saved)

    def _options(self) -> dict[str, Any]:
        return {}


def _in_flight(saved: Any) -> InFlight:
    upload: Future[Any] = getattr(saved, "upload_completion", saved)
    return InFlight(upload.done, upload.result)


class DcpAsyncKept(DcpAsync):
    """``dcp.async_save`` with a stager that lives on: it copies into memory used before."""

    name = names.DCP_ASYNC_KEPT
    keeps = True
    pinned = False

    def why_not(self) -> str | None:
        """Older versions of torch lack the stager."""
        if (why := super().why_not()) is not None:
            return why
        from torch.distributed.checkpoint import staging

        return None if hasattr(staging, "DefaultStager") else "this torch has no DefaultStager"

    def open(self, workload: Workload, folder: Path) -> None:
        """Make the stager; copies are made by the call itself, as a training needs it."""
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=self.pinned,
                use_shared_memory=self.shares,
                use_async_staging=False,
                use_non_blocking_copy=self.pinned,
            )
        )

    def _options(self) -> dict[str, Any]:
        return {"async_stager": self._stager}

    def close(self) -> None:
        """Give the memory back."""
        self._stager.close()


class DcpAsyncPinned(DcpAsyncKept):
    """The same with pinned memory and copies that do not block."""

    name = names.DCP_ASYNC_PINNED
    pinned = True

    def why_not(self) -> str | None:
        """Without CUDA torch ignores the one option and refuses the other."""
        return super().why_not() or (None if torch.cuda.is_available() else "needs CUDA")


class DcpAsyncProcess(DcpAsyncKept):
    """The same with a process that writes; it asks for a process group, here of one process."""

    name = names.DCP_ASYNC_PROCESS
    copies = 3  # the stager's, what is on its way, and what the process has
    shares = True

    def open(self, workload: Workload, folder: Path) -> None:
        """Start the process by a first, small save: that takes seconds, once."""
        super().open(workload, folder)
        self._has_group = not torch.distributed.is_initialized()
        if self._has_group:
            store = Path(tempfile.mkdtemp(dir=folder.parent.resolve())) / "store"
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{store}", rank=0, world_size=1
            )
        with _muted_stderr():  # the process logs every request there
            self.begin(Workload("", {"model": torch.nn.Linear(1, 1)}), folder).wait()
        self.clean(folder)

    def _options(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        process = {"async_checkpointer_type": AsyncCheckpointerType.PROCESS, "no_dist": False}
        return {**super()._options(), **process}

    def close(self) -> None:
        """End the group; torch's process lives until this one ends."""
        super().close()
        if self._has_group:
            torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _muted_stderr() -> Iterator[None]:
    """Let processes that are started now write their talk nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class TorchCheckpointing(Saver):
    """``torch_checkpointing``, told to save before it returns.

    Its own direct I/O is left off: on ext4 its writes of odd lengths are refused (0.1.1). It does
    not sync what it writes, so that is done here.
    """

    name = names.TORCH_CHECKPOINTING

    def why_not(self) -> str | None:
        """It is young, and no dependency."""
        return None if importlib.util.find_spec("torch_checkpointing") else "not installed"

    def open(self, workload: Workload, folder: Path) -> None:
        """Make its manager."""
        from torch_checkpointing import CheckpointManager
        from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

        storage = LocalFileSystemStorageConfig(use_direct_io=False)
        self._manager = CheckpointManager(
            CheckpointManager.Config(save=self._config(), storage_config=storage)
        )

    def _config(self) -> Any:
        from torch_checkpointing.config import SyncCheckpointSaverConfig

        return SyncCheckpointSaverConfig()

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Save, and wait for the disk."""
        self._manager.save(str(path), workload.state())
        _fsync_below(path)
        return DONE

    def close(self) -> None:
        """Close its manager."""
        self._manager.close()


class TorchCheckpointingAsync(TorchCheckpointing):
    """``torch_checkpointing`` with a process that writes, set as CPUs need it."""

    name = names.TORCH_CHECKPOINTING_ASYNC
    copies = 2
    keeps = True
    shares = True
    is_background = True

    def _config(self) -> Any:
        from torch_checkpointing.config import AsyncCheckpointSaverConfig
        from torch_checkpointing.staging import CheckpointStagerConfig

        return AsyncCheckpointSaverConfig(
            staging_config=CheckpointStagerConfig(use_async_staging=False)
        )

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Copy the state and return; its process writes it."""
        written: Future[Any] | None = self._manager.save(str(path), workload.state())
        assert written is not None  # it is, of a manager that saves at once

        def wait() -> None:
            written.result()
            _fsync_below(path)

        return InFlight(written.done, wait)


def _fsync_below(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            fsync_path(file)
