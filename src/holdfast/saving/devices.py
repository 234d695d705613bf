"""Copies from GPUs: on streams of their own, into pinned memory, and nobody waits for the disk.

The copy is queued behind what the training has queued so far, and what it queues next comes after
the copy: the state is that at the call, and the caller goes on at once. Memory that CUDA knows
(pinned) is copied to at the full speed of the bus; it is registered once, as it is used again.
"""

from __future__ import annotations

import logging

import torch

log = logging.getLogger("holdfast")

#: cudaHostRegisterPortable: pinned for all devices.
_PORTABLE = 1


class Pinned:
    """Memory that CUDA is told of, until ``close``: it must not be unmapped before."""

    def __init__(self, address: int, nbytes: int) -> None:
        self._address: int | None = address
        status = int(torch.cuda.cudart().cudaHostRegister(address, nbytes, _PORTABLE))
        if status != 0:  # a limit of the system: copies are slower, and as right
            self._address = None
            log.debug("%s bytes could not be pinned (CUDA error %s)", f"{nbytes:,}", status)

    @property
    def is_pinned(self) -> bool:
        """Whether CUDA has taken it."""
        return self._address is not None

    def close(self) -> None:
        """Give it back to be used by others."""
        address, self._address = self._address, None
        if address is not None:
            torch.cuda.cudart().cudaHostUnregister(address)


class DeviceCopies:
    """The copies of one save that GPUs make by themselves."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._events: list[torch.cuda.Event] = []

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue the copy of a tensor on a GPU into memory of the CPU."""
        stream = self._streams.get(source.device)
        if stream is None:
            stream = self._streams[source.device] = torch.cuda.Stream(source.device)
            stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def queued(self) -> None:
        """All copies are queued: what the training does next on a GPU comes after them."""
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)
            event = torch.cuda.Event()
            event.record(stream)
            self._events.append(event)

    def wait(self) -> None:
        """Return when the bytes are there; called by the thread that writes them."""
        for event in self._events:
            event.synchronize()
        self._events.clear()
