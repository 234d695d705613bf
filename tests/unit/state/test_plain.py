"""State as plain values: everything taken comes back as it was, everything else is an error."""

from __future__ import annotations

import decimal
import io
import math
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdfast.errors import CaptureError
from holdfast.state.plain import pointer, to_plain
from holdfast.state.unplain import from_plain

WANTED = "  wanted dict, list, tuple, set, numbers, text, bytes, tensors, NumPy arrays and scalars"
CURE = (
    "  Turn it into such values, or give its object as a part of its own with state_dict and "
    "load_state_dict."
)

numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers()
text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
array_types = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes()
array_types |= hnp.floating_dtypes(sizes=(16, 32, 64)) | hnp.complex_number_dtypes(sizes=(64, 128))
arrays = hnp.arrays(array_types, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
scalars = array_types.map(lambda kind: kind.newbyteorder("=")).flatmap(
    lambda kind: hnp.arrays(kind, ()).map(lambda array: array[()])
)
tensors = arrays.map(lambda array: torch.tensor(array.astype(array.dtype.newbyteorder("="))))
leaves = numbers | text | st.binary() | st.binary().map(bytearray) | scalars | arrays | tensors
keys = text | st.integers() | st.booleans() | st.none() | st.binary(min_size=1)
keys |= st.tuples(st.integers(), text)
sets = st.sets(st.integers() | text)
trees = st.recursive(
    leaves | sets,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=12,
)


def same(a, b):
    """Equal in every type and bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and same(a.numpy(), b.numpy())
    if isinstance(a, dict):
        return same([*a], [*b]) and same([*a.values()], [*b.values()])
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b if isinstance(a, set) else repr(a) == repr(b)


def reloaded(plain):
    """Through plain torch, with nothing but its own closed table."""
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@given(tree=st.dictionaries(text, trees, max_size=4))
@example(tree={"empty": b"", "in a list": [b""], "key": {("a", 1): b""}})
@example(tree={"a/b": {"~1": np.float32(1)}, "a": {"b/~1": 2.0}, "~:1": np.int8(1), "1": {1: 2}})
@example(tree={"nan": math.nan, "negative zero": -0.0, "inf": np.float16(math.inf)})
def test_what_is_taken_is_opened_by_torch_alone_and_comes_back_as_it_was(tree):
    notes: dict[str, str] = {}
    plain = to_plain(tree, ("extra",), notes)
    assert same(tree, from_plain(reloaded(plain), ("extra",), notes))


@given(tree=st.dictionaries(text, st.integers(0, 9) | st.lists(text), max_size=4))
def test_plain_values_are_noted_nowhere_and_containers_are_new(tree):
    notes: dict[str, str] = {}
    plain = to_plain(tree, (), notes)
    assert plain == tree
    assert plain is not tree
    assert notes == {}
    assert from_plain(plain, (), notes) is plain


def test_notes_name_what_was_changed_by_pointer():
    notes: dict[str, str] = {}
    tree = {"a/b": [np.float32(1.5), np.arange(2)], "c": {3: np.bool_(True)}, "d": b""}
    plain = to_plain(tree, ("extra",), notes)
    assert notes == {
        "/extra/a~1b/~:0": "numpy.float32",
        "/extra/a~1b/~:1": "numpy.ndarray",
        "/extra/c/~:3": "numpy.bool",
        "/extra/d": "bytes",
    }
    assert (plain["a/b"][0], plain["c"][3]) == (1.5, True)


path_steps = text | st.integers() | st.booleans() | st.none() | st.tuples(st.integers())


@given(one=st.lists(path_steps, max_size=4), other=st.lists(path_steps, max_size=4))
@example(one=["a", "b"], other=["a/b"])
@example(one=["~:1"], other=[1])
@example(one=["~1"], other=["/"])
def test_two_paths_never_have_one_pointer(one, other):
    assert (pointer(tuple(one)) == pointer(tuple(other))) == (repr(one) == repr(other))


@pytest.mark.parametrize("order", ["fortran", "reversed", "readonly", "strided", "big-endian"])
def test_arrays_that_torch_cannot_share_are_copied(order):
    array = np.arange(12.0).reshape(3, 4)
    if order == "fortran":
        array = np.asfortranarray(array)
    elif order == "reversed":
        array = array[::-1, ::-1]
    elif order == "readonly":
        array.setflags(write=False)
    elif order == "strided":
        array = array[::2, 1:3]
    else:
        array = array.astype(">f8")
    plain = to_plain({"a": array}, (), notes := {})
    assert np.array_equal(from_plain(reloaded(plain), (), notes)["a"], array)


def test_a_state_dict_keeps_the_versions_of_its_layers():
    module = torch.nn.BatchNorm1d(2)
    plain = to_plain(module.state_dict(), ("model",), notes := {})
    assert plain._metadata == module.state_dict()._metadata
    plain["extra"] = 1.0
    notes["/model/extra"] = "numpy.float32"
    back = from_plain(plain, ("model",), notes)
    assert type(back["extra"]) is np.float32
    assert back._metadata == module.state_dict()._metadata


def letter(tree, path=("extra",)):
    with pytest.raises(CaptureError) as caught:
        to_plain(tree, path, {})
    return str(caught.value)


def test_an_object_outside_the_table_is_named_with_its_path():
    assert letter({"best": [1, decimal.Decimal(1)]}) == (
        "an object of this class cannot be saved, at 'extra.best.1'\n"
        f"{WANTED}, found decimal.Decimal\n{CURE}"
    )


class Labelled(torch.Tensor):
    pass


def holding_itself():
    tree = []
    tree.append(tree)
    return tree


def nested(depth):
    tree = []
    for _ in range(depth):
        tree = [tree]
    return tree


REFUSED = {
    "a dict key of this type cannot be saved, at 'extra.a.(1.5, (2,))'": {"a": {(1.5, (2,)): 0}},
    "a dict key of this type cannot be saved, at \"extra.b''\"": {b"": 0},
    "a set may hold whole and real numbers and text only, at 'extra.s'": {"s": {(1, 2)}},
    "a container that holds itself cannot be saved, at 'extra.c.0'": {"c": holding_itself()},
    "a NumPy array of object cannot be saved, at 'extra.a'": {"a": np.array([None])},
    "a NumPy array of <U1 cannot be saved, at 'extra.a'": {"a": np.array(["x"])},
    "an object of this class cannot be saved, at 'extra.a'": {"a": defaultdict(list)},
    "an object of this class cannot be saved, at 'extra.t'": {"t": np.datetime64("2026-01-01")},
    "an object of this class cannot be saved, at 'extra.l'": {"l": np.longdouble(1)},
    "a tensor of this class cannot be saved as plain state, at 'extra.x'": {
        "x": torch.ones(2).as_subclass(Labelled)
    },
    "a tensor of this class cannot be saved as plain state, at 'extra.n'": {
        "n": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)
    },
    "a whole number of over 2,000 bits cannot be saved, at 'extra.i'": {"i": 1 << 2040},
    "values nested over 100 levels deep cannot be saved, at 'extra.d.0.0": {"d": nested(5000)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_torch_alone_could_not_open_is_refused(what):
    said = letter(REFUSED[what])
    assert said.startswith(what), said
    assert WANTED in said


def test_a_tensor_without_values_is_refused():
    assert letter({"w": torch.empty(2, device="meta")}, ("model",)) == (
        "a tensor on the meta device has no values, at 'model.w'\n"
        "  Give it some first: model.to_empty(device=...) and initialize, or load "
        "weights: holdfast.load_state(checkpoint, model=model)."
    )
    assert letter({"w": torch.nn.LazyLinear(2).weight}, ("model",)) == (
        "a lazy parameter has no value yet, at 'model.w'\n"
        "  Run one batch through the model before making the Run."
    )


def test_a_counter_stays_one():
    plain = to_plain({"milestones": Counter([3, 5])}, ("scheduler",), {})
    assert type(reloaded(plain)["milestones"]) is Counter


def test_thousands_of_scalars_come_back_in_linear_work(monkeypatch):
    from holdfast.state import unplain

    calls = []
    really = unplain.segment
    monkeypatch.setattr(unplain, "segment", lambda step: (calls.append(step), really(step))[1])
    notes: dict[str, str] = {}
    plain = to_plain({"losses": [np.float64(i) for i in range(5000)]}, ("extra",), notes)
    back = from_plain(plain, ("extra",), notes)
    assert {type(loss) for loss in back["losses"]} == {np.float64}
    assert len(calls) <= 5001


def test_scalars_in_a_set_come_back():
    notes: dict[str, str] = {}
    plain = to_plain({np.int64(3), 4, "x"}, (), notes)
    assert {type(item) for item in plain} == {int, str}
    back = from_plain(plain, (), notes)
    assert {type(item) for item in back} == {np.int64, int, str}
    assert back == {3, 4, "x"}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "<f4", ">i8", "<c16"])
def test_byte_order_and_memory_order_come_back(dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    notes: dict[str, str] = {}
    back = from_plain(to_plain([array], (), notes), (), notes)[0]
    assert back.dtype == array.dtype
    assert back.flags.f_contiguous == array.flags.f_contiguous
    assert np.array_equal(back, array)


def test_an_empty_key_is_a_key_like_any():
    notes: dict[str, str] = {}
    plain = to_plain({"": np.int32(1), "a": {"": np.int32(2)}}, (), notes)
    back = from_plain(plain, (), notes)
    assert type(back[""]) is type(back["a"][""]) is np.int32
