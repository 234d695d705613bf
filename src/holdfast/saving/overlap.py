"""Copying while training goes on: parameters and optimizer state, until the optimizer steps.

Nothing changes them between a save and the next step of the optimizer, as training goes: so they
are copied behind the training, and what is left of them when a step is about to begin is copied
then. PyTorch counts the in-place operations on each tensor, and a tensor that was changed before
its copy was made is noticed; a write past those counts (``.data``, NumPy) is not, unless checksums
are taken at the call (``checked``).
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from holdfast.errors import CaptureError
from holdfast.io.checksum import crc32
from holdfast.state.names import parameter_names
from holdfast.state.optimizers import with_hooks
from holdfast.state.parts import OptimizerPart, Part, modules_of
from holdfast.tensors import encode

#: Copies a storage to where the one of that key goes, and gives the copy.
Copy: TypeAlias = Callable[[int, torch.UntypedStorage], memoryview]

#: Smaller storages are copied at the call: noting them would take as long.
_LEAST_NBYTES = 1 << 16


@dataclass(slots=True)
class Later:
    """A storage that may be copied after the call, and what must be true of it then."""

    storage: torch.UntypedStorage
    tensors: list[tuple[str, torch.Tensor, int]] = field(default_factory=list)
    crc: int | None = None

    def is_whole(self) -> bool:
        """Whether the tensors are all that the storage holds."""
        nbytes, end = self.storage.nbytes(), 0
        if any(tensor.nbytes == nbytes for _, tensor, _ in self.tensors):
            return True
        for start, stop in sorted(_span(tensor) for _, tensor, _ in self.tensors):
            if start > end:
                return False
            end = max(end, stop)
        return end == nbytes

    def problem(self, copied: memoryview | None = None) -> CaptureError | None:
        """The letter where the copy may not be the state at the call."""
        changed = [name for name, tensor, version in self.tensors if tensor._version != version]
        if not changed and (copied is None or self.crc in (None, crc32(copied))):
            return None
        return CaptureError(
            "the state changed between the save and the next step of the optimizer",
            found=f"other values in {', '.join(changed or [name for name, _, _ in self.tensors])}",
            cure='Change it before run.save(), or leave background="overlap" out of the Run: then '
            "everything is copied at the call.",
        )


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage that a tensor has, all of them; none where it leaves gaps."""
    start, dense = int(tensor.storage_offset()) * tensor.element_size(), 1
    for step, count in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if count != 1 and step != dense:
            return start, start
        dense *= count
    return start, start + tensor.nbytes


def storages_for_later(
    parts: Mapping[str, Part], encoded: encode.Encoded, *, checked: bool
) -> dict[int, Later]:
    """Which of the encoded storages may be copied later, by key."""
    keys = {storage._cdata: key for key, storage in enumerate(encoded.storages)}
    found: dict[int, Later] = {}
    for name, tensor in _settled(parts):
        storage = tensor.untyped_storage()
        key = keys.get(storage._cdata)
        if key is not None and storage.nbytes() >= _LEAST_NBYTES:
            later = found.setdefault(key, Later(storage))
            later.tensors.append((name, tensor, tensor._version))
    # What is beside them in one memory may be anybody's: a buffer, which the forward pass changes.
    found = {key: later for key, later in found.items() if later.is_whole()}
    if checked:
        for later in found.values():
            later.crc = crc32(encode.storage_bytes(later.storage))
    return found


def _settled(parts: Mapping[str, Part]) -> Iterator[tuple[str, torch.Tensor]]:
    """Strided CPU tensors that only a step of one of the optimizers changes, with their names."""
    optimizers = {n: p.live for n, p in parts.items() if isinstance(p, OptimizerPart)}
    if None in map(with_hooks, optimizers.values()):
        return  # it would step unseen
    names = parameter_names(modules_of(parts))
    for part, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if _is_plain(parameter):
                    yield names.get(id(parameter), "a parameter"), parameter
        for parameter, state in optimizer.state.items():
            for key, value in state.items() if isinstance(state, Mapping) else ():
                if _is_plain(value):
                    yield f"{part}'s {key} of {names.get(id(parameter), 'a parameter')}", value


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_inference()  # those have no count
    )


def _not_copied(error: Exception) -> CaptureError:
    if isinstance(error, CaptureError):
        return error
    letter = CaptureError(
        "a part of the state could not be copied before the optimizer's step",
        found=f"{type(error).__qualname__}: {error}",
        cure="The checkpoints before it are still there. Save again.",
    )
    letter.__cause__ = error
    return letter


class StepHooks:
    """Calls a function before any of the optimizers steps, once ``watch`` has been called."""

    def __init__(self, before_step: Callable[[], None]) -> None:
        self._before_step = before_step
        self._handles: dict[int, Any] = {}

    def watch(self, parts: Mapping[str, Part]) -> None:
        """Have the optimizers among the parts call it; each is asked once."""
        method = weakref.WeakMethod(self._before_step)  # an optimizer outlives its run

        def call(*_: Any) -> None:
            if (before_step := method()) is not None:
                before_step()

        for part in parts.values():
            if isinstance(part, OptimizerPart) and id(part.live) not in self._handles:
                stepped = with_hooks(part.live)
                if stepped is not None:
                    self._handles[id(part.live)] = _register_first(stepped, call)

    def remove(self) -> None:
        """Leave the optimizers as they were."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()


def _register_first(optimizer: torch.optim.Optimizer, call: Callable[..., None]) -> Any:
    """Register a step pre-hook that is called before those of others, which may change values."""
    handle = optimizer.register_step_pre_hook(call)
    hooks = optimizer._optimizer_step_pre_hooks
    if isinstance(hooks, OrderedDict):  # as torch has it; else it is called last, as is documented
        hooks.move_to_end(handle.id, last=False)
    return handle


class Copies:
    """The copies that are still to be made, each once, by whoever comes first.

    ``copy`` is given with each call, and not kept: it holds on to the memory that is copied into.
    """

    def __init__(self, later: Mapping[int, Later]) -> None:
        self._left = dict(later)
        self._lock = threading.Lock()
        self._made: list[Later] = []
        self._error: CaptureError | None = None

    def make(self, key: int, copy: Copy) -> None:
        """Make one of them, if it is not made yet."""
        with self._lock:
            self._make(key, copy)
            if self._error is not None:
                raise self._error

    def make_all(self, copy: Copy) -> None:
        """Make all that are left, and look at all once more: the live state is about to change.

        PyTorch counts an operation when it ends: one that ran while its tensor was copied may have
        been counted only after that.
        """
        with self._lock:
            for key in list(self._left):
                self._make(key, copy)
            self._look_again()

    def end(self) -> None:
        """Raise CaptureError where a copy may not be the state at the call."""
        with self._lock:
            self._look_again()
            if self._error is not None:
                raise self._error

    def _make(self, key: int, copy: Copy) -> None:
        later = self._left.get(key)
        if later is None:
            return
        try:
            self._note(later.problem(copy(key, later.storage)))
        except Exception as error:  # of that save, which fails of it; a step that waits goes on
            self._note(_not_copied(error))
        self._made.append(later)
        del self._left[key]  # last: after an interruption it is still to be made

    def _look_again(self) -> None:
        for later in self._made:
            self._note(later.problem())
        self._made.clear()  # from now on the optimizer may change them

    def _note(self, error: CaptureError | None) -> None:
        self._error = self._error or error
