"""The checksums in the record of a folder, and what is said of those that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import holdfast
from holdfast.distributed.leading import _Folder
from holdfast.errors import DamagedError, FormatError, RanksError, RefusedError
from holdfast.formats.dcp.seal import seal, seal_of
from holdfast.spec.record import Record, encode

RECORD = encode(Record("abc", step=3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.save({"a": torch.ones(3), "b": 1}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "a.dcp")
    return tmp_path / "a.dcp"


def resealed(folder: Path, **changes: Any) -> None:
    """The record with other checksums, and a CRC that is right."""
    data = (folder / "holdfast.json").read_bytes()
    found = seal_of(data, file="x")
    assert found is not None
    (folder / "holdfast.json").write_bytes(seal(RECORD, {**found.checksums, **changes}))


def test_a_seal_is_read_back() -> None:
    data = seal(RECORD, {"ü": "00000001"})
    found = seal_of(data, file="x")
    assert found is not None
    assert found.checksums == {"ü": "00000001"}
    assert seal_of(RECORD, file="x") is None


@pytest.mark.parametrize("at", [5, -30, -12, -4])
def test_a_record_that_was_changed_is_damaged(at: int) -> None:
    data = bytearray(seal(encode(Record("abcdef", step=3)), {"a": "00000001"}))
    data[at] = data[at] ^ 1
    with pytest.raises((DamagedError, ValueError)):
        seal_of(bytes(data), file="x")


@pytest.mark.parametrize("digits", ["zz000000", "+0000001", "0000_001", "00 00 01", "0x000001"])
def test_digits_that_are_none_are_refused(digits: str, folder: Path) -> None:
    resealed(folder, **{".metadata": digits})
    with pytest.raises(RefusedError, match="checksums are hexadecimal digits"):
        holdfast.open(folder)


@pytest.mark.parametrize("changes", [{"__0_0.distcp": "00000001"}, {"__7_0.distcp": "00000001"}])
def test_a_record_of_another_save_is_told(changes: dict[str, str], folder: Path) -> None:
    resealed(folder, **changes)
    with pytest.raises(FormatError, match="are of two saves"):
        holdfast.open(folder)


def test_a_rank_that_has_written_another_number_of_pieces_stops_the_commit() -> None:
    nothing: Any = None
    made = _Folder(nothing, Path("x"), 0, nothing, nothing, {}, [2, 3])
    with pytest.raises(RanksError) as caught:
        made.describe([[1, 2], [1]])
    assert str(caught.value).splitlines()[:2] == [
        "rank 1 has written something else than its share",
        "  wanted 3 pieces, found 1",
    ]
