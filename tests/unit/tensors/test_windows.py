"""Tensors of one storage go into live ones of any kind, each byte read once, with the right CRC."""

from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import TruncatedError
from holdfast.io.source import open_source
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import Extent, StorageRef, TensorRef
from holdfast.tensors import windows
from holdfast.tensors.windows import Pair, copy_windows

_NBYTES = 512
_BYTES = bytes(i * 7 % 64 for i in range(_NBYTES))  # no NaN in any type
_TYPES = ["uint8", "int16", "float32", "float64", "complex64", "complex128"]


_STORAGE = StorageRef("0", BY_NAME["uint8"], _NBYTES)


@st.composite
def views(draw) -> TensorRef:
    """A strided view of the storage, anywhere in it, elements of any size."""
    dtype = BY_NAME[draw(st.sampled_from(_TYPES))]
    numel = _NBYTES // dtype.itemsize
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    stride = tuple(draw(st.integers(0, 3)) for _ in shape)
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True) if size)
    most = numel - 1 - last
    offset = draw(st.integers(0, min(most, 5)) | st.integers(0, most))  # many of them overlap
    return TensorRef(dtype, shape, stride, _STORAGE, offset)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "bytes"
    path.write_bytes(b"before" + _BYTES + b"behind")
    with open_source(path) as opened:
        yield opened


def _extent(nbytes: int = _NBYTES) -> Extent:
    return Extent("bytes", 6, nbytes, None, "0")


def _wanted(ref: TensorRef) -> torch.Tensor:
    dtype = getattr(torch, ref.dtype.name)
    whole = torch.frombuffer(bytearray(_BYTES), dtype=dtype)
    return whole.as_strided(ref.shape, ref.stride, ref.offset)


_MIXED = [
    TensorRef(BY_NAME["int16"], (3, 3), (3, 1), _STORAGE, 1),
    TensorRef(BY_NAME["complex64"], (2,), (1,), _STORAGE, 1),
]


@example(_MIXED)
@given(st.lists(views(), max_size=6))
def test_every_view_has_its_elements_and_every_byte_counts_once(source, refs) -> None:
    pairs = [Pair(ref, torch.zeros(ref.shape, dtype=torch.complex128)) for ref in refs]
    crc = copy_windows(source, _extent(), pairs)
    assert crc == zlib.crc32(_BYTES)
    for ref, live in pairs:
        assert torch.equal(live, _wanted(ref).to(torch.complex128))


def test_views_side_by_side_are_windows_of_their_own(source, monkeypatch) -> None:
    """However many there are: memory is for one at a time."""
    asked: list[int] = []
    whole = windows.fresh
    monkeypatch.setattr(windows, "fresh", lambda n: asked.append(n) or whole(n))
    size = BY_NAME["float32"].itemsize
    refs = [TensorRef(BY_NAME["float32"], (13,), (1,), _STORAGE, at) for at in range(0, 115, 13)]
    copy_windows(source, _extent(), [Pair(ref, torch.zeros(13)) for ref in refs])
    assert len(asked) == len(refs) + 1
    assert max(asked) < 14 * size + 16


def test_a_source_that_ends_early_is_an_error(source) -> None:
    ref = TensorRef(BY_NAME["uint8"], (_NBYTES,), (1,), _STORAGE, 0)
    with pytest.raises(TruncatedError):
        copy_windows(source, _extent(2 * _NBYTES), [Pair(ref, torch.zeros(_NBYTES))])
