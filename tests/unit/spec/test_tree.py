"""Walking trees: every leaf once, in order, with its path; no nesting and no cycle breaks it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.spec.tree import distinct, dotted, step_text, walk

TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def reach(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


@given(TREES)
def test_each_path_leads_to_its_leaf(tree: Any) -> None:
    found = list(walk(tree))
    assert len({path for path, _ in found}) == len(found)
    for path, leaf in found:
        assert reach(tree, path) is leaf
        assert not leaf or not isinstance(leaf, list | dict)


def test_the_order_is_that_of_the_tree() -> None:
    tree = {"b": [1, {"x": 2}], "a": (3,), "empty": {}}
    assert [(dotted(path), leaf) for path, leaf in walk(tree)] == [
        ("b.0", 1),
        ("b.1.x", 2),
        ("a.0", 3),
        ("empty", {}),
    ]


def test_a_container_inside_itself_is_a_leaf() -> None:
    tree: list[Any] = [1]
    tree.append(tree)
    assert [path for path, _ in walk(tree)] == [(0,), (1,)]


def test_the_same_container_twice_is_walked_twice() -> None:
    shared = [1]
    assert [path for path, _ in walk([shared, shared])] == [(0, 0), (1, 0)]


def test_depth_does_not_matter() -> None:
    tree: Any = 7
    for _ in range(50_00):
        tree = [tree]
    [(path, leaf)] = list(walk(tree))
    assert leaf == 7
    assert len(path) == 5000


class Named:
    """A key that looks like another."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["a", "b"], ["a", "b"]),
        ([Named("a"), "b", Named("a")], ["[a]", "b", "[a]#2"]),
        ([Named("a")] * 4, ["[a]", "[a]#2", "[a]#3", "[a]#4"]),
        ([Named("a")] * 3 + ["[a]#2"], ["[a]", "[a]#3", "[a]#4", "[a]#2"]),
        (["a", Named("a"), "['a']"], ["['a']", "[a]", "[\"['a']\"]"]),
    ],
)
def test_names_alike_are_in_brackets_then_numbered_from_two_past_names_in_use(keys, names) -> None:
    assert distinct([str(key) for key in keys], lambda position: (keys[position],)) == names


@pytest.mark.parametrize("bits", [4096, 4097, 100_000])
def test_a_number_of_thousands_of_digits_is_told_by_its_length(bits) -> None:
    number = (1 << bits) - 1
    assert step_text(number) == (str(number) if bits <= 4096 else f"<integer of {bits} bits>")
