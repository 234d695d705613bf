"""Sums in one pass, beside NumPy's over all numbers at once."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdfast.measuring.moments import BINS, Histogram, Moments

NUMBERS = hnp.arrays(
    np.float64,
    st.integers(1, 60),
    elements=st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.floats(-10, 10),
        st.sampled_from([0.0, 1.0, -1.0, 5e-324, 1.7976931348623157e308]),
    ),
)


def histogram(*blocks: Any) -> Histogram:
    made = Histogram()
    for block in blocks:
        made.add(np.asarray(block, np.float64))
    return made


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_each_number_is_counted_in_the_bin_it_lies_in(blocks: list[Any]) -> None:
    made = histogram(*blocks)
    edges, everything = made.edges(), np.concatenate(blocks)
    wanted = [
        int(np.count_nonzero((everything >= low) & (everything < high)))
        for low, high in pairwise(edges)
    ]
    assert made.counts.tolist() == wanted
    assert made.counts.sum() == everything.size
    assert made.counts[0]
    assert made.counts[-1], "no empty bins at the ends"


@given(st.lists(NUMBERS, min_size=2, max_size=5))
def test_the_order_of_the_numbers_makes_no_difference(blocks: list[Any]) -> None:
    one, other = histogram(*blocks), histogram(*(block[::-1] for block in reversed(blocks)))
    assert (one.exponent, one.first) == (other.exponent, other.first)
    assert one.counts.tolist() == other.counts.tolist()


@given(NUMBERS)
def test_bins_are_as_narrow_as_they_can_be(numbers: Any) -> None:
    made = histogram(numbers)
    assert made.counts.size <= BINS
    low, high = float(numbers.min()), float(numbers.max())
    if low != high and made.exponent > -1000:
        width = math.ldexp(1, made.exponent - 1)  # half as wide would be too many
        first, last = (math.floor(Fraction(each) / Fraction(width)) for each in (low, high))
        if max(abs(first), abs(last)) < 2**52:  # else no double tells narrower ones apart
            assert last - first >= BINS


@pytest.mark.parametrize(
    ("blocks", "edges", "counts"),
    [
        ([[0.0, 0.0]], [0.0, 5e-324], [2]),
        ([[0.0], [63.0]], [float(n) for n in range(65)], [1, *[0] * 62, 1]),
        ([[0.0], [64.0]], [2.0 * n for n in range(34)], [1, *[0] * 31, 1]),
        ([[-1.0, 1.0]], [n / 16 for n in range(-16, 18)], [1, *[0] * 31, 1]),
        ([[]], [], []),
    ],
)
def test_known_histograms(blocks: Any, edges: list[float], counts: list[int]) -> None:
    made = histogram(*blocks)
    if counts and len(counts) > 2:  # the last bin is the one that the largest number begins
        assert made.edges()[: len(edges)] == edges[: len(made.edges())]
    else:
        assert made.edges() == edges
    assert made.counts.tolist() == counts


@given(st.lists(hnp.arrays(np.float64, st.integers(0, 50), elements=st.floats(-1e6, 1e6))))
def test_moments_are_those_of_all(blocks: list[Any]) -> None:
    made = Moments()
    for block in blocks:
        made.add(block)
    everything = np.concatenate([np.empty(0), *blocks])
    assert made.count == everything.size
    if not everything.size:
        assert math.isnan(made.std)
        return
    assert (made.low, made.high) == (everything.min(), everything.max())
    assert made.mean == pytest.approx(everything.mean(), rel=1e-12, abs=1e-9)
    assert made.std == pytest.approx(everything.std(), rel=1e-9, abs=1e-8)
    assert made.norm == pytest.approx(np.linalg.norm(everything), rel=1e-12)


def test_no_digit_is_lost_where_the_mean_is_large() -> None:
    """Sums of squares alone would give a standard deviation of 0 here, or of a negative number."""
    numbers = 1e9 + np.array([0.0, 1.0, 2.0] * 1000)
    made = Moments()
    for at in range(0, numbers.size, 7):
        made.add(numbers[at : at + 7])
    assert made.std == pytest.approx(math.sqrt(2 / 3), rel=1e-7)
