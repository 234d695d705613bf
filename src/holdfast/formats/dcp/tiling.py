"""Whether pieces tile a tensor exactly: no hole, no overlap; in linear time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import product

from holdfast.formats.dcp.layout import Box

#: A box has two corners by axis that is cut; no job cuts tensors along more.
_MOST_CUT_AXES = 8


def broken_rule(shape: tuple[int, ...], boxes: Sequence[Box]) -> str | None:
    """The rule that pieces of a tensor of ``shape`` break; None where they tile it.

    A set of boxes covers a box exactly once if and only if their corners, each with the sign of
    its parity, add up to those of the whole: the mixed derivative of what they cover has nothing
    but these corners, and is that of the whole only if both cover the same.
    """
    for box in boxes:
        for at, size, whole in zip(box.offsets, box.sizes, shape, strict=True):
            if at + size > whole:
                return "pieces lie inside their tensor"
    if math.prod(shape) == 0:
        return None  # nothing to be covered, and nothing that could be twice
    cut = [
        axis
        for axis, whole in enumerate(shape)
        if any(box.sizes[axis] not in (0, whole) for box in boxes)
    ]
    if len(cut) > _MOST_CUT_AXES:
        return f"tensors are cut along at most {_MOST_CUT_AXES} axes"
    corners: defaultdict[tuple[int, ...], int] = defaultdict(int)
    for box in boxes:
        if 0 not in box.sizes:
            _add(corners, [(box.offsets[axis], box.sizes[axis]) for axis in cut], 1)
    _add(corners, [(0, shape[axis]) for axis in cut], -1)
    return "pieces tile their tensor without hole or overlap" if any(corners.values()) else None


def _add(
    corners: defaultdict[tuple[int, ...], int], spans: Sequence[tuple[int, int]], sign: int
) -> None:
    for ends in product((0, 1), repeat=len(spans)):
        place = tuple(at + end * size for (at, size), end in zip(spans, ends, strict=True))
        corners[place] += -sign if sum(ends) % 2 else sign
