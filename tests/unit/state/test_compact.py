"""Only referenced bytes are stored; values and sharing stay what they were."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.state.compact import compact

NUMEL = 24


@st.composite
def geometries(draw):
    """Offset, shape and stride of a view inside NUMEL elements, overlapping itself or not."""
    offset = draw(st.integers(0, NUMEL - 1))
    room, shape, stride = NUMEL - 1 - offset, [], []
    for _ in range(draw(st.integers(0, 3))):
        step = draw(st.integers(0, 6))
        n = draw(st.integers(1, min(4, room // step + 1 if step else 4)))
        room -= (n - 1) * step
        shape.append(n)
        stride.append(step)
    return offset, tuple(shape), tuple(stride)


def places(geometry):
    """The elements of the storage a view refers to."""
    offset, shape, stride = geometry
    return set(torch.arange(NUMEL).as_strided(shape, stride, offset).flatten().tolist())


def stored(views):
    storages = {view.untyped_storage()._cdata: view.untyped_storage() for view in views}
    return sum(storage.nbytes() for storage in storages.values())


kinds = st.sampled_from([torch.float32, torch.bfloat16, torch.complex64, torch.uint8, torch.bool])


@given(geometry=geometries(), dtype=kinds)
def test_a_view_alone_keeps_its_values_and_no_other_byte(geometry, dtype):
    base = torch.arange(NUMEL).to(dtype)
    view = base.as_strided(geometry[1], geometry[2], geometry[0])
    moved = compact([view])[0]
    assert moved.dtype == view.dtype
    assert torch.equal(moved, view)
    lo, hi = min(places(geometry)), max(places(geometry))
    assert stored([moved]) <= min(view.numel(), hi - lo + 1) * view.element_size()


def columns(first, second):
    return [(first, (4,), (6,)), (second, (4,), (6,))]


def strided(views):
    base = torch.arange(float(NUMEL))
    return [base.as_strided(shape, stride, offset) for offset, shape, stride in views]


@given(views=st.lists(geometries(), min_size=2, max_size=4))
@example(views=columns(0, 1))
@example(views=[(3, (2,), (1,)), (3, (2,), (1,))])
@example(views=[(0, (4,), (6,)), (0, (4,), (6,)), (1, (4,), (6,))])
@example(views=[(0, (4,), (1,)), (2, (4,), (1,))])
@example(views=[(0, (2, 3), (6, 0)), (1, (2, 3, 4), (0, 6, 2))])
def test_views_of_one_storage_go_on_sharing_what_they_shared(views):
    before = strided(views)
    after = compact(before)
    assert all(map(torch.equal, before, after))
    assert stored(after) <= stored(before)
    apart = all(
        not places(one) & places(other) or one == other
        for i, one in enumerate(views)
        for other in views[:i]
    )
    if apart:
        assert stored(after) <= 4 * sum(before[views.index(v)].numel() for v in set(views))
    for written in range(len(views)):
        before, after = strided(views), compact(strided(views))
        overwrite(before[written])
        overwrite(after[written])
        assert all(map(torch.equal, before, after))


def overwrite(view):
    """Write through a view that may overlap itself, which fill_ refuses."""
    flat = torch.empty(0).set_(view.untyped_storage())
    index = torch.arange(flat.numel()).as_strided(view.shape, view.stride(), view.storage_offset())
    flat[index.flatten()] = -1.0


def test_a_slice_does_not_drag_its_storage_along():
    big = torch.zeros(1000, 1000)
    [moved] = compact([big[:, 0]])
    assert stored([moved]) == 4000
    two = compact([big[:, 0], big[:, 1]])
    assert stored(two) == 8000


def test_tensors_that_use_all_of_their_storage_stay_the_same_objects():
    weight = torch.zeros(4, 4)
    tree = OrderedDict(weight=weight, tied=weight, transposed=weight.t())
    assert compact(tree) is tree


def test_halves_that_make_up_the_whole_stay_the_same_objects():
    base = torch.zeros(4, 4)
    halves = [base[:2], base[2:]]
    assert compact(halves) is halves


@pytest.mark.parametrize("lazily", ["conj", "neg"])
def test_bits_of_the_view_are_kept(lazily):
    base = torch.tensor([1 + 2j, 3 - 4j, 5j])
    view = base[:2].conj()
    view = view.imag if lazily == "neg" else view
    [moved] = compact([view])
    assert torch.equal(moved, view)
    assert (moved.is_conj(), moved.is_neg()) == (view.is_conj(), view.is_neg())


def test_parameters_stay_parameters_and_grad_is_kept():
    base = torch.zeros(10)
    views = [torch.nn.Parameter(base[:2], requires_grad=False), base[5:6].requires_grad_()]
    moved = compact(views)
    assert type(moved[0]) is torch.nn.Parameter
    assert [tensor.requires_grad for tensor in moved] == [False, True]


def test_all_else_in_the_tree_stays_as_it_is():
    state = torch.nn.Linear(2, 2).state_dict()
    state["slice"] = torch.zeros(10)[:1]
    sparse, empty = torch.eye(2).to_sparse(), torch.zeros(0, 3)
    tree = {"model": state, "others": (sparse, empty, {1, 2}, torch.Size([1]), None), 3: [True]}
    result = compact(tree)
    assert result["model"]._metadata == state._metadata
    assert result["others"][0] is sparse
    assert result["others"][1] is empty
    assert result["others"][2:] == ({1, 2}, torch.Size([1]), None)
    assert type(result["others"][3]) is torch.Size
    assert result[3] == [True]
