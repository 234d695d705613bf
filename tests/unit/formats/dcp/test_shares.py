"""A folder of ours, opened by several processes together: each looks at its share of the files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch
from described import write_folder, written_otherwise

import holdfast
from holdfast.errors import RestoreInterrupted
from holdfast.formats import read_index
from holdfast.formats.dcp.headers import HeadersError
from holdfast.formats.dcp.unseen import with_checksums
from holdfast.io.source import open_source
from holdfast.report.verify import verify_index
from holdfast.restoring import load_parts
from holdfast.spec.index import ChunkedRef, Index
from holdfast.state.parts import as_parts


def opened(path: Path, share: tuple[int, int] = (0, 1)) -> Index:
    with open_source(path) as source:
        return read_index(source, share=share)


def turned(path: Path, at: int) -> None:
    """Turn a bit over."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def pieces(index: Index) -> dict[str, list[object]]:
    """Of each tensor where its pieces are, and what they hold."""
    found: dict[str, list[object]] = {}
    for name, node in index.tree.items():
        assert isinstance(node, ChunkedRef)
        found[name] = [
            (chunk.offsets, chunk.ref.dtype, chunk.ref.shape, chunk.ref.stride, chunk.ref.storage)
            for chunk in node.chunks
        ]
    return found


def test_each_knows_all_and_the_checksums_of_its_own(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", files=12)
    whole = opened(tmp_path / "f")
    known = []
    for number in range(5):
        index = opened(tmp_path / "f", (number, 5))
        assert pieces(index) == pieces(whole)
        assert (index.sealed, index.byteorder) == (whole.sealed, whole.byteorder)
        for key, extent in index.extents.items():
            there = whole.extents[key]
            assert extent._replace(expected_crc=there.expected_crc) == there
            if extent.expected_crc is not None:
                assert extent.expected_crc == there.expected_crc
                known.append(key)
                assert int(Path(extent.file).name.split("_")[2]) % 5 == number
    assert sorted(known) == sorted(whole.extents)


def test_each_reads_its_share_of_the_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "f", files=8, tensors=50)
    read: list[int] = []
    real = os.pread

    def counting(descriptor: int, nbytes: int, offset: int) -> bytes:
        read.append(nbytes)
        return real(descriptor, nbytes, offset)

    def reads(share: tuple[int, int]) -> tuple[int, int]:
        read.clear()
        opened(tmp_path / "f", share)
        return len(read), sum(read)

    one = (tmp_path / "f" / "__0_0.distcp").stat().st_size
    monkeypatch.setattr(os, "pread", counting)
    count, nbytes = reads((0, 1))
    assert 8 * one <= nbytes < 1.5 * 8 * one + 500_000
    for number in range(8):
        some, fewer = reads((number, 8))
        assert some < count / 5
        assert fewer < nbytes / 4  # of that .metadata and the record, which each reads whole


@pytest.mark.parametrize("at", [40, -40])
def test_what_is_not_as_written_is_found_by_whose_share_it_is(tmp_path: Path, at: int) -> None:
    """All of them learn it then, before anything has changed."""
    write_folder(tmp_path / "f", files=4)
    turned(tmp_path / "f" / "__2_0.distcp", at)
    for number in (0, 1, 3):
        opened(tmp_path / "f", (number, 4))
    with pytest.raises(HeadersError) as caught:
        opened(tmp_path / "f", (2, 4))
    size = (tmp_path / "f" / "__2_0.distcp").stat().st_size
    first, last = (0, size // 3) if at > 0 else (size // 3 * 2, size)
    assert str(caught.value) == (
        "a piece of this checkpoint is not what was written\n"
        f"  in {tmp_path}/f/__2_0.distcp, tensor {'t0' if at > 0 else 't2'!r}\n"
        f"  found other headers in bytes {first:,} to {last:,}\n"
        "  Use an earlier checkpoint: holdfast list shows them."
    )


def test_elements_are_left_to_the_checksums(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", files=4)
    file = tmp_path / "f" / "__3_0.distcp"
    turned(file, file.read_bytes().index(struct.pack("<5f", 15, 16, 17, 18, 19)))
    said = []
    for number in range(4):
        with open_source(tmp_path / "f") as source:
            index = read_index(source, share=(number, 4))
            said.append(verify_index(index, source, share=(number, 4)).status)
    assert sorted(said) == ["damaged", "good", "good", "good"]


def test_nothing_is_shared_without_checksums_of_all(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", files=4, is_sealed=False)
    assert opened(tmp_path / "f", (1, 4)).extents == opened(tmp_path / "f").extents


def test_nothing_is_shared_where_pieces_are_written_otherwise(tmp_path: Path) -> None:
    """By another version, or another machine: the first of them says so to all."""
    write_folder(tmp_path / "f", files=4)
    written_otherwise(tmp_path / "f", "__0_0.distcp")
    whole = opened(tmp_path / "f")
    node = whole.tree["t0"]
    assert isinstance(node, ChunkedRef)
    assert [chunk.ref.requires_grad for chunk in node.chunks] == [True, False, False, False]
    for number in range(4):
        assert opened(tmp_path / "f", (number, 4)).extents == whole.extents


def test_what_is_read_whole_is_compared_here(tmp_path: Path) -> None:
    """Whoever has looked at it on another machine: this one may read it otherwise."""
    write_folder(tmp_path / "f", files=4)
    whole = opened(tmp_path / "f")
    with open_source(tmp_path / "f") as source:
        index = read_index(source, share=(1, 4))
        keys = [key for key, extent in index.extents.items() if extent.expected_crc is None]
        more = with_checksums(index, source, keys[2:5])
    known = {key for key, extent in more.extents.items() if extent.expected_crc is not None}
    assert known == {*index.extents} - {*keys} | {*keys[2:5]}
    assert {key: more.extents[key] for key in known} == {key: whole.extents[key] for key in known}
    turned(tmp_path / "f" / "__2_0.distcp", 40)
    with open_source(tmp_path / "f") as source:
        index = read_index(source, share=(1, 4))
        with pytest.raises(HeadersError):
            with_checksums(index, source, keys)


def test_a_restore_on_several_compares_all_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that is turned over on its way, after all were ready, is found on each of them."""
    model = torch.nn.Linear(40, 30)
    holdfast.save_state(tmp_path / "a.pt", model=model)
    holdfast.convert(tmp_path / "a.pt", tmp_path / "a.dcp")
    real = os.preadv

    def bad(descriptor: int, views: list[memoryview], offset: int) -> int:
        count = real(descriptor, views, offset)
        if views[0].nbytes >= 100:
            views[0][17] ^= 1
        return count

    for rank in range(2):
        with monkeypatch.context() as patched, pytest.raises(RestoreInterrupted) as caught:
            load_parts(
                tmp_path / "a.dcp",
                as_parts({"model": torch.nn.Linear(40, 30)}),
                rng=False,
                rank=(rank, 2),
                ready=lambda _, patched=patched: patched.setattr(os, "preadv", bad),
            )
        assert "the bytes of this checkpoint are not those that were saved" in str(caught.value)
