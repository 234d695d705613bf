"""Tensors are printed letter for letter as torch prints them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.report.tensor_text import (
    Look,
    dense_text,
    edges,
    is_summarized,
    meta_text,
    sparse_text,
)
from holdfast.spec.dtypes import BY_NAME

FLOATS = ["float64", "float32", "float16", "bfloat16"]
SMALL = [name for name in BY_NAME if name.startswith("float8")]
INTEGERS = ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"]


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    name = str(tensor.dtype).removeprefix("torch.")
    if name in ("bfloat16", *SMALL):
        raw = tensor.contiguous().view(torch.uint8 if name in SMALL else torch.int16).numpy()
        return raw.view(getattr(ml_dtypes, name))
    if name == "complex32":
        return tensor.to(torch.complex64).numpy()
    return tensor.resolve_conj().numpy()


def text_of(tensor: torch.Tensor) -> str:
    array = numpy_of(tensor.detach())
    look = Look(
        str(tensor.dtype).removeprefix("torch."),
        tuple(tensor.shape),
        isinstance(tensor, torch.nn.Parameter),
        tensor.requires_grad,
    )
    return dense_text(edges(array) if is_summarized(array.shape) else array, look)


shapes = st.lists(st.integers(0, 5), max_size=4) | st.sampled_from(
    [[1001], [40, 40], [3, 400], [400, 3], [7, 11, 20], [2000, 1], [6, 6, 40], [7, 143], [1000]]
)


@st.composite
def numbers(draw, shape):
    """Elements of all kinds: many of one size, far apart, tiny, not finite, whole."""
    count = int(np.prod(shape))
    few = draw(st.lists(st.floats(allow_nan=True), min_size=1, max_size=8))
    kind = draw(st.sampled_from(["plain", "wide", "whole", "any", "small"]))
    made = np.random.default_rng(draw(st.integers(0, 99))).normal(size=count)
    made = {
        "plain": made,
        "wide": made * 10.0 ** np.arange(-count, 0).clip(-12),
        "whole": np.round(made * draw(st.sampled_from([3, 1000, 1e9]))),
        "small": made * 1e-6,
        "any": np.resize(np.array(few), count),
    }[kind]
    return made.reshape(shape)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_floats(drawn) -> None:
    values = drawn.draw(numbers(drawn.draw(shapes)))
    tensor = torch.tensor(values).to(getattr(torch, drawn.draw(st.sampled_from(FLOATS))))
    assert text_of(tensor) == repr(tensor)


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", SMALL)
def test_floats_of_eight_bits(name, drawn) -> None:
    data = drawn.draw(st.binary(min_size=1, max_size=40))
    tensor = torch.tensor(list(data), dtype=torch.uint8).view(getattr(torch, name))
    assert text_of(tensor) == repr(tensor)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_integers(drawn) -> None:
    name, shape = drawn.draw(st.sampled_from(INTEGERS)), drawn.draw(shapes)
    info = np.iinfo(name)
    few = drawn.draw(st.lists(st.integers(int(info.min), int(info.max)), min_size=1, max_size=9))
    tensor = torch.from_numpy(np.resize(np.array(few, name), shape))
    assert text_of(tensor) == repr(tensor)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_complex_numbers(drawn) -> None:
    shape = drawn.draw(shapes)
    real, imaginary = drawn.draw(numbers(shape)), drawn.draw(numbers(shape))
    dtype = drawn.draw(st.sampled_from([torch.complex64, torch.complex128, torch.complex32]))
    tensor = torch.complex(torch.tensor(real), torch.tensor(imaginary)).to(dtype)
    assert text_of(tensor) == repr(tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([True, False]),
        torch.tensor(True),
        torch.tensor(1.0),
        torch.tensor(-0.0),
        torch.tensor(float("nan")),
        torch.tensor([float("inf"), -1.5]),
        torch.zeros(3),
        torch.zeros(0),
        torch.zeros(0, 3, dtype=torch.int64),
        torch.zeros(2, 3, requires_grad=True),
        torch.nn.Parameter(torch.ones(2)),
        torch.arange(5000.0).reshape(5, 10, 100),
        torch.tensor([1e-5, 1.0]),
        torch.tensor([1e9, 1.0]),
        torch.tensor([1.0, 1000.0, 1000000.0]),
        torch.ones(40, dtype=torch.float64, requires_grad=True),
        torch.tensor([5e-324, 1e300], dtype=torch.float64),
    ],
    ids=str,
)
def test_one_by_one(tensor) -> None:
    assert text_of(tensor) == repr(tensor)


def test_a_tensor_without_elements() -> None:
    for dtype in (torch.float32, torch.int64):
        tensor = torch.empty(2, 3, device="meta", dtype=dtype)
        look = Look(str(dtype).removeprefix("torch."), (2, 3))
        assert meta_text(look) == repr(tensor)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [3, 0, 60])
def test_sparse_tensors(layout, dtype, size) -> None:
    dense = (torch.arange(size * size).reshape(size, size) % 3).to(dtype)
    tensor = dense.to_sparse(layout=getattr(torch, layout))
    if layout == "sparse_coo":
        parts = {"indices": tensor._indices(), "values": tensor._values()}
    else:
        first, second = ("crow", "col") if layout == "sparse_csr" else ("ccol", "row")
        parts = {
            f"{first}_indices": getattr(tensor, f"{first}_indices")(),
            f"{second}_indices": getattr(tensor, f"{second}_indices")(),
            "values": tensor.values(),
        }
    look = Look(str(dtype).removeprefix("torch."), tuple(tensor.shape))
    arrays = {name: part.numpy() for name, part in parts.items()}
    assert sparse_text(arrays, layout, look) == repr(tensor)
