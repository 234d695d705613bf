from __future__ import annotations

import io
import pickle
import struct
import zipfile

import pytest
import torch

from holdfast.errors import RefusedError
from holdfast.formats import read_index
from holdfast.formats.torch_zip import write
from holdfast.formats.zip_archive import read_member, read_members
from holdfast.io.source import open_source
from holdfast.tensors.load import load_file

GIB = 1 << 30


class Storage:
    """What torch's pickler writes for a storage, through a persistent id."""

    def __init__(self, key: str, numel: int) -> None:
        self.pid = ("storage", torch.FloatStorage, key, "cpu", numel)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


def pickled(tree) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(tree)
    return buffer.getvalue()


class Tensor:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return torch._utils._rebuild_tensor, self.args


@pytest.fixture
def huge(tmp_path):
    """A sparse file of over 4 GiB: a storage of 5 GiB, and small ones behind it."""
    numel = 5 * GIB // 4
    data = {
        "data.pkl": pickled(
            {
                "huge": Tensor(Storage("0", numel), 0, (numel,), (1,)),
                "small": Tensor(Storage("1", 2), 0, (2,), (1,)),
            }
        ),
        "data/0": None,
        "data/1": struct.pack("<2f", 1.5, -2.5),
        "version": b"3\n",
    }
    sizes = [(n, 5 * GIB if content is None else len(content)) for n, content in data.items()]
    plan = write.layout("huge", sizes)
    path = tmp_path / "huge.pt"
    with path.open("wb") as file:
        for member, content in zip(plan.members, data.values(), strict=True):
            file.seek(member.header_offset)
            file.write(write.local_header(member))
            file.write(content or b"")
            file.seek(member.end - member.descriptor_nbytes)
            file.write(write.descriptor(member, 0))
        file.write(write.directory(plan, {}))
    assert path.stat().st_blocks * 512 < 1 << 20
    return path


def test_members_over_4_gib_and_behind_them_are_found(huge):
    with open_source(huge) as source, zipfile.ZipFile(huge) as archive:
        members = read_members(source)
        assert list(members) == archive.namelist()
        for info in archive.infolist():
            assert members[info.filename].nbytes == info.file_size
        assert members["huge/data/1"].offset > 4 * GIB
        assert read_member(source, members["huge/version"]) == b"3\n"
        index = read_index(source)
    assert index.tree["huge"].nbytes == 5 * GIB
    loaded = load_file(huge, mmap=True)
    assert loaded["small"].tolist() == [1.5, -2.5]
    assert loaded["huge"].shape == (5 * GIB // 4,)
    assert loaded["huge"][-1] == 0


def test_an_all_ones_size_without_its_zip64_field_is_refused(huge):
    data = huge.open("rb")
    with data:
        data.seek(-4000 if huge.stat().st_size > 4000 else 0, 2)
        tail = data.read()
    at = tail.index(b"PK\x01\x02", tail.index(b"huge/data.pkl"))  # the entry of data/0
    extra = huge.stat().st_size - len(tail) + at + 46 + len("huge/data/0")
    with huge.open("r+b") as file:
        file.seek(extra)
        assert file.read(2) == b"\1\0"
        file.seek(extra)
        file.write(b"\2\0")
    with open_source(huge) as source, pytest.raises(RefusedError) as caught:
        read_members(source)
    assert caught.value.what == "refused: a member over 4 GiB has its ZIP64 field"


def test_only_headers_are_read():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for n in range(100):
            archive.writestr(f"a/data/{n}", bytes(10_000))
    buffer.seek(0)
    with open_source(buffer) as source:
        read, nbytes_read = source.read_at, []

        def counted(offset: int, nbytes: int) -> bytes:
            nbytes_read.append(nbytes)
            return read(offset, nbytes)

        source.read_at = counted
        assert len(read_members(source)) == 100
    assert sum(nbytes_read) < 15_000
