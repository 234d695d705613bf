"""Any tensor of a checkpoint as the text that torch prints, and its elements as JSON."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from holdfast.arrays.read import Array, Reader
from holdfast.report.tensor_text import (
    EDGE,
    Look,
    dense_text,
    edges,
    is_summarized,
    meta_text,
    sparse_text,
)
from holdfast.spec.index import ChunkedRef, SparseRef, TensorRef

#: Elements above which a tensor's numbers are left out of JSON.
JSON_NUMEL = 10_000

_Span = tuple[int, int, int]


def text_of(node: Any, reader: Reader) -> str:
    """What ``print`` says of a tensor; of a large one only what it shows is put into memory.

    NumPy arrays are printed as NumPy does.

    Raises:
        DamagedError: its bytes are not those that were saved.
    """
    if isinstance(node, SparseRef):
        parts = {name: reader.array(part) for name, part in node.components.items()}
        return sparse_text(parts, node.layout, _look(node))
    if isinstance(node, TensorRef) and node.storage is None and node.numel:
        return meta_text(_look(node))
    if isinstance(node, TensorRef | ChunkedRef):
        return dense_text(_shown(node, reader), _look(node, _quantizer_words(node, reader)))
    return repr(reader.array(node))


def numbers_of(node: Any, reader: Reader) -> Any:
    """The elements as nested lists; None for more than ``JSON_NUMEL``, and where there are none.

    Numbers that are not finite are the strings NaN, Infinity, -Infinity; complex ones are pairs.
    """
    if math.prod(node.shape) > JSON_NUMEL:
        return None
    if isinstance(node, TensorRef) and node.storage is None and node.numel:
        return None
    array = reader.array(node)
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], -1)
    if array.dtype.kind not in "biufUS":
        array = array.astype(np.float64)  # the types of ml_dtypes
    return _json(array.tolist())


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value.decode("latin1") if isinstance(value, bytes) else value


def _look(node: Any, more: tuple[str, ...] = ()) -> Look:
    is_parameter = not isinstance(node, ChunkedRef) and node.is_parameter
    first = (f"size={tuple(node.shape)}",) if more else ()
    return Look(node.dtype.name, tuple(node.shape), is_parameter, node.requires_grad, first, more)


def _quantizer_words(node: Any, reader: Reader) -> tuple[str, ...]:
    quantizer = None if isinstance(node, ChunkedRef) else node.quantizer
    if quantizer is None:
        return ()
    pair = (("scale", quantizer.scale), ("zero_point", quantizer.zero_point))
    words = [f"quantization_scheme=torch.{quantizer.scheme}"]
    for name, value in pair:
        shown = text_of(value, reader) if isinstance(value, TensorRef) else repr(value)
        words.append(f"{name}={shown}")
    return (*words, *([] if quantizer.axis is None else [f"axis={quantizer.axis}"]))


def _shown(node: TensorRef | ChunkedRef, reader: Reader) -> Array:
    """All elements of a small tensor, of a large one those at the edges."""
    if not is_summarized(node.shape):
        return reader.array(node)
    if isinstance(node, ChunkedRef) or node.quantizer is not None or node.dtype.bits < 8:
        return edges(reader.array(node))
    spans = [_spans(size) for size in node.shape]
    made: Array | None = None
    for corner in itertools.product(*spans):
        box = replace(
            node,
            shape=tuple(stop - start for start, stop, _ in corner),
            offset=node.offset
            + sum(start * step for (start, _, _), step in zip(corner, node.stride, strict=True)),
        )
        piece = reader.array(box)
        if made is None:
            made = np.empty([min(size, 2 * EDGE) for size in node.shape], piece.dtype)
        made[tuple(slice(at, at + stop - start) for start, stop, at in corner)] = piece
    assert made is not None
    return made


def _spans(size: int) -> list[_Span]:
    """The runs of one axis that are shown: start, stop, and where they go."""
    if size <= 2 * EDGE:
        return [(0, size, 0)]
    return [(0, EDGE, 0), (size - EDGE, size, EDGE)]
