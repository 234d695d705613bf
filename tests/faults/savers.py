"""Ways of saving that the same faults are tried on: holdfast's, and those of others.

Each is used as its own documents show. A saver saves to a folder, and finds there what a training
would go on from.
"""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from tests.faults.states import MEANWHILE, Training, tensors_of
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

import holdfast
from holdfast import looking
from holdfast.errors import FormatError, NoCheckpointError
from holdfast.runs import removing

#: The step of what is found, and its tensors; None where there is no checkpoint.
Found = tuple[int, dict[str, torch.Tensor]] | None


#: Imported once, before any process is forked: each would have to for itself.
for _name in ("Run", "convert", "load", "load_state", "save", "save_state", "verify"):
    getattr(holdfast, _name)

#: What is converted; not on the disk that has the fault.
_SOURCES = tempfile.TemporaryDirectory(prefix="holdfast-faults-")


class Saver(ABC):
    """Saves the tensors of steps; ``is_ours`` says whether holdfast does.

    ``keeps`` is how many checkpoints are there at once: 1 where each save replaces the former one,
    None where all stay.
    """

    is_ours = True
    keeps: int | None = 1
    pinned: frozenset[int] = frozenset()  # of the steps that went through ``after``
    unpinned: frozenset[int] = frozenset()  # of those the ones whose pin has gone again
    sweeps_at_start = False  # only the next save does

    def __init__(self, folder: Path, size: str) -> None:
        self.folder, self.size = folder, size

    @classmethod  # noqa: B027 (most have nothing to do)
    def prepare(cls, size: str) -> None:
        """Make what is needed and is no part of a save; once, before any process is forked."""

    def begin(self) -> None:  # noqa: B027
        """Do what comes before the first save of a process."""

    @abstractmethod
    def save(self, step: int) -> None:
        """Save a step; durable when this returns."""

    def after(self, step: int) -> Sequence[int]:
        """Do what comes after a save, durably; the steps that it removed."""
        return ()

    @abstractmethod
    def find(self) -> Found:
        """What a training that starts now goes on from; it raises where it cannot."""

    def broken(self) -> list[str]:
        """What bears the name of a checkpoint and is not whole; none may, newest or not."""
        return []

    def kept(self) -> dict[int, dict[str, torch.Tensor]] | None:
        """All that is there, by step; None where that is one file or nobody says."""
        return None

    def pins(self) -> set[int]:
        """The steps that are pinned."""
        return set()

    def leftovers(self) -> list[str]:
        """What there is, after a start or the next save, that nobody will ever need."""
        if not self.folder.exists():
            return []
        names = [path.name for path in self.folder.iterdir()]
        return [name for name in names if name.endswith(".tmp") or "trash" in name]

    def end(self) -> None:  # noqa: B027
        """Let go of what is held."""


def _is_whole(file: Path) -> bool:
    try:
        return holdfast.verify(file).ok
    except FormatError:
        return False


def _step_of(file: Path) -> int:
    """Of ``step-00000002.pt``, and of the ``step-00000002.1.pt`` that stands beside one."""
    return int(file.name[5:13])


class InRun(Saver):
    """A ``Run`` that keeps two checkpoints, saving while the training waits."""

    background: bool | str = False
    keeps = latest = 2
    sweeps_at_start = True

    def begin(self) -> None:
        self.training = Training(self.size)
        self.run = holdfast.Run(
            self.folder,
            keep=holdfast.keep.latest(self.latest),
            background=self.background,
            **self.training.parts,
        )
        self.is_closed = False
        self.step = self.run.resume()

    def save(self, step: int) -> None:
        self.training.become(step)
        pending = self.run.save(step)
        if pending is not None:
            self.training.become(MEANWHILE)  # the training goes on meanwhile
            pending.wait()

    def find(self) -> Found:
        self.begin()
        found = self.run.latest()
        if found is None:
            return None
        assert holdfast.verify(found.path).ok
        return self.step - 1, self.training.tensors()

    def broken(self) -> list[str]:
        files = sorted(self.folder.glob("step-*.pt"))
        return [file.name for file in files if not _is_whole(file)]

    def kept(self) -> dict[int, dict[str, torch.Tensor]]:
        found = {}
        for file in filter(_is_whole, self.folder.glob("step-*.pt")):
            tree = holdfast.load(file)
            momentum = tree["optimizer"]["state"][0]["momentum_buffer"]
            found[_step_of(file)] = {**tree["model"], "momentum": momentum}
        return found

    def pins(self) -> set[int]:
        return {_step_of(file) for file in self.folder.glob("step-*.pin")}

    def end(self) -> None:
        self.run.close()
        self.is_closed = True


class Behind(InRun):
    """A ``Run`` that saves behind the training."""

    background = True


class Closing(InRun):
    """A ``Run`` that saves behind the training and is closed then; nobody waits for the save."""

    background = True

    def save(self, step: int) -> None:
        if self.is_closed:
            self.begin()
        self.training.become(step)
        self.run.save(step)
        self.training.become(MEANWHILE)
        self.end()


class AtTheNext(InRun):
    """A ``Run`` that saves behind the training: whether it was good the next call says."""

    background = True

    def save(self, step: int) -> None:
        self.training.become(step)
        pending = self.run.save(step)
        while pending is not None and not pending.done:
            time.sleep(0.001)
        self.run.save(step)  # the same again, which is there, or the letter of the first


class Overlapping(InRun):
    """A ``Run`` that copies while the training goes on."""

    background = "overlap"


class Pruning(InRun):
    """A ``Run`` that keeps one checkpoint and a pinned one."""

    keeps = latest = 1
    pinned = frozenset({0})

    def after(self, step: int) -> Sequence[int]:
        if step in self.pinned:
            self.run.pin(step)
        return ()


class Pinning(Pruning):
    """A ``Run`` that keeps one checkpoint, where each is pinned once it is there."""

    pinned = frozenset(range(8))


class Unpinning(Pruning):
    """A ``Run`` that keeps one checkpoint, where each is pinned once it is there, and unpinned."""

    pinned = frozenset()
    unpinned = frozenset(range(8))

    def after(self, step: int) -> Sequence[int]:
        self.run.pin(step)
        self.run.unpin(step)
        return ()


class PrunedLater(InRun):
    """A ``Run`` that is closed after each save, and pruned to one checkpoint then."""

    keeps = 1
    latest = 3

    def save(self, step: int) -> None:
        if self.is_closed:
            self.begin()
        super().save(step)

    def after(self, step: int) -> Sequence[int]:
        self.end()
        plan = removing.plan_of_run(self.folder, holdfast.keep.latest(1), is_whole=looking.is_whole)
        return [_step_of(path) for path in removing.remove(self.folder, plan)]


class Resuming(InRun):
    """A ``Run`` that is closed, opened and resumed before each save."""

    def save(self, step: int) -> None:
        self.run.close()
        self.begin()
        super().save(step)


class OverOne(Saver):
    """``holdfast.save`` over the same file."""

    @property
    def file(self) -> Path:
        return self.folder / "last.pt"

    def save(self, step: int) -> None:
        holdfast.save({"step": step, "tensors": tensors_of(step, self.size)}, self.file)

    def find(self) -> Found:
        try:
            found = holdfast.load(self.file)
        except NoCheckpointError:
            return None
        return found["step"], found["tensors"]


class OfState(Saver):
    """``holdfast.save_state`` over the same file."""

    @property
    def file(self) -> Path:
        return self.folder / "last.pt"

    def begin(self) -> None:
        self.training = Training(self.size)

    def save(self, step: int) -> None:
        self.training.become(step)
        holdfast.save_state(self.file, extra={"step": step}, **self.training.parts)

    def find(self) -> Found:
        if not self.file.exists():
            return None
        self.begin()
        report = holdfast.load_state(self.file, **self.training.parts)
        return report.extra["step"], self.training.tensors()


class Converted(Saver):
    """``holdfast.convert`` to a safetensors file, over the same file."""

    @property
    def file(self) -> Path:
        return self.folder / "model.safetensors"

    @staticmethod
    def source(size: str, step: int) -> Path:
        return Path(_SOURCES.name) / size / f"{step}.pt"

    @classmethod
    def prepare(cls, size: str) -> None:
        for step in range(8):
            if not cls.source(size, step).exists():
                tensors = {**tensors_of(step, size), "step": torch.tensor([step])}
                holdfast.save(tensors, cls.source(size, step))

    def save(self, step: int) -> None:
        holdfast.convert(self.source(self.size, step), self.file)

    def find(self) -> Found:
        if not self.file.exists():
            return None
        assert holdfast.verify(self.file).ok
        found = holdfast.load(self.file)
        return int(found.pop("step")), found


class Sharded(Converted):
    """``holdfast.convert`` to a folder of shards, a new one each time."""

    keeps = None

    def at(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def save(self, step: int) -> None:
        holdfast.convert(self.source(self.size, step), self.at(step), shard_size="6MB")

    def find(self) -> Found:
        there = [step for step in range(8) if self.at(step).exists()]
        if not there:
            return None
        assert holdfast.verify(self.at(max(there))).ok
        found = holdfast.load(self.at(max(there)))
        return int(found.pop("step")), found


class TorchSave(Saver):
    """``torch.save`` over the same file, as most training scripts have it."""

    is_ours = False

    @property
    def file(self) -> Path:
        return self.folder / "last.pt"

    def begin(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def save(self, step: int) -> None:
        torch.save({"step": step, "tensors": tensors_of(step, self.size)}, self.file)

    def find(self) -> Found:
        if not self.file.exists():
            return None
        found = torch.load(self.file, weights_only=True)
        return found["step"], found["tensors"]


class TorchSaveRenamed(TorchSave):
    """``torch.save`` to another name, then a rename: what the more careful do."""

    def save(self, step: int) -> None:
        temp = self.file.with_suffix(".tmp")
        torch.save({"step": step, "tensors": tensors_of(step, self.size)}, temp)
        temp.replace(self.file)


class Safetensors(Saver):
    """``safetensors.torch.save_file`` over the same file."""

    is_ours = False

    @property
    def file(self) -> Path:
        return self.folder / "model.safetensors"

    def begin(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def save(self, step: int) -> None:
        save_file({**tensors_of(step, self.size), "step": torch.tensor([step])}, self.file)

    def find(self) -> Found:
        if not self.file.exists():
            return None
        found = load_file(self.file)
        return int(found.pop("step")), found


class Distributed(Saver):
    """``torch.distributed.checkpoint.save`` to a new folder each time, in one process.

    Who goes on takes the newest folder that has a ``.metadata``, which is written last.
    """

    is_ours = False
    keeps = None

    def begin(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def at(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def save(self, step: int) -> None:
        try:
            dcp.save(tensors_of(step, self.size), checkpoint_id=self.at(step), no_dist=True)
        except CheckpointException as error:  # a BaseException, which trainings have to know
            raise RuntimeError(str(error)) from error

    def find(self) -> Found:
        there = [step for step in range(8) if (self.at(step) / ".metadata").exists()]
        if not there:
            return None
        found = {name: value.clone() for name, value in tensors_of(0, self.size).items()}
        try:
            dcp.load(found, storage_reader=FileSystemReader(self.at(max(there))), no_dist=True)
        except CheckpointException as error:
            raise RuntimeError(str(error)) from error
        return max(there), found


class Lightning(TorchSave):
    """The checkpoint writing of Lightning Fabric, over the same file."""

    def save(self, step: int) -> None:
        from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

        state = {"step": step, "tensors": tensors_of(step, self.size)}
        TorchCheckpointIO().save_checkpoint(state, self.file)


SAVERS: dict[str, type[Saver]] = {
    "Run": InRun,
    "Run, background": Behind,
    "Run, overlap": Overlapping,
    "Run, closed": Closing,
    "Run, next call": AtTheNext,
    "Run, pruning": Pruning,
    "Run, pin": Pinning,
    "Run, unpin": Unpinning,
    "Run, prune": PrunedLater,
    "Run, resume": Resuming,
    "save": OverOne,
    "save_state": OfState,
    "convert": Converted,
    "convert, shards": Sharded,
    "torch.save": TorchSave,
    "torch.save + rename": TorchSaveRenamed,
    "safetensors": Safetensors,
    "torch.distributed.checkpoint": Distributed,
    "Lightning": Lightning,
}
OURS = tuple(name for name, saver in SAVERS.items() if saver.is_ours)
