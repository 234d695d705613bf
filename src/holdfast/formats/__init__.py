"""One reader per container; which one it is, bytes say, never the suffix."""

from __future__ import annotations

from holdfast.formats import sniff, torch_zip
from holdfast.formats.torch_zip import read as torch_zip_read
from holdfast.formats.zip_archive import read_members
from holdfast.io.source import Source
from holdfast.spec.index import Index

__all__ = ["read_index", "sniff", "torch_zip"]


def read_index(source: Source, *, encoding: str = "utf-8") -> Index:
    """What a file holds, from its headers: tree, extents and record. No tensor is read.

    ``encoding`` decodes the text of files that Python 2 wrote (``bytes`` leaves it as bytes).

    Raises:
        NotACheckpointError: another kind of file; the message says which, and what to do.
        TruncatedError: the file ends too early.
        DamagedError: its headers are not those that were saved.
        RefusedError: a rule for hostile files is broken.
        FormatError: it is not laid out as its format asks.
    """
    sniff.require_zip(source)
    members = read_members(source)
    sniff.require_torch_zip(source, members)
    return torch_zip_read.read_index(source, encoding=encoding, members=members)
