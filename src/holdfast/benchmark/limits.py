"""What this machine can do at best: write, read, copy, check."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from holdfast.io.arena import PAGE, SEGMENT, Arena
from holdfast.io.checksum import crc32
from holdfast.io.descriptors import preallocate

_THREADS = 2
_DIRECT = getattr(os, "O_DIRECT", 0)

#: Moves the bytes of one segment, at an offset: ``os.pwrite`` or ``os.preadv``, as it were.
_Move = Callable[[int, memoryview, int], object]


class Buffers:
    """A segment of memory for each thread, aligned, filled with what is not all alike."""

    def __init__(self) -> None:
        self.segments = [Arena(SEGMENT).memory for _ in range(_THREADS)]
        for segment in self.segments:
            segment[:] = os.urandom(SEGMENT)


def write_plain(path: Path, nbytes: int, buffers: Buffers) -> None:
    """Write a new file of so many bytes, past the page cache where that goes; fsync it."""
    fd, is_direct = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        preallocate(fd, nbytes)
        aligned = nbytes + (-nbytes % PAGE if is_direct else 0)
        _each_segment(fd, aligned, buffers, _pwrite)
        os.ftruncate(fd, nbytes)
        os.fsync(fd)
    finally:
        os.close(fd)


def read_plain(path: Path, buffers: Buffers, *, past_cache: bool) -> None:
    """Read a file whole into memory used before; past the page cache where that goes."""
    fd, is_direct = _open(path, os.O_RDONLY) if past_cache else (os.open(path, os.O_RDONLY), False)
    try:
        nbytes = os.fstat(fd).st_size
        aligned = nbytes + (-nbytes % PAGE if is_direct else 0)
        _each_segment(fd, aligned, buffers, lambda fd, data, at: os.preadv(fd, [data], at))
    finally:
        os.close(fd)


def _open(path: Path, flags: int) -> tuple[int, bool]:
    """Open a file, and say whether its bytes go past the page cache."""
    if _DIRECT:
        try:
            return os.open(path, flags | _DIRECT, 0o666), True
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            path.unlink(missing_ok=True) if flags & os.O_CREAT else None
    return os.open(path, flags, 0o666), False


def _each_segment(fd: int, nbytes: int, buffers: Buffers, move: _Move) -> None:
    def work(number: int) -> None:
        for at in range(number * SEGMENT, nbytes, _THREADS * SEGMENT):
            move(fd, buffers.segments[number][: nbytes - at], at)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(_THREADS)))


def _pwrite(fd: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)


class Copy:
    """Copies tensors into memory that was used before: what a save has to do at the least."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = [tensor.detach() for tensor in tensors]
        self.targets = [tensor.clone() for tensor in self._tensors]

    def __call__(self) -> None:
        """Copy them all once."""
        for tensor, target in zip(self._tensors, self.targets, strict=True):
            target.copy_(tensor)


def crc_of(tensors: Sequence[torch.Tensor]) -> int:
    """The CRC-32 of the bytes of tensors, one behind the other."""
    value = 0
    for tensor in tensors:
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        value = crc32(data.numpy().data, value)
    return value
