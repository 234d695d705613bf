"""A slice that is planned without its data is a whole torch file of the tensor."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.dcp.write import slice_of
from holdfast.formats.torch_zip import write
from holdfast.formats.torch_zip.members import serialization_id
from holdfast.io.checksum import crc32
from holdfast.spec.dtypes import BY_NAME

DTYPES = ["float32", "bfloat16", "bool", "complex64", "float8_e5m2", "uint16"]


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 9), max_size=4), st.integers(0, 255))
def test_it_is_the_file_of_that_tensor(name: str, shape: list[int], byte: int) -> None:
    dtype = getattr(torch, name)
    numel = torch.Size(shape).numel()
    data = bytes([byte]) * (numel * dtype.itemsize)
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    planned = slice_of(BY_NAME[name], tuple(shape))
    crc = crc32(data)
    tail = planned.tail(crc)
    made = planned.head + data + tail
    assert planned.whole_nbytes == len(made)
    assert planned.crc_in(planned.head, tail) == crc
    loaded = torch.load(io.BytesIO(made))
    assert (loaded.dtype, list(loaded.shape)) == (dtype, shape)
    assert torch.equal(loaded.reshape(-1).view(torch.uint8), flat.view(torch.uint8))
    archive = zipfile.ZipFile(io.BytesIO(made))
    assert archive.testzip() is None  # with the CRCs of its directory
    *others, last = archive.infolist()
    assert archive.read(last) == serialization_id({each.filename: each.CRC for each in others})
    assert tail[4:8] == crc.to_bytes(4, "little") or not data


def test_other_bytes_around_are_not_its_own() -> None:
    planned = slice_of(BY_NAME["float32"], (3, 5))
    head, tail = planned.head, planned.tail(0x1234_5678)
    assert planned.crc_in(head, tail) == 0x1234_5678
    for at in range(len(head)):
        assert planned.crc_in(head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :], tail) is None
    for at in range(len(tail)):
        assert planned.crc_in(head, tail[:at] + bytes([tail[at] ^ 1]) + tail[at + 1 :]) is None


@pytest.mark.parametrize("nbytes", [0, 5, 1 << 33])
def test_where_the_checksum_of_a_member_stands(nbytes: int) -> None:
    layout = write.layout("archive", [("a", 3), ("data/0", nbytes), ("b", 2)])
    places = write.crc_offsets(layout, 1)
    assert len(places) == (2 if nbytes else 0)
    data = layout.members[1]
    end = data.data_offset + nbytes
    tail = write.descriptor(data, 0xDEAD_BEEF)
    found = write.directory(layout, {data.name: 0xDEAD_BEEF})
    four = (0xDEAD_BEEF).to_bytes(4, "little")
    if nbytes:
        assert places == (end + tail.index(four), layout.directory_offset + found.index(four))
