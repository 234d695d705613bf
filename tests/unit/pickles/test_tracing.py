"""What single opcodes do to the lenient walk, above all where other readers stop."""

from __future__ import annotations

import pickle

import pytest
from walking import found, look

CALL = b"cposix\nabort_\n)R."
CALLED = ("posix", "abort_", ("called",))

MISFITS = {
    "text of a negative length": (b"T\xff\xff\xff\xff", 4, "a length in it is negative"),
    "a number of a negative length": (b"\x8b\xfb\xff\xff\xff", 4, "a length in it is negative"),
    "the extension code 0": (b"\x82\0", 1, "an extension code is a positive number"),
    "a negative extension code": (
        b"\x84\xff\xff\xff\xff",
        4,
        "an extension code is a positive number",
    ),
    "a buffer": (b"\x97", 0, "its buffers are not in the file"),
    "a symbol of no texts": (b"NN\x93", 2, "a symbol is two texts"),
    "an object of no class": (b"(o", 1, "it takes more than there is"),
    "a name of no text": (b"c\xff\nx\n", 4, "a name in it is no text"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_readers_stop_at_is_told_and_the_walk_goes_on(name):
    opcodes, at, what = MISFITS[name]
    walked = look(opcodes + CALL)
    assert walked.problem == f"it does not fit at byte {at}: {what}"
    assert CALLED in found(opcodes + CALL)
    assert CALLED not in found(opcodes + CALL, is_guess=True)


@pytest.mark.parametrize("digits", [4300, 4301])
def test_a_number_of_very_many_digits_is_told_as_one(digits):
    """How many are too many is a setting of the reader."""
    walked = look(b"I" + b"1" * digits + b"\n0" + CALL)
    assert walked.symbols
    expected = f"it does not fit at byte {digits + 1:,}: a number in it is none, or very long"
    assert walked.problem == (expected if digits > 4300 else None)


def test_half_a_character_is_text_as_pickle_writes_it():
    data = pickle.dumps("\ud800", 4)
    assert look(data).problem is None
    assert look(data, is_guess=True).is_finished


STEPS = {
    "of a class in the closed table": b"ctorch\nSize\n\x8c\x05count",
    "of a name with underscores": b"ca\nb\n\x8c\x09__class__",
    "of a text that is no name": b"ca\nb\n\x8c\x03x.y",
    "of a very long name": b"ca\n" + b"b" * 1001 + b"\n\x8c\x01x",
}


@pytest.mark.parametrize("name", STEPS)
def test_getattr_is_called_unless_it_is_how_a_nested_class_is_written(name):
    data = b"cbuiltins\ngetattr\n(" + STEPS[name] + b"tR."
    assert ("builtins", "getattr", ("called",)) in found(data)


def test_a_storage_is_made_of_its_class_and_other_persistent_ids_are_classes():
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0kX\3\0\0\0cpuK\1tQ"
    assert found(storage + b"}b.") == [("torch", "FloatStorage", ("built",))]
    module = b"(X\6\0\0\0modulectorch\nFloatStorage\nNNtQ"
    assert found(module + b"}b.") == [("torch", "FloatStorage", ("patched",))]
