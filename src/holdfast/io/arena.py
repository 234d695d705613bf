"""Memory that is made once and used again.

What makes naive copies slow is not copying but the first touch of fresh pages: the kernel clears
each of them, at a tenth of memory's speed. And a forked child (a loader's worker) would turn every
page that is written again into such a first touch; so the memory is wiped in children, which
neither share nor copy it (MADV_WIPEONFORK; unlike MADV_DONTFORK it stays mapped there, so that a
child that frees it frees nothing else).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading

#: What direct writes ask for: addresses, offsets and lengths are multiples of it.
PAGE = 4096
#: Bytes of the pieces that go to the disk one by one.
SEGMENT = 8 << 20

_WIPEONFORK = 18  # Linux 4.14; Python has no name for it


class Arena:
    """Anonymous memory of at least ``nbytes``, aligned to pages; its first use is slow."""

    def __init__(self, nbytes: int) -> None:
        size = max(nbytes, 1) + -max(nbytes, 1) % PAGE
        self._mapping = _private(size)
        # Each of them only helps: where the system lacks one, memory is slower and nothing else.
        for advice in (getattr(mmap, "MADV_HUGEPAGE", None), _WIPEONFORK):
            if advice is not None and hasattr(self._mapping, "madvise"):
                with contextlib.suppress(OSError):
                    self._mapping.madvise(advice)
        self.memory = memoryview(self._mapping)

    @property
    def nbytes(self) -> int:
        """The size in bytes, a multiple of a page."""
        return self.memory.nbytes


def _private(nbytes: int) -> mmap.mmap:
    """Python's own default is memory that forked children share."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Segments:
    """Segments that several writers take and give back; each is made when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """A segment that nobody else has."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return Arena(SEGMENT).memory

    def give_back(self, segment: memoryview) -> None:
        """Let others have it."""
        with self._lock:
            self._free.append(segment)


#: Those of this process: a save finds the memory that the one before it has touched.
segments = Segments()

if hasattr(os, "register_at_fork"):
    # Its lock may be held by a thread that is not there, and its memory is wiped.
    os.register_at_fork(after_in_child=segments.__init__)  # type: ignore[misc]
