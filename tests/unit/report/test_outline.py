from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.report.outline import Row, outline
from holdfast.report.summary import summarize
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import Index, Opaque, StorageRef, TensorRef
from holdfast.spec.record import Record

FLOAT = BY_NAME["float32"]


def tensor(key: str, *shape: int) -> TensorRef:
    strides = (1,) * len(shape)
    ref = TensorRef(FLOAT, shape, strides, None)
    ref.storage = StorageRef(key, FLOAT, ref.numel)
    return ref


def rows(tree, *, depth=None, record=None) -> list[Row]:
    return list(outline(summarize(Index("a", "torch_zip", tree, {}, record=record)), depth=depth))


def test_parts_come_in_order_with_what_they_hold_below_them() -> None:
    tree = {
        "model": {"fc.weight": tensor("0", 3, 2)},
        "extra": {"epoch": 3},
        "scheduler": Opaque("m", "S", "newobj"),
    }
    assert rows(tree) == [
        Row("part", 0, "model", 1, 6, 24),
        Row("tensor", 1, "fc.weight", 0, 6, 24, "float32", (3, 2)),
        Row("part", 0, "extra"),
        Row("value", 1, "epoch", text="3"),
        Row("part", 0, "scheduler"),
        Row("opaque", 1, "scheduler", text="an object of m.S, not built"),
    ]


def test_depth_folds_what_lies_below() -> None:
    tree = {"m": {"a.w": tensor("0", 2), "a.b": tensor("1", 3), "c": tensor("2", 1), "a.x.v": 1}}
    assert [(r.kind, r.name, r.tensors, r.nbytes) for r in rows(tree, depth=2)] == [
        ("part", "m", 3, 24),
        ("group", "a", 2, 20),
        ("tensor", "c", 0, 4),
    ]
    assert [r.name for r in rows(tree, depth=1)] == ["m"]
    assert [r.name for r in rows(tree, depth=3)] == ["m", "a.w", "a.b", "c", "a.x"]


def test_depth_of_a_checkpoint_without_parts() -> None:
    tree = {"a.w": tensor("0", 2), "a.b": tensor("1", 3)}
    assert [(r.level, r.name, r.tensors) for r in rows(tree, depth=1)] == [(0, "a", 2)]


def test_optimizer_state_says_whose_it_is() -> None:
    tree = {"optimizer": {"state": {1: {"exp_avg": tensor("0", 2)}}}}
    record = Record(id="x", parameters={"optimizer": [["model.w"], ["model.b"]]})
    assert rows(tree, record=record)[1].text == "of model.b"


@pytest.mark.parametrize("broken", [5, [5], [[None]], [["w"], 7]])
def test_a_record_that_lies_about_parameters_is_no_crash(broken) -> None:
    tree = {"optimizer": {"state": {0: {"exp_avg": tensor("0", 2)}}}}
    record = Record(id="x", parameters={"optimizer": broken})
    assert rows(tree, record=record)[1].text in ("", "of w")


def test_shared_bytes_are_said() -> None:
    tied = tensor("0", 2)
    assert [r.text for r in rows({"m": {"a": tied, "b": tied}})] == ["", "", "same bytes as m.a"]
    view = replace(tied, shape=(1,))
    assert [r.text for r in rows({"a": tied, "b": view, "c": replace(view)})] == [
        "",
        "in the storage of a",
        "same bytes as b",
    ]


@pytest.mark.parametrize("tree", [3, tensor("0", 2), Opaque("m", "C", "newobj")])
def test_a_file_that_holds_one_thing(tree) -> None:
    assert [row.name for row in rows(tree)] == ["the whole file"]
