"""What is written opens with plain torch, and reads back as the same tree."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CaptureError
from holdfast.formats.torch_zip import members, write
from holdfast.io.sink import GatheringSink
from holdfast.pickles import writer
from holdfast.pickles.reader import read
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import (
    DeviceRef,
    DTypeRef,
    LayoutRef,
    Opaque,
    SizeRef,
    SparseRef,
    StateDict,
    StorageRef,
    TensorRef,
)


def no_storages(m, pid):
    raise AssertionError(pid)


def read_back(data: bytes):
    return read(data, persistent=no_storages).tree


keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none())
plain = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.integers(-300, 70000), st.text()),
        *(st.floats(allow_nan=False), st.binary(), st.complex_numbers(allow_nan=False)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner),
        st.tuples(inner, inner, inner, inner),
        st.dictionaries(keys, inner, max_size=5),
    ),
    max_leaves=20,
)


@given(plain)
def test_plain_trees_read_back_by_us_and_by_python(tree):
    data = writer.write(tree)
    assert read_back(data) == tree
    assert pickle.loads(data) == tree  # what we wrote ourselves


@pytest.mark.parametrize(
    "value",
    [
        2**2100,
        -(2**2100),
        2**31,
        -(2**31),
        255,
        256,
        65535,
        65536,
        bytearray(b"ab"),
        {1, 2},
        set(),
        Counter("aab"),
        [],
        {},
        (),
        "\ud800",
        list(range(5000)),
        {str(n): n for n in range(5000)},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_values(value):
    data = writer.write(value)
    assert pickle.loads(data) == value
    if value != "\ud800":
        assert read_back(data) == value


def test_what_is_met_twice_is_one_object():
    inner = [1]
    made = pickle.loads(writer.write({"a": inner, "b": inner}))
    assert made["a"] is made["b"]
    loop: list = []
    loop.append(loop)
    again = pickle.loads(writer.write(loop))
    assert again[0] is again


def test_more_than_256_things_in_the_memo():
    lists = [[n] for n in range(600)]
    made = pickle.loads(writer.write([lists, lists]))
    assert made[0] is made[1]
    assert made[0][599] == [599]


def archive(tree, storages: list[bytes]) -> io.BytesIO:
    """A torch zip file of a tree."""
    pickled, headers = writer.write(tree), members.headers(alignment=64)
    nbytes = {position: len(data) for position, data in enumerate(storages)}
    plan = write.layout("archive", members.sizes(pickled, nbytes, headers=headers, record=None))
    out = io.BytesIO()
    payloads = [pickled, *headers.values(), *storages, members.VERSION, members.serialization_id]
    sink = GatheringSink(out.write)
    write.fill(plan, payloads, sink)
    sink.end()
    out.seek(0)
    return out


def ref(name: str, shape, key: str = "0", numel: int | None = None, offset: int = 0) -> TensorRef:
    size = 1
    stride: list[int] = []
    for n in reversed(shape):
        stride.insert(0, size)
        size *= n
    storage = StorageRef(key, BY_NAME[name], size if numel is None else numel)
    return TensorRef(BY_NAME[name], tuple(shape), tuple(stride), storage, offset)


@pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
@pytest.mark.parametrize("name", sorted(n for n, d in BY_NAME.items() if not d.is_quantized))
def test_tensors_of_every_type_open_with_weights_only(name):
    x = torch.arange(48, dtype=torch.uint8)
    dtype = getattr(torch, name)
    count = 48 // dtype.itemsize
    out = archive({"x": ref(name, (count,))}, [x.numpy().tobytes()])
    made = torch.load(out, weights_only=True)["x"]
    assert (made.dtype, made.shape, made.requires_grad) == (dtype, (count,), False)
    assert torch.equal(made.view(torch.uint8), x)


def test_shared_storages_and_tensors_stay_shared():
    data = torch.arange(12.0).numpy().tobytes()
    whole = ref("float32", (12,))
    part = TensorRef(whole.dtype, (2, 3), (4, 1), whole.storage, 1)
    made = torch.load(archive([whole, part, whole], [data]), weights_only=True)
    assert made[0] is made[2]
    assert torch.equal(made[1], torch.tensor([[1.0, 2, 3], [5, 6, 7]]))
    assert made[1].untyped_storage().data_ptr() == made[0].untyped_storage().data_ptr()


def test_a_state_dict_is_an_ordered_dict_with_its_metadata():
    tree = StateDict(w=ref("float32", (2,)))
    tree.aside = {"_metadata": StateDict({"": {"version": 1}})}
    made = torch.load(archive(tree, [bytes(8)]), weights_only=True)
    assert type(made) is OrderedDict
    assert made._metadata == OrderedDict({"": {"version": 1}})


def test_torch_s_plain_values():
    tree = [SizeRef((2, 3)), DTypeRef("bfloat16"), DeviceRef("cuda:1"), DeviceRef("cpu")]
    made = torch.load(archive(tree, []), weights_only=True)
    assert made == [torch.Size([2, 3]), torch.bfloat16, torch.device("cuda:1"), torch.device("cpu")]
    assert type(made[0]) is torch.Size


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_tensors():
    indices = ref("int64", (1, 2), "0")
    values = ref("float32", (2,), "1")
    tree = SparseRef("sparse_coo", (5,), {"indices": indices, "values": values}, True)
    data = [torch.tensor([1, 3]).numpy().tobytes(), torch.tensor([2.0, 4.0]).numpy().tobytes()]
    made = torch.load(archive(tree, data), weights_only=True)
    assert made.is_coalesced()
    assert made.to_dense().tolist() == [0, 2, 0, 4, 0]
    csr = SparseRef(
        "sparse_csr",
        (1, 5),
        {"crow_indices": ref("int64", (2,), "0"), "col_indices": ref("int64", (2,), "1"),
         "values": ref("float32", (2,), "2")},
    )  # fmt: skip
    data = [
        torch.tensor([0, 2]).numpy().tobytes(),
        torch.tensor([1, 3]).numpy().tobytes(),
        torch.tensor([2.0, 4.0]).numpy().tobytes(),
    ]
    made = torch.load(archive(csr, data), weights_only=True)
    assert made.to_dense().tolist() == [[0, 2, 0, 4, 0]]


def test_a_meta_tensor():
    meta = TensorRef(BY_NAME["float32"], (2, 3), (3, 1), None)
    made = torch.load(archive(meta, []), weights_only=True)
    assert made.is_meta
    assert made.shape == (2, 3)


@pytest.mark.parametrize("value", [Opaque("a", "B"), frozenset({1}), LayoutRef, object()])
def test_what_has_no_plain_form_is_an_error_that_names_its_type(value):
    with pytest.raises(CaptureError) as caught:
        writer.write([value])
    assert str(caught.value) == (
        "this has no plain form in a file of weights\n"
        f"  found {type(value).__module__}.{type(value).__qualname__}"
    )
