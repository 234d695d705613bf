"""Tensors worked on several at a time: small ones many at once, as each task costs something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: Tasks at a time: more would take more memory than they save time.
_AT_ONCE = 2
#: One task has so many bytes, or so many tensors, before the next begins.
_BATCH_NBYTES, _BATCH = 4 << 20, 500


def in_parallel(
    work: Callable[[T], R], items: Sequence[T], nbytes: Callable[[T], int]
) -> Iterator[R]:
    """What comes of each, in order."""
    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        for made in pool.map(lambda batch: [work(each) for each in batch], _batches(items, nbytes)):
            yield from made


def _batches(items: Sequence[T], nbytes: Callable[[T], int]) -> list[list[T]]:
    made: list[list[T]] = []
    room = 0
    for item in items:
        if not made or room <= 0 or len(made[-1]) >= _BATCH:
            made.append([])
            room = _BATCH_NBYTES
        made[-1].append(item)
        room -= nbytes(item)
    return made
