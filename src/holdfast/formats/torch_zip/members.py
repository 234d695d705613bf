"""The members of a torch zip file in the order torch.save writes them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping

#: The archive format's version that torch 2.x writes.
VERSION = b"3\n"
SERIALIZATION_ID = ".data/serialization_id"


def root_name(file: str | None) -> str:
    """The archive's root folder: the file's name without its last suffix, as torch names it.

    ``archive`` for a file object (None), for a path that is not plain ASCII, and where nothing is
    left of the name.
    """
    if file is None or not file.isascii():
        return "archive"
    name = file.replace("\\", "/").rpartition("/")[2]
    stem, dot, _ = name.rpartition(".")
    return (stem if dot else name) or "archive"


def storage_order(count: int, *, alignment: int | None) -> list[int]:
    """The keys of ``count`` storages in file order; torch before 2.7 sorts them as text."""
    return sorted(range(count), key=str) if alignment is None else list(range(count))


def sizes(
    pickle: bytes,
    storages: Mapping[int, int],
    *,
    headers: Mapping[str, bytes],
    record: bytes | None,
) -> list[tuple[str, int]]:
    """Names and sizes (bytes) of all members, for ``write.layout``.

    ``storages`` has the bytes of each storage by key, in file order. ``headers`` are the small
    members between the pickle and the storages; the record, when there is one, goes behind the
    last storage, where torch.load ignores it.
    """
    return [
        ("data.pkl", len(pickle)),
        *((name, len(data)) for name, data in headers.items()),
        *((f"data/{key}", nbytes) for key, nbytes in storages.items()),
        *([("holdfast.json", len(record))] if record is not None else []),
        ("version", len(VERSION)),
        (SERIALIZATION_ID, 40),
    ]


def headers(*, alignment: int | None) -> dict[str, bytes]:
    """The small members between pickle and storages; older torch versions (None) write fewer."""
    if alignment is None:
        return {"byteorder": sys.byteorder.encode()}
    return {
        ".format_version": b"1",
        ".storage_alignment": str(alignment).encode(),
        "byteorder": sys.byteorder.encode(),
    }


def serialization_id(crcs: Mapping[str, int]) -> bytes:
    """Forty digits made of the names and CRCs of all other members; nobody checks them."""
    return digits_of(repr(sorted(crcs.items())))


def digits_of(text: str) -> bytes:
    """Forty digits made of a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"{int.from_bytes(digest, 'big') % 10**40:040d}".encode()
