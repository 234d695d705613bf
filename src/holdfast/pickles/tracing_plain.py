"""What opcodes for plain values do to the abstract stack: the memo, numbers, text, containers.

Numbers and meanings: Lib/pickletools.py of CPython. Where its readers raise, the walk notes a
misfit and goes on as if a plain value stood there.
"""

# ruff: noqa: D103 (each function is the opcode it is named after)

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.pickles.values import LONGEST_NAME, Constant

if TYPE_CHECKING:
    from holdfast.pickles.symbols import Walker

_LONGEST_DECIMAL = 4300
_HIGHEST_PROTOCOL = 5
_uint4 = struct.Struct("<I").unpack_from


# ---- stack, memo, protocol


def pop(w: Walker) -> None:
    if not w.stack and w.marks:
        w.to_mark()
    else:
        w.pop()


def dup(w: Walker) -> None:
    if w.stack:
        w.stack.append(w.stack[-1])
    else:
        w.misfit("it takes more than there is")


def put(w: Walker) -> None:
    w.put(_decimal(w, 10))


def binput(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 1
    w.put(w.data[pos])


def long_binput(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 4
    w.put(_uint4(w.data, pos)[0])


def memoize(w: Walker) -> None:
    w.put(len(w.memo))


def get(w: Walker) -> None:
    w.get(_decimal(w, 10))


def binget(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 1
    w.get(w.data[pos])


def long_binget(w: Walker) -> None:
    pos = w.pos
    w.pos = pos + 4
    w.get(_uint4(w.data, pos)[0])


def proto(w: Walker) -> None:
    w.protocol, w.has_protocol = w.number(1), True
    if w.protocol > _HIGHEST_PROTOCOL:
        w.misfit(f"protocol {w.protocol} is newer than 5")


def frame(w: Walker) -> None:
    w.frame(w.number(8))


# ---- numbers, text, bytes


def plain(w: Walker) -> None:
    w.stack.append(None)


def number_of(nbytes: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        w.pos += nbytes
        if w.pos > len(w.data):
            w.cut_off()
        w.stack.append(None)

    return push


def long(width: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        w.skip(_length(w, width, signed=width == 4))
        w.stack.append(None)

    return push


def _decimal(w: Walker, base: int) -> int | None:
    """The number of a line, as generously as any reader takes it; base 0 is that of literals.

    CPython's reader in C stops at a NUL, takes nothing for 0 and ``010`` for 8 (Modules/_pickle.c:
    ``load_int``); how many digits are too many is a setting. None is a number that is not known.
    """
    written = w.line().partition(b"\0")[0].strip().removesuffix(b"L")
    if len(written) <= _LONGEST_DECIMAL:
        for each in (base, 8):
            try:
                return int(written or b"0", each)
            except ValueError:
                continue
    w.doubt("a number in it is none, or very long")
    return None


def decimal_value(w: Walker) -> None:
    _decimal(w, 0)
    w.stack.append(None)


def float_line(w: Walker) -> None:
    try:
        float(w.line().partition(b"\0")[0])
    except ValueError:
        w.doubt("a number in it is none")
    w.stack.append(None)


def _length(w: Walker, width: int, *, signed: bool = False) -> int:
    nbytes = int.from_bytes(w.take(width), "little", signed=signed)
    if nbytes < 0:
        w.misfit("a length in it is negative")
        return 0
    return nbytes


def utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def latin1(data: bytes) -> str:
    return data.decode("latin-1")  # what other encodings make of it is another matter


def sized(
    width: int, decode: Callable[[bytes], str] | None, *, signed: bool = False
) -> Callable[[Walker], None]:
    return lambda w: w.constant(_length(w, width, signed=signed), decode)


def string(w: Walker) -> None:
    start, written = w.at + 1, w.line()
    if len(written) < 2 or written[:1] != written[-1:] or written[:1] not in (b"'", b'"'):
        w.misfit("a text without quotes")
    _text_line(w, start, written[1:-1], _unescaped)


def _unescaped(data: bytes) -> str:
    return codecs.escape_decode(data)[0].decode("latin-1")


def unicode(w: Walker) -> None:
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


def pop_mark(w: Walker) -> None:
    w.to_mark()


def tuple_marked(w: Walker) -> None:
    items = w.to_mark()
    w.stack.append(tuple(items))


def tuple_of(count: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        stack = w.stack
        if len(stack) >= count:
            stack[-count:] = [tuple(stack[-count:])]
        else:
            items = [w.pop() for _ in range(count)]
            stack.append(tuple(reversed(items)))

    return push


def empty_tuple(w: Walker) -> None:
    w.stack.append(())


def collect(w: Walker) -> None:
    w.to_mark()
    w.stack.append(None)


def fill(count: int) -> Callable[[Walker], None]:
    """Put so many values into the container below them."""

    def fill(w: Walker) -> None:
        for _ in range(count):
            w.pop()
        if not w.stack:
            w.misfit("it fills what is not there")

    return fill


def fill_marked(w: Walker) -> None:
    w.to_mark()
    if not w.stack:
        w.misfit("it fills what is not there")
