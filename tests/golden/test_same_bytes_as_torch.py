"""What holdfast.save writes is what torch.save writes, byte for byte.

Only the 40 digits of the serialization id may differ, and with them their CRC.
"""

from __future__ import annotations

import collections
import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import holdfast

pytestmark = pytest.mark.filterwarnings("ignore")

SCALARS = (torch.float32, torch.int64, torch.bool)
#: torch.save refuses tensors of these itself; as plain dtypes they can be saved.
SUB_BYTE = {getattr(torch, f"{kind}int{n}") for kind in ("", "u") for n in range(1, 8)}
QUANTIZED = {torch.quint8, torch.qint8, torch.qint32, torch.quint4x2, torch.quint2x4}


def all_dtypes() -> list[torch.dtype]:
    found = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    return sorted(found, key=str)


def tensor_of(dtype: torch.dtype) -> torch.Tensor:
    """Twelve elements of any dtype, made of bytes, quantized ones by quantizing."""
    if dtype in (torch.quint8, torch.qint8, torch.qint32):
        return torch.quantize_per_tensor(torch.arange(12.0), 0.5, 1, dtype)
    if dtype == torch.quint4x2:
        scales, zeros = torch.ones(3), torch.zeros(3)
        return torch.quantize_per_channel(torch.ones(3, 4), scales, zeros, 0, dtype)
    if dtype == torch.quint2x4:
        quantized = torch._empty_affine_quantized([12], scale=0.5, zero_point=0, dtype=dtype)
        quantized.untyped_storage().fill_(27)
        return quantized
    raw = torch.arange(12 * dtype.itemsize, dtype=torch.uint8) % 2
    return raw.view(dtype)


class Subclass(torch.Tensor):
    """A tensor subclass without a body of its own."""


class Reduced:
    """An object with its own way of being pickled."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return (Reduced, (self.tensor,))


def zoo() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls some of these layouts a prototype
        return _zoo()


def _zoo() -> dict[str, Any]:
    base = torch.arange(24.0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    attributed = torch.ones(3)
    attributed.note = "kept"  # type: ignore[attr-defined]
    coo = torch.sparse_coo_tensor(torch.tensor([[0, 2], [1, 0]]), torch.tensor([3.0, 4.0]), (3, 2))
    return {
        "views": {"whole": base, "slice": base[4:9], "strided": base.view(4, 6).t()[::2]},
        "shared": [base, base],
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "requires_grad": torch.ones(2, requires_grad=True),
        "coo": coo,
        "coalesced": coo.coalesce(),
        "csr": coo.to_dense().to_sparse_csr(),
        "csc": coo.to_dense().to_sparse_csc(),
        "bsr": torch.ones(4, 4).to_sparse_bsr((2, 2)),
        "per_channel": torch.quantize_per_channel(
            torch.ones(3, 4), torch.ones(3), torch.zeros(3, dtype=torch.int64), 0, torch.qint8
        ),
        "meta": torch.empty(5, 6, device="meta"),
        "conj": torch.complex(torch.ones(2), torch.ones(2)).conj(),
        "neg": torch.complex(torch.ones(2), torch.ones(2)).conj().imag,
        "empty": torch.empty(0),
        "empty_shape": torch.empty(3, 0, 2),
        "expanded": torch.ones(1).expand(1000),
        "zero_dim": [torch.tensor(1, dtype=dtype) for dtype in SCALARS],
        "subclass": torch.ones(2).as_subclass(Subclass),
        "attributes": attributed,
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "reduced": Reduced(torch.ones(7)),
        "storage": torch.ones(4).untyped_storage(),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "module": model,
        "values": [1, -1, 2**70, 1.5, float("nan"), "text", "übung", b"bytes", None, True, 1j],
        "containers": ({1, 2}, frozenset({3}), (4,), [], {}, bytearray(b"x")),
        "collections": collections.OrderedDict(a=1),
        "counter": collections.Counter("aab"),
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:1"),
        "numpy": [np.float64(1.5), np.arange(3), np.int32(7)],
        "dtypes": all_dtypes(),
        "layout": torch.sparse_coo,
        **{f"dtype {d}": tensor_of(d) for d in all_dtypes() if d not in SUB_BYTE},
        "many": [torch.full((3,), float(i)) for i in range(200)],
    }


def without_id(data: bytes) -> bytes:
    """The file with the digits of the serialization id, and their CRC, set to zero."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    info = next(i for i in archive.infolist() if i.filename.endswith(".data/serialization_id"))
    digits = archive.read(info)
    crc = info.CRC.to_bytes(4, "little")
    head, tail = data[: info.header_offset], data[info.header_offset :]
    return head + tail.replace(digits, b"0" * len(digits)).replace(crc, bytes(4))


def by_torch(obj: Any, file: Any) -> None:
    torch.save(obj, file)


def test_the_zoo_holds_every_dtype_of_torch() -> None:
    animals = zoo()
    present = {v.dtype for v in animals.values() if isinstance(v, torch.Tensor)}
    assert present | SUB_BYTE == set(all_dtypes())
    assert set(animals["dtypes"]) == set(all_dtypes())
    for dtype in SUB_BYTE:
        with pytest.raises(KeyError):  # if torch learns to save these, the zoo must hold them
            torch.save(torch.zeros(2, dtype=torch.uint8).view(dtype), io.BytesIO())


@pytest.mark.parametrize("name", sorted(zoo()))
def test_each_animal_has_the_bytes_of_torch(name: str) -> None:
    animal = zoo()[name]
    theirs, ours = io.BytesIO(), io.BytesIO()
    torch.save(animal, theirs)
    holdfast.save(animal, ours)
    assert without_id(ours.getvalue()) == without_id(theirs.getvalue())


@pytest.mark.parametrize("name", ["whole.pt", "模型_最好.pt", "two.dots.pth", "none", "a b.ckpt"])
def test_the_whole_zoo_has_the_bytes_of_torch_in_a_file(tmp_path: Path, name: str) -> None:
    animals = zoo()
    (tmp_path / "theirs").mkdir()
    torch.save(animals, tmp_path / "theirs" / name)
    info = holdfast.save(animals, tmp_path / name)
    ours, theirs = (tmp_path / name).read_bytes(), (tmp_path / "theirs" / name).read_bytes()
    assert without_id(ours) == without_id(theirs)
    assert info.nbytes == len(ours)


def test_a_relative_path_names_the_root_as_torch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2)}, "x.pt")
    theirs = Path("x.pt").read_bytes()
    holdfast.save({"a": torch.ones(2)}, "x.pt")
    assert without_id(Path("x.pt").read_bytes()) == without_id(theirs)


class SparseFile(io.RawIOBase):
    """A file that leaves holes where zeros are written, so that gigabytes take no room."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= 1 << 20 and not np.frombuffer(view, np.uint8).any():
            self.file.seek(len(view), os.SEEK_CUR)
        else:
            self.file.write(view)
        return len(view)

    def flush(self) -> None:
        if not self.file.closed:
            self.file.flush()


def test_a_file_over_4_gib_has_the_bytes_of_torch(tmp_path: Path) -> None:
    nbytes = 2**32 + 8
    hole = tmp_path / "hole"
    with hole.open("wb") as file:
        file.truncate(nbytes)
    storage = torch.UntypedStorage.from_file(str(hole), shared=False, nbytes=nbytes)
    big = torch.empty(0, dtype=torch.uint8).set_(storage)
    # The sizes around which 64-bit fields begin, and members behind the 4 GiB border.
    obj = {"big": big, "behind": torch.arange(3.0), "empty behind": torch.empty(0)}
    torch.save(obj, SparseFile(tmp_path / "theirs"))
    holdfast.save(obj, SparseFile(tmp_path / "ours"))
    theirs, ours = (tmp_path / "theirs").open("rb"), (tmp_path / "ours").open("rb")
    with theirs, ours:
        for at in range(0, nbytes - (1 << 20), 1 << 28):
            theirs.seek(at), ours.seek(at)
            a, b = theirs.read(1 << 16), ours.read(1 << 16)
            assert a == b, f"differs behind byte {at}"
        theirs.seek(nbytes - 4096), ours.seek(nbytes - 4096)
        a, b = theirs.read(), ours.read()
    with zipfile.ZipFile(tmp_path / "ours") as archive:
        assert archive.getinfo("archive/data/0").file_size == nbytes
    assert len(a) == len(b)
    differing = sum(x != y for x, y in zip(a, b, strict=True))
    assert differing <= 40 + 8  # the id's digits and its CRC, twice


@pytest.mark.parametrize("nbytes", [0xFFFFFFFE, 0xFFFFFFFF, 0x100000000])
def test_the_layout_at_the_border_is_that_of_torch(nbytes: int) -> None:
    """torch's writer is asked for sizes only: it writes the headers and skips the data."""
    from holdfast.formats.torch_zip import write

    class Holes(io.RawIOBase):
        """Keeps all short pieces with their places; skips the long ones."""

        def __init__(self) -> None:
            self.at, self.pieces = 0, bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            view = memoryview(data).cast("B")
            if len(view) < 1 << 20:
                self.pieces += self.at.to_bytes(8, "little") + bytes(view)
            self.at += len(view)
            return len(view)

    sink = Holes()
    options = (False, 64) if hasattr(torch.serialization, "_get_storage_alignment") else (False,)
    writer = torch._C.PyTorchFileWriter(sink, *options)
    names = [("a", 3), ("data/0", nbytes), ("data/1", 5)]
    zeros = torch.UntypedStorage(nbytes)
    for name, size in names:
        writer.write_record(name, zeros, size)
    end_of_records = sink.at
    writer.write_end_of_file()
    plan = write.layout("archive", names)
    assert plan.members[-1].end == end_of_records


def test_files_open_with_unzip_and_every_way_of_torch_load(tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "model.pt"
    state = {"w": torch.arange(10.0), "b": torch.ones(3, dtype=torch.bfloat16)}
    holdfast.save(state, path)
    subprocess.run(["unzip", "-t", "-q", str(path)], check=True, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    for options in ({}, {"mmap": True}, {"weights_only": True}):
        loaded = torch.load(path, **options)
        assert torch.equal(loaded["w"], state["w"])
        assert torch.equal(loaded["b"], state["b"])
    assert torch.load(path, map_location="meta")["w"].device.type == "meta"
