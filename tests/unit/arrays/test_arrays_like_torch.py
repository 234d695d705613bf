"""The oracle is torch: a tensor as a NumPy array holds the numbers that torch.load gives."""

from __future__ import annotations

import io
import itertools
import math
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.arrays import dense
from holdfast.arrays.read import Reader
from holdfast.arrays.stream import elements, numbers
from holdfast.errors import DamagedError, RefusedError, UsageError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.leaves import leaves
from holdfast.spec.index import Chunk, ChunkedRef, SparseRef, TensorRef

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]

FLOATS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    torch.float8_e8m0fnu,
)
INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
)
COMPLEX = (torch.complex64, torch.complex128, torch.complex32)


def saved(obj) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


class Opened:
    """A saved object's references, and a reader of them."""

    def __init__(self, obj, *, verify: bool = True) -> None:
        self.source = open_source(io.BytesIO(saved(obj)))
        self.index = read_index(self.source)
        self.reader = Reader(self.index, self.source, verify=verify)
        self.nodes = {leaf.name: leaf.value for leaf in leaves(self.index.tree).found}

    def array(self, name: str = "x") -> np.ndarray:
        return self.reader.array(self.nodes[name])


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor in C order."""
    return tensor.contiguous().view(torch.uint8).numpy().reshape(-1)


def random_of(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    if dtype == torch.bool:
        return torch.rand(shape) > 0.5
    if dtype.is_complex:
        return torch.randn(*shape, dtype=torch.complex64).to(dtype)
    if dtype.is_floating_point:
        return (torch.randn(shape) * 3).to(dtype)
    return torch.randint(0, 100, shape).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS + COMPLEX[:2], ids=str)
def test_every_number_type_has_the_same_bytes(dtype):
    x = random_of(dtype, 5, 7)
    found = Opened({"x": x}).array()
    assert found.shape == (5, 7)
    assert found.dtype.name == str(dtype).removeprefix("torch.")
    assert np.array_equal(found.reshape(-1).view(np.uint8), bits(x))


def test_complex_halves_become_complex64():
    x = random_of(torch.complex32, 4, 3)
    assert np.array_equal(Opened({"x": x}).array(), x.to(torch.complex64).numpy())


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("bit", ["conj", "neg"])
def test_conjugated_and_negated(dtype, bit):
    x = random_of(dtype, 6).conj()
    tensor = x if bit == "conj" or dtype == torch.complex32 else x.imag
    opened = Opened({"x": tensor})
    wide = tensor.to(torch.complex64) if dtype == torch.complex32 else tensor
    assert np.array_equal(opened.array(), wide.resolve_conj().resolve_neg().numpy())
    streamed = np.concatenate(list(elements(opened.nodes["x"], opened.reader)))
    assert np.array_equal(streamed.view(np.uint8), bits(tensor.resolve_conj().resolve_neg()))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t(),
        lambda x: x[::2, 1::3],
        lambda x: x[3],
        lambda x: x[:, 2],
        lambda x: x[2:2],
        lambda x: x[1, 1],
        lambda x: x.reshape(4, 3, 5, 2).permute(3, 1, 0, 2),
        lambda x: x.flip(0),
        lambda x: x[:1].expand(9, 10),
        lambda x: x[0, 0].expand(3, 4),
        lambda x: x.as_strided((5, 6), (1, 1)),
        lambda x: x.unsqueeze(0).unsqueeze(-1),
        lambda x: torch.empty(3, 0, 2),
        lambda x: torch.tensor(3.5),
    ],
)
def test_every_view_has_its_own_numbers(view):
    x = view(torch.randn(12, 10))
    opened = Opened({"x": x})
    assert np.array_equal(opened.array(), x.numpy())
    streamed = list(elements(opened.nodes["x"], opened.reader))
    flat = np.concatenate(streamed) if streamed else np.empty(0, np.float32)
    assert np.array_equal(flat, x.numpy().reshape(-1))


@settings(max_examples=200)
@given(st.data())
def test_any_strides_whole_and_in_pieces(data):
    shape = data.draw(st.lists(st.integers(1, 5), max_size=4))
    stride = data.draw(st.lists(st.integers(0, 40), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(0, 5))
    nbytes = data.draw(st.integers(1, 200))
    base = torch.arange(700, dtype=torch.int32)
    x = base.as_strided(shape, stride, offset)
    opened = Opened({"x": x})
    node = opened.nodes["x"]
    assert np.array_equal(opened.array(), x.numpy())
    streamed = np.concatenate(list(dense.pieces(node, opened.reader.storages, nbytes=nbytes)))
    assert np.array_equal(streamed, x.numpy().reshape(-1))


def test_rows_that_lie_far_apart_are_read_one_by_one():
    """A corner of a large storage needs no memory for what lies between its rows."""
    base = torch.arange(4_000_000, dtype=torch.float32).reshape(1000, 4000)
    x = base[::10, :7]
    opened = Opened({"x": x}, verify=False)
    before = opened.source.read_into
    read = []

    def counted(offset, view):
        read.append(view.nbytes)
        before(offset, view)

    opened.source.read_into = counted
    assert np.array_equal(opened.array(), x.numpy())
    assert sum(read) < 100_000


def test_an_expanded_tensor_takes_no_memory_and_cannot_be_written():
    x = torch.randn(3, 1).expand(3, 1 << 40)
    found = Opened({"x": x}).array()
    assert found.shape == (3, 1 << 40)
    assert found[2, 12345] == x[2, 0].item()
    assert not found.flags.writeable


@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8, torch.qint32], ids=str)
def test_quantized_tensors_are_the_numbers_they_stand_for(dtype):
    x = torch.randn(4, 6)
    per_channel = torch.quantize_per_channel(
        x, torch.rand(4) / 10 + 0.01, torch.arange(4), 0, dtype
    )
    tensors = {"a": torch.quantize_per_tensor(x, 0.05, 7, dtype).t(), "b": per_channel}
    opened = Opened(tensors)
    for name, tensor in tensors.items():
        assert np.allclose(opened.array(name), tensor.dequantize().numpy(), rtol=1e-6, atol=0)
        assert opened.array(name).dtype == np.float32


def test_quantized_with_float_zero_points_and_packed():
    x = torch.rand(4, 8)
    scales, zeros = torch.rand(4) / 10 + 0.01, torch.rand(4)
    wide = torch.quantize_per_channel(x, scales, zeros, 0, torch.quint8)
    packed = torch.quantize_per_channel(x, scales, zeros, 0, torch.quint4x2)
    opened = Opened({"wide": wide, "packed": packed})
    assert np.allclose(opened.array("wide"), wide.dequantize().numpy(), atol=1e-6)
    assert np.allclose(opened.array("packed"), packed.dequantize().numpy(), atol=1e-6)


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc", "batched", "hybrid"])
def test_sparse_tensors_are_dense(layout):
    x = (torch.randn(6, 8) * (torch.rand(6, 8) > 0.6)).round(decimals=2)
    made = {
        "coo": lambda: x.to_sparse(),
        "csr": lambda: x.to_sparse_csr(),
        "csc": lambda: x.to_sparse_csc(),
        "bsr": lambda: x.to_sparse_bsr((2, 4)),
        "bsc": lambda: x.to_sparse_bsc((3, 2)),
        "batched": lambda: torch.eye(4).expand(3, 4, 4).clone().to_sparse_csr(),
        "hybrid": lambda: x.reshape(6, 4, 2).to_sparse(1),
    }[layout]()
    assert np.array_equal(Opened({"x": made}).array(), made.to_dense().numpy())


def test_what_is_stored_twice_in_a_sparse_tensor_is_added_up():
    x = torch.sparse_coo_tensor([[1, 1, 0]], [1.0, 2.0, 5.0], (3,))
    assert Opened({"x": x}).array().tolist() == [5.0, 3.0, 0.0]


def test_a_sparse_index_outside_the_shape_is_refused():
    x = torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (3,), check_invariants=False)
    opened = Opened({"x": x})
    node = opened.nodes["x"]
    small = SparseRef(node.layout, (2,), node.components, node.is_coalesced)
    with pytest.raises(RefusedError) as caught:
        opened.reader.array(small)
    assert caught.value.what == (
        "refused: the indices of a sparse tensor lie inside its shape and fit its values"
    )


def test_a_huge_sparse_tensor_is_not_made_dense():
    x = torch.sparse_coo_tensor([[0], [0]], [1.0], (1 << 20, 1 << 20))
    with pytest.raises(UsageError, match="too large as a dense array"):
        Opened({"x": x}).array()


def test_a_meta_tensor_has_no_values():
    with pytest.raises(UsageError) as caught:
        Opened({"x": torch.empty(3, device="meta")}).array()
    assert str(caught.value).splitlines()[0] == (
        "a tensor of the meta device has a shape and no values"
    )


def test_numpy_arrays_and_scalars_in_the_pickle():
    opened = Opened(
        {"x": np.arange(6.0).reshape(2, 3), "y": np.float32(1.5), "z": np.array(["ab"])}
    )
    assert np.array_equal(opened.array("x"), np.arange(6.0).reshape(2, 3))
    assert opened.array("y") == np.float32(1.5)
    assert opened.array("z").tolist() == ["ab"]


def flipped(obj, name: str = "x") -> tuple[bytes, TensorRef]:
    data = bytearray(saved(obj))
    with open_source(io.BytesIO(bytes(data))) as source:
        index = read_index(source)
    node = next(leaf.value for leaf in leaves(index.tree).found if leaf.name == name)
    extent = index.extents[node.storage.key]
    data[extent.offset + extent.nbytes // 2] ^= 4
    return bytes(data), node


@pytest.mark.parametrize("part", [slice(None), slice(0, 2)])
@pytest.mark.parametrize("how", ["array", "stream"])
def test_a_flipped_bit_is_found_before_the_numbers_are_used(part, how):
    """Of a part of a storage, too: the flipped bit need not be in it."""
    data, node = flipped({"x": torch.randn(1000)[part]})
    with open_source(io.BytesIO(data)) as source:
        reader = Reader(read_index(source), source)
        with pytest.raises(DamagedError) as caught:
            reader.array(node) if how == "array" else list(elements(node, reader))
        assert caught.value.tensor == "x"
        unchecked = Reader(read_index(source), source, verify=False)
        assert unchecked.array(node).shape == node.shape


def cut(ref: TensorRef, boxes) -> ChunkedRef:
    """A tensor as if it had been saved in boxes."""
    chunks = []
    for starts, stops in boxes:
        shape = tuple(b - a for a, b in zip(starts, stops, strict=True))
        offset = ref.offset + sum(a * s for a, s in zip(starts, ref.stride, strict=True))
        chunks.append(
            Chunk(tuple(starts), TensorRef(ref.dtype, shape, ref.stride, ref.storage, offset))
        )
    return ChunkedRef(ref.dtype, ref.shape, tuple(chunks))


def test_pieces_of_a_tensor_are_put_together():
    x = torch.randn(7, 9)
    opened = Opened({"x": x})
    boxes = [((0, 0), (4, 5)), ((0, 5), (4, 9)), ((4, 0), (7, 2)), ((4, 2), (7, 9))]
    whole = cut(opened.nodes["x"], boxes)
    assert np.array_equal(opened.reader.array(whole), x.numpy())
    streamed = np.concatenate(list(elements(whole, opened.reader)))
    assert np.array_equal(streamed, x.numpy().reshape(-1))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data(), st.integers(1, 300))
def test_any_grid_of_pieces_streams_in_order(shape, data, nbytes):
    x = torch.arange(math.prod(shape), dtype=torch.int16).reshape(shape)
    opened = Opened({"x": x})
    axes = []
    for size in shape:
        cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=2))})
        axes.append(list(itertools.pairwise(cuts)))
    boxes = [((), ())]
    for spans in axes:
        boxes = [((*a, lo), (*b, hi)) for a, b in boxes for lo, hi in spans]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.arrays.stream.PIECE", nbytes)
        streamed = list(elements(cut(opened.nodes["x"], boxes), opened.reader))
    assert np.array_equal(np.concatenate(streamed), x.numpy().reshape(-1))
    assert all(block.nbytes <= max(nbytes, x.itemsize) for block in streamed), "however long a row"


def test_a_tensor_without_axes_in_one_piece():
    opened = Opened({"x": torch.tensor(3.0)})
    (block,) = elements(cut(opened.nodes["x"], [((), ())]), opened.reader)
    assert block.tolist() == [3.0]


def test_numbers_of_a_quantized_tensor_are_dequantized():
    x = torch.quantize_per_tensor(torch.randn(30), 0.1, 3, torch.quint8)
    opened = Opened({"x": x})
    node = opened.nodes["x"]
    assert np.array_equal(np.concatenate(list(elements(node, opened.reader))), x.int_repr().numpy())
    streamed = np.concatenate(list(numbers(node, opened.reader)))
    assert np.allclose(streamed, x.dequantize().numpy(), rtol=1e-6)


def big_endian(obj) -> bytes:
    """A file as a big-endian machine writes it: elements swapped, and it says so."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(obj))) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif name.endswith("/data/0"):
                data = np.frombuffer(data, "<f4").byteswap().tobytes()
            elif name.endswith("/data/1"):
                data = np.frombuffer(data, "<i8").byteswap().tobytes()
            new.writestr(name, data)
    return out.getvalue()


def test_the_bytes_of_big_endian_files_are_swapped_by_component():
    x = torch.randn(3, dtype=torch.complex64)
    y = torch.arange(5)
    with open_source(io.BytesIO(big_endian({"x": x, "y": y}))) as source:
        index = read_index(source)
        reader = Reader(index, source)
        assert np.array_equal(reader.array(index.tree["x"]), x.numpy())
        assert np.array_equal(reader.array(index.tree["y"]), y.numpy())
