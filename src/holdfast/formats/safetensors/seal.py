"""A checksum of a safetensors header, kept in the header itself: eight digits that it skips.

The CRC-32 is that of the whole header as it would be with zeros for those digits, the eight bytes
of its length included. Other readers take it for metadata like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from holdfast.errors import DamagedError
from holdfast.io.checksum import crc32

#: The key of the metadata that holds the digits.
SEAL = "holdfast.header_crc32"
#: The key under which the CRC-32 of each tensor is kept; who writes these seals the header, too.
CRCS = "holdfast.crc32"
EMPTY = "0" * 8
#: A key as JSON: quotes inside text are escaped, so this cannot stand in a name or a value.
_PLACE = re.compile(rb'"holdfast\.header_crc32":"([0-9a-f]{8})"')


def sealed(header: bytes) -> bytes:
    """The header with its own CRC-32 in the place of the zeros that were left for it."""
    place = _PLACE.search(header)
    assert place is not None, "the header has no place for its checksum"
    digits = f"{crc32(header):08x}".encode()
    return header[: place.start(1)] + digits + header[place.end(1) :]


def check(header: bytes, metadata: Mapping[str, str], *, file: str) -> None:
    """Go on only with a header that is what its seal says; one without a seal is not known.

    Raises:
        DamagedError: a byte of the header is not the one that was saved.
    """
    if SEAL not in metadata and CRCS not in metadata:
        return
    places = list(_PLACE.finditer(header))
    if len(places) == 1:
        at = places[0]
        blank = header[: at.start(1)] + EMPTY.encode() + header[at.end(1) :]
        found = f"{crc32(blank):08x}"
        if found == metadata.get(SEAL):
            return
    else:
        found = "none"
    raise DamagedError(
        "the header of this safetensors file is not the one that was saved",
        file=file,
        wanted=f"CRC {metadata[SEAL][:8]}" if SEAL in metadata else f"its CRC under {SEAL!r}",
        found=found,
        cure="Names, types or places of its tensors may be wrong: use an earlier checkpoint.\n"
        "If another program wrote it anew with the metadata of the old file: leave out the keys\n"
        "of the metadata that begin with 'holdfast.'.",
    )
