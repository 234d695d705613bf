"""What tensors share in a file they share in the next: torch is the oracle."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.converting.sharing import kept_runs, place_of
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import StorageRef, TensorRef

FLOAT = BY_NAME["float32"]
STORAGE = StorageRef("0", FLOAT, 1000)


def ref(offset: int, *sizes: int, stride: tuple[int, ...] = (1,)) -> TensorRef:
    return TensorRef(FLOAT, sizes, stride, STORAGE, offset)


def test_views_that_overlap_lie_in_one_run_and_no_more_of_the_storage():
    a, b, far = ref(10, 5), ref(12, 8), ref(500, 3)
    assert kept_runs([a, b, far]) == {
        place_of(a): (10, 20),
        place_of(b): (10, 20),
        place_of(far): (500, 503),
    }


def test_one_tensor_with_gaps_is_written_element_by_element():
    assert kept_runs([ref(0, 5, stride=(7,))]) == {}
    tied = ref(0, 5, stride=(7,))
    assert kept_runs([tied, ref(0, 5, stride=(7,))]) == {}
    expanded = ref(3, 4, 4, stride=(0, 1))
    assert kept_runs([expanded]) == {place_of(expanded): (3, 7)}


def test_what_lies_behind_a_view_in_the_middle_is_still_in_the_run():
    whole, middle, behind = ref(0, 20), ref(2, 3), ref(10, 5)
    assert set(kept_runs([whole, middle, behind]).values()) == {(0, 20)}


def test_tensors_that_only_touch_lie_in_runs_of_their_own():
    first, second = ref(0, 5), ref(5, 5)
    assert kept_runs([second, first]) == {place_of(first): (0, 5), place_of(second): (5, 10)}


def test_empty_tensors_share_nothing():
    gaps = ref(0, 5, stride=(7,))
    assert kept_runs([gaps, ref(0, 0)]) == {}
    empty = TensorRef(BY_NAME["int32"], (0,), (1,), STORAGE, 0)
    assert kept_runs([ref(0, 4), empty]) == {place_of(ref(0, 4)): (0, 4)}


def test_two_types_over_one_storage_are_written_apart():
    other = TensorRef(BY_NAME["int32"], (2,), (1,), STORAGE, 0)
    assert kept_runs([ref(0, 4), other]) == {}


VIEWS = st.tuples(st.integers(0, 20), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))


@given(st.lists(VIEWS, min_size=1, max_size=5))
def test_values_strides_that_matter_and_sharing_come_through(views):
    base = torch.arange(64.0)
    tree = {
        str(number): base.as_strided((rows, columns), (step, 1), offset)
        for number, (offset, rows, columns, step) in enumerate(views)
    }
    source = io.BytesIO()
    torch.save(tree, source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.pt")
        path.write_bytes(source.getvalue())
        holdfast.convert(path, Path(folder, "b.pt"))
        made = torch.load(Path(folder, "b.pt"))
    assert all(torch.equal(made[name], tree[name]) for name in tree)
    for one in tree:
        for other in tree:
            mine, theirs = elements(tree[one]), elements(tree[other])
            ours, others = elements(made[one]), elements(made[other])
            if len(mine) == mine.numel() and len(theirs) == theirs.numel():
                shared = set(mine.tolist()) & set(theirs.tolist())
                assert bool(shared) <= bool(set(ours.tolist()) & set(others.tolist()))


def elements(tensor: torch.Tensor) -> torch.Tensor:
    """The addresses of its elements."""
    steps = [torch.arange(n) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)]
    offsets = steps[0][:, None] + steps[1][None, :]
    return (tensor.data_ptr() + 4 * offsets).reshape(-1)
