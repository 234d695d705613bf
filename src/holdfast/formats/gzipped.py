"""gzip around any other format: unpacked into a file without a name, then read like any other."""

from __future__ import annotations

import errno
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import DamagedError, FileError, NoSpaceError, RefusedError, TruncatedError
from holdfast.formats import sniff
from holdfast.io.source import Memory, Source, owned
from holdfast.spec.index import Index

MAGIC = b"\x1f\x8b"
#: Weights pack to half their size at best, zeros to a thousandth; what is larger is a bomb.
_MOST_TIMES, _MOST_BESIDE = 16, 256 << 20
#: gzip files may be put one behind another; each costs a fixed time.
_MOST_MEMBERS = 100_000
_PACKED, _UNPACKED = 64 << 10, 1 << 20
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def read_index(source: Source, *, encoding: str = "utf-8", read: Callable[..., Index]) -> Index:
    """What the file inside holds; its bytes lie in a temporary file until ``source`` is closed.

    Raises:
        TruncatedError: the packed file ends too early.
        DamagedError: its bytes are not those that were packed.
        RefusedError: it unpacks to far more than it holds, or to a gzip file again.
        NoSpaceError: the folder for temporary files cannot hold it.
    """
    name = f"{source.name} (unpacked)"
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (the source closes it)
    try:
        _unpack(source, file, name)
    except BaseException:
        file.close()
        raise
    inside = source.adopt(owned(file, name))
    index = read(inside, encoding=encoding)
    return replace(
        index, file=source.name, format=f"gzip of {index.format}", file_nbytes=source.size
    )


def _unpack(source: Source, file: BinaryIO, name: str) -> None:
    most, nbytes, head = _MOST_TIMES * source.size + _MOST_BESIDE, 0, b""
    for piece in _pieces(source):
        if len(head) < sniff.HEAD:
            head += piece[: sniff.HEAD]
            _check_head(head, name)
        nbytes += len(piece)
        if nbytes > most:
            raise RefusedError(
                "refused: a gzip file unpacks to at most 16 times its size and 256 MiB",
                file=source.name,
                wanted=f"at most {most:,} bytes",
                found="more",
                cure="If you know where it comes from, unpack it first: gzip -d FILE",
            )
        _write(source, file, piece)


def _check_head(head: bytes, name: str) -> None:
    """What is no checkpoint is not unpacked to its end."""
    if head.startswith(MAGIC):
        raise RefusedError(
            "refused: a checkpoint is packed once",
            file=name,
            found="a gzip file in a gzip file",
            cure="Unpack it first: gzip -d FILE",
        )
    if len(head) >= sniff.HEAD:
        sniff.kind_by_head(Memory(head, name), head)


def _write(source: Source, file: BinaryIO, piece: bytes) -> None:
    try:
        file.write(piece)
        file.flush()
    except OSError as error:
        cls = NoSpaceError if error.errno in _FULL else FileError
        raise cls(
            f"this file cannot be unpacked: {error.strerror or error}",
            errno=error.errno,
            file=source.name,
            member=str(Path(tempfile.gettempdir())),
            cure="Set TMPDIR to a folder with more room, or unpack it first: gzip -d FILE",
        ) from error


def _pieces(source: Source) -> Iterator[bytes]:
    """The unpacked bytes in small pieces, as Python's gzip gives them: all members in a row."""
    unpacker, members = _new_unpacker(), 1
    for packed in _packed(source):
        while packed:
            if unpacker.eof:
                packed = packed.lstrip(b"\0")
                if not packed:
                    break
                unpacker, members = _new_unpacker(), members + 1
                _check_members(source, members)
            piece = _decompressed(source, unpacker, packed)
            packed = unpacker.unused_data or unpacker.unconsumed_tail
            if piece:
                yield piece
    if not unpacker.eof:
        raise TruncatedError(
            "this gzip file ends too early",
            file=source.name,
            found=f"{source.size:,} bytes",
            cure="It was not written or copied to its end: get it again, or use an earlier one.",
        )


def _packed(source: Source) -> Iterator[bytes]:
    for start in range(0, source.size, _PACKED):
        yield source.read_at(start, min(_PACKED, source.size - start))


def _new_unpacker() -> zlib._Decompress:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # with gzip's header and checksum


def _decompressed(source: Source, unpacker: zlib._Decompress, packed: bytes) -> bytes:
    try:
        return unpacker.decompress(packed, _UNPACKED)
    except zlib.error as error:
        raise DamagedError(
            "this gzip file is damaged: its bytes are not those that were packed",
            file=source.name,
            found=str(error),
            cure="Get it again, or use an earlier one.",
        ) from error


def _check_members(source: Source, members: int) -> None:
    if members > _MOST_MEMBERS:
        raise RefusedError(
            "refused: a gzip file has a few members",
            file=source.name,
            wanted=f"at most {_MOST_MEMBERS:,}",
            found="more",
        )
