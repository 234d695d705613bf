"""What each opcode does to the abstract stack of the lenient walker.

Numbers and meanings: Lib/pickletools.py of CPython. Where its readers raise, the walk notes a
misfit and goes on as if a plain value stood there.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.pickles.table import is_known
from holdfast.pickles.values import LONGEST_NAME, Constant, Made, Symbol

if TYPE_CHECKING:
    from holdfast.pickles.symbols import Walker

#: Bytes without any of these name no symbol: lines, STACK_GLOBAL, extension codes.
MAY_NAME = re.compile(rb"[\n\x93\x82-\x84]")

_LONGEST_DECIMAL = 4300
_HIGHEST_PROTOCOL = 5
_uint4 = struct.Struct("<I").unpack_from
_GETATTR = ("builtins", "getattr")


# ---- stack, memo, protocol


def _pop(w: Walker) -> None:
    if not w.stack and w.marks:
        w.to_mark()
    else:
        w.pop()


def _dup(w: Walker) -> None:
    if w.stack:
        w.stack.append(w.stack[-1])
    else:
        w.misfit("it takes more than there is")


def _put(w: Walker) -> None:
    w.put(_decimal(w, 10))


def _binput(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 1
    w.put(w.data[pos])


def _long_binput(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 4
    w.put(_uint4(w.data, pos)[0])


def _memoize(w: Walker) -> None:
    w.put(len(w.memo))


def _get(w: Walker) -> None:
    w.get(_decimal(w, 10))


def _binget(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 1
    w.get(w.data[pos])


def _long_binget(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 4
    w.get(_uint4(w.data, pos)[0])


def _proto(w: Walker) -> None:
    w.protocol, w.has_protocol = w.number(1), True
    if w.protocol > _HIGHEST_PROTOCOL:
        w.misfit(f"protocol {w.protocol} is newer than 5")


def _frame(w: Walker) -> None:
    w.frame(w.number(8))


# ---- numbers, text, bytes


def _plain(w: Walker) -> None:
    w.stack.append(None)


def _number(nbytes: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        w.pos += nbytes
        if w.pos > len(w.data):
            w.stop("it ends in the middle of a value")
        w.stack.append(None)

    return push


def _long(width: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        w.skip(_length(w, width, signed=width == 4))
        w.stack.append(None)

    return push


def _decimal(w: Walker, base: int) -> int:
    """The number of a line, as generously as any reader takes it; base 0 is that of literals.

    CPython's reader in C stops at a NUL and takes ``010`` for 8 (Modules/_pickle.c: ``load_int``).
    """
    written = w.line().partition(b"\0")[0]
    if len(written) > _LONGEST_DECIMAL:
        return -1
    written = written.strip().removesuffix(b"L")
    for each in (base, 8):
        try:
            return int(written, each)
        except ValueError:
            continue
    w.misfit("a number in it is none")
    return -1


def _decimal_value(w: Walker) -> None:
    _decimal(w, 0)
    w.stack.append(None)


def _float(w: Walker) -> None:
    try:
        float(w.line().partition(b"\0")[0])
    except ValueError:
        w.misfit("a number in it is none")
    w.stack.append(None)


def _length(w: Walker, width: int, *, signed: bool = False) -> int:
    nbytes = int.from_bytes(w.take(width), "little", signed=signed)
    if nbytes < 0:
        w.misfit("a length in it is negative")
        return 0
    return nbytes


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _ascii(data: bytes) -> str:
    return data.decode("latin-1")  # what other encodings make of it is another matter


def _sized(
    width: int, decode: Callable[[bytes], str] | None, *, signed: bool = False
) -> Callable[[Walker], None]:
    return lambda w: w.constant(_length(w, width, signed=signed), decode)


def _string(w: Walker) -> None:
    start, written = w.at + 1, w.line()
    if len(written) < 2 or written[:1] != written[-1:] or written[:1] not in (b"'", b'"'):
        w.misfit("a text without quotes")
    _text_line(w, start, written[1:-1], _unescaped)


def _unescaped(data: bytes) -> str:
    return codecs.escape_decode(data)[0].decode("latin-1")


def _unicode(w: Walker) -> None:
    start = w.at
    _text_line(w, start, w.line(), _raw_unescaped)


def _raw_unescaped(data: bytes) -> str:
    return data.decode("raw-unicode-escape")


def _text_line(w: Walker, start: int, written: bytes, decode: Callable[[bytes], str]) -> None:
    text = None
    if len(written) <= LONGEST_NAME:
        try:
            text = decode(written)
        except ValueError:
            w.misfit("a text in it is none")
    # Escapes may stand for what names a symbol.
    few = None if b"\\" in written else written
    w.push(Constant(start, len(written), text, decode), few)


# ---- containers


def _pop_mark(w: Walker) -> None:
    w.to_mark()


def _tuple(w: Walker) -> None:
    items = w.to_mark()
    w.stack.append(tuple(items))


def _tuple_of(count: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        stack = w.stack
        if len(stack) >= count:
            stack[-count:] = [tuple(stack[-count:])]
        else:
            items = [w.pop() for _ in range(count)]
            stack.append(tuple(reversed(items)))

    return push


def _empty_tuple(w: Walker) -> None:
    w.stack.append(())


def _collect(w: Walker) -> None:
    w.to_mark()
    w.stack.append(None)


def _fill(count: int) -> Callable[[Walker], None]:
    """Put so many values into the container below them."""

    def fill(w: Walker) -> None:
        for _ in range(count):
            w.pop()
        if not w.stack:
            w.misfit("it fills what is not there")

    return fill


def _fill_marked(w: Walker) -> None:
    w.to_mark()
    if not w.stack:
        w.misfit("it fills what is not there")


# ---- symbols and calls


def _global(w: Walker) -> None:
    w.stack.append(_from_lines(w))


def _from_lines(w: Walker) -> Symbol:
    module, name = w.line(), w.line()
    try:
        return w.name(str(module, "utf-8"), str(name, "utf-8"))
    except UnicodeDecodeError:
        w.misfit("a name in it is no text")
        return w.nameless()


def _stack_global(w: Walker) -> None:
    name, module = w.pop(), w.pop()
    if isinstance(name, Constant) and isinstance(module, Constant):
        if name.text is not None and module.text is not None:
            w.stack.append(w.name(module.text, name.text))
            return
    elif not (isinstance(name, Made) or isinstance(module, Made)):
        w.misfit("a symbol is two texts")
    w.stack.append(w.nameless())


def _extension(nbytes: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        w.stack.append(w.name("copyreg", f"extension code {w.number(nbytes)}"))

    return push


def _call(w: Walker, function: Any, args: Any) -> None:
    if not isinstance(function, Symbol):
        if not isinstance(function, Made):
            w.misfit("only symbols are called")
        function = w.nameless()
    inner = _attribute(function, args)
    if inner is not None:
        outer = args[0]
        w.stack.append(w.name(outer.module, f"{outer.name}.{inner}"))
        return
    function.ways["called"] = None
    w.stack.append(function.made)


def _attribute(function: Symbol, args: Any) -> str | None:
    """The name of a nested class, which protocols before 4 write as a call of ``getattr``."""
    if (function.module, function.name) != _GETATTR:
        return None
    if not isinstance(args, tuple) or len(args) != 2 or not isinstance(args[0], Symbol):
        return None
    outer, inner = args[0], args[1].text if isinstance(args[1], Constant) else None
    if inner is None or not inner.isidentifier() or len(outer.name) > LONGEST_NAME:
        return None
    if inner.startswith("__") or is_known(outer.module, outer.name):
        function.ways["called"] = None
    return inner


def _reduce(w: Walker) -> None:
    args, function = w.pop(), w.pop()
    _call(w, function, args)


def _newobj_ex(w: Walker) -> None:
    w.pop()
    _reduce(w)


def _inst(w: Walker) -> None:
    symbol = _from_lines(w)
    args = tuple(w.to_mark())
    _call(w, symbol, args)


def _obj(w: Walker) -> None:
    items = w.to_mark()
    if not items:
        w.misfit("it takes more than there is")
    _call(w, items[0] if items else None, tuple(items[1:]))


def _build(w: Walker) -> None:
    w.pop()
    target = w.stack[-1] if w.stack else None
    if isinstance(target, Symbol):
        target.ways["patched"] = None
    elif isinstance(target, Made):
        (target.symbol or w.nameless()).ways["built"] = None
    elif not w.stack:
        w.misfit("it sets attributes of what is not there")
    # Readers take a plain value, too, where the state is None or an empty dict.


def _persid(w: Walker) -> None:
    w.line()
    w.stack.append(Made(None))


def _binpersid(w: Walker) -> None:
    """A persistent id: a storage, or a class that older files keep with its source text."""
    pid = w.pop()
    parts = pid[:2] if isinstance(pid, tuple) else ()
    named = next((part for part in parts if isinstance(part, Symbol)), None)
    is_storage = bool(parts) and isinstance(parts[0], Constant) and parts[0].text == "storage"
    if named is None:
        w.stack.append(Made(None))
    else:
        w.stack.append(named.made if is_storage else named)


def _next_buffer(w: Walker) -> None:
    w.misfit("its buffers are not in the file")
    w.stack.append(Made(None))


def _unknown(w: Walker) -> None:
    w.stop(f"no opcode is 0x{w.data[w.pos - 1]:02x}")


_OPCODES: dict[bytes, Callable[[Walker], None]] = {
    # stack and memo
    **{b"(": lambda w: w.mark(), b"0": _pop, b"1": _pop_mark, b"2": _dup},
    **{b"p": _put, b"q": _binput, b"r": _long_binput, b"\x94": _memoize},
    **{b"g": _get, b"h": _binget, b"j": _long_binget},
    # protocol, symbols, persistent ids
    **{b"\x80": _proto, b"\x95": _frame, b"c": _global, b"\x93": _stack_global},
    **{b"P": _persid, b"Q": _binpersid},
    **{b"\x82": _extension(1), b"\x83": _extension(2), b"\x84": _extension(4)},
    **{b"\x97": _next_buffer, b"\x98": lambda w: None},
    # constants and numbers
    **dict.fromkeys((b"N", b"\x88", b"\x89"), _plain),
    **{b"I": _decimal_value, b"L": _decimal_value, b"F": _float},
    **{b"J": _number(4), b"K": _number(1), b"M": _number(2), b"G": _number(8)},
    **{b"\x8a": _long(1), b"\x8b": _long(4)},
    # text and bytes
    **{b"S": _string, b"V": _unicode},
    **{b"T": _sized(4, _ascii, signed=True), b"U": _sized(1, _ascii)},
    **{b"X": _sized(4, _utf8), b"\x8c": _sized(1, _utf8), b"\x8d": _sized(8, _utf8)},
    **{b"C": _sized(1, None), b"B": _sized(4, None)},
    **{b"\x8e": _sized(8, None), b"\x96": _sized(8, None)},
    # containers
    **{b")": _empty_tuple, b"t": _tuple},
    **{b"\x85": _tuple_of(1), b"\x86": _tuple_of(2), b"\x87": _tuple_of(3)},
    **dict.fromkeys((b"]", b"}", b"\x8f"), _plain),
    **dict.fromkeys((b"l", b"d", b"\x91"), _collect),
    **{b"a": _fill(1), b"s": _fill(2)},
    **dict.fromkeys((b"e", b"u", b"\x90"), _fill_marked),
    # objects
    **{b"R": _reduce, b"\x81": _reduce, b"\x92": _newobj_ex},
    **{b"i": _inst, b"o": _obj, b"b": _build},
}

HANDLERS = tuple(_OPCODES.get(bytes([code]), _unknown) for code in range(256))
