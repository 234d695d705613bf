"""The image of a file, copied first and completed later, is the file that is written at once."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.io.arena import PAGE, Arena
from holdfast.io.sink import GatheringSink
from holdfast.saving import image
from holdfast.saving.image import Image
from holdfast.saving.planned import Planned, plan
from holdfast.tensors.encode import encode


def at_once(planned: Planned) -> bytes:
    file = io.BytesIO()
    sink = GatheringSink(file.write)
    planned.fill(sink)
    sink.end()
    return file.getvalue()


def by_image(planned: Planned, arena: Arena) -> bytes:
    file = io.BytesIO()
    sink = GatheringSink(file.write)
    copied = Image(planned, arena)
    for storage in planned.encoded.storages:
        storage.fill_(9)  # the copy has been made
    copied.fill(sink)
    sink.end()
    assert copied.progress == 1.0
    return file.getvalue()


def both(state: Any, record: bytes | None = None, dirt: int = 0) -> tuple[bytes, bytes]:
    planned = plan(encode(state), "runs/step-1.pt", record)
    whole = at_once(planned)
    arena = Arena(planned.nbytes + PAGE)
    arena.memory[:] = bytes([dirt]) * arena.nbytes  # of the save before
    return by_image(planned, arena), whole


STATES = {
    "nothing": {},
    "plain": {"a": 1, "b": "text"},
    "empty": {"a": torch.zeros(0), "b": torch.ones(3)},
    "views": {"a": (x := torch.randn(40, 5)), "b": x[3:7], "c": x.t()},
    "many": [torch.full((number,), number, dtype=torch.int16) for number in range(300)],
    "dtypes": [torch.randn(7).to(d) for d in (torch.bfloat16, torch.float64, torch.float8_e5m2)],
    "sparse": torch.eye(4).to_sparse(),
    "large": {"a": torch.randn(700_001), "b": torch.randn(3), "c": torch.randn(3_000_001)},
}


@pytest.mark.parametrize("record", [None, b'{"id": "x"}'])
@pytest.mark.parametrize("name", STATES)
def test_it_has_the_same_bytes(name: str, record: bytes | None) -> None:
    state = torch.load(io.BytesIO(torch_bytes(STATES[name])), weights_only=True)
    found, wanted = both(state, record, dirt=0xAA)
    assert found == wanted


def torch_bytes(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@given(sizes=st.lists(st.integers(0, 30_000), max_size=20), cut=st.integers(1, 9))
def test_it_has_the_same_bytes_wherever_segments_end(sizes: list[int], cut: int) -> None:
    before = image.SEGMENT
    image.SEGMENT = cut * PAGE
    try:
        found, wanted = both([torch.full((size,), 5, dtype=torch.uint8) for size in sizes])
    finally:
        image.SEGMENT = before
    assert found == wanted
