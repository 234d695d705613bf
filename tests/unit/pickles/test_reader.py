"""The machine against Python's own pickle, on values that need no class."""

from __future__ import annotations

import collections
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import FormatError
from holdfast.pickles.reader import read
from holdfast.pickles.table import is_harmful, is_known, python3_name
from holdfast.spec.index import ArrayRef, NumpyDTypeRef, NumpyScalar, Opaque, StateDict


def no_storages(m, pid):
    raise m.refused("there are none")


def tree_of(data: bytes, **options):
    return read(data, persistent=no_storages, **options).tree


KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.binary())
VALUES = st.recursive(
    st.one_of(KEYS, st.floats(allow_nan=False), st.complex_numbers(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner),
        st.sets(KEYS),
    ),
    max_leaves=40,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.integers(0, 5))
def test_plain_values_are_those_of_pickle(value, protocol):
    data = pickle.dumps(value, protocol)
    found = tree_of(data)
    assert found == value
    assert repr(found) == repr(pickle.loads(data))


@pytest.mark.parametrize("protocol", range(6))
def test_every_opcode_a_pickler_writes_is_known(protocol):
    values = [
        *(2**8 - 1, 2**16 - 1, -1, 2**31, 2**70, -(2**3000), 1e300, True, False, None),
        *("", "é" * 300, "x" * 70_000, b"", b"b" * 300, b"c" * 70_000, bytearray(b"x")),
        *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], [1, 2], {}, {"a": 1}),
        *({"a": 1, "b": 2}, set(), {1}, collections.Counter("ab"), list(range(300))),
    ]
    data = pickle.dumps(values, protocol)
    assert tree_of(data) == values
    assert tree_of(pickletools.optimize(data)) == values


class OldStyle:
    pass


def old_style():
    made = OldStyle()
    made.x = 1
    return made


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_opaque_in_every_protocol(protocol):
    node = tree_of(pickle.dumps(old_style(), protocol))
    assert type(node) is Opaque
    assert node.symbol == f"{OldStyle.__module__}.OldStyle"
    assert node.how == "newobj"
    assert node.state == {"x": 1}
    assert not node.is_global


def test_identity_and_cycles_are_kept():
    inner: list = [1]
    value = {"a": inner, "b": inner}
    value["self"] = value
    found = tree_of(pickle.dumps(value))
    assert found["a"] is found["b"]
    assert found["self"] is found


def test_a_state_dicts_metadata_is_kept_aside():
    value = collections.OrderedDict(a=1)
    value._metadata = {"": {"version": 1}}
    found = tree_of(pickle.dumps(value, 2))
    assert type(found) is StateDict
    assert found == {"a": 1}
    assert found.aside == {"_metadata": {"": {"version": 1}}}


def test_arrays_and_scalars_are_references():
    array = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
    found = tree_of(pickle.dumps([array, np.float32(1), np.dtype("f4"), np.array("ab")], 2))
    assert isinstance(found[0], ArrayRef)
    assert (found[0].dtype_str, found[0].shape, found[0].fortran_order) == (">i2", (2, 3), True)
    assert found[0].data == array.tobytes("F")
    assert found[1] == NumpyScalar("<f4", np.float32(1).tobytes())
    assert isinstance(found[2], NumpyDTypeRef)
    assert found[2].text == "<f4"
    assert (found[3].dtype_str, found[3].shape) == ("<U2", ())


def test_arrays_of_objects_can_be_looked_at():
    found = tree_of(pickle.dumps(np.array([None, [1]], dtype=object), 2))
    assert (found.dtype_str, found.shape, found.data) == ("|O8", (2,), b"")
    times = tree_of(pickle.dumps(np.array(["2020-01-01"], dtype="M8[D]"), 2))
    assert (times.dtype_str, times.shape) == ("<M8", (1,))


def test_names_of_python_2_are_those_of_today():
    assert python3_name("__builtin__", "set") == ("builtins", "set")
    assert python3_name("copy_reg", "_reconstructor") == ("copyreg", "_reconstructor")
    assert python3_name("torch._utils", "_rebuild_tensor") == ("torch._utils", "_rebuild_tensor")
    # Python 2: pickle.dumps([OrderedDict(a=1), {1}], 2) and an object of protocol 0
    data = (
        b"\x80\x02]q\x00(ccollections\nOrderedDict\nq\x01]q\x02]q\x03(U\x01aq\x04K\x01ea\x85q\x05"
        b"Rq\x06c__builtin__\nset\nq\x07]q\x08K\x01a\x85q\tRq\ne."
    )
    assert tree_of(data) == [{"a": 1}, {1}]
    assert tree_of(b"(lp0\nS'a\\n'\np1\naI01\naI7\naL8L\naF1.5\naV\\u00e9\na.") == [
        *("a\n", True, 7, 8, 1.5, "é")
    ]


def test_a_name_of_python_2_is_left_alone_in_newer_protocols():
    assert tree_of(b"\x80\x04\x8c\x0b__builtin__\x8c\x03foo\x93.").symbol == "__builtin__.foo"


def test_the_table_is_closed():
    assert is_known("torch._utils", "_rebuild_tensor_v2")
    assert is_known("torch", "float8_e4m3fn")
    assert is_known("torch", "FloatStorage")
    for module, name in (
        ("torch", "load"),
        ("torch", "tensor"),
        ("torch.storage", "_load_from_bytes"),
        ("builtins", "getattr"),
        ("builtins", "frozenset"),
        ("numpy", "load"),
        ("os", "system"),
        ("__builtin__", "set"),
    ):
        assert not is_known(module, name)


def test_what_can_run_commands_is_called_harmful():
    for symbol in ("os.system", "posix.system", "builtins.eval", "subprocess.Popen", "sys.exit"):
        assert is_harmful(symbol)
    for symbol in ("fractions.Fraction", "builtins.list", "mymodel.os", "ossification.System"):
        assert not is_harmful(symbol)


def test_objects_that_are_made_and_dropped_are_still_reported():
    data = b"\x80\x02cthings\nThing\n)R0K\x01."
    pickled = read(data, persistent=no_storages)
    assert pickled.tree == 1
    assert pickled.symbols == ("things.Thing",)
    assert pickled.discarded == ("things.Thing",)


def test_text_persistent_ids_reach_the_format():
    with pytest.raises(FormatError, match="there are none"):
        tree_of(b"Pabc\n.")


def test_reduce_of_an_opaque_object_remembers_what_is_called():
    node = tree_of(b"\x80\x02cm\nf\nK\x01\x85RK\x02\x85R.")
    assert node.symbol == "m.f"
    assert node.args == (2,)
    assert node.called.args == (1,)
