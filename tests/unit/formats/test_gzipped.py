"""What gzip has packed is read like what is inside."""

from __future__ import annotations

import gzip
import io
import pickle
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.unit.formats.test_torch_tar import example

from holdfast.errors import NotACheckpointError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.looking import open as look
from holdfast.looking import verify
from holdfast.tensors.load import load_file

TREE = {"w": torch.arange(6.0).reshape(2, 3), "epoch": 3}


def written(**options) -> bytes:
    buffer = io.BytesIO()
    torch.save(TREE, buffer, **options)
    return buffer.getvalue()


FORMATS = {
    "torch_zip": written,
    "torch_legacy": lambda: written(_use_new_zipfile_serialization=False),
    "torch_tar": lambda: bytes(example()),
    "pickle": lambda: pickle.dumps(TREE),
    "safetensors": lambda: safetensors.torch.save({"w": TREE["w"]}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format(kind, tmp_path):
    data = FORMATS[kind]()
    path = tmp_path / "model.pt.gz"
    path.write_bytes(gzip.compress(data))
    with open_source(path) as source:
        index = read_index(source)
        assert (index.format, index.file) == (f"gzip of {kind}", str(path))
        assert index.file_nbytes == path.stat().st_size
    plain, packed = load_file(io.BytesIO(data)), load_file(path)
    assert packed.keys() == plain.keys()
    name = "grid" if kind == "torch_tar" else "w"
    assert packed[name].tolist() == plain[name].tolist()
    with look(path) as checkpoint:
        assert checkpoint.array(name).tolist() == plain[name].tolist()


@pytest.mark.parametrize("is_new", [True, False])
def test_as_gzip_open_and_torch_save_write_it(is_new, tmp_path):
    path = tmp_path / "model.pt.gz"
    with gzip.open(path, "wb") as file:
        torch.save(TREE, file, _use_new_zipfile_serialization=is_new)
    assert load_file(path)["w"].tolist() == TREE["w"].tolist()
    with gzip.open(path, "rb") as file:
        assert torch.load(file)["w"].tolist() == load_file(path)["w"].tolist()


def test_checksums_of_the_file_inside_are_checked(tmp_path):
    path = tmp_path / "model.pt.gz"
    path.write_bytes(gzip.compress(written()))
    assert verify(path).status == "good"
    data = bytearray(written())
    data[data.index(TREE["w"].numpy().tobytes())] ^= 1
    path.write_bytes(gzip.compress(data))
    assert verify(path).status == "damaged"


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("padding", [b"", bytes(300)])
def test_several_members_are_one_file(pieces, padding):
    data = written()
    step = -(-len(data) // pieces)
    parts = [gzip.compress(data[at : at + step]) + padding for at in range(0, len(data), step)]
    packed = b"".join(parts)
    assert gzip.decompress(packed) == data
    assert load_file(io.BytesIO(packed))["epoch"] == 3


def test_members_of_a_few_bytes_and_none():
    data = written()
    pieces = [b"", data[:3], b"", data[3:600], data[600:]]
    packed = b"".join(map(gzip.compress, pieces))
    assert load_file(io.BytesIO(packed))["epoch"] == 3


def test_a_large_file_in_small_pieces():
    tree = {"zeros": torch.zeros(3_000_000), "random": torch.rand(500_000)}
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    found = load_file(io.BytesIO(gzip.compress(buffer.getvalue())))
    assert torch.equal(found["zeros"], tree["zeros"])
    assert torch.equal(found["random"], tree["random"])


def test_mapped_memory_is_that_of_the_unpacked_file(tmp_path):
    path = tmp_path / "model.pt.gz"
    path.write_bytes(gzip.compress(written()))
    assert load_file(path, mmap=True)["w"].tolist() == TREE["w"].tolist()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_the_temporary_file_has_no_name_and_is_gone_with_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    packed = gzip.compress(written())
    before = open_files()
    with open_source(io.BytesIO(packed)) as source:
        read_index(source)
        assert open_files() == before + 1
        assert list(tmp_path.iterdir()) == []
    assert open_files() == before
    with open_source(io.BytesIO(packed[:-9])) as source:
        with pytest.raises(Exception, match="ends too early"):
            read_index(source)
        assert open_files() == before


def test_what_is_packed_and_no_checkpoint_gets_its_letter():
    with pytest.raises(NotACheckpointError) as caught:
        load_file(io.BytesIO(gzip.compress(b"step,loss\n" * 100)))
    assert caught.value.what == "this is no kind of file that holdfast knows"
    assert caught.value.file == "<BytesIO> (unpacked)"
    with pytest.raises(NotACheckpointError, match="this is an empty file"):
        load_file(io.BytesIO(gzip.compress(b"")))
