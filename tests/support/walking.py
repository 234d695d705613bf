"""What the lenient walk finds in bytes; nothing is loaded."""

from __future__ import annotations

from holdfast.io.source import Memory
from holdfast.pickles.symbols import Walk, walk


def look(data: bytes, **options) -> Walk:
    return walk(Memory(data, "x"), **options)


def found(data: bytes, **options) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(s.module, s.name, tuple(s.ways)) for s in look(data, **options).symbols]
