"""The letter for bytes that are not those that were saved."""

from __future__ import annotations

from holdfast.errors import DamagedError
from holdfast.report.paths import first_few, tensors_by_storage
from holdfast.spec.index import Extent, Index


def compare(index: Index, extent: Extent, crc: int) -> None:
    """Go on only if the CRC of an extent's bytes is the one they were saved with.

    Raises:
        DamagedError: it is another; file, member and tensors are named.
    """
    if extent.expected_crc is None or crc == extent.expected_crc:
        return
    names = tensors_by_storage(index.tree)
    keys = (key for key, other in index.extents.items() if other is extent)
    tensors = names.get(next(keys, ""), ())
    raise DamagedError(
        "the bytes of this checkpoint are not those that were saved",
        file=extent.file,
        member=extent.member,
        tensor=first_few(tensors) or None,
        wanted=f"CRC {extent.expected_crc:08x}",
        found=f"{crc:08x}",
        cure="Use an earlier checkpoint; holdfast verify lists all that is damaged.",
    )
