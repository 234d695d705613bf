"""The opcodes for the stack, its marks, the memo and the protocol.

Numbers and meanings: Lib/pickletools.py of CPython.
"""

# ruff: noqa: D103 (each function is the opcode it is named after)

from __future__ import annotations

import struct
from typing import Any

from holdfast.errors import RefusedError
from holdfast.pickles.cursor import ended, line, take
from holdfast.pickles.literals import decimal
from holdfast.pickles.machine import Machine
from holdfast.pickles.table import python3_name
from holdfast.spec.index import Opaque

_uint4 = struct.Struct("<I").unpack_from
_HIGHEST_PROTOCOL = 5
#: Picklers nest marks as deep as objects, and Python's recursion limit is 1000.
_MOST_MARKS = 10_000
_LONGEST_SYMBOL = 1000


def mark(m: Machine) -> None:
    if len(m.marks) > _MOST_MARKS:
        raise m.refused("marks are not nested by the thousand")
    m.marks.append(m.stack)
    m.stack = []


def to_mark(m: Machine) -> list[Any]:
    """The items above the last mark, which is removed."""
    items = m.stack
    m.stack = m.marks.pop()
    return items


def pop(m: Machine) -> None:
    if not m.stack:
        m.stack = m.marks.pop()
        return
    gone = m.stack.pop()
    if type(gone) is Opaque and not gone.is_global:
        m.discarded[gone.symbol] = None


def pop_mark(m: Machine) -> None:
    for gone in to_mark(m):
        if type(gone) is Opaque and not gone.is_global:
            m.discarded[gone.symbol] = None


def dup(m: Machine) -> None:
    m.stack.append(m.stack[-1])


# ---- memo


def binput(m: Machine) -> None:
    pos = m.pos
    m.pos = pos + 1
    m.memo[m.data[pos]] = m.stack[-1]


def long_binput(m: Machine) -> None:
    m.memo[_uint4(m.data, m.pos)[0]] = m.stack[-1]
    m.pos += 4


def memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def put(m: Machine) -> None:
    m.memo[decimal(m, line(m))] = m.stack[-1]


def binget(m: Machine) -> None:
    pos = m.pos
    m.pos = pos + 1
    m.stack.append(m.memo[m.data[pos]])


def long_binget(m: Machine) -> None:
    m.stack.append(m.memo[_uint4(m.data, m.pos)[0]])
    m.pos += 4


def get(m: Machine) -> None:
    m.stack.append(m.memo[decimal(m, line(m))])


def proto(m: Machine) -> None:
    m.protocol = take(m, 1)[0]
    if m.protocol > _HIGHEST_PROTOCOL:
        raise m.broken(f"protocol {m.protocol} is newer than this reader (5)")


def frame(m: Machine) -> None:
    if int.from_bytes(take(m, 8), "little") > m.end - m.pos:
        raise ended(m, "it ends in the middle of a frame")


def global_(m: Machine) -> None:
    module, name = str(line(m), "utf-8"), str(line(m), "utf-8")
    m.stack.append(symbol(m, module, name))


def stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(module) is not str or type(name) is not str:
        raise m.refused("a symbol is two texts", found=m.shown((module, name)))
    m.stack.append(symbol(m, module, name))


def symbol(m: Machine, module: str, name: str) -> Any:
    if m.protocol < 3:
        module, name = python3_name(module, name)
    if len(module) + len(name) > _LONGEST_SYMBOL:
        raise m.refused("names of classes are short", found=f"{len(module) + len(name):,} letters")
    return m.global_(module, name)


def persid(m: Machine) -> None:
    m.stack.append(m.persistent(m, str(line(m), "ascii")))


def binpersid(m: Machine) -> None:
    pid = m.stack.pop()
    try:
        node = m.persistent(m, pid)
    except RefusedError as error:
        node = m.flawed(error, pid)
    m.stack.append(node)


def extension(m: Machine) -> None:
    raise m.refused("no extension codes: what they mean is not in the file")


def out_of_band(m: Machine) -> None:
    raise m.refused("no buffers outside the pickle: they are not in the file")


def unknown(m: Machine) -> None:
    m.pos -= 1
    raise m.broken(f"no opcode is 0x{m.data[m.pos]:02x}")
