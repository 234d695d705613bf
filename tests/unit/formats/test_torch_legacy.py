"""Legacy files: torch.load is the oracle, value by value."""

from __future__ import annotations

import collections
import io
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile.conftest import Assembler
from tests.unit.formats.old_writers import MACHINE, legacy
from tests.unit.tensors.test_load_like_torch import DTYPES, SUB_BYTE, same

from holdfast.errors import UntrustedError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.pickles.sequence import WINDOW
from holdfast.report.verify import verify_index
from holdfast.spec.index import StorageRef
from holdfast.tensors.load import load_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]
ASM = Assembler()


def saved(obj, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=False, **options)
    buffer.seek(0)
    return buffer


def both(data: bytes | io.BytesIO, trust=(), **options):
    """What we give, and what torch gives."""
    buffer = io.BytesIO(data) if isinstance(data, bytes) else data
    ours = load_file(buffer, trust=trust, **options)
    buffer.seek(0)
    return ours, torch.load(buffer, weights_only=False, **options)


def index_of(data: bytes | io.BytesIO, **options):
    with open_source(io.BytesIO(data) if isinstance(data, bytes) else data) as source:
        return read_index(source, **options)


def test_every_dtype_comes_back():
    tensors, unknown_to_torch = {}, {}
    for dtype in DTYPES:
        bytes_ = torch.arange(16, dtype=torch.uint8) % 2
        if SUB_BYTE.fullmatch(str(dtype)) or str(dtype).startswith(("torch.q", "torch.bits")):
            continue  # no plain tensors: they come below
        # Types newer than the format are in untyped storages, which torch writes and cannot read.
        is_typed = dtype in torch.storage._dtype_to_storage_type_map()
        (tensors if is_typed else unknown_to_torch)[str(dtype)] = bytes_.view(dtype)
    assert len(tensors) >= 12
    ours, theirs = both(saved(tensors))
    assert same(ours, theirs)
    assert len(unknown_to_torch) >= 8
    assert same(load_file(saved(unknown_to_torch)), unknown_to_torch)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_trees_of_every_kind_in_every_protocol(protocol):
    base = torch.arange(12.0)
    tree = {
        "shared": [base, base.reshape(3, 4).t(), base[5:7]],
        "parameter": torch.nn.Parameter(base[1:]),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.rand(4), 0.1, 3, torch.quint8),
        "channels": torch.quantize_per_channel(
            torch.rand(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
        ),
        "conj": torch.tensor([1 + 2j]).conj(),
        "empty": [torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)],
        "scalar": torch.tensor(3.5),
        "storage": torch.arange(3)._typed_storage(),
        "state": torch.nn.BatchNorm1d(2).state_dict(),
        "values": [1, 2.5, None, "é", b"bytes", 3j, {1, 2}, torch.float32, torch.Size([1])],
        "array": np.arange(6).reshape(2, 3),
        "counter": collections.Counter("ab"),
    }
    ours, theirs = both(saved(tree, pickle_protocol=protocol))
    assert same(ours, theirs)
    first, second, third = ours["shared"]
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert third.storage_offset() == 5


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([torch.float32, torch.float64, torch.int16, torch.bool]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    )
)
def test_any_shapes(kinds):
    tensors = [torch.ones(shape).cumsum(0).to(dtype) if shape else torch.ones((), dtype=dtype)
               for dtype, shape in kinds]  # fmt: skip
    ours, theirs = both(saved(tensors))
    assert same(ours, theirs)


def test_untyped_storages_which_torch_writes_and_cannot_read():
    made = torch.arange(3, dtype=torch.int16).untyped_storage()
    assert bytes(load_file(saved([made]))[0].untyped()) == bytes(made)


def test_an_optimizer_that_has_made_steps():
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    ours, theirs = both(saved(optimizer.state_dict()))
    assert same(ours, theirs)


def test_a_whole_model_keeps_the_text_of_its_classes():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    buffer = saved(net)
    node = index_of(buffer).tree
    assert node.symbol == "torch.nn.modules.container.Sequential"
    assert node.source.startswith("class Sequential(Module):")
    first = node.state["_modules"]["0"]
    assert first.source.startswith("class Linear(Module):")
    buffer.seek(0)
    with pytest.raises(UntrustedError, match="Sequential"):
        load_file(buffer)
    buffer.seek(0)
    classes = [torch.nn.Sequential, torch.nn.Linear, torch.nn.ReLU]
    ours, theirs = both(buffer, trust=classes)
    assert type(ours) is torch.nn.Sequential
    assert same(dict(ours.state_dict()), dict(theirs.state_dict()))


def test_text_of_a_class_is_never_compiled():
    text = "raise SystemExit('this text was run')"
    cls = ASM.sym("any.module", "Thing")
    made = ASM.new(ASM.raw(ASM.ops(("module", cls, "thing.py", text)) + b"Q"))
    data = legacy(ASM.pickle(ASM.build(made, {"a": 1})), {})
    node = index_of(data).tree
    assert (node.symbol, node.source, node.state) == ("any.module.Thing", text, {"a": 1})
    assert load_file(io.BytesIO(data), opaque="keep").source == text


def storage(key: str, numel: int, view=None, cls: str = "FloatStorage") -> bytes:
    pid = ("storage", ASM.sym("torch", cls), key, "cpu", numel, view)
    return ASM.raw(ASM.ops(pid) + b"Q")


def floats(*values: float) -> tuple[int, bytes]:
    return len(values), struct.pack(f"<{len(values)}f", *values)


def test_views_of_storages_as_torch_before_0_4_wrote_them():
    view = storage("7", 6, ("8", 2, 3))
    tree = {
        "whole": ASM.util("_rebuild_tensor", storage("7", 6), 0, (6,), (1,)),
        "part": ASM.util("_rebuild_tensor", view, 1, (2,), (1,)),
        "bare": view,
    }
    data = legacy(ASM.pickle(tree), {"7": floats(0, 1, 2, 3, 4, 5)})
    ours, theirs = both(data)
    for name in ("whole", "part"):
        assert ours[name].tolist() == theirs[name].tolist()
    assert ours["part"].tolist() == [3, 4]
    assert bytes(ours["bare"].untyped()) == bytes(theirs["bare"].untyped())
    for loaded in (ours, theirs):  # both share memory
        loaded["whole"][3] = 9
        assert loaded["part"][0] == 9
    index = index_of(data)
    assert index.tree["part"].storage == index.tree["whole"].storage
    assert type(index.tree["bare"]) is StorageRef
    root, part = index.extents["7"], index.extents["8"]
    assert (part.offset - root.offset, part.nbytes) == (8, 12)


def test_empty_storages_of_several_types_have_one_key():
    # torch names storages by address, and those without memory all lie at 0.
    tree = [
        ASM.tensor((0,), storage=storage("0", 0)),
        ASM.tensor((0,), storage=storage("0", 0, cls="LongStorage")),
    ]
    index = index_of(legacy(ASM.pickle(tree), {"0": (0, b"")}))
    assert [node.dtype.name for node in index.tree] == ["float32", "int64"]
    loaded = load_file(io.BytesIO(legacy(ASM.pickle(tree), {"0": (0, b"")})))
    assert [t.dtype for t in loaded] == [torch.float32, torch.int64]


def test_numbers_are_little_endian_whatever_machine_wrote_them():
    """torch/csrc/serialization.cpp swaps on machines that are not; the flag is never read."""
    tree = ASM.pickle(ASM.tensor((2,), storage=storage("1", 2)))
    data = legacy(tree, {"1": floats(1, 2)}, machine={**MACHINE, "little_endian": False})
    ours, theirs = both(data)
    assert ours.tolist() == theirs.tolist() == [1, 2]
    assert index_of(data).byteorder == "little"


def test_variables_and_parameters_of_torch_before_0_4():
    tensor = ASM.util("_rebuild_tensor", storage("1", 2), 0, (2,), (1,))
    state = (True, False, ASM.hooks())
    parameter = ASM.call(ASM.sym("torch.nn.parameter", "Parameter"), tensor)
    variable = ASM.call(ASM.sym("torch.autograd.variable", "Variable"), tensor)
    frozen = ASM.build(parameter, (False, True, ASM.hooks()))
    tree = [ASM.build(parameter, state), ASM.build(variable, state), variable, frozen]
    ours, theirs = both(legacy(ASM.pickle(tree), {"1": floats(1, 2)}))
    assert same(ours, theirs)
    assert [t.requires_grad for t in ours] == [True, True, False, False]


def test_tensor_classes_of_torch_before_0_2():
    cls = ASM.sym("torch", "FloatTensor")
    tree = ASM.build(ASM.call(cls), (storage("1", 4), 1, (3,), (1,)))
    ours, theirs = both(legacy(ASM.pickle(tree), {"1": floats(1, 2, 3, 4)}))
    assert same(ours, theirs)
    assert ours.tolist() == [2, 3, 4]


def test_text_of_python_2_by_each_encoding():
    tree = b"\x80\x02}(U\x04caf\xe9K\x01U\x01w" + ASM.tensor((1,), storage=storage("1", 1)) + b"u."
    data = legacy(tree, {"1": floats(5)})
    for encoding, name in (("latin1", "café"), ("bytes", b"caf\xe9")):
        ours, theirs = both(data, encoding=encoding)
        assert list(ours) == list(theirs) == [name, "w" if encoding == "latin1" else b"w"]


def test_keys_and_names_that_are_bytes():
    said = b"(U\x07storagectorch\nFloatStorage\nU\x011U\x03cpuK\x02NtQ"
    tree = ASM.pickle(ASM.tensor((2,), storage=ASM.raw(said)))
    data = legacy(tree, {"1": floats(1, 2)}).replace(b"X\x01\x00\x00\x001", b"U\x011")
    assert both(data, encoding="bytes")[0].tolist() == [1, 2]


def test_an_object_larger_than_the_first_window_is_read_in_larger_ones():
    tree = {"text": "x" * (WINDOW + 1), "w": torch.arange(4.0)}
    ours, theirs = both(saved(tree))
    assert same(ours, theirs)


def test_trailing_bytes_are_a_note():
    data = saved([torch.ones(2)]).getvalue()
    assert index_of(data).notes == ()
    assert index_of(data + bytes(5)).notes == (
        "5 bytes follow the last storage, which torch does not read",
    )


def test_the_index_says_where_everything_lies():
    buffer = saved({"w": torch.arange(3.0), "x": torch.ones(2, dtype=torch.int64)})
    data = buffer.getvalue()
    index = index_of(buffer)
    assert (index.format, index.file_nbytes) == ("torch_legacy", len(data))
    for name, dtype in (("w", "<f4"), ("x", "<i8")):
        extent = index.extents[index.tree[name].storage.key]
        found = np.frombuffer(data[extent.offset : extent.offset + extent.nbytes], dtype)
        assert found.tolist() == ([0, 1, 2] if name == "w" else [1, 1])
        assert extent.member == f"storage {index.tree[name].storage.key}"
    (pickles,) = index.other
    assert pickles.offset == 0
    assert pickles.nbytes + 2 * 8 + 12 + 16 == len(data)


def test_nothing_tells_whether_the_bytes_are_those_that_were_saved():
    with open_source(saved([torch.ones(2)])) as source:
        report = verify_index(read_index(source), source)
    assert (report.status, report.unknown_members, report.members) == ("unknown", 2, 2)


def test_from_the_middle_of_a_file_object():
    buffer = saved(torch.arange(3))
    whole = io.BytesIO(b"before" + buffer.getvalue())
    whole.seek(6)
    assert load_file(whole).tolist() == [0, 1, 2]


def test_mmap_shares_the_files_bytes(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(torch.arange(4.0), path, _use_new_zipfile_serialization=False)
    assert load_file(path, mmap=True).tolist() == [0, 1, 2, 3]


def test_a_machine_description_of_another_python_is_fine():
    data = legacy(pickle.dumps([1], 2), {}, machine={})
    assert load_file(io.BytesIO(data)) == [1]
