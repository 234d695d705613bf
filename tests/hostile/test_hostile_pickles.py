"""Pickles that run code elsewhere, or never end, or take all memory."""

from __future__ import annotations

import time

import pytest

from holdfast.errors import FormatError, RefusedError, TruncatedError, UntrustedError
from holdfast.spec.index import Opaque

PUT0, GET0 = b"q\x00", b"h\x00"


def refusal(asm, opcodes: bytes) -> RefusedError:
    data = asm.archive(b"\x80\x02" + opcodes + b".")
    started = time.process_time()
    with pytest.raises(RefusedError) as caught:
        asm.look(data)
    assert time.process_time() - started < 20
    assert caught.value.member == "a/data.pkl"
    return caught.value


CODE = {
    "reduce": lambda a, c: a.call(a.sym("posix", "system"), c),
    "newobj": lambda a, c: a.new(a.sym("subprocess", "Popen"), c),
    "inst": lambda a, c: a.raw(b"(" + a.ops(c) + b"iposix\nsystem\n"),
    "obj": lambda a, c: a.raw(b"(" + a.sym("posix", "system") + a.ops(c) + b"o"),
    "stack_global": lambda a, c: a.raw(
        a.ops("posix") + a.ops("system") + b"\x93" + a.ops((c,)) + b"R"
    ),
    "eval": lambda a, c: a.call(a.sym("__builtin__", "eval"), f"__import__('os').system({c!r})"),
    "getattr": lambda a, c: a.call(
        a.call(a.sym("builtins", "getattr"), a.sym("os", "path"), "os"), c
    ),
    "build": lambda a, c: a.build(a.new(a.sym("os", "Thing")), {"__setstate__": c}),
    "state setter": lambda a, c: a.raw(a.call(a.sym("posix", "system"), c) + b"0" + a.ops({})),
    "load_from_bytes": lambda a, c: a.call(a.sym("pickle", "loads"), c.encode()),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_data_when_looking_and_an_error_when_loading(asm, name, tmp_path):
    canary = tmp_path / "ran"
    data = asm.file({"w": asm.tensor(), "x": CODE[name](asm, f"touch {canary}")})
    index = asm.look(data)
    assert index.tree["w"].shape == (4,)
    assert index.symbols
    with pytest.raises(UntrustedError) as caught:
        asm.load(data)
    assert caught.value.symbols == tuple(sorted(index.symbols))
    kept = asm.load(data, opaque="keep")
    assert kept["w"].shape == (4,)
    assert isinstance(kept["x"], Opaque | dict)
    assert not canary.exists()


def test_the_letter_about_a_file_that_would_run_code(asm):
    with pytest.raises(UntrustedError) as caught:
        asm.load(asm.file({"x": asm.call(asm.sym("posix", "system"), "ls")}))
    assert str(caught.value) == (
        "this file holds objects of classes or functions that you have not trusted\n"
        "  in <BytesIO>\n"
        "  found posix.system\n"
        "  With posix.system a file can run anything on this machine. Do not load it.\n"
        '  To see the tensors in it all the same: holdfast.load(path, opaque="keep").'
    )


def test_names_that_are_no_python_names_are_never_offered_for_pasting(asm):
    data = asm.file({"x": asm.call(asm.sym("a; import os #", "b"))})
    with pytest.raises(UntrustedError) as caught:
        asm.load(data)
    assert "trust=" not in str(caught.value)
    assert "found a; import os #.b" in str(caught.value)


def test_a_trusted_function_is_trusted_for_one_call_only(asm):
    data = asm.file({"x": asm.call(asm.sym("fractions", "Fraction"), 1, 3)})
    from fractions import Fraction

    assert asm.load(data, trust=[Fraction])["x"] == Fraction(1, 3)
    with pytest.raises(UntrustedError):
        asm.load(data)


BOMBS = {
    "bytearray of a length": (
        lambda a: a.call(a.sym("builtins", "bytearray"), 2**40),
        "builtins.bytearray is called as torch and Python do",
    ),
    "bytes of a length": (
        lambda a: a.call(a.sym("__builtin__", "bytes"), 2**40),
        "builtins.bytes is called as torch and Python do",
    ),
    "zlib by codec": (
        lambda a: a.call(a.sym("_codecs", "encode"), "x", "zlib_codec"),
        "_codecs.encode is called as torch and Python do",
    ),
    "encode what is no latin-1": (
        lambda a: a.call(a.sym("_codecs", "encode"), "模", "latin1"),
        "_codecs.encode is called as torch and Python do",
    ),
    "numel without bytes": (
        lambda a: a.build(
            a.call(
                a.sym("numpy.core.multiarray", "_reconstruct"),
                a.sym("numpy", "ndarray"),
                (0,),
                b"b",
            ),
            (1, (2**40,), a.call(a.sym("numpy", "dtype"), "f8", False, True), False, b""),
        ),
        "an array has the bytes of its shape and dtype",
    ),
    "elements of no bytes": (
        lambda a: a.call(
            a.sym("numpy.core.numeric", "_frombuffer"),
            b"",
            a.call(a.sym("numpy", "dtype"), "S0", False, True),
            (2**40,),
            "C",
        ),
        "an array has the bytes of its shape and dtype",
    ),
    "an array that is never filled": (
        lambda a: a.call(
            a.sym("numpy.core.multiarray", "_reconstruct"), a.sym("numpy", "ndarray"), (0,), b"b"
        ),
        "an array or tensor that is begun is also filled",
    ),
    "size of text": (
        lambda a: a.call(a.sym("torch", "Size"), ("a",)),
        "torch.Size is called as torch and Python do",
    ),
    "device of nonsense": (
        lambda a: a.call(a.sym("torch", "device"), "cpu; rm"),
        "torch.device is called as torch and Python do",
    ),
    "unknown layout": (
        lambda a: a.call(a.sym("torch.serialization", "_get_layout"), "torch.load"),
        "torch.serialization._get_layout is called as torch and Python do",
    ),
    "attributes on a dict": (
        lambda a: a.build({}, {"items": 1}),
        "no attribute is set on plain values",
    ),
    "attributes on a class": (
        lambda a: a.build(a.sym("torch", "Tensor"), {"add": 1}),
        "no attribute is set on plain values",
    ),
    "a state set twice": (
        lambda a: a.build(a.build(a.new(a.sym("m", "C")), {"a": 1}), {"a": 2}),
        "an object gets its state once",
    ),
    "items on a class": (
        lambda a: a.raw(a.sym("os", "environ") + a.ops("k") + a.ops("v") + b"s"),
        "only dicts are stored into",
    ),
    "appending to a tuple": (
        lambda a: a.raw(a.ops(()) + a.ops(1) + b"a"),
        "only lists are appended to",
    ),
    "adding to a list": (
        lambda a: a.raw(a.ops([]) + b"(" + a.ops(1) + b"\x90"),
        "only sets are added to",
    ),
    "calling a number": (
        lambda a: a.call(1, 2),
        "only symbols are called",
    ),
    "arguments that are no tuple": (
        lambda a: a.raw(a.sym("a", "b") + a.ops([]) + b"R"),
        "arguments are a tuple",
    ),
    "a key without a value": (
        lambda a: a.raw(b"}(" + a.ops("a") + b"u"),
        "every key has a value",
    ),
    "extension codes": (
        lambda a: a.raw(b"\x82\x01"),
        "no extension codes: what they mean is not in the file",
    ),
    "buffers outside": (
        lambda a: a.raw(b"\x97"),
        "no buffers outside the pickle: they are not in the file",
    ),
    "a long name": (
        lambda a: a.sym("a" * 2000, "b"),
        "names of classes are short",
    ),
    "decimal digits": (
        lambda a: a.raw(b"I" + b"9" * 5000 + b"\n"),
        "decimal integers are short",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_calls_that_no_writer_writes_are_refused(asm, name):
    make, rule = BOMBS[name]
    assert refusal(asm, asm.ops({"x": make(asm)})).what == f"refused: {rule}"


def nested(asm, opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + asm.ops(1) + closing * depth


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"]", b"a"), (b"}N", b"s"), (b"", b"\x85"), (b"cA\nB\n", b"\x85R")]
)
def test_deep_nesting_is_refused_and_shallow_nesting_is_not(asm, opening, closing):
    assert asm.look(asm.archive(b"\x80\x02" + nested(asm, opening, closing, 90) + b"."))
    error = refusal(asm, nested(asm, opening, closing, 100_000))
    assert error.what == "refused: a tree is at most 200 levels deep"


def test_marks_nested_by_the_thousand_are_refused(asm):
    error = refusal(asm, b"(" * 100_000)
    assert error.what == "refused: marks are not nested by the thousand"


def test_one_hundred_bytes_that_describe_a_billion_leaves_are_refused(asm):
    opcodes = b"]" + PUT0
    for level in range(30):
        # [previous, previous], put where the previous one was
        opcodes = opcodes + b"](" + (b"h" + bytes([level])) * 2 + b"eq" + bytes([level + 1])
    error = refusal(asm, b"](" + opcodes + b"e")
    assert error.what == "refused: a tree is not much larger than the pickle it comes from"


def test_nested_tuples_as_keys_are_refused(asm):
    # Hashing the last one takes 2**40 steps, as each holds the one before it twice.
    tuples = b")" + PUT0 + b"0" + (GET0 + GET0 + b"\x86" + PUT0 + b"0") * 40
    error = refusal(asm, b"}" + tuples + GET0 + b"Ns")
    assert error.what == "refused: keys are flat, short tuples, not nested ones"


KEYS = {
    "a list": (lambda a: [], "keys are text, bytes, numbers, None, or flat tuples of those"),
    "a dict": (lambda a: {}, "keys are text, bytes, numbers, None, or flat tuples of those"),
    "a tuple of lists": (lambda a: ([],), "keys are flat, short tuples, not nested ones"),
    "a long tuple": (lambda a: tuple(range(100)), "keys are flat, short tuples, not nested ones"),
    "a long integer": (lambda a: 1 << 1500, "keys have at most 1024 bits"),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_that_are_slow_to_hash_are_refused(asm, name):
    make, rule = KEYS[name]
    pair = asm.ops(make(asm)) + b"N"
    assert refusal(asm, b"}" + pair + b"s").what == f"refused: {rule}"
    assert refusal(asm, b"\x8f(" + asm.ops(make(asm)) + b"\x90").what == f"refused: {rule}"


def test_keys_made_to_collide_are_refused_before_they_take_minutes(asm):
    modulus = 2**61 - 1
    keys = b"".join(asm.ops(n * modulus) + b"N" for n in range(1, 40_000))
    error = refusal(asm, b"}(" + keys + b"u")
    assert error.what == "refused: keys do not collide by the thousand"


def test_copies_of_one_long_text_are_refused(asm):
    text = asm.ops("x" * 1_000_000) + PUT0 + b"0"
    encode = asm.sym("_codecs", "encode") + b"q\x01" + b"0"
    latin = asm.ops("latin1") + b"q\x02" + b"0"
    copy = b"h\x01h\x00h\x02\x86R"
    error = refusal(asm, text + encode + latin + b"](" + copy * 10_000 + b"e")
    assert error.what == "refused: a pickle describes about as much as it holds"


def test_millions_of_objects_in_a_small_pickle_are_refused(asm):
    error = refusal(asm, b"](" + b"\x8f" * 3_000_000 + b"e")
    assert error.what == "refused: a pickle makes about as many objects as its size allows"


def test_something_left_over_is_refused(asm):
    assert refusal(asm, b"NN").what == "refused: one object is left at the end of a pickle"
    assert refusal(asm, b"(N").what == "refused: one object is left at the end of a pickle"
    assert refusal(asm, b"").what == "refused: one object is left at the end of a pickle"
    assert refusal(asm, b"N.N").what == "refused: nothing follows the end of a pickle"


BROKEN = {
    "it ends before its end": b"N",
    "it takes more than there is": b"0N.",
    "it gets what it never put": b"h\x05.",
    "no opcode is 0xff": b"\xff.",
    "it ends in the middle of a text": b"X\xff\xff\xff\x7fab.",
    "it ends in the middle of a line": b"cposix",
    "it ends in the middle of a value": b"\x8b\xff\xff\xff\x7f.",
    "it ends in the middle of a frame": b"\x95" + b"\x7f" * 8 + b"N.",
    "protocol 9 is newer than this reader (5)": b"\x80\x09N.",
    "a value in it is not what it says": b"X\x01\x00\x00\x00\xff.",
    "a text without quotes": b"Sab\n.",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_pickles_get_a_letter(asm, what):
    with pytest.raises(FormatError) as caught:
        asm.look(asm.archive(b"\x80\x02" + BROKEN[what]))
    assert caught.value.what == f"the pickle in this file cannot be read: {what}"
    assert type(caught.value) is (TruncatedError if what.startswith("it ends") else FormatError)


def test_self_reference_is_kept_and_ends(asm):
    data = asm.archive(b"\x80\x02]" + PUT0 + GET0 + b"a.")
    loaded = asm.load(data)
    assert loaded[0] is loaded
    opaque = asm.archive(b"\x80\x02cA\nB\n)\x81" + PUT0 + b"}X\x01\x00\x00\x00s" + GET0 + b"sb.")
    kept = asm.load(opaque, opaque="keep")
    assert kept.state["s"] is kept


def test_what_a_value_looks_like_in_a_message_is_short(asm):
    # A tuple of tuples of tuples, eight at a time, would print 8**20 numbers.
    opcodes = b"N" + PUT0 + b"0"
    for _ in range(20):
        opcodes += b"(" + GET0 * 8 + b"t" + PUT0 + b"0"
    error = refusal(asm, opcodes + asm.sym("torch", "Size") + GET0 + b"\x85R")
    assert len(str(error)) < 1000
