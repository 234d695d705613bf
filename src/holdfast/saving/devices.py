"""Copies from GPUs: on streams of their own, into pinned memory, and nobody waits for the disk.

The copy is queued behind what the training has queued so far, and what it queues next comes after
the copy: the state is that at the call, and the caller goes on at once. Memory that CUDA knows
(pinned) is copied to at the full speed of the bus; torch's own allocator makes it and gives it back
when no copy into it is on its way.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from holdfast.io.arena import Arena
from holdfast.tensors.encode import Encoded

log = logging.getLogger("holdfast")


class PinnedArena:
    """Memory like an ``Arena``'s that CUDA copies into by itself.

    Raises:
        RuntimeError: CUDA gives none.
    """

    def __init__(self, nbytes: int) -> None:
        tensor = torch.empty(max(nbytes, 1), dtype=torch.uint8, device="cpu", pin_memory=True)
        array: Any = tensor.numpy()
        self.memory = memoryview(array)

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.memory.nbytes


def arena_for(encoded: Encoded, nbytes: int) -> Arena | PinnedArena:
    """Memory for the copy of a state, pinned where something in it is on a GPU.

    Raises:
        MemoryError, OSError: the system gives none.
    """
    if any(storage.device.type == "cuda" for storage in encoded.storages):
        try:
            return PinnedArena(nbytes)
        except RuntimeError as error:  # a limit of the system: copies are slower, and as right
            log.warning("no memory can be pinned, so copies from GPUs are slower: %s", error)
    return Arena(nbytes)


class DeviceCopies:
    """The copies of one save that GPUs make by themselves."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue the copy of a tensor on a GPU into memory of the CPU."""
        stream = self._streams.get(source.device)
        if stream is None:
            stream = self._streams[source.device] = torch.cuda.Stream(source.device)
            stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        source.record_stream(stream)  # its memory is nobody else's before it is copied

    def queued(self) -> None:
        """All copies are queued: what the training does next on a GPU comes after them."""
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)

    def wait(self) -> None:
        """Return when the bytes are there, and the memory may be used for something else."""
        for stream in self._streams.values():  # nothing but these copies is on them
            stream.synchronize()
