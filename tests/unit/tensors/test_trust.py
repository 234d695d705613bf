from __future__ import annotations

import collections
import enum
import fractions
import functools
import io
import math
import pathlib
import sys
import types

import pytest
import torch

from holdfast.errors import FormatError, UntrustedError, UsageError
from holdfast.spec.index import Opaque
from holdfast.tensors.load import load_file
from holdfast.tensors.trust import Trust


class Colour(enum.Enum):
    RED = 1


class Plain:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None


class Slots:
    __slots__ = ("a", "b")


class WithState:
    def __getstate__(self):
        return {"kept": self.kept}

    def __setstate__(self, state):
        self.kept = state["kept"] + 1


class Names(list):
    pass


class Table(dict):
    pass


class NewArgs(tuple):
    def __new__(cls, *args, extra=None):
        made = super().__new__(cls, args)
        made.extra = extra
        return made

    def __getnewargs_ex__(self):
        return tuple(self), {"extra": self.extra}


class Outer:
    class Inner:
        class Colour(enum.Enum):
            BLUE = 2


class Failing:
    def __setstate__(self, state):
        raise RuntimeError("no such version")

    def __getstate__(self):
        return {"a": 1}


def saved(obj, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    buffer.seek(0)
    return buffer


def tree():
    slots, state = Slots(), WithState()
    slots.a, slots.b = 1, torch.ones(2)
    state.kept = 4
    names, table = Names([1, 2]), Table(a=1)
    names.note = "n"
    return {
        "colour": Colour.RED,
        "plain": Plain([1]),
        "slots": slots,
        "state": state,
        "names": names,
        "table": table,
        "default": collections.defaultdict(list, {"a": [1]}),
        "partial": functools.partial(max, key=abs),
        "path": pathlib.PurePosixPath("a/b"),
        "fraction": fractions.Fraction(1, 3),
        "deque": collections.deque([1, 2], 5),
        "frozenset": frozenset([1]),
        "new": NewArgs(1, 2, extra="e"),
        "keyed": {Colour.RED: 1},
        "nested": Outer.Inner(),
        "nested enum": Outer.Inner.Colour.BLUE,
    }


TRUST = [
    *(Colour, Plain, Slots, WithState, Names, Table, NewArgs, Outer.Inner, Outer.Inner.Colour),
    *(collections.defaultdict, collections.deque, list, functools.partial, max, abs),
    *(pathlib.PurePosixPath, fractions.Fraction, frozenset),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_trusted_objects_are_built_as_pickle_builds_them(protocol):
    objects = tree()
    if protocol < 4:  # written as a call of getattr(NewArgs, "__new__"), which is not taken
        del objects["new"]
    ours = load_file(saved(objects, pickle_protocol=protocol), trust=TRUST)
    theirs = torch.load(saved(objects, pickle_protocol=protocol), weights_only=False)
    for name in ("colour", "plain", "names", "table", "default", "path", "fraction", "deque"):
        assert ours[name] == theirs[name]
        assert type(ours[name]) is type(theirs[name])
    assert ours["default"]["new"] == []
    assert ours["deque"].maxlen == 5
    assert ours["slots"].a == 1
    assert ours["slots"].b.tolist() == [1, 1]
    assert ours["state"].kept == 5
    assert ours["names"].note == "n"
    assert ours["partial"](-3, 2) == -3
    assert type(ours["nested"]) is Outer.Inner
    assert ours["nested enum"] is Outer.Inner.Colour.BLUE
    if protocol >= 4:
        assert (ours["new"], ours["new"].extra) == ((1, 2), "e")
    assert ours["keyed"] == {Colour.RED: 1}
    assert ours["frozenset"] == {1}


def test_the_error_lists_all_that_is_needed_ready_to_paste():
    obj = [collections.defaultdict(list), fractions.Fraction(1), torch.nn.Linear(1, 1)]
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(obj))
    assert str(caught.value) == (
        "this file holds objects of classes or functions that you have not trusted\n"
        "  in <BytesIO>\n"
        "  found builtins.list, collections.defaultdict, fractions.Fraction, "
        "torch.nn.modules.linear.Linear\n"
        "  If you trust where it comes from:\n"
        "  from collections import defaultdict\n"
        "  from fractions import Fraction\n"
        "  from torch.nn.modules.linear import Linear\n"
        "  holdfast.load(path, trust=[list, defaultdict, Fraction, Linear])\n"
        '  Without them: holdfast.load(path, opaque="state_dict") gives the weights.'
    )
    assert caught.value.symbols == (
        "builtins.list",
        "collections.defaultdict",
        "fractions.Fraction",
        "torch.nn.modules.linear.Linear",
    )


def test_nested_classes_are_symbols_of_their_own():
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(Outer.Inner()))
    assert caught.value.symbols == (f"{__name__}.Outer.Inner",)
    assert f"from {__name__} import Outer\n" in str(caught.value)
    assert "trust=[Outer.Inner])" in str(caught.value)


def test_getattr_on_what_is_no_class_of_the_file_is_not_taken_for_a_nested_class():
    with pytest.raises(UntrustedError) as caught:
        load_file(saved([Outer.Inner(), functools.partial(torch.Size.numel, 1)]))
    assert "builtins.getattr" in caught.value.symbols


def test_the_lines_to_paste_work():
    obj = [collections.defaultdict(list), fractions.Fraction(1), torch.nn.Linear(1, 1)]
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(obj))
    lines = caught.value.cure.splitlines()[1:-1]
    names: dict = {}
    exec("\n".join(lines[:-1]), names)
    trusted = eval(lines[-1].partition("trust=")[2].removesuffix(")"), names)
    assert load_file(saved(obj), trust=trusted)[1] == 1


class Active(torch.nn.Module):
    """A model that keeps its activation, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.other, self.fc = torch.relu, torch.nn.functional.gelu, torch.nn.Linear(2, 2)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "function", [torch.relu, torch.nn.functional.gelu, math.sqrt, torch.Tensor.relu]
)
def test_functions_made_in_c_are_trusted_by_the_lines_to_paste(function, protocol):
    data = saved([function], pickle_protocol=protocol)
    with pytest.raises(UntrustedError) as caught:
        load_file(data)
    lines = caught.value.cure.splitlines()
    names: dict = {}
    exec("\n".join(line for line in lines if line.startswith(("from", "import"))), names)
    line = next(line for line in lines if "trust=" in line)
    trusted = eval(line.partition("trust=")[2].removesuffix(")"), names)
    for each in (trusted, [function]):
        data.seek(0)
        assert load_file(data, trust=each)[0] is function


def test_a_model_that_keeps_its_activation_loads():
    data = saved(Active())
    trust = [
        Active,
        torch.relu,
        torch.nn.functional.gelu,
        torch.nn.Linear,
    ]
    assert load_file(data, trust=trust).act is torch.relu


def test_only_what_is_missing_is_listed():
    obj = [fractions.Fraction(1), collections.deque()]
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(obj), trust=[fractions.Fraction])
    assert caught.value.symbols == ("collections.deque",)


def test_two_classes_of_one_name_are_told_apart():
    from torch.ao.nn import qat

    obj = [torch.nn.Linear(1, 1), qat.Linear]
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(obj))
    assert "import torch.nn.modules.linear\n" in str(caught.value)
    assert "trust=[torch.ao.nn.qat.modules.linear.Linear, torch.nn.modules.linear.Linear]" in str(
        caught.value
    )


def test_a_class_that_has_moved_is_given_by_its_old_name():
    class Moved:
        pass

    data = saved(Plain(1)).getvalue().replace(b"Plain", b"Pla1n")
    # The pickle's checksum has to be that of the changed bytes.
    from holdfast.formats.zip_archive import read_members
    from holdfast.io.checksum import crc32
    from holdfast.io.source import open_source

    member = next(iter(read_members(open_source(io.BytesIO(data))).values()))
    crc = crc32(data[member.offset : member.offset + member.nbytes])
    data = data.replace(member.crc.to_bytes(4, "little"), crc.to_bytes(4, "little"))
    old = f"{Plain.__module__}.Pla1n"
    for trust in ({old: Moved}, [fractions.Fraction, {old: Moved}]):
        made = load_file(io.BytesIO(data), trust=trust)
        assert type(made) is Moved
        assert made.x == 1


def test_a_class_has_several_names_and_one_is_enough():
    assert torch.nn.Linear.__module__ == "torch.nn.modules.linear"
    data = saved(torch.nn.Linear(1, 1))
    assert isinstance(load_file(data, trust=[torch.nn.Linear]), torch.nn.Linear)


def test_another_name_of_a_trusted_class_counts_where_its_module_is_imported(monkeypatch):
    alias = types.ModuleType("alias_of_plain")
    alias.Renamed, alias.Other = Plain, Slots
    monkeypatch.setitem(sys.modules, "alias_of_plain", alias)
    trust = Trust([Plain])
    assert trust.find("alias_of_plain.Renamed") is Plain
    assert not trust.has("alias_of_plain.Other")
    assert not trust.has("alias_of_plain.Missing")
    assert not trust.has("never_imported.Renamed")
    assert "never_imported" not in sys.modules


@pytest.mark.parametrize(
    ("trust", "found"),
    [
        ("fractions.Fraction", "'fractions.Fraction'"),
        (["fractions.Fraction"], "'fractions.Fraction'"),
        ([3], "an object of class int"),
        ({"a.B": "c.D"}, "'c.D'"),
        ({3: Plain}, "an object of class int"),
        (fractions.Fraction(1), "an object of class Fraction"),
    ],
)
def test_names_are_not_trusted_as_they_would_have_to_be_imported(trust, found):
    with pytest.raises(UsageError) as caught:
        load_file(saved([1]), trust=trust)
    assert str(caught.value) == (
        "trust= takes classes and functions, not their names\n"
        f"  found {found}\n"
        "  Import them: trust=[MyClass]; for one that has moved: "
        '{"old.module.Name": MyClass}.'
    )


def test_a_single_class_is_taken_too():
    assert load_file(saved(fractions.Fraction(1, 2)), trust=fractions.Fraction) == 0.5


def test_what_a_trusted_class_raises_is_a_letter():
    with pytest.raises(FormatError) as caught:
        load_file(saved(Failing()), trust=[Failing])
    assert caught.value.what == (
        f"{Failing.__module__}.Failing could not be built: RuntimeError: no such version"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_opaque_objects_can_be_kept_with_the_tensors_in_them():
    shared = torch.ones(2)
    obj = {"w": shared, "net": Plain({"w": shared}), "f": fractions.Fraction(1, 2)}
    kept = load_file(saved(obj), opaque="keep", trust=[fractions.Fraction])
    assert kept["f"] == 0.5
    assert isinstance(kept["net"], Opaque)
    assert kept["net"].symbol == f"{Plain.__module__}.Plain"
    assert kept["net"].state["x"]["w"] is kept["w"]


def test_whole_models_load_when_their_classes_are_trusted():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    classes = [torch.nn.Sequential, torch.nn.Linear, torch.nn.ReLU]
    ours = load_file(saved(net), trust=classes)
    x = torch.rand(4, 2)
    assert torch.equal(ours(x), net(x))


def test_other_values_of_opaque_are_an_error():
    with pytest.raises(UsageError, match="opaque= is 'error', 'keep' or 'state_dict'"):
        load_file(saved([1]), opaque="drop")


def test_an_unknown_encoding_is_an_error():
    with pytest.raises(UsageError, match="this encoding is none that Python knows"):
        load_file(saved([1]), encoding="klingon")
