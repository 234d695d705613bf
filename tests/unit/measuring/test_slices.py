"""Slices as pictures; torch's own indexing is the oracle."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.arrays.read import Reader
from holdfast.errors import UsageError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.measuring import slices
from holdfast.spec.index import Chunk, ChunkedRef, TensorRef


def opened(tensor: torch.Tensor) -> tuple[Any, Reader]:
    buffer = io.BytesIO()
    torch.save({"x": tensor}, buffer)
    source = open_source(io.BytesIO(buffer.getvalue()))
    index = read_index(source)
    return index.tree["x"], Reader(index, source)


def in_pieces(ref: TensorRef, cuts: list[list[int]]) -> ChunkedRef:
    """The tensor as if it had been saved in a grid of pieces."""
    chunks = []
    for box in itertools.product(*(list(itertools.pairwise(each)) for each in cuts)):
        shape = tuple(stop - start for start, stop in box)
        offset = ref.offset + sum(a * s for (a, _), s in zip(box, ref.stride, strict=True))
        piece = TensorRef(ref.dtype, shape, ref.stride, ref.storage, offset)
        chunks.append(Chunk(tuple(start for start, _ in box), piece))
    return ChunkedRef(ref.dtype, ref.shape, tuple(chunks))


@given(st.lists(st.integers(1, 9), max_size=4), st.integers(1, 5), st.booleans(), st.data())
@settings(max_examples=80)
def test_a_slice_is_every_so_many_rows_and_columns(
    shape: list[int], side: int, is_whole: bool, data: Any
) -> None:
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    if len(shape) > 1 and data.draw(st.booleans()):
        tensor = tensor.transpose(-1, -2)
    node, reader = opened(tensor)
    sizes = list(tensor.shape)
    if not is_whole:
        inner = [data.draw(st.lists(st.integers(0, size), max_size=2)) for size in sizes]
        cuts = [sorted({0, size, *each}) for size, each in zip(sizes, inner, strict=True)]
        node = in_pieces(node, cuts)
    index = [data.draw(st.integers(0, size - 1)) for size in sizes[:-2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SIDE", side)
        made = slices.slice_of(node, reader, index)
    plane = tensor[tuple(index)].reshape(*([1] * (2 - min(2, len(sizes)))), *sizes[-2:])
    assert [list(row) for row in made.values] == plane[:: made.steps[0], :: made.steps[1]].tolist()
    assert len(made.values) <= side
    assert len(made.values[0]) <= side


@pytest.mark.parametrize("index", [[2], [-1], [0, 0]])
def test_there_is_no_such_slice(index: list[int]) -> None:
    node, reader = opened(torch.zeros(2, 3, 4))
    with pytest.raises(UsageError, match="the tensor has no such slice"):
        slices.slice_of(node, reader, index)
