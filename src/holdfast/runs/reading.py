"""Read the headers of one checkpoint: what listing needs of a file or a checkpoint folder."""

from __future__ import annotations

import logging
from pathlib import Path

from holdfast.errors import FileError
from holdfast.spec import record as records
from holdfast.spec.index import Index

log = logging.getLogger("holdfast")

#: The files by one of which a folder is one checkpoint, written by several processes or in shards.
_METADATA = ".metadata"
_SHARDS = "*.index.json"


def is_checkpoint_folder(path: Path) -> bool:
    """Whether a folder is itself one checkpoint, not a run of them."""
    marks = (path / records.MEMBER, path / _METADATA)
    try:
        return any(mark.is_file() for mark in marks) or any(path.glob(_SHARDS))
    except PermissionError as error:
        log.debug("%s is taken for no checkpoint: %s", path, error)
        return False


def read_headers(path: Path) -> Index:
    """The index of a checkpoint; of a folder that has a record, the record alone.

    Raises:
        HoldfastError: it cannot be read.
    """
    try:
        if path.is_dir() and (path / records.MEMBER).is_file():
            return _read_folder(path)
        return _read_file(path)
    except OSError as error:
        raise explained(error, path) from error


def _read_file(path: Path) -> Index:
    from holdfast.formats import read_index
    from holdfast.io.source import open_source

    with open_source(path) as source:
        return read_index(source)


def _read_folder(path: Path) -> Index:
    file = path / records.MEMBER
    record = records.decode(file.read_bytes(), file=file)
    return Index(file=str(path), format="dcp", tree={}, extents={}, record=record)


def explained(error: OSError, path: Path) -> FileError:
    """What the system says about reading ``path``, as a letter; one that is a letter stays it."""
    if isinstance(error, FileError):
        return error
    return FileError(
        f"this cannot be read: {error.strerror or error}",
        errno=error.errno,
        file=path,
        cure=f"Check its owner and permissions: ls -ld {path}",
    )
