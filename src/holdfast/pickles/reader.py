"""Read a pickle as a tree of plain values, references and opaque objects."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import FormatError
from holdfast.pickles import fused
from holdfast.pickles import literals as lit
from holdfast.pickles import objects as obj
from holdfast.pickles import opcodes as op
from holdfast.pickles.cursor import ended
from holdfast.pickles.limits import check_tree, nodes, path_to
from holdfast.pickles.machine import BYTES_PER_OBJECT, Machine
from holdfast.pickles.table import Call, Symbol
from holdfast.spec.index import Opaque
from holdfast.spec.tree import dotted

_STOP = 0x2E

_OPCODES: dict[bytes, Callable[[Machine], None]] = {
    # stack and memo
    **{b"(": op.mark, b"0": op.pop, b"1": op.pop_mark, b"2": op.dup},
    **{b"p": op.put, b"q": op.binput, b"r": op.long_binput, b"\x94": op.memoize},
    **{b"g": op.get, b"h": fused.binget, b"j": fused.long_binget},
    # protocol, symbols, persistent ids
    **{b"\x80": op.proto, b"\x95": op.frame, b"c": op.global_, b"\x93": op.stack_global},
    **{b"P": op.persid, b"Q": op.binpersid},
    **dict.fromkeys((b"\x82", b"\x83", b"\x84"), op.extension),
    **dict.fromkeys((b"\x97", b"\x98"), op.out_of_band),
    # constants and numbers
    **{b"N": lit.constant(None), b"\x88": lit.constant(True), b"\x89": lit.constant(False)},
    **{b"I": lit.int_, b"J": lit.binint, b"K": lit.binint1, b"M": lit.binint2},
    **{b"L": lit.long_, b"\x8a": lit.long1, b"\x8b": lit.long4},
    **{b"F": lit.float_, b"G": lit.binfloat},
    # text and bytes
    **{b"S": lit.string, b"T": lit.binstring, b"U": lit.short_binstring, b"V": lit.unicode_},
    **{b"X": lit.binunicode, b"\x8c": lit.short_binunicode, b"\x8d": lit.binunicode8},
    **{b"C": lit.short_binbytes, b"B": lit.binbytes, b"\x8e": lit.binbytes8},
    b"\x96": lit.bytearray8,
    # containers
    **{b")": obj.empty_tuple, b"t": obj.tuple_},
    **{b"\x85": obj.tuple1, b"\x86": obj.tuple2, b"\x87": obj.tuple3},
    **{b"]": obj.empty_list, b"l": obj.list_, b"a": obj.append, b"e": obj.appends},
    **{b"}": obj.empty_dict, b"d": obj.dict_, b"s": obj.setitem, b"u": obj.setitems},
    **{b"\x8f": obj.empty_set, b"\x90": obj.additems, b"\x91": obj.frozenset_},
    # objects
    **{b"R": obj.reduce, b"\x81": obj.newobj, b"\x92": obj.newobj_ex},
    **{b"i": obj.inst, b"o": obj.obj, b"b": obj.build},
}

_HANDLERS = tuple(_OPCODES.get(bytes([code]), op.unknown) for code in range(256))


@dataclass(frozen=True, slots=True)
class Pickled:
    """What a pickle holds.

    ``symbols`` are all globals outside the closed table, in order of appearance; ``discarded``
    those of objects that the pickle makes and throws away.
    """

    tree: Any
    symbols: tuple[str, ...]
    discarded: tuple[str, ...]


def read(
    data: bytes,
    *,
    persistent: Callable[[Machine, Any], Any],
    encoding: str = "utf-8",
    file: str | None = None,
    member: str | None = None,
    calls: Mapping[Symbol, Call] | None = None,
    bytes_per_object: int = BYTES_PER_OBJECT,
) -> Pickled:
    """Interpret one pickle of protocol 0 to 5; no object is made from any name in it.

    ``persistent`` gives the node of a persistent id. ``encoding`` decodes Python 2 text. ``calls``
    are symbols beside the closed table that this container's pickles alone may call, and
    ``bytes_per_object`` how many its objects take at least, on the whole.

    Raises:
        RefusedError: a rule for hostile files is broken.
        FormatError: the bytes are no whole pickle.
    """
    m = Machine(
        data,
        persistent=persistent,
        encoding=encoding,
        file=file,
        member=member,
        calls=calls,
        bytes_per_object=bytes_per_object,
    )
    return interpret(m)


def interpret(m: Machine) -> Pickled:
    """Run a machine to the end of its pickle; raises like ``read``."""
    try:
        tree = _run(m)
    except FormatError as error:
        raise (m.flaw or error) from None
    if m.flaw is not None:
        path = path_to(tree, m.flaw_nodes)
        m.flaw.tensor = dotted(path) if path else None
        raise m.flaw
    check_tree(tree, m)
    _forget_stepping_stones(m, tree)
    return Pickled(tree, tuple(m.symbols), tuple(m.discarded))


def _forget_stepping_stones(m: Machine, tree: Any) -> None:
    """Symbols named only to reach a nested class are no symbols that the file needs."""
    if m.stepping_stones:
        held = {node.symbol for node in nodes(tree) if type(node) is Opaque and node.is_global}
        for symbol in m.stepping_stones - m.used - held:
            m.symbols.pop(symbol, None)


def _run(m: Machine) -> Any:
    data, handlers = m.data, _HANDLERS
    try:
        while True:
            code = data[m.pos]
            m.pos += 1
            if code == _STOP:
                return m.finish()
            handlers[code](m)
    except IndexError as error:
        if m.pos >= m.end:
            raise ended(m, "it ends before its end") from error
        raise m.broken("it takes more than there is") from error
    except KeyError as error:
        raise m.broken("it gets what it never put") from error
    except struct.error as error:
        raise ended(m, "it ends in the middle of a number") from error
    except (ValueError, OverflowError) as error:
        # Numbers and text that are none (UnicodeError is a ValueError).
        raise m.broken("a value in it is not what it says") from error
