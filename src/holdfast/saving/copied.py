"""A copy of a file in memory, made while the training waits and written while it goes on."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from holdfast.io.arena import SEGMENT, Arena
from holdfast.io.sink import Sink
from holdfast.saving.devices import DeviceCopies

#: What is at least so large is copied by torch's threads; anything smaller by one call.
_LARGE = 1 << 20


class Copied(ABC):
    """The bytes of a file in an arena; what of them is missing is put in while it is written."""

    def __init__(self, arena: Arena, nbytes: int) -> None:
        self.nbytes = nbytes
        self._memory = arena.memory[:nbytes]
        with torch.inference_mode(False):  # else nothing could be copied into it outside
            self._whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._devices = DeviceCopies()
        self._sink: Sink | None = None

    @property
    def progress(self) -> float:
        """The share of the bytes that the system has, 0.0 to 1.0."""
        return 0.0 if self._sink is None else self._sink.flushed / max(1, self.nbytes)

    def end(self) -> None:
        """Return when nothing is copied into the memory any more, whatever became of the save."""
        self._devices.wait()

    def copy_rest(self) -> None:  # noqa: B027 - most copies are whole from the beginning
        """Copy what is not copied yet: the live state is about to change."""

    @abstractmethod
    def fill(self, sink: Sink) -> None:
        """Put in what is missing, front to back, and hand on all that is complete."""

    def _begin(self, sink: Sink) -> None:
        self._sink = sink
        self._devices.wait()

    def _put(
        self, at: int, nbytes: int, device: torch.device, address: int,
        flat: Callable[[], torch.Tensor],
    ) -> memoryview:  # fmt: skip
        """Copy bytes that lie at an address of a device; ``flat`` gives them as a tensor."""
        if device.type == "cuda":
            self._devices.copy(self._whole[at : at + nbytes], flat())
        elif device.type != "cpu" or nbytes >= _LARGE:
            self._whole[at : at + nbytes].copy_(flat())
        elif nbytes:
            ctypes.memmove(self._whole.data_ptr() + at, address, nbytes)
        return self._memory[at : at + nbytes]

    def _hand_on(self, sink: Sink, done: int, complete: int) -> int:
        complete -= complete % SEGMENT
        if complete > done:
            sink.lasting(self._memory[done:complete])
        return max(done, complete)
