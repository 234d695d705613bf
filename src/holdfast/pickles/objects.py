"""The opcodes that make and fill containers and objects."""

# ruff: noqa: D103 (each function is the opcode it is named after)

from __future__ import annotations

from typing import Any

from holdfast.errors import RefusedError
from holdfast.pickles.cursor import line
from holdfast.pickles.machine import Machine
from holdfast.pickles.opcodes import symbol, to_mark
from holdfast.spec.index import Opaque


def empty_tuple(m: Machine) -> None:
    m.stack.append(())


def tuple_(m: Machine) -> None:
    items = m.stack
    m.stack = m.marks.pop()
    m.stack.append(tuple(items))


def tuple1(m: Machine) -> None:
    m.stack[-1] = (m.stack[-1],)


def tuple2(m: Machine) -> None:
    stack = m.stack
    second = stack.pop()
    stack[-1] = (stack[-1], second)


def tuple3(m: Machine) -> None:
    stack = m.stack
    third, second = stack.pop(), stack.pop()
    stack[-1] = (stack[-1], second, third)


def empty_list(m: Machine) -> None:
    m.count_object()
    m.stack.append([])


def list_(m: Machine) -> None:
    m.count_object()
    items = to_mark(m)
    m.stack.append(items)


def append(m: Machine) -> None:
    item = m.stack.pop()
    _extend(m, m.stack[-1], [item])


def appends(m: Machine) -> None:
    items = to_mark(m)
    _extend(m, m.stack[-1], items)


def _extend(m: Machine, holder: Any, items: list[Any]) -> None:
    if type(holder) is list:
        holder.extend(items)
    elif type(holder) is Opaque and not holder.is_global:
        holder.items.extend(items)
    else:
        raise m.refused("only lists are appended to", found=m.shown(holder))


def empty_dict(m: Machine) -> None:
    m.count_object()
    m.stack.append({})


def dict_(m: Machine) -> None:
    m.count_object()
    items = to_mark(m)
    made: dict[Any, Any] = {}
    _store(m, made, items)
    m.stack.append(made)


def setitem(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _store(m, m.stack[-1], [key, value])


def setitems(m: Machine) -> None:
    items = to_mark(m)
    _store(m, m.stack[-1], items)


def _store(m: Machine, holder: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise m.refused("every key has a value", found=f"{len(items)} items")
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(holder, dict):
        for key, value in pairs:
            if type(key) is not str:
                m.check_key(key)
            holder[key] = value
    elif type(holder) is Opaque and not holder.is_global:
        holder.pairs.extend(pairs)
    else:
        raise m.refused("only dicts are stored into", found=m.shown(holder))


def empty_set(m: Machine) -> None:
    m.count_object()
    m.stack.append(set())


def additems(m: Machine) -> None:
    items = to_mark(m)
    holder = m.stack[-1]
    if type(holder) is not set:
        raise m.refused("only sets are added to", found=m.shown(holder))
    for item in items:
        m.check_key(item)
        holder.add(item)


def frozenset_(m: Machine) -> None:
    m.count_object()
    items = to_mark(m)
    for item in items:
        m.check_key(item)
    m.stack.append(frozenset(items))


def reduce(m: Machine) -> None:
    args = m.stack.pop()
    function = m.stack.pop()
    try:
        made = m.call(function, args)
    except RefusedError as error:
        made = m.flawed(error, args)
    m.stack.append(made)


def newobj(m: Machine) -> None:
    args = m.stack.pop()
    cls = m.stack.pop()
    try:
        made = m.new(cls, args, {})
    except RefusedError as error:
        made = m.flawed(error, args)
    m.stack.append(made)


def newobj_ex(m: Machine) -> None:
    kwargs, args, cls = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.stack.append(m.new(cls, args, kwargs))


def inst(m: Machine) -> None:
    """A class by name, called with what lies above the mark (protocol 0)."""
    module, name = str(line(m), "utf-8"), str(line(m), "utf-8")
    cls = symbol(m, module, name)
    args = tuple(to_mark(m))
    m.stack.append(m.call(cls, args))


def obj(m: Machine) -> None:
    """A class on the stack, called with what lies above it (protocol 1)."""
    items = to_mark(m)
    if not items:
        raise m.refused("only symbols are called", found="nothing")
    m.stack.append(m.call(items[0], tuple(items[1:])))


def build(m: Machine) -> None:
    state = m.stack.pop()
    node = m.stack[-1]
    m.build(node, state)
