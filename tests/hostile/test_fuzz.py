"""Any bytes at all: a value or a letter, never another exception, never all memory."""

from __future__ import annotations

import collections
import io
import resource
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile.conftest import Assembler

from holdfast.errors import HoldfastError
from holdfast.io.source import open_source
from holdfast.pickles.reader import _OPCODES
from holdfast.report.paths import tensors_by_storage
from holdfast.report.verify import verify_index

ASM = Assembler()
BOUNDED = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def _bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600_000, f"{grown:,} KiB more than before"


def zoo() -> bytes:
    base = torch.arange(12.0)
    attributed = torch.ones(2)
    attributed.note = "n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = {
            "weight": base.reshape(3, 4).t(),
            "parameter": torch.nn.Parameter(base[1:]),
            "v3": torch.ones(3, dtype=torch.uint16),
            "sparse": torch.eye(3).to_sparse(),
            "csr": torch.eye(3).to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(torch.rand(4), 0.1, 3, torch.quint8),
            "channels": torch.quantize_per_channel(
                torch.rand(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
            ),
            "meta": torch.empty(3, device="meta"),
            "conj": torch.tensor([1 + 2j]).conj(),
            "attributes": attributed,
            "net": torch.nn.Linear(2, 2),
            "state": torch.nn.BatchNorm1d(2).state_dict(),
            "array": np.arange(6).reshape(2, 3),
            "scalar": np.float32(1),
            "values": [1, 2.5, None, "text", b"bytes", 3j, {1, 2}, torch.float32, torch.Size([1])],
            "counter": collections.Counter("ab"),
            "device": torch.device("cpu"),
        }
        buffer = io.BytesIO()
        torch.save(tree, buffer)
    return buffer.getvalue()


WHOLE = zoo()
with zipfile.ZipFile(io.BytesIO(WHOLE)) as _archive:
    PICKLE = _archive.read("archive/data.pkl")
    STORAGES = {
        name.rpartition("/")[2]: _archive.read(name)
        for name in _archive.namelist()
        if "/data/" in name
    }


def survive(data: bytes) -> None:
    """Look, verify and load; only letters may be raised."""
    for options in ({"opaque": "keep"}, {"trust": [torch.nn.Linear]}, {"map_location": "meta"}):
        letter = ""
        try:
            with open_source(io.BytesIO(data)) as source:
                index = ASM.look(data)
                tensors_by_storage(index.tree)
                verify_index(index, source)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ASM.load(data, **options)
        except HoldfastError as error:
            letter = str(error)
        assert len(letter) < 20_000


@st.composite
def mutated(draw, original: bytes) -> bytes:
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["flip", "byte", "cut", "insert", "repeat", "drop"]))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, *b"().0RbQhjt}]esu"]))
        elif kind == "cut":
            del data[at:]
            data += b"."
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "repeat":
            stop = at + draw(st.integers(1, 40))
            data[at:at] = data[at:stop]
        else:
            del data[at : at + draw(st.integers(1, 40))]
        if not data:
            data += b"."
    return bytes(data)


def test_the_original_loads():
    kept = ASM.load(WHOLE, opaque="keep")
    assert kept["weight"].shape == (4, 3)
    assert ASM.look(ASM.archive(PICKLE, STORAGES)).tree.keys() == kept.keys()


@BOUNDED
@given(mutated(WHOLE))
def test_changed_files(data):
    survive(data)


@BOUNDED
@given(mutated(PICKLE))
def test_changed_pickles_with_a_right_checksum(pickle):
    survive(ASM.archive(pickle, STORAGES))


SYMBOLS = [
    ASM.sym(module, name)
    for module, name in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch._tensor", "_rebuild_from_type_v2"),
        ("collections", "OrderedDict"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch", "Size"),
        ("torch", "Tensor"),
        ("torch", "float32"),
        ("builtins", "getattr"),
        ("any.module", "Thing"),
    )
]
PIECES = st.one_of(
    st.sampled_from(SYMBOLS),
    st.sampled_from([opcode for opcode in _OPCODES if opcode not in b"\x82\x83\x84\x97\x98ci"]),
    st.one_of(st.integers(-3, 300), st.text(max_size=5), st.binary(max_size=5)).map(ASM.ops),
    st.sampled_from([b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"K\x01", b"N", b")", b"]", b"}"]),
    st.just(ASM.storage()),
    st.just(ASM.tensor()),
)


@BOUNDED
@given(st.lists(PIECES, max_size=25))
def test_any_opcodes_in_any_order(pieces):
    body = b"".join(pieces)
    survive(ASM.archive(b"\x80\x02" + body + b".", {"0": bytes(16)}))
    # Whatever is left over is put into one list, so that more of it gets to the end.
    survive(ASM.archive(b"\x80\x02](" + body + b"e.", {"0": bytes(16)}))
