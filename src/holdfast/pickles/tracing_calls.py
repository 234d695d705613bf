"""What opcodes do that name symbols, call them, or give a state to what was made."""

# ruff: noqa: D103 (each function is the opcode it is named after)

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.pickles.table import is_known
from holdfast.pickles.values import LONGEST_NAME, Constant, Made, Symbol

if TYPE_CHECKING:
    from holdfast.pickles.symbols import Walker

_GETATTR = ("builtins", "getattr")


def global_(w: Walker) -> None:
    w.stack.append(_from_lines(w))


def _from_lines(w: Walker) -> Symbol:
    module, name = w.line(), w.line()
    try:
        if w.has_cut_line:  # CPython's reader in C takes all but its last byte
            shorter = (module, name[:-1]) if name else (module[:-1], name)
            w.name(str(shorter[0], "utf-8", "replace"), str(shorter[1], "utf-8", "replace"))
        return w.name(str(module, "utf-8"), str(name, "utf-8"))
    except UnicodeDecodeError:
        w.misfit("a name in it is no text")
        return w.nameless()


def stack_global(w: Walker) -> None:
    name, module = w.pop(), w.pop()
    if isinstance(name, Constant) and isinstance(module, Constant):
        if name.text is not None and module.text is not None:
            w.stack.append(w.name(module.text, name.text))
            return
    elif not (isinstance(name, Made) or isinstance(module, Made)):
        w.misfit("a symbol is two texts")
    w.stack.append(w.nameless())


def extension(nbytes: int) -> Callable[[Walker], None]:
    def push(w: Walker) -> None:
        code = w.number(nbytes)
        if not 0 < code < 1 << 31:
            w.misfit("an extension code is a positive number")
        symbol = w.name("copyreg", f"extension code {code}")
        symbol.is_extension = True
        w.stack.append(symbol)

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
    w.stack.append(_given_back(function, args) or function.made)


def _given_back(function: Symbol, args: Any) -> Symbol | None:
    """The symbol that a call hands through: older NumPy makes a scalar of any object so."""
    is_scalar = function.name == "scalar" and function.module.startswith("numpy.")
    if not is_scalar or not isinstance(args, tuple):
        return None
    return next((each for each in args[1:] if isinstance(each, Symbol)), None)


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


def reduce(w: Walker) -> None:
    args, function = w.pop(), w.pop()
    _call(w, function, args)


def newobj_ex(w: Walker) -> None:
    w.pop()
    reduce(w)


def inst(w: Walker) -> None:
    symbol = _from_lines(w)
    args = tuple(w.to_mark())
    _call(w, symbol, args)


def obj(w: Walker) -> None:
    items = w.to_mark()
    if not items:
        w.misfit("it takes more than there is")
    _call(w, items[0] if items else None, tuple(items[1:]))


def build(w: Walker) -> None:
    w.pop()
    target = w.stack[-1] if w.stack else None
    if isinstance(target, Symbol):
        target.ways["patched"] = None
    elif isinstance(target, Made):
        (target.symbol or w.nameless()).ways["built"] = None
    elif not w.stack:
        w.misfit("it sets attributes of what is not there")
    # Readers take a plain value, too, where the state is None or an empty dict.


def persid(w: Walker) -> None:
    w.line()
    w.stack.append(Made(None))


def binpersid(w: Walker) -> None:
    """A persistent id: a storage, or a class that older files keep with its source text."""
    pid = w.pop()
    parts = pid[:2] if isinstance(pid, tuple) else ()
    named = next((part for part in parts if isinstance(part, Symbol)), None)
    is_storage = bool(parts) and isinstance(parts[0], Constant) and parts[0].text == "storage"
    if named is None:
        w.stack.append(Made(None))
    else:
        w.stack.append(named.made if is_storage else named)


def next_buffer(w: Walker) -> None:
    w.misfit("its buffers are not in the file")
    w.stack.append(Made(None))


def unknown(w: Walker) -> None:
    w.give_up(f"no opcode is 0x{w.data[w.pos - 1]:02x}")
