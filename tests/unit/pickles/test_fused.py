"""The step that reads a whole tensor does exactly what the opcodes do one by one."""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import FormatError
from holdfast.pickles import fused, opcodes, reader
from holdfast.pickles.numbers import Numbers
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import StorageRef


def pickle_of(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


BASE = torch.arange(300.0)
EVERY = {
    "number": torch.tensor(1.5),
    "view": BASE[5:9],
    "again": BASE[5:9],
    "transposed": BASE.reshape(3, 100).t(),
    "wide": torch.zeros(70_000),
    "cube": torch.zeros(2, 3, 4),
    "six": torch.zeros(1, 2, 1, 2, 1, 2),
    "empty": torch.zeros(0, 3),
    "empty and far": torch.empty_strided((0, 3), (1, 1 << 22)),
    "ints": torch.arange(3),
    "grad": torch.zeros(2, requires_grad=True),
    "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(300, 2)}},
    "many": [torch.zeros(n % 3, 2) for n in range(60)],
}


def one_by_one() -> tuple:
    slow = {ord("h"): opcodes.binget, ord("j"): opcodes.long_binget}
    return tuple(slow.get(code, handler) for code, handler in enumerate(reader._HANDLERS))


def outcome(data: bytes):
    """A tree in a form that can be compared, or the error's letter without its position."""

    def persistent(m, pid):
        if type(pid) is not tuple or len(pid) not in (5, 6) or type(pid[4]) is not int:
            raise m.refused("a persistent id names a storage", found=m.shown(pid))
        return StorageRef(str(pid[2]), BY_NAME["float32"], 1 << 20, str(pid[3]))

    try:
        found = reader.read(data, persistent=persistent)
    except FormatError as error:
        return type(error), re.sub(r"at byte [\d,]+ of", "", str(error))
    return repr(found)


def both(data: bytes, monkeypatch) -> tuple:
    fast = outcome(data)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_HANDLERS", one_by_one())
        return fast, outcome(data)


def test_the_step_is_taken_for_nearly_every_tensor(monkeypatch) -> None:
    taken = []
    whole = fused._tensor
    monkeypatch.setattr(fused, "_tensor", lambda m, at: taken.append(at) or whole(m, at))
    outcome(pickle_of(EVERY))
    assert len(taken) > 60


def test_same_tree_either_way(monkeypatch) -> None:
    fast, slow = both(pickle_of(EVERY), monkeypatch)
    assert fast == slow
    assert fast.count("TensorRef(") == 73


def test_what_is_put_into_the_memo_either_way(monkeypatch) -> None:
    data = pickle_of([torch.zeros(n % 3, 2) for n in range(60)])
    puts = [op.name for op, _, _ in pickletools.genops(data) if op.name.endswith("BINPUT")]
    assert set(puts) == {"BINPUT", "LONG_BINPUT"}
    gets = b"".join(b"j" + struct.pack("<I", place) for place in range(len(puts)))
    fast, slow = both(data.removesuffix(b".") + b"0(" + gets + b"t.", monkeypatch)
    assert fast == slow
    assert fast.count("StateDict()") >= 60


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_same_end_of_broken_pickles_either_way(drawn) -> None:
    data = bytearray(DATA)
    for _ in range(drawn.draw(st.integers(1, 3))):
        data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
    with pytest.MonkeyPatch.context() as monkeypatch:
        fast, slow = both(bytes(data), monkeypatch)
    assert fast == slow


DATA = pickle_of([torch.zeros(2, 3), BASE[3:7], torch.zeros(2, 3), torch.zeros(1, 1, 1, 5)])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (None, ()),
        (b"K\x05", 5),
        (b"M\x00\x01", 256),
        (b"J\xff\xff\xff\xff", -1),
        (b"h\xff", 255),
        (b"j\xff\xff\xff\xff", 2**32 - 1),
        (b"K\x05\x85", (5,)),
        (b"K\x05M\x00\x01\x86", (5, 256)),
        (b"(K\x01K\x02K\x03K\x04t", (1, 2, 3, 4)),
        (b"K\x05\x86", None),
        (b"K\x05K\x06\x85", None),
        (b"K\x01K\x02K\x03\x86", None),
    ],
)
def test_numbers(written, value) -> None:
    numbers = Numbers()
    assert numbers[written] == value
    assert numbers[written] == value
