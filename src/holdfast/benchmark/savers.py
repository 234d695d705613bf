"""Ways of saving: holdfast's own, and those of torch and safetensors that write one file."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from holdfast.benchmark import names
from holdfast.benchmark.workloads import Workload
from holdfast.io.folders import fsync_folder
from holdfast.run import Run
from holdfast.saving.pending import PendingSave
from holdfast.training import save_state


class InFlight(NamedTuple):
    """A save that has begun: whether it is durable yet, and how to wait for that."""

    is_done: Callable[[], bool]
    wait: Callable[[], object]


#: A save that was durable when the call returned.
DONE = InFlight(lambda: True, lambda: None)


class Saver(ABC):
    """One way of saving.

    ``copies`` says how many times the state it has in memory, on top of the state itself;
    ``keeps`` whether that memory stays from save to save, ``shares`` whether it is shared memory.
    """

    name = ""
    copies = 0
    keeps = False
    shares = False
    is_background = False

    def why_not(self) -> str | None:
        """Why it cannot be measured here; None where it can."""
        return None

    def open(self, workload: Workload, folder: Path) -> None:  # noqa: B027 (most need nothing)
        """Get ready, untimed; ``folder`` is its own, not there yet."""

    @abstractmethod
    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Save to a path that is not there yet; a save in the background may go on after this."""

    def before_update(self) -> None:  # noqa: B027
        """Do what this way does when the optimizer of a training is about to step."""

    def clean(self, path: Path) -> None:
        """Remove what a save wrote."""
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def close(self) -> None:  # noqa: B027
        """Give back what ``open`` took."""


def fsync_path(path: Path) -> None:
    """Make the bytes of a file durable that somebody else wrote."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class TorchSave(Saver):
    """``torch.save`` to the path itself, then fsync."""

    name = names.TORCH_SAVE

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Write, and wait for the disk."""
        torch.save(workload.state(), path)
        fsync_path(path)
        return DONE


class TorchSaveWithoutCrc(TorchSave):
    """``torch.save`` told to compute no checksums: others cannot find damage then."""

    name = names.TORCH_SAVE_NO_CRC

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Write, and wait for the disk."""
        with _without_crc():
            return super().begin(workload, path)


@contextlib.contextmanager
def _without_crc() -> Iterator[None]:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


class TorchSaveAndRename(Saver):
    """``torch.save`` as careful scripts do it: to a temp, fsync, rename, fsync of the folder."""

    name = names.TORCH_SAVE_RENAME

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Write, and wait for the disk."""
        temp = path.with_name(f"{path.name}.tmp")
        torch.save(workload.state(), temp)
        fsync_path(temp)
        temp.replace(path)
        fsync_folder(path.parent)
        return DONE


class Safetensors(Saver):
    """``safetensors``: the tensors only, by dotted names; numbers of optimizers are left out."""

    name = names.SAFETENSORS

    def why_not(self) -> str | None:
        """It is an oracle of the tests, no dependency."""
        return None if importlib.util.find_spec("safetensors") else "not installed"

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Write, and wait for the disk."""
        from safetensors.torch import save_file

        save_file(workload.tensors(), path)
        fsync_path(path)
        return DONE


class SaveState(Saver):
    """``holdfast.save_state``: durable when it returns."""

    name = names.SAVE_STATE

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Write, and wait for the disk."""
        save_state(path, **workload.parts)
        return DONE


class RunSave(Saver):
    """``Run.save`` in the background; its memory is kept, so that the second save is fast."""

    name = names.RUN_SAVE
    copies = 1
    keeps = True
    is_background = True
    background: Any = True

    def open(self, workload: Workload, folder: Path) -> None:
        """Make the run; nothing in it is pruned, as every save is removed by itself."""
        self._run = Run(folder, keep=None, background=self.background, **workload.parts)
        self._step = 0
        self._pending: PendingSave | None = None

    def begin(self, workload: Workload, path: Path) -> InFlight:
        """Save the next step; the run names the file."""
        self._step += 1
        self._pending = pending = self._run.save(self._step)
        assert pending is not None
        return InFlight(lambda: pending.done, pending.wait)

    def clean(self, path: Path) -> None:
        """Remove the last checkpoint, not ``path``."""
        if self._pending is not None:
            Path(self._pending.result().path or "").unlink(missing_ok=True)

    def close(self) -> None:
        """Close the run."""
        self._run.close()


class RunSaveOverlap(RunSave):
    """``Run.save`` that copies what is not yet written only when the optimizer's step comes."""

    name = names.RUN_SAVE_OVERLAP
    background = "overlap"

    def open(self, workload: Workload, folder: Path) -> None:
        """Make the run; without an optimizer nothing could be copied later."""
        parts = dict(workload.parts)
        if "optimizer" not in parts:
            parts["optimizer"] = torch.optim.SGD(parts["model"].parameters())
        self._optimizer: torch.optim.Optimizer = parts["optimizer"]
        super().open(replace(workload, parts=parts), folder)

    def before_update(self) -> None:
        """Step the optimizer without gradients: its hook copies what is left, nothing changes."""
        self._optimizer.zero_grad()
        self._optimizer.step()
