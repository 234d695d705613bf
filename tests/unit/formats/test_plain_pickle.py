"""Plain pickles: pickle.loads is the oracle, tensors included."""

from __future__ import annotations

import collections
import io
import pickle

import numpy as np
import pytest
import torch
from tests.hostile.conftest import Assembler
from tests.unit.formats.old_writers import legacy
from tests.unit.formats.test_torch_legacy import floats
from tests.unit.tensors.test_load_like_torch import same

from holdfast.errors import NotACheckpointError, UntrustedError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.verify import verify_index
from holdfast.tensors.load import load_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]
ASM = Assembler()
LOAD = ("torch.storage", "_load_from_bytes")


def index_of(data: bytes, **options):
    with open_source(io.BytesIO(data)) as source:
        return read_index(source, **options)


def tree():
    base = torch.arange(12.0)
    return {
        "shared": [base, base.reshape(3, 4).t(), base[5:7]],
        "parameter": torch.nn.Parameter(base[1:]),
        "sparse": torch.eye(3).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.rand(4), 0.1, 3, torch.quint8),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "storage": torch.arange(3)._typed_storage(),
        "state": torch.nn.BatchNorm1d(2).state_dict(),
        "values": [1, 2.5, None, "é", b"bytes", 3j, {1, 2}, torch.float32, torch.Size([1])],
        "array": np.arange(6).reshape(2, 3),
        "scalar": np.float32(1),
        "counter": collections.Counter("ab"),
    }


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol):
    data = pickle.dumps(tree(), protocol)
    index = index_of(data)
    assert (index.format, index.byteorder, index.symbols) == ("pickle", "little", ())
    assert same(load_file(io.BytesIO(data)), pickle.loads(data))


@pytest.mark.parametrize("protocol", range(6))
def test_without_any_tensor(protocol):
    value = {"a": [1, (2, None)], "b": np.arange(3), "text": "é" * 300}
    data = pickle.dumps(value, protocol)
    index = index_of(data)
    assert not index.extents
    assert same(load_file(io.BytesIO(data)), value)


def test_types_that_torch_itself_cannot_read_back():
    # They lie in untyped storages, which torch reads from no legacy file.
    value = [torch.tensor([1, 2], dtype=torch.uint16), torch.ones(2).to(torch.float8_e5m2)]
    assert same(load_file(io.BytesIO(pickle.dumps(value))), value)


def test_tensors_that_share_a_storage_object_go_on_sharing_it():
    storage = torch.arange(6.0)._typed_storage()
    data = pickle.dumps([storage, storage])
    first, second = load_file(io.BytesIO(data))
    assert first.data_ptr() == second.data_ptr()


def test_storages_of_several_files_have_keys_of_their_own():
    data = pickle.dumps([torch.zeros(2), torch.ones(3)])
    index = index_of(data)
    assert len(index.extents) == 2
    assert [extent.file for extent in index.extents.values()] == [
        "<BytesIO>, torch file 0",
        "<BytesIO>, torch file 1",
    ]
    members = [extent.member for extent in index.extents.values()]
    assert members[0].startswith("torch file 0, storage ")
    assert members[1].startswith("torch file 1, storage ")


def test_two_files_that_name_their_storages_alike():
    tree = ASM.raw(
        ASM.ops(("storage", ASM.sym("torch", "FloatStorage"), "1", "cpu", 2, None)) + b"Q"
    )
    inner = [legacy(ASM.pickle(tree), {"1": floats(n, n)}) for n in (3, 4)]
    tensors = [ASM.tensor((2,), storage=ASM.call(ASM.sym(*LOAD), data)) for data in inner]
    loaded = load_file(io.BytesIO(ASM.pickle(tensors)))
    assert [tensor.tolist() for tensor in loaded] == [[3, 3], [4, 4]]


def test_a_zip_inside_carries_its_checksums():
    buffer = io.BytesIO()
    torch.save(torch.arange(4.0)._typed_storage(), buffer)
    data = ASM.pickle({"w": ASM.call(ASM.sym(*LOAD), buffer.getvalue())})
    with open_source(io.BytesIO(data)) as source:
        index = read_index(source)
        report = verify_index(index, source)
    assert (report.status, report.unknown_members) == ("unknown", 1)  # the pickle around it
    assert report.checked_nbytes >= 16
    place = data.index(torch.arange(4.0).numpy().tobytes())
    damaged = data[:place] + b"\x01" + data[place + 1 :]
    with open_source(io.BytesIO(damaged)) as source:
        report = verify_index(read_index(source), source)
    assert [damage.tensors for damage in report.damages] == [("w",)]
    assert report.damages[0].member == "torch file 0, archive/data/0"


def test_files_of_another_byte_order():
    inner = ASM.archive(
        ASM.pickle(ASM.storage(numel=1)), {"0": b"\x3f\x80\0\0"}, {"a/byteorder": b"big"}
    )
    tensor = ASM.tensor((1,), storage=ASM.call(ASM.sym(*LOAD), inner))
    assert load_file(io.BytesIO(ASM.pickle(tensor))).tolist() == [1]


def test_python_2_text_holds_bytes():
    buffer = io.BytesIO()
    torch.save(torch.arange(3.0)._typed_storage(), buffer, _use_new_zipfile_serialization=False)
    inner = buffer.getvalue()
    old = ASM.raw(b"T" + len(inner).to_bytes(4, "little") + inner)
    data = ASM.pickle(ASM.tensor((3,), storage=ASM.call(ASM.sym(*LOAD), old)))
    for encoding in ("latin1", "bytes"):
        assert load_file(io.BytesIO(data), encoding=encoding).tolist() == [0, 1, 2]


def test_objects_of_classes_are_kept_and_not_built():
    data = pickle.dumps({"w": torch.ones(2), "net": torch.nn.Linear(2, 2)})
    assert index_of(data).tree["net"].symbol == "torch.nn.modules.linear.Linear"
    with pytest.raises(UntrustedError, match="Linear"):
        load_file(io.BytesIO(data))
    assert same(load_file(io.BytesIO(data), opaque="keep")["w"], torch.ones(2))
    net = load_file(io.BytesIO(data), trust=[torch.nn.Linear])["net"]
    assert same(dict(net.state_dict()), dict(pickle.loads(data)["net"].state_dict()))


def test_what_follows_the_first_pickle_is_a_note():
    second = pickle.dumps({"b": 2})
    index = index_of(pickle.dumps({"a": 1}) + second)
    assert index.tree == {"a": 1}
    assert index.notes == (
        f"{len(second)} bytes follow the pickle, which pickle.load does not read",
    )


def test_symbols_of_files_inside_are_those_of_the_whole():
    inner = ASM.archive(
        ASM.pickle(ASM.raw(ASM.call(ASM.sym("any.module", "Thing")) + b"0" + ASM.storage())),
        {"0": bytes(16)},
    )
    assert index_of(ASM.pickle(ASM.call(ASM.sym(*LOAD), inner))).symbols == ("any.module.Thing",)


def joblib(tail: bytes) -> bytes:
    """How joblib writes an array: a wrapper's pickle, and the bytes in the middle of it."""
    wrapper = ASM.new(ASM.sym("joblib.numpy_pickle", "NumpyArrayWrapper"))
    made = ASM.build(wrapper, {"shape": (64,), "order": "C", "allow_mmap": True})
    return b"\x80\x02}" + ASM.ops("w") + made + tail


def test_files_of_joblib_get_a_letter_of_their_own():
    for tail in (b"\x10" + b"\xff" * 16 + np.arange(64.0).tobytes() + b"s.", b"s."):
        with pytest.raises(NotACheckpointError) as caught:
            index_of(joblib(tail))
        assert str(caught.value) == (
            "this is a joblib file: a pickle with arrays between its parts\n"
            "  in <BytesIO>\n"
            "  If you trust whoever made it: joblib.load(path), then holdfast.save(object, path)."
        )
