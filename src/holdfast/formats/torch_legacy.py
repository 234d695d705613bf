"""Legacy torch files: five pickles in a row, then raw storages (torch 0.1.10 to 1.5)."""

from __future__ import annotations

from holdfast.io.source import Source
from holdfast.spec.index import Index


def read_index(source: Source, *, encoding: str = "utf-8") -> Index:
    """Not built yet."""
    raise NotImplementedError
