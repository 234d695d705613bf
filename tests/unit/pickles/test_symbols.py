"""The lenient walk: every symbol, in whole, broken and cut-off pickles; nothing here is loaded."""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import pickletools
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from walking import found, look

from holdfast.pickles.symbols import Allowance

CALLED = [("posix", "system", ("called",))]
TEXT = b"\x8c\x05posix", b"\x8c\x06system"
ARGS = b"\x8c\x04true\x85"

TRICKS = {
    "reduce": b"cposix\nsystem\n" + ARGS + b"R.",
    "with a protocol": b"\x80\x02cposix\nsystem\n" + ARGS + b"R.",
    "inst": b"(" + b"S'true'\niposix\nsystem\n.",
    "obj": b"(cposix\nsystem\nS'true'\no.",
    "newobj": b"\x80\x02cposix\nsystem\n" + ARGS + b"\x81.",
    "newobj with names": b"\x80\x04cposix\nsystem\n" + ARGS + b"}\x92.",
    "two texts": b"\x80\x04" + TEXT[0] + TEXT[1] + b"\x93" + ARGS + b"R.",
    "texts from the memo": b"\x80\x04%b\x94%b\x940" % TEXT + b"0h\x00h\x01\x93" + ARGS + b"R.",
    "memo kept over": b"\x80\x04]q\x00%bq\x00%bq\x07" % TEXT + b"h\x00h\x07\x93" + ARGS + b"R.",
    "memo in decimals": b"Vposix\np5\nVsystem\np6\ng5\ng6\n\x93" + ARGS + b"R.",
    "memo by four bytes": b"%br\x01\x00\x00\x010%br\x02\x00\x00\x010j\x01\x00\x00\x01" % TEXT
    + b"j\x02\x00\x00\x01\x93"
    + ARGS
    + b"R.",
    "dup and pop": b"%b2(0020" % TEXT[0] + b"%b\x93" % TEXT[0] + b".",
    "escapes": b"V\\u0070osix\nS'sys\\x74em'\n\x93" + ARGS + b"R.",
    "python 2 text": b"\x80\x04U\x05posixT\x06\x00\x00\x00system\x93" + ARGS + b"R.",
    "a frame": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00%b%b\x93." % TEXT,
    "cut off": b"cposix\nsystem\n" + ARGS + b"R",
    "broken behind": b"cposix\nsystem\n" + ARGS + b"R\xff\xff\xff",
    "too little on the stack before": b"\x80\x02R0" + b"cposix\nsystem\n" + ARGS + b"R.",
    "a missing memo before": b"h\x07" + b"cposix\nsystem\n" + ARGS + b"R.",
    "no mark before": b"t" + b"cposix\nsystem\n" + ARGS + b"R.",
    "a bad number before": b"Ix\n" + b"cposix\nsystem\n" + ARGS + b"R.",
    "a newer protocol": b"\x80\x63" + b"cposix\nsystem\n" + ARGS + b"R.",
    "bad text before": b"\x8c\x02\xff\xff" + b"cposix\nsystem\n" + ARGS + b"R.",
    "behind a mark": b"((((cposix\nsystem\n" + ARGS + b"R.",
    "in a persistent id": b"(\x8c\x06module" + b"cposix\nsystem\nNNtQ" + ARGS + b"R.",
    "in the oldest persistent id": b"(cposix\nsystem\nNNtQ" + ARGS + b"R.",
}


@pytest.mark.parametrize("name", TRICKS)
def test_every_way_to_name_and_call(name):
    symbols = [each[:2] for each in found(TRICKS[name])]
    if name == "dup and pop":
        assert symbols == [("posix", "posix")]
    elif name == "a frame":
        assert found(TRICKS[name]) == [("posix", "system", ())]
    elif name.endswith("before"):
        assert ("posix", "system", ("called",)) in found(TRICKS[name])
    else:
        assert found(TRICKS[name]) == CALLED


WRONG = {
    "cut off": "it cannot be followed behind byte 21: it ends before its end",
    "broken behind": "it cannot be followed behind byte 22: no opcode is 0xff",
    "too little on the stack before": "it does not fit at byte 2: it takes more than there is",
    "a missing memo before": "it does not fit at byte 1: it gets what it never put",
    "no mark before": "it does not fit at byte 0: it goes back to a mark that it never set",
    "a bad number before": "it does not fit at byte 2: a number in it is none, or very long",
    "a newer protocol": "it does not fit at byte 1: protocol 99 is newer than 5",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(name):
    assert look(TRICKS[name]).problem == WRONG[name]


def test_a_python_2_name_is_told_both_ways():
    [symbol] = look(b"\x80\x02c__builtin__\nset\n.").symbols
    assert (symbol.module, symbol.name) == ("builtins", "set")
    assert (symbol.raw_module, symbol.raw_name) == ("__builtin__", "set")
    [symbol] = look(b"\x80\x04c__builtin__\nset\n.").symbols
    assert symbol.module == "__builtin__"


COMPUTED = {
    "a name made by a call": b"\x80\x04ca\nb\n)R" + TEXT[1] + b"\x93)R.",
    "what a call gave is called": b"ca\nb\n)R)R.",
    "a persistent id is called": b"Px\n)R.",
    "a name of another pickle's memo": b"h\x00h\x01\x93)R.",
    "a name of a thousand letters": b"X\x00\x10\x00\x00" + b"a" * 4096 + TEXT[1] + b"\x93)R.",
    "no text": b"c\xff\nx\n)R.",
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_name_known_only_when_it_runs_is_told_as_unknown(name):
    assert ("", "unknown", ("called",)) in found(COMPUTED[name])


def test_extension_codes_are_symbols_without_a_name():
    assert found(b"\x82\x05)R\x83\x01\x02)R\x84\x01\x00\x00\x00)R.") == [
        ("copyreg", f"extension code {code}", ("called",)) for code in (5, 513, 1)
    ]


def test_attributes_reached_by_calls():
    chain = b"cbuiltins\ngetattr\n(ca.b\nOuter\n\x8c\x05InnertR)R."
    assert found(chain) == [
        ("builtins", "getattr", ()),
        ("a.b", "Outer", ()),
        ("a.b", "Outer.Inner", ("called",)),
    ]
    chain = b"cbuiltins\ngetattr\n(ctorch\nSize\n\x8c\x09__class__tR)R."
    assert ("builtins", "getattr", ("called",)) in found(chain)
    assert ("torch", "Size.__class__", ("called",)) in found(chain)


def test_build_is_told_of_objects_and_of_classes():
    assert found(b"ca\nb\n)R}b.") == [("a", "b", ("called", "built"))]
    assert found(b"ca\nb\n}b.") == [("a", "b", ("patched",))]


def test_a_guess_ends_where_every_reader_stops():
    assert not look(b"click\nhere\nto see", is_guess=True).is_convincing
    assert not look(b"\x80\x02\x00garbage", is_guess=True).is_convincing
    assert look(b"cposix\nsystem\n" + ARGS + b"R\xff", is_guess=True).is_convincing
    assert look(b"\x80\x02cposix\nsystem\n", is_guess=True).is_convincing
    behind = look(b"\x80\x020cposix\nsystem\n", is_guess=True)
    assert (behind.symbols, behind.is_convincing) == ((), False)


def test_constants_that_may_hold_pickles_are_kept_aside():
    data = pickle.dumps({"name": b"a\nb", "long": b"\n" * 5000, "text": "x\ny", "plain": "none"}, 4)
    constants = look(data).constants
    held = [data[c.offset : c.offset + c.nbytes] for c in constants]
    assert held == [b"a\nb", b"\n" * 5000, b"x\ny"]
    [escaped] = look(b"Vcos\\u000asystem\n.").constants
    assert escaped.decode(b"a\\u000a") == "a\n"
    assert look(b"S'a\\nb'\n.").constants[0].offset == 2


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_larger_than_a_window(protocol):
    tree = [
        b"x" * 3_000_000,
        "y" * 2000,
        list(range(300_000)),
        collections.Counter("ab"),
        "z" * 999,
    ]
    data = pickle.dumps(tree, protocol)
    whole = look(data)
    assert (whole.problem, whole.end) == (None, len(data))
    assert ("collections", "Counter", ("called",)) in found(data)


def test_limits_are_told():
    assert "longer than any" in look(b"N" * 100, allowance=Allowance(50)).problem
    named = b"".join(b"ca\nb%d\n0" % number for number in range(10_001))
    assert "more symbols" in look(named).problem
    assert len(look(named).symbols) == 10_000


def test_a_limit_is_told_also_where_something_did_not_fit_before():
    walked = look(b"R" + b"N" * 100, allowance=Allowance(50))
    assert walked.is_cut_short
    assert "longer than any" in walked.problem


def test_texts_that_may_hold_pickles_are_kept_up_to_a_limit(monkeypatch):
    """The limit itself takes a hundred megabytes to reach."""
    monkeypatch.setattr("holdfast.pickles.symbols._MOST_CONSTANTS", 10)
    assert look(b"C\1\n0" * 10 + b"N.").problem is None
    walked = look(b"C\1\n0" * 11 + b"N.")
    assert (len(walked.constants), walked.is_cut_short) == (10, True)
    assert "more texts with line breaks than any" in walked.problem


def frame(nbytes: int) -> bytes:
    return b"\x95" + nbytes.to_bytes(8, "little")


FRAMES = {
    "ends in a name": (
        b"\x80\4" + frame(2) + b"cposix\nabort_\n.",
        "a frame ends where no opcode does, near byte 25",
    ),
    "begins in another": (
        b"\x80\4" + frame(30) + frame(2) + b"N." + b"x" * 19,
        "a frame ends where no opcode does, near byte 20",
    ),
    "is longer than the file": (
        b"\x80\4" + frame(3) + b"N.",
        "it cannot be followed behind byte 2: its frame ends with the file",
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_two_readers_take_otherwise_is_told(name):
    data, problem = FRAMES[name]
    walked = look(data)
    assert (walked.problem, walked.is_finished) == (problem, True)
    # Bytes that one reader drops may name anything; a frame that is cut off drops none.
    names = [each[:2] for each in found(data)]
    assert (("", "unknown") in names) == (name != "is longer than the file")


def test_bytes_are_kept_aside_for_each_opcode_that_names_a_symbol():
    held = b"\n", b"\x93", b"\x82", b"\x83", b"\x84"
    data = b"".join(b"C\1" + each for each in (b"a", *held, b"\x85")) + b"."
    assert [data[c.offset : c.offset + 1] for c in look(data).constants] == list(held)


GAMES = {
    "memo": b"N" + b"q\x00h\x00" * 500_000,
    "marks": b"(" * 1_000_000,
    "tuples": b")" + b"\x85" * 1_000_000,
    "doubled": b")" + b"2\x86" * 500_000,
    "one long name again and again": b"X\xe8\x03\x00\x00"
    + b"a" * 1000
    + b"q\x00"
    + b"h\x00h\x00\x930" * 250_000,
    "frames": b"\x95" + b"\x00" * 8 + b"\x95\xff" * 500_000,
}


@pytest.mark.parametrize("name", GAMES)
def test_games_take_time_in_proportion(name):
    started = time.process_time()
    look(b"\x80\x04" + GAMES[name])
    assert time.process_time() - started < 20


class Recorder(pickle.Unpickler):
    """What Python's own reader asks for; each name is answered by a class that takes anything."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.asked: dict[tuple[str, str], None] = {}

    def find_class(self, module, name):
        self.asked[module, name] = None
        return super().find_class(module, name)


class Thing:
    def __init__(self, value) -> None:
        self.value = value


class Slotted:
    __slots__ = ("a",)


def slotted(value) -> Slotted:
    made = Slotted()
    made.a = value
    return made


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
)
OBJECTS = st.recursive(
    st.one_of(PLAIN, st.sampled_from([torch.float32, torch.Size([1]), torch.device("cpu"), Thing])),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.text(), inner),
        st.sets(st.integers()),
        st.dictionaries(st.text(), inner).map(collections.OrderedDict),
        inner.map(Thing),
        inner.map(slotted),
        inner.map(lambda value: collections.deque([value])),
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(OBJECTS, st.sampled_from(range(2, 6)))
def test_the_names_are_those_that_pythons_own_reader_asks_for(value, protocol):
    data = pickle.dumps(value, protocol)
    recorder = Recorder(data)
    recorder.load()
    for is_guess in (False, True):
        walked = look(data, is_guess=is_guess)
        assert {(s.raw_module, s.raw_name) for s in walked.symbols} | {
            (s.module, s.name) for s in walked.symbols
        } >= set(recorder.asked)
        assert {(s.module, s.name) for s in walked.symbols} == {
            (s.module, s.name) for s in look(data).symbols
        }
        assert len(walked.symbols) == len(recorder.asked)
        assert (walked.problem, walked.end) == (None, len(data))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(op.code.encode("latin-1") for op in pickletools.opcodes if op.arg is None),
                b"ca\nb\n",
                b"K\x01",
                b"h\x00",
                b"q\x00",
                b"\x8c\x01a",
                b"U\x01b",
                b"(ia\nb\n",
                b"Qca\nb\n",
                b"\x82\x01",
            ]
        ),
        max_size=30,
    )
)
def test_whatever_python_asks_for_before_it_stops_is_found(pieces):
    """The walk comes at least as far as Python's own reader, in any order of opcodes."""
    asked = []

    class Anything:
        def __init__(self, *args, **kwargs) -> None: ...
        def __new__(cls, *args, **kwargs):
            return object.__new__(cls)

        def __setstate__(self, state) -> None: ...
        def append(self, item) -> None: ...
        def extend(self, items) -> None: ...
        def __setitem__(self, key, value) -> None: ...

    class Asking(pickle._Unpickler):
        def find_class(self, module, name):
            asked.append((module, name))
            return Anything

        def persistent_load(self, pid):
            return Anything()

        def get_extension(self, code) -> None:
            asked.append(("copyreg", f"extension code {code}"))
            self.append(Anything)

    data = b"".join(pieces)
    with contextlib.suppress(Exception):
        Asking(io.BytesIO(data)).load()
    for is_guess in (False, True):
        names = {(s.raw_module, s.raw_name) for s in look(data, is_guess=is_guess).symbols}
        assert {name for name in asked if all(type(part) is str for part in name)} <= names
