"""gzip files that unpack without end, or were changed or cut off."""

from __future__ import annotations

import gzip
import io
import resource
import time
import zlib

import pytest
import torch

from holdfast.errors import DamagedError, FormatError, NoSpaceError, RefusedError, TruncatedError
from holdfast.formats import gzipped


def whole() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(6.0)}, buffer)
    return buffer.getvalue()


def letter(asm, data: bytes, kind: type[FormatError]) -> FormatError:
    with pytest.raises(kind) as caught:
        asm.look(data)
    return caught.value


def bomb(nbytes: int) -> bytes:
    """The beginning of a torch zip, and zeros."""
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(whole())
    for _ in range(nbytes >> 20):
        packed += packer.compress(bytes(1 << 20))
    return packed + packer.flush()


def test_a_bomb_is_refused_after_256_mib(asm):
    data = bomb(400 << 20)
    assert len(data) < 500_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    error = letter(asm, data, RefusedError)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert str(error) == (
        "refused: a gzip file unpacks to at most 16 times its size and 256 MiB\n"
        "  in <BytesIO>\n"
        f"  wanted at most {16 * len(data) + (256 << 20):,} bytes, found more\n"
        "  If you know where it comes from, unpack it first: gzip -d FILE"
    )


def test_zeros_up_to_the_bound_are_fine(asm):
    buffer = io.BytesIO()
    torch.save(torch.zeros(8 << 20), buffer)
    packed = gzip.compress(buffer.getvalue())
    assert len(packed) * 100 < 32 << 20
    assert asm.look(packed).tree.shape == (8 << 20,)


def test_a_gzip_file_in_a_gzip_file(asm):
    error = letter(asm, gzip.compress(gzip.compress(whole())), RefusedError)
    assert str(error) == (
        "refused: a checkpoint is packed once\n"
        "  in <BytesIO> (unpacked)\n"
        "  found a gzip file in a gzip file\n"
        "  Unpack it first: gzip -d FILE"
    )


def test_cut_off_anywhere(asm):
    packed = gzip.compress(whole())
    for end in range(3, len(packed)):
        error = letter(asm, packed[:end], TruncatedError)
        assert error.what == "this gzip file ends too early"
    assert str(error) == (
        "this gzip file ends too early\n"
        "  in <BytesIO>\n"
        f"  found {len(packed) - 1:,} bytes\n"
        "  It was not written or copied to its end: get it again, or use an earlier one."
    )


@pytest.mark.parametrize("place", [-1, -4, -5, -8])
def test_a_checksum_or_a_length_that_is_wrong(asm, place):
    packed = bytearray(gzip.compress(whole()))
    packed[place] ^= 1
    error = letter(asm, bytes(packed), DamagedError)
    assert error.what == "this gzip file is damaged: its bytes are not those that were packed"
    what = "length" if place > -5 else "data"
    assert error.found == f"Error -3 while decompressing data: incorrect {what} check"


def test_what_follows_is_neither_padding_nor_gzip(asm):
    packed = gzip.compress(whole())
    error = letter(asm, packed + b"more", DamagedError)
    assert error.found == "Error -3 while decompressing data: incorrect header check"
    with pytest.raises(OSError, match="Not a gzipped file"):
        gzip.decompress(packed + b"more")


def test_a_hundred_thousand_empty_members(asm):
    data = gzip.compress(b"") * 110_000
    started = time.process_time()
    error = letter(asm, data, RefusedError)
    assert time.process_time() - started < 10
    assert error.what == "refused: a gzip file has a few members"


def test_no_room_for_the_unpacked_file(asm, monkeypatch):
    full = open("/dev/full", "w+b", buffering=0)  # noqa: PTH123, SIM115 (the reader closes it)
    monkeypatch.setattr(gzipped.tempfile, "TemporaryFile", lambda: full)
    with pytest.raises(NoSpaceError) as caught:
        asm.look(gzip.compress(whole()))
    assert caught.value.what == "this file cannot be unpacked: No space left on device"
    assert caught.value.cure == (
        "Set TMPDIR to a folder with more room, or unpack it first: gzip -d FILE"
    )
    assert full.closed
