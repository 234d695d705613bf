from __future__ import annotations

import json
import math
from collections import OrderedDict

import pytest

from holdfast.errors import MissingPartError, UsageError
from holdfast.report import leaves as leaves_module
from holdfast.report.leaves import leaves
from holdfast.report.summary import summarize
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import (
    ArrayRef,
    DTypeRef,
    Index,
    NumpyScalar,
    Opaque,
    Quantizer,
    SparseRef,
    StorageRef,
    TensorRef,
)
from holdfast.spec.record import Record

FLOAT = BY_NAME["float32"]


def storage(key: str, numel: int, dtype: str = "float32") -> StorageRef:
    return StorageRef(key, BY_NAME[dtype], numel)


def tensor(
    key: str, shape: tuple[int, ...], *, dtype: str = "float32", stride=None, offset=0, numel=None
) -> TensorRef:
    if stride is None:
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    held = storage(key, math.prod(shape) if numel is None else numel, dtype)
    return TensorRef(BY_NAME[dtype], shape, stride, held, offset)


def index(tree, **fields) -> Index:
    return Index("a.pt", "torch_zip", tree, {}, file_nbytes=1000, **fields)


def test_parts_tensors_and_totals_of_a_training() -> None:
    model = OrderedDict({"0.weight": tensor("0", (16, 4)), "0.bias": tensor("1", (16,))})
    optimizer = {
        "state": {0: {"step": tensor("2", ()), "exp_avg": tensor("3", (16, 4))}},
        "param_groups": [{"lr": 0.01, "betas": (0.9, 0.999), "params": [0, 1]}],
    }
    summary = summarize(index({"model": model, "optimizer": optimizer, "extra": {}}))

    assert [(p.name, p.tensors, p.numel, p.nbytes) for p in summary.parts] == [
        ("model", 2, 80, 320),
        ("optimizer", 2, 65, 260),
        ("extra", 0, 0, 0),
    ]
    assert [(t.name, t.shape, t.dtype, t.nbytes) for t in summary.tensors] == [
        ("model.0.weight", (16, 4), "float32", 256),
        ("model.0.bias", (16,), "float32", 64),
        ("optimizer.state.0.step", (), "float32", 4),
        ("optimizer.state.0.exp_avg", (16, 4), "float32", 256),
    ]
    assert [(v.name, v.text, v.value) for v in summary.values] == [
        ("optimizer.param_groups.0.lr", "0.01", 0.01),
        ("optimizer.param_groups.0.betas", "(0.9, 0.999)", [0.9, 0.999]),
        ("optimizer.param_groups.0.params", "[0, 1]", [0, 1]),
        ("extra", "{}", {}),
    ]
    assert (summary.total.tensors, summary.total.numel, summary.total.nbytes) == (4, 145, 580)
    assert summary.is_complete


def test_a_flat_state_dict_has_no_parts() -> None:
    summary = summarize(index({"fc.weight": tensor("0", (2,)), "epoch": 3}))
    assert [(p.name, p.tensors) for p in summary.parts] == [(None, 1)]
    assert summary.tensors[0].name == "fc.weight"
    assert summary.values[0].part is None


def test_tied_tensors_and_views_count_once() -> None:
    shared = tensor("0", (10, 2))
    view = tensor("0", (2,), offset=4, numel=20)
    summary = summarize(index({"m": {"a": shared, "b": shared, "c": view}}))
    assert [t.shares_with for t in summary.tensors] == [None, "m.a", "m.a"]
    assert summary.total.tensors == 3
    assert summary.total.nbytes == 80
    assert summary.total.numel == 20 + 2  # the view is another tensor, in the same bytes


def test_types_are_summed_apart() -> None:
    tree = {"m": {"a": tensor("0", (3,)), "b": tensor("1", (5,), dtype="bfloat16")}}
    dtypes = summarize(index(tree)).dtypes
    assert [(d.name, d.tensors, d.nbytes) for d in dtypes] == [
        ("float32", 1, 12),
        ("bfloat16", 1, 10),
    ]


def test_an_expanded_tensor_is_said_to_be_one_and_is_not_counted_as_large() -> None:
    huge = tensor("0", (2**40,), stride=(0,), numel=1)
    summary = summarize(index({"m": {"a": huge}}))
    assert summary.tensors[0].is_expanded
    assert summary.tensors[0].numel == 2**40
    assert (summary.total.numel, summary.total.nbytes) == (1, 4)


def test_every_kind_of_tensor_is_named() -> None:
    parameter = tensor("0", (2,))
    parameter.is_parameter = True
    quantized = tensor("1", (2,), dtype="qint8")
    quantized.quantizer = Quantizer("per_channel_affine", tensor("2", (2,)), tensor("3", (2,)), 0)
    subclass = tensor("4", (2,))
    subclass.subclass = Opaque("mine", "Tensor")
    components = {"indices": tensor("5", (1, 2), dtype="int64"), "values": tensor("6", (2,))}
    tree = {
        "parameter": parameter,
        "quantized": quantized,
        "subclass": subclass,
        "sparse": SparseRef("sparse_coo", (9,), components),
        "meta": TensorRef(FLOAT, (3,), (1,), None),
        "array": ArrayRef("<f8", (3,), False, bytes(24)),
    }
    summary = summarize(index(tree))
    assert {t.name: (t.kind, t.dtype, t.nbytes) for t in summary.tensors} == {
        "parameter": ("parameter", "float32", 8),
        "quantized": ("tensor", "qint8", 2),
        "subclass": ("mine.Tensor", "float32", 8),
        "sparse": ("sparse_coo", "float32", 24),
        "meta": ("meta", "float32", 12),
        "array": ("array", "numpy <f8", 24),
    }
    assert summary.total.nbytes == 8 + (2 + 16) + 8 + 24 + 0 + 24


def test_a_whole_model_shows_its_tensors_under_their_state_dict_names() -> None:
    def module(name, **state):
        slots = {"_parameters": {}, "_buffers": {}, "_modules": {}, "training": True}
        return Opaque("mine", name, "newobj", state={**slots, **state}, has_state=True)

    inner = module("Inner", _parameters={"weight": tensor("0", (2,)), "bias": None})
    outer = module("Net", _modules={"fc": inner}, _buffers={"mean": tensor("1", (3,))})
    summary = summarize(index(outer))
    assert [t.name for t in summary.tensors] == ["mean", "fc.weight"]
    assert [(o.name, o.symbol) for o in summary.opaques] == [("", "mine.Net"), ("fc", "mine.Inner")]


def test_what_an_opaque_object_holds_is_listed() -> None:
    odd = Opaque(
        "m",
        "C",
        "reduce",
        args=(tensor("0", (1,)),),
        kwargs={"k": 1},
        state={"s": 2, "none": None},
        items=[3],
        pairs=[("p", 4)],
    )
    summary = summarize(index({"model": odd}))
    assert [t.name for t in summary.tensors] == ["model.(0)"]
    assert {v.name: v.value for v in summary.values} == {
        "model.s": 2,
        "model.0": 3,
        "model.p": 4,
        "model.k": 1,
    }


def test_the_json_is_json_and_its_keys_are_those_promised() -> None:
    record = Record(id="x", step=3, metrics={"loss": math.nan})
    tree = {"m": {"a": tensor("0", (2,))}, "e": {"dtype": DTypeRef("float32"), "inf": math.inf}}
    answer = json.loads(
        json.dumps(summarize(index(tree, record=record)).to_json(), allow_nan=False)
    )
    assert list(answer) == [
        "file",
        "format",
        "file_nbytes",
        "record",
        "parts",
        "dtypes",
        "total",
        "tensors",
        "values",
        "opaques",
        "optimizers",
        "metadata",
        "programs",
        "program",
        "symbols",
        "notes",
        "is_complete",
    ]
    assert answer["record"]["metrics"] == {"loss": "NaN"}
    assert answer["tensors"][0] == {
        "name": "m.a",
        "part": "m",
        "kind": "tensor",
        "shape": [2],
        "dtype": "float32",
        "numel": 2,
        "nbytes": 8,
        "storage": "0",
        "shares_with": None,
        "is_expanded": False,
        "same_as": None,
    }
    assert [v["value"] for v in answer["values"]] == ["torch.float32", "Infinity"]


@pytest.mark.parametrize(
    ("value", "text", "as_json"),
    [
        (None, "None", None),
        (True, "True", True),
        ("a\nb", r"'a\nb'", "a\nb"),
        (b"\0", r"b'\x00'", None),
        ({3, 1}, "{1, 3}", None),
        (NumpyScalar("<f8", bytes(8)), "0.0", 0.0),
        (NumpyScalar(">i2", b"\1\0"), "256", 256),
        (NumpyScalar("|b1", b"\1"), "True", True),
        (NumpyScalar("<c16", bytes(16)), repr(bytes(16)), None),
        (1 << 5000, "<integer of 5001 bits>", None),
        (complex(1, 2), "(1+2j)", None),
        ((1,), "(1,)", [1]),
        ("x" * 20_000, "'" + "x" * 95 + "… (20000 characters)", None),
        (list(range(1000)), None, list(range(1000))),
    ],
)
def test_plain_values(value, text, as_json) -> None:
    facts = summarize(index({"v": value})).values[0]
    assert facts.value == as_json
    assert len(facts.text) <= 120
    if text is not None:
        assert facts.text == text
    else:
        assert facts.text.endswith("… (1000 values)")


def test_one_name_or_what_matches() -> None:
    tree = {"m": {"a.w": tensor("0", (2,)), "a.b": tensor("1", (3,)), "ab": tensor("2", (4,))}}
    names = lambda **only: [t.name for t in summarize(index(tree), **only).tensors]  # noqa: E731
    assert names(name="m") == ["m.a.w", "m.a.b", "m.ab"]
    assert names(name="m.a") == ["m.a.w", "m.a.b"]
    assert names(grep="b$") == ["m.a.b", "m.ab"]
    assert summarize(index(tree), name="m.a").total.nbytes == 20


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(MissingPartError) as caught:
        summarize(index({"model": {"fc.weight": tensor("0", (2,))}}), name="model.fc.wieght")
    assert str(caught.value) == (
        "nothing in this checkpoint is called 'model.fc.wieght'\n"
        "  in a.pt\n"
        "  found model.fc.weight\n"
        "  Its names are those that holdfast show prints without a name."
    )


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(UsageError, match="this is no regular expression"):
        summarize(index({}), grep="(")


def test_a_tree_inside_itself_ends() -> None:
    tree: dict = {"a": 1}
    tree["me"] = tree
    tree["list"] = [1]
    tree["list"].append(tree["list"])
    names = [leaf.name for leaf in leaves(tree).found]
    assert names == ["a", "me", "list.0", "list.1"]
    shown = {facts.name: (facts.text, facts.value) for facts in summarize(index(tree)).values}
    assert shown["me"] == ("<holds itself>", None)
    assert shown["list.1"] == ("<holds itself>", None)


def test_containers_that_are_shared_are_listed_each_time() -> None:
    shared = {"x": tensor("0", (1,))}
    names = [t.name for t in summarize(index({"a": shared, "b": [shared, shared]})).tensors]
    assert names == ["a.x", "b.0.x", "b.1.x"]


def test_slices_of_one_storage_are_different_elements() -> None:
    first, second = (tensor("0", (2,), offset=offset, numel=4) for offset in (0, 2))
    assert summarize(index({"a": first, "b": second})).total.numel == 4


def test_a_tiny_tree_that_describes_very_much_ends_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(leaves_module.leaves, "__defaults__", (10_000,))
    bomb = [[1], [2]]
    for _ in range(64):
        bomb = [bomb, bomb]
    summary = summarize(index({"a": bomb}))
    assert not summary.is_complete
    assert 0 < len(summary.values) < 10_000


def test_a_hundred_thousand_tensors_are_no_problem() -> None:
    tree = {"m": {f"layers.{i}.weight": tensor(str(i), (4, 4)) for i in range(100_000)}}
    summary = summarize(index(tree))
    assert summary.total.nbytes == 6_400_000
    assert len(json.dumps(summary.to_json())) > 10_000_000
