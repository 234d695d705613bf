"""Rows and areas of any names: nothing is lost, nothing counted twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.report.areas import areas
from holdfast.report.facts import TensorFacts
from holdfast.report.rows import SORTS, arranged

NAMES = st.lists(
    st.lists(st.sampled_from(["a", "b", "weight", "0", ""]), min_size=1, max_size=5).map(".".join),
    unique=True,
    max_size=30,
)


def tensors(names: list[str]) -> list[TensorFacts]:
    return [
        TensorFacts(name, None, "tensor", (at,), "float32", at, 4 * at + 1)
        for at, name in enumerate(names)
    ]


@given(NAMES, st.sampled_from(SORTS), st.sampled_from(["", "a", "WEIGHT", "."]))
def test_every_matching_tensor_has_one_row(names: list[str], sort: str, filter: str) -> None:
    found = tensors(names)
    lines = arranged(found, filter, sort)
    places = [line.place for line in lines if line.place is not None]
    assert sorted(places) == [at for at, n in enumerate(names) if filter.casefold() in n.casefold()]
    if sort == "file":
        assert places == sorted(places)
    if sort == "size":
        assert places == sorted(places, reverse=True)


@given(NAMES)
def test_groups_stand_above_what_is_in_them(names: list[str]) -> None:
    found = tensors(names)
    lines = arranged(found)
    for at, line in enumerate(lines):
        if line.place is not None:
            continue
        below = []
        for other in lines[at + 1 :]:
            if other.level <= line.level:
                break
            below.append(other)
        inner = [found[other.place] for other in below if other.place is not None]
        assert line.tensors == len(inner) > 0
        assert line.nbytes == sum(each.nbytes for each in inner)
        assert all(each.name.startswith(f"{line.name}.") for each in inner)


@given(NAMES)
def test_a_closed_group_hides_what_is_in_it_and_nothing_else(names: list[str]) -> None:
    found = tensors(names)
    whole = arranged(found)
    groups = [line for line in whole if line.place is None]
    for group in groups[:3]:
        lines = arranged(found, closed=[group.name])
        shut = [line for line in lines if line.place is None and not line.is_open]
        assert [line.name for line in shut] == [group.name]
        shown = sum(line.place is not None for line in lines)
        assert shown + sum(line.tensors for line in shut) == len(names)


@given(NAMES, st.integers(1, 40))
def test_areas_add_up(names: list[str], most: int) -> None:
    found = tensors(names)
    drawn = areas(found, most)
    assert [area.id for area in drawn] == list(range(len(drawn)))
    whole = drawn[0]
    assert (whole.nbytes, whole.tensors) == (sum(each.nbytes for each in found), len(found))
    for area in drawn:
        assert area.parent is None if area is whole else area.parent < area.id
        inner = [each for each in drawn if each.parent == area.id]
        if inner:
            assert sum(each.nbytes for each in inner) == area.nbytes
            assert sum(each.tensors for each in inner) == area.tensors


def test_small_areas_are_one() -> None:
    found = tensors([f"layer.{n}" for n in range(100)])
    made = areas(found, most=10)
    (rest,) = [area for area in made if area.label.startswith("…")]
    assert rest.label == f"… {100 - (len(made) - 3)} more"
    assert [each.label for each in made[:4]] == ["", "layer", "99", "98"], "the largest first"


def test_very_deep_names_are_rows() -> None:
    deep = ".".join(["x"] * 5000)
    assert arranged(tensors([deep]))[-1].place == 0
