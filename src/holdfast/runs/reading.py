"""Read the headers of one checkpoint: what listing needs of a file or a checkpoint folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from holdfast.errors import DamagedError, FileError, HoldfastError
from holdfast.formats import read_index, sharded, sniff
from holdfast.formats.dcp.seal import seal_of
from holdfast.formats.torch_zip.read import PICKLE, root_of
from holdfast.formats.zip_archive import Member, read_member
from holdfast.io.checksum import crc32
from holdfast.io.source import Source, open_source
from holdfast.spec import record as records
from holdfast.spec.index import Index

log = logging.getLogger("holdfast")

#: The files by one of which a folder is one checkpoint, written by several processes or in shards.
_MARKS = (records.MEMBER, ".metadata", "model.safetensors", "pytorch_model.bin")
#: One shard is enough: where the listing is lost, no shard by itself is the checkpoint.
_PATTERNS = ("*.index.json", "*.distcp", f"{sharded.SHARDS}.safetensors", f"{sharded.SHARDS}.bin")


def is_checkpoint_folder(path: Path) -> bool:
    """Whether a folder is itself one checkpoint, not a run of them."""
    try:
        return any((path / mark).is_file() for mark in _MARKS) or any(
            True for pattern in _PATTERNS for _ in path.glob(pattern)
        )
    except PermissionError as error:
        log.debug("%s is taken for no checkpoint: %s", path, error)
        return False
    except OSError as error:  # reading it says so
        log.debug("%s is taken for a checkpoint: %s", path, error)
        return True


def read_headers(path: Path) -> Index:
    """The index of a checkpoint; of a folder that has nothing but a record, the record alone.

    Raises:
        HoldfastError: it cannot be read.
    """
    return _read(path, read_index, has_index=(path / ".metadata").is_file())


def read_briefly(path: Path) -> Index:
    """As ``read_headers``, but of what a run of holdfast saved the record alone, which is faster.

    Its pickle is checked by its CRC and not read, so the tree and the extents are left empty.

    Raises:
        HoldfastError: it cannot be read, its record included.
    """
    return _read(path, _read_record)


def _read(path: Path, read: Callable[[Source], Index], *, has_index: bool = False) -> Index:
    try:
        if not has_index and path.is_dir() and (path / records.MEMBER).is_file():
            return _read_folder(path)
        with open_source(path) as source:
            return read(source)
    except HoldfastError:
        raise
    except OSError as error:
        raise explained(error, path) from error


def _read_record(source: Source) -> Index:
    kind, members = sniff.kind_of(source)
    if kind != "torch_zip":
        return read_index(source)
    root = root_of(source, members)
    if f"{root}/{records.MEMBER}" not in members:
        return read_index(source)
    record = records.decode(
        _checked(source, members[f"{root}/{records.MEMBER}"], "record"), file=source.name
    )
    if record.sequence is None:  # saved outside a run: its place is found by what it holds
        return read_index(source)
    _checked(source, members[f"{root}/{PICKLE}"], "pickle")
    return Index(
        file=source.name,
        format="torch_zip",
        tree={},
        extents={},
        record=record,
        file_nbytes=source.size,
    )


def _checked(source: Source, member: Member, what: str) -> bytes:
    data = read_member(source, member)
    found = crc32(data)
    if member.crc not in (0, found):  # 0: it was saved without CRCs
        raise DamagedError(
            f"the {what} of this checkpoint is damaged",
            file=source.name,
            member=member.name,
            wanted=f"CRC {member.crc:08x}",
            found=f"{found:08x}",
            cure="Use an earlier checkpoint: holdfast list shows them.",
        )
    return data


def _read_folder(path: Path) -> Index:
    file = path / records.MEMBER
    data = file.read_bytes()
    record = records.decode(data, file=file)
    seal_of(data, file=str(path))
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
