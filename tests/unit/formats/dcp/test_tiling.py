from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.dcp.layout import Box
from holdfast.formats.dcp.tiling import broken_rule

TILES = "pieces tile their tensor without hole or overlap"


def split(shape, rng, depth=4):
    """Boxes that tile ``shape``, as cutting it over and over gives them."""
    boxes = [Box((0,) * len(shape), tuple(shape))]
    for _ in range(depth if shape else 0):
        box = boxes.pop(rng.randrange(len(boxes)))
        axis = rng.randrange(len(shape))
        at = rng.randint(0, box.sizes[axis])
        for begin, size in ((0, at), (at, box.sizes[axis] - at)):
            offsets, sizes = list(box.offsets), list(box.sizes)
            offsets[axis] += begin
            sizes[axis] = size
            boxes.append(Box(tuple(offsets), tuple(sizes)))
    return boxes


def counted(shape, boxes) -> bool:
    """The same by counting each element."""
    seen = np.zeros(shape, int)
    for box in boxes:
        span = zip(box.offsets, box.sizes, strict=True)
        seen[tuple(slice(at, at + size) for at, size in span)] += 1
    return bool((seen == 1).all())


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@given(shapes, st.randoms(use_true_random=False))
def test_what_tiles_is_taken(shape, rng):
    assert broken_rule(shape, split(shape, rng)) is None


@given(shapes, st.randoms(use_true_random=False), st.data())
def test_what_is_moved_dropped_or_doubled_is_what_counting_says(shape, rng, data):
    boxes = split(shape, rng)
    at = data.draw(st.integers(0, len(boxes) - 1))
    kind = data.draw(st.sampled_from(["drop", "twice", "move"]))
    if kind == "drop":
        del boxes[at]
    elif kind == "twice":
        boxes.append(boxes[at])
    elif shape:
        room = [w - s for w, s in zip(shape, boxes[at].sizes, strict=True)]
        moved = tuple(data.draw(st.integers(0, most)) for most in room)
        boxes[at] = Box(moved, boxes[at].sizes)
    assert (broken_rule(shape, boxes) is None) == counted(shape, boxes)


def test_an_overlap_that_makes_up_for_a_hole_is_no_tiling():
    boxes = [Box((0, 0), (2, 4)), Box((1, 0), (2, 4))]
    assert broken_rule((4, 4), boxes) == TILES
    assert sum(math.prod(box.sizes) for box in boxes) == 16


def test_pieces_outside_their_tensor():
    assert broken_rule((4,), [Box((2,), (3,))]) == "pieces lie inside their tensor"


def test_a_scalar_is_one_piece():
    assert broken_rule((), [Box((), ())]) is None
    assert broken_rule((), [Box((), ())] * 2) == TILES
    assert broken_rule((), []) == TILES


@pytest.mark.parametrize("axes", [9, 40])
def test_tensors_cut_along_very_many_axes(axes):
    boxes = [
        Box((0,) * axes, tuple(1 if other == axis else 2 for other in range(axes)))
        for axis in range(axes)
    ]
    assert broken_rule((2,) * axes, boxes) == "tensors are cut along at most 8 axes"


def test_a_hundred_thousand_pieces_take_linear_time():
    boxes = [Box((row, column), (1, 1)) for row in range(500) for column in range(200)]
    random.Random(0).shuffle(boxes)
    assert broken_rule((500, 200), boxes) is None
    assert broken_rule((500, 200), boxes[1:]) == TILES
