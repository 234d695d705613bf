"""What each opcode does to the abstract stack of the lenient walker, by its number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.pickles import tracing_calls as calls
from holdfast.pickles import tracing_plain as plain

if TYPE_CHECKING:
    from holdfast.pickles.symbols import Walker

_OPCODES: dict[bytes, Callable[[Walker], None]] = {
    # stack and memo
    **{b"(": lambda w: w.mark(), b"0": plain.pop, b"1": plain.pop_mark, b"2": plain.dup},
    **{b"p": plain.put, b"q": plain.binput, b"r": plain.long_binput, b"\x94": plain.memoize},
    **{b"g": plain.get, b"h": plain.binget, b"j": plain.long_binget},
    # protocol, symbols, persistent ids
    **{
        b"\x80": plain.proto,
        b"\x95": plain.frame,
        b"c": calls.global_,
        b"\x93": calls.stack_global,
    },
    **{b"P": calls.persid, b"Q": calls.binpersid},
    **{b"\x82": calls.extension(1), b"\x83": calls.extension(2), b"\x84": calls.extension(4)},
    **{b"\x97": calls.next_buffer, b"\x98": lambda w: None},
    # constants and numbers
    **dict.fromkeys((b"N", b"\x88", b"\x89"), plain.plain),
    **{b"I": plain.decimal_value, b"L": plain.decimal_value, b"F": plain.float_line},
    **{
        b"J": plain.number_of(4),
        b"K": plain.number_of(1),
        b"M": plain.number_of(2),
        b"G": plain.number_of(8),
    },
    **{b"\x8a": plain.long(1), b"\x8b": plain.long(4)},
    # text and bytes
    **{b"S": plain.string, b"V": plain.unicode},
    **{b"T": plain.sized(4, plain.latin1, signed=True), b"U": plain.sized(1, plain.latin1)},
    **{
        b"X": plain.sized(4, plain.utf8),
        b"\x8c": plain.sized(1, plain.utf8),
        b"\x8d": plain.sized(8, plain.utf8),
    },
    **{b"C": plain.sized(1, None), b"B": plain.sized(4, None)},
    **{b"\x8e": plain.sized(8, None), b"\x96": plain.sized(8, None)},
    # containers
    **{b")": plain.empty_tuple, b"t": plain.tuple_marked},
    **{b"\x85": plain.tuple_of(1), b"\x86": plain.tuple_of(2), b"\x87": plain.tuple_of(3)},
    **dict.fromkeys((b"]", b"}", b"\x8f"), plain.plain),
    **dict.fromkeys((b"l", b"d", b"\x91"), plain.collect),
    **{b"a": plain.fill(1), b"s": plain.fill(2)},
    **dict.fromkeys((b"e", b"u", b"\x90"), plain.fill_marked),
    # objects
    **{b"R": calls.reduce, b"\x81": calls.reduce, b"\x92": calls.newobj_ex},
    **{b"i": calls.inst, b"o": calls.obj, b"b": calls.build},
}

HANDLERS = tuple(_OPCODES.get(bytes([code]), calls.unknown) for code in range(256))
