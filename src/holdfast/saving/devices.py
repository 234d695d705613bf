"""Copies from GPUs: on streams of their own, into pinned memory, and nobody waits for the disk.

The copy is queued behind what the training has queued so far, and what it queues next comes after
the copy: the state is that at the call, and the caller goes on at once. Memory that CUDA knows
(pinned) is copied to at the full speed of the bus. It is the same arena as without a GPU, made
known to CUDA: torch's allocator of pinned memory would round it up to a power of two, and keep it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref

import torch

from holdfast.io.arena import Arena

log = logging.getLogger("holdfast")


#: cudaHostRegisterPortable: pinned for every device of the process.
_PORTABLE = 1
#: Those that CUDA was asked to pin, whether it could or not.
_asked: weakref.WeakSet[Arena] = weakref.WeakSet()


def suits(arena: Arena | None, gpu: torch.device | None) -> bool:
    """Whether an arena is what ``arena_for`` would make, but for its size."""
    return arena in _asked or gpu is None


def arena_for(gpu: torch.device | None, nbytes: int) -> Arena:
    """Memory for the copy of a state, pinned where something in it is on a GPU.

    Raises:
        MemoryError, OSError: the system gives none.
    """
    arena = Arena(nbytes)
    if gpu is not None:
        _asked.add(arena)
        try:
            _pin(arena)
        except RuntimeError as error:  # a limit of the system: copies are slower, and as right
            log.warning("no memory can be pinned, so copies from GPUs are slower: %s", error)
            # CUDA has the next kernel that is started report it: not one of the training's.
            with contextlib.suppress(RuntimeError):
                torch.ones(1, device=gpu)
    return arena


def _pin(arena: Arena) -> None:
    """Have CUDA copy into the arena by itself, until nobody has it any more."""
    address = torch.frombuffer(arena.memory, dtype=torch.uint8).data_ptr()
    runtime = torch.cuda.cudart()
    torch.cuda.check_error(runtime.cudaHostRegister(address, arena.nbytes, _PORTABLE))
    # At the exit CUDA may be gone before the arena is, and takes its knowledge with it.
    weakref.finalize(arena, _unpin, address, os.getpid()).atexit = False


def _unpin(address: int, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has neither CUDA nor the memory
        torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))


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
        """Return when the bytes are there, and the memory may be used for something else.

        Raises:
            RuntimeError: CUDA has failed, once: it copies no more.
        """
        streams, self._streams = self._streams, {}
        for stream in streams.values():  # nothing but these copies is on them
            stream.synchronize()
