"""Sums over blocks of numbers that are right for any number of them, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: The most bins of a histogram; half as many at least, where the numbers differ.
BINS = 64


@dataclass(slots=True)
class Moments:
    """Count, mean, squared deviations and squares of finite numbers, added block by block.

    Blocks are merged as Chan, Golub and LeVeque do ("Updating formulae and a pairwise algorithm for
    computing sample variances", 1979), which loses no digits where the mean is large.
    """

    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: Any = 0.0
    deviations: Any = 0.0
    squares: Any = 0.0

    def add(self, numbers: Array) -> None:
        """Add finite float64 numbers."""
        if not numbers.size:
            return
        low, high = float(numbers.min()), float(numbers.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        numbers = reaching(numbers, max(-low, high))
        mean = numbers.mean()
        apart = numbers - mean
        total = self.count + numbers.size
        shift = mean - self.mean
        self.squares += np.dot(numbers, numbers)
        self.deviations += np.dot(apart, apart)
        self.deviations += shift * shift * (self.count * numbers.size / total)
        self.mean += shift * (numbers.size / total)
        self.count = total

    @property
    def std(self) -> float:
        """The standard deviation of the numbers themselves (divided by their count)."""
        return float(np.sqrt(self.deviations / self.count)) if self.count else math.nan

    @property
    def norm(self) -> float:
        """The square root of the sum of squares."""
        return float(np.sqrt(self.squares))


#: Squares of numbers beyond these, and sums of them, are none of a double's.
_SMALL, _LARGE = 1e-140, 1e140


def reaching(numbers: Array, largest: float) -> Array:
    """The numbers in a type that reaches their squares; ``largest`` is that of their sizes."""
    if largest == 0 or _SMALL < largest < _LARGE or numbers.dtype.itemsize > 8:
        return numbers
    return numbers.astype(np.longdouble)


@dataclass(slots=True)
class Histogram:
    """How many numbers lie in each of at most ``BINS`` bins, in one pass.

    A bin is as wide as a power of two, ``2 ** exponent``, and begins at a multiple of it, so that
    two narrow ones make exactly one wide one when a later number lies outside; what comes out does
    not depend on the order of the numbers.
    """

    exponent: int = -1074
    first: int = 0  # the number of the first bin: it begins at first * 2 ** exponent
    counts: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    _low: float = math.inf
    _high: float = -math.inf

    def add(self, numbers: Array) -> None:
        """Add finite float64 numbers."""
        if not numbers.size:
            return
        self._low = min(self._low, float(numbers.min()))
        self._high = max(self._high, float(numbers.max()))
        self._widen(_exponent(self._low, self._high))
        while _bin(self._high, self.exponent) - _bin(self._low, self.exponent) >= BINS:
            self._widen(self.exponent + 1)
        first, last = _bin(self._low, self.exponent), _bin(self._high, self.exponent)
        made = np.bincount(self._places(numbers, first), minlength=last - first + 1)
        at = self.first - first
        made[at : at + self.counts.size] += self.counts
        self.first, self.counts = first, made

    def _places(self, numbers: Array, first: int) -> Array:
        """The bin of each number, counted from ``first``."""
        if abs(self.exponent) < 1000:  # a product by a power of two is exact, and ldexp is slow
            scaled = numbers * 2.0**-self.exponent
        else:
            scaled = np.ldexp(numbers, -self.exponent)
        np.floor(scaled, out=scaled)
        if self.exponent > 0:  # the smallest negative numbers have become zero
            scaled[(scaled == 0) & (numbers < 0)] = -1
        scaled -= first
        return scaled.astype(np.intp)

    def edges(self) -> list[float]:
        """Where the bins begin, and where the last one ends."""
        numbers = range(self.first, self.first + self.counts.size + bool(self.counts.size))
        return [_edge(number, self.exponent) for number in numbers]

    def _widen(self, exponent: int) -> None:
        """Make the bins at least ``2 ** exponent`` wide."""
        shift = exponent - self.exponent
        if shift <= 0:
            return
        self.exponent = exponent
        places = (self.first + np.arange(self.counts.size, dtype=object)) >> shift
        self.first >>= shift
        if self.counts.size:
            self.counts = np.bincount((places - self.first).astype(np.intp), self.counts)
            self.counts = self.counts.astype(np.int64)


def _exponent(low: float, high: float) -> int:
    """An exponent with which all between two numbers just fit into the bins, or one less.

    Of a single number, one so small that the number of its bin is still exact.
    """
    largest = max(abs(low), abs(high))
    finest = max(math.frexp(largest)[1] - 53, -1074)  # no double has more digits
    if low == high:
        return finest if largest else -1074
    half = high / 2 - low / 2  # as their difference may be infinite
    return max(math.frexp(half)[1] - 6, finest) if half else finest


def _bin(number: float, exponent: int) -> int:
    found = math.floor(math.ldexp(number, -exponent))
    return -1 if number < 0 and found == 0 else found


def _edge(number: int, exponent: int) -> float:
    try:
        return math.ldexp(number, exponent)
    except OverflowError:  # the end of the last bin, beyond the largest double
        return math.copysign(math.inf, number)
