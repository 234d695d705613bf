"""Headers of a run's files, read once for each state of a file."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.runs.reading import read_briefly
from holdfast.spec.index import Index


class Headers:
    """What listing a run needs of each file: its record, and the counts at the top of its tree."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], Index]] = {}
        self._lock = threading.Lock()

    def read(self, path: Path) -> Index:
        """As ``read_briefly``, which is asked only where the file is another one by now.

        What cannot be read is tried each time.
        """
        stamp = stamp_of(path)
        with self._lock:
            known = self._known.get(path)
        if known is not None and stamp and known[0] == stamp:
            return known[1]
        made = _thinned(read_briefly(path))
        with self._lock:
            self._known[path] = stamp, made
        return made


def _thinned(index: Index) -> Index:
    """Without what listing does not look at: of large files made elsewhere, most of it."""
    tree = index.tree
    counts = (
        {key: value for key, value in tree.items() if isinstance(value, int)}
        if isinstance(tree, Mapping)
        else {}
    )
    return replace(index, tree=counts, extents={})


def stamp_of(path: Path) -> tuple[int, ...]:
    """What tells a file, or the files of a folder, from what they were before; () where none is."""
    try:
        found: Any = path.stat()
        inner = sorted(path.iterdir()) if path.is_dir() else []
        stats = [found, *(each.stat() for each in inner)]
    except OSError:
        return ()  # opening it says what is wrong
    return tuple(n for each in stats for n in (each.st_ino, each.st_size, each.st_mtime_ns))
