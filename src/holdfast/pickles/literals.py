"""The opcodes that push numbers, constants, text and bytes.

Numbers and meanings: Lib/pickletools.py of CPython.
"""

# ruff: noqa: D103 (each function is the opcode it is named after)

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from typing import Any

from holdfast.pickles.cursor import ended, line, sized, take
from holdfast.pickles.machine import Machine

_float = struct.Struct(">d").unpack_from
_int4 = struct.Struct("<i").unpack_from

#: Decimal text of a longer integer takes quadratic time; Python itself draws the line here.
_LONGEST_DECIMAL = 4300
#: ``010`` is 8 to the reader in C and 10 to others, ``1_0`` and `` 1`` are numbers to some.
_DECIMAL = re.compile(rb"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(rb"-?([0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?|inf|nan)")


def text(m: Machine, width: int) -> None:
    """UTF-8 text behind its length; surrogates pass, as in Python's own reader."""
    start = m.pos + width
    stop = start + int.from_bytes(m.data[m.pos : start], "little")
    if stop > m.end or start > m.end:
        raise ended(m, "it ends in the middle of a text")
    m.stack.append(str(m.data[start:stop], "utf-8", "surrogatepass"))
    m.pos = stop


def python2_text(m: Machine, data: bytes) -> None:
    """Text of Python 2, which is bytes in an encoding that the file does not name."""
    if m.encoding == "bytes":
        m.stack.append(data)
        return
    try:
        m.stack.append(data.decode(m.encoding))
    except UnicodeDecodeError as error:
        letter = m.broken(f'Python 2 text in it is not {m.encoding}: try encoding="latin1"')
        letter.cure = 'Text of Python 2 does not name its encoding; "bytes" leaves it as it is.'
        raise letter from error


def constant(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value)


def binint(m: Machine) -> None:
    m.stack.append(_int4(m.data, m.pos)[0])
    m.pos += 4


def binint1(m: Machine) -> None:
    pos = m.pos
    m.pos = pos + 1
    m.stack.append(m.data[pos])


def binint2(m: Machine) -> None:
    m.stack.append(int.from_bytes(take(m, 2), "little"))


def int_(m: Machine) -> None:
    written = line(m)
    if written in (b"00", b"01"):
        m.stack.append(written == b"01")
    else:
        m.stack.append(decimal(m, written))


def long_(m: Machine) -> None:
    m.stack.append(decimal(m, line(m).removesuffix(b"L")))


def decimal(m: Machine, written: bytes) -> int:
    if len(written) > _LONGEST_DECIMAL:
        raise m.refused("decimal integers are short", found=f"{len(written):,} digits")
    if not _DECIMAL.fullmatch(written):
        raise m.refused(
            "numbers are written as Python writes them: others are read in two ways",
            found=repr(written[:50]),
        )
    return int(written)


def long1(m: Machine) -> None:
    m.stack.append(int.from_bytes(sized(m, 1), "little", signed=True))


def long4(m: Machine) -> None:
    m.stack.append(int.from_bytes(sized(m, 4), "little", signed=True))


def float_(m: Machine) -> None:
    written = line(m)
    if not _FLOAT.fullmatch(written):
        raise m.refused(
            "numbers are written as Python writes them: others are read in two ways",
            found=repr(written[:50]),
        )
    m.stack.append(float(written))


def binfloat(m: Machine) -> None:
    m.stack.append(_float(m.data, m.pos)[0])
    m.pos += 8


def string(m: Machine) -> None:
    written = line(m)
    if len(written) < 2 or written[:1] != written[-1:] or written[:1] not in (b"'", b'"'):
        raise m.broken("a text without quotes")
    python2_text(m, codecs.escape_decode(written[1:-1])[0])


def binstring(m: Machine) -> None:
    python2_text(m, sized(m, 4))


def short_binstring(m: Machine) -> None:
    python2_text(m, sized(m, 1))


def unicode_(m: Machine) -> None:
    m.stack.append(str(line(m), "raw-unicode-escape"))


def short_binunicode(m: Machine) -> None:
    text(m, 1)


def binunicode(m: Machine) -> None:
    text(m, 4)


def binunicode8(m: Machine) -> None:
    text(m, 8)


def short_binbytes(m: Machine) -> None:
    m.stack.append(sized(m, 1))


def binbytes(m: Machine) -> None:
    m.stack.append(sized(m, 4))


def binbytes8(m: Machine) -> None:
    m.stack.append(sized(m, 8))


def bytearray8(m: Machine) -> None:
    m.stack.append(bytearray(sized(m, 8)))
