"""TorchScript programs: their tensors and attributes; their code is listed, never parsed."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.formats.zip_archive import Member
from holdfast.io.source import Source
from holdfast.spec.index import Index


def read_index(source: Source, *, encoding: str = "utf-8", members: Mapping[str, Member] | None = None) -> Index:
    """Not built yet."""
    raise NotImplementedError
