"""Whether two states are the same: every type and bit counts."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.state.equal import differences, same

floats = st.floats(width=32)
tensors = st.lists(floats, max_size=5).map(torch.tensor)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | tensors
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that they will go; files with them stay
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


@given(tree=trees)
def test_a_copy_is_the_same(tree):
    assert same(tree, copy.deepcopy(tree))


@given(values=st.lists(floats, min_size=1, max_size=6), data=st.data())
def test_one_bit_is_a_difference(values, data):
    before = torch.tensor(values, dtype=torch.float32)
    after = before.clone()
    place = data.draw(st.integers(0, len(values) - 1))
    after.view(torch.int32)[place] ^= 1 << data.draw(st.integers(0, 30))
    assert not same({"a": [before]}, {"a": [after]})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ([1, 2], [1]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2), torch.zeros(2, device="meta")),
        (torch.zeros(2), torch.zeros(2).to_sparse()),
        (torch.tensor(0.0), torch.tensor(-0.0)),
        ({1, 2}, {1}),
        (torch.float32, torch.float64),
        (b"a", bytearray(b"a")),
    ],
    ids=repr,
)
def test_these_differ(a, b):
    assert not same(a, b)
    assert not same(b, a)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        torch.tensor([math.nan]),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.arange(6).reshape(2, 3).t(),
        torch.eye(3).to_sparse(),
        torch.zeros(0, 3),
        quantized(),
        {1, 2},
        torch.bfloat16,
    ],
    ids=repr,
)
def test_these_equal_their_copies(value):
    assert same(value, copy.deepcopy(value))


def test_differences_are_named_in_words():
    before = {"scheduler": {"last_epoch": 1}, "extra": {"n": 1}, "rng": {}, "scaler": 1, "ema": 2}
    after = {"scheduler": {"last_epoch": 2}, "extra": {"n": 2}, "rng": {"a": 1}, "scaler": 1}
    assert differences(before, after) == [
        "'scheduler'",
        "run.extra",
        "the random generators (rng)",
        "'ema'",
    ]
    assert differences(before, copy.deepcopy(before)) == []


def test_generator_states_are_compared_to_the_last_word():
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    generator.random(dtype=np.float32)
    assert not same(before, generator.bit_generator.state)
