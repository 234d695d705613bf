"""Weights in several files with an index.json."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.io.source import Source
from holdfast.spec.index import Index


def read_index(source: Source, *, encoding: str = "utf-8", read: Callable[..., Index]) -> Index:
    """Not built yet."""
    raise NotImplementedError
