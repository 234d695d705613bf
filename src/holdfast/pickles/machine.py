"""The pickle machine: stack, memo, limits, and what calls and BUILD mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.errors import FormatError, RefusedError
from holdfast.pickles import arrays, checks, keys, rebuild
from holdfast.pickles.numbers import Numbers
from holdfast.pickles.table import CALLS, Call, Symbol, is_known, nested_name
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import ArrayRef, DTypeRef, NumpyDTypeRef, Opaque, StateDict, TensorRef

#: Bytes that calls may copy beyond the size of the pickle itself.
ALLOWANCE = 64 << 20
#: Objects that a pickle may make (a few hundred bytes each), and one more for so many of its bytes.
_OBJECTS = 1_000_000
BYTES_PER_OBJECT = 25

_CURE = "The file is broken, or made to do harm: do not load it with anything else."


class Machine:
    """The state of one pickle being read; the opcodes are in ``opcodes``.

    ``persistent`` turns a persistent id into a node. ``encoding`` is that of Python 2 text
    (``bytes`` leaves it as bytes). ``symbols`` collects all globals outside the closed table.
    ``calls`` are further symbols that this one pickle may call, those of its container's format.
    """

    __slots__ = (
        *("data", "pos", "end", "stack", "marks", "memo", "encoding", "persistent", "protocol"),
        *("file", "member", "symbols", "drafts", "key_hashes", "discarded"),
        *("flaw", "flaw_nodes", "stepping_stones", "used", "numbers", "boxes"),
        *("_globals", "_calls", "_more", "_left", "_objects_left"),
    )

    def __init__(
        self,
        data: bytes,
        *,
        persistent: Callable[[Machine, Any], Any],
        encoding: str = "utf-8",
        file: str | None = None,
        member: str | None = None,
        calls: Mapping[Symbol, Call] | None = None,
        bytes_per_object: int = BYTES_PER_OBJECT,
    ) -> None:
        self.data, self.pos, self.end = data, 0, len(data)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.protocol = 0
        self.encoding, self.persistent = encoding, persistent
        self.file, self.member = file, member
        self.symbols: dict[str, None] = {}
        self.discarded: dict[str, None] = {}
        self.drafts: dict[int, Any] = {}
        self.key_hashes = keys.Hashes()
        self.numbers = Numbers()
        self.boxes: dict[Any, checks.Box] = {}
        self.stepping_stones: set[str] = set()
        self.used: set[str] = set()
        self.flaw: RefusedError | None = None
        self.flaw_nodes: dict[int, Opaque] = {}
        self._globals: dict[tuple[str, str], Any] = {}
        self._calls: dict[Opaque, Call] = {}
        self._more = calls or {}
        self._left = len(data) + ALLOWANCE
        self._objects_left = len(data) // bytes_per_object + _OBJECTS

    # ---- what goes wrong

    def refused(self, rule: str, *, wanted: object = None, found: object = None) -> RefusedError:
        """The error for a broken rule."""
        return RefusedError(
            f"refused: {rule}",
            file=self.file,
            member=self.member,
            wanted=wanted,
            found=found,
            cure=_CURE,
        )

    def bad_call(self, symbol: str, args: Any) -> RefusedError:
        """The error for arguments that a known symbol is never called with."""
        return self.refused(f"{symbol} is called as torch and Python do", found=self.shown(args))

    def broken(self, what: str) -> FormatError:
        """The error for bytes that are no whole pickle."""
        return FormatError(
            f"the pickle in this file cannot be read: {what}",
            file=self.file,
            member=self.member,
            found=f"at byte {self.pos:,} of {self.end:,}",
            cure="The file is broken: get it again, or use an earlier one.",
        )

    def flawed(self, error: RefusedError, args: Any) -> Opaque:
        """Go on behind a refused call, to learn where in the tree it stands; raised at the end."""
        self.flaw = self.flaw or error
        node = Opaque("", "", "reduce", (args,))
        self.flaw_nodes[id(node)] = node
        return node

    @staticmethod
    def shown(value: Any, depth: int = 2) -> str:
        """A value in a few words, whatever a stranger has put there."""
        if isinstance(value, Opaque):
            return ascii(value.symbol)[1:101]
        if isinstance(value, tuple) and len(value) <= 8 and depth:
            return f"({', '.join(Machine.shown(item, depth - 1) for item in value)})"[:200]
        if type(value) in (bool, float, type(None)) or (
            type(value) is int and value.bit_length() <= 128
        ):
            return repr(value)
        if type(value) in (str, bytes) and len(value) <= 60:
            return repr(value)
        return f"a {type(value).__name__}"

    def spend(self, nbytes: int) -> None:
        """Count what a call allocates or visits.

        Raises:
            RefusedError: more than the pickle's own size and a fixed allowance.
        """
        self._left -= nbytes
        if self._left < 0:
            raise self.refused("a pickle describes about as much as it holds")

    def count_object(self) -> None:
        """Count an object made.

        Raises:
            RefusedError: more than any checkpoint has.
        """
        self._objects_left -= 1
        if self._objects_left < 0:
            raise self.refused("a pickle makes about as many objects as its size allows")

    # ---- what the opcodes do

    def global_(self, module: str, name: str, *, is_known: bool | None = None) -> Any:
        """The node of a symbol: a dtype, or a bare opaque; ``is_known`` False puts it outside."""
        found = self._globals.get((module, name))
        if found is None or is_known is False:
            found = self._new_global(module, name, is_known)
            self._globals[module, name] = found
        return found

    def _new_global(self, module: str, name: str, known: bool | None) -> Any:
        if module == "torch" and name in BY_NAME:
            return DTypeRef(name)
        symbol = Opaque(module, name)
        call = None
        if known is not False:
            call = CALLS.get((module, name)) or self._more.get((module, name))
        if call is not None:
            self._calls[symbol] = call
        elif known is False or not is_known(module, name):
            self.symbols[symbol.symbol] = None
        return symbol

    def call_of(self, function: Any) -> Call | None:
        """What calls of a symbol mean, where the table or the container says it."""
        return self._calls.get(function) if type(function) is Opaque else None

    def call(self, function: Any, args: Any) -> Any:
        """REDUCE: a known symbol's value, or an opaque object."""
        self.count_object()
        if type(args) is not tuple:
            raise self.refused("arguments are a tuple", found=self.shown(args))
        call = self.call_of(function)
        if call is not None:
            return call(self, args)
        inner = nested_name(function, args)
        if inner is not None:
            self.stepping_stones |= {function.symbol, args[0].symbol}
            return self.global_(args[0].module, inner)
        return self.unknown_call(function, args)

    def unknown_call(self, function: Any, args: tuple[Any, ...]) -> Opaque:
        """What calling a symbol outside the table would give, as data."""
        if type(function) is not Opaque:
            raise self.refused("only symbols are called", found=self.shown(function))
        self.used.add(function.symbol)
        called = None if function.is_global else function
        source = function.source
        return Opaque(function.module, function.name, "reduce", args, called=called, source=source)

    def table_call(self, module: str, name: str, args: tuple[Any, ...]) -> Opaque:
        """A call of the table that involves opaque objects, kept as data."""
        return Opaque(module, name, "reduce", args)

    def new(self, cls: Any, args: Any, kwargs: Any) -> Any:
        """NEWOBJ and NEWOBJ_EX: ``cls.__new__(cls, *args, **kwargs)``."""
        self.count_object()
        if type(args) is not tuple or not isinstance(kwargs, dict):
            raise self.refused("arguments are a tuple and a dict", found=self.shown(args))
        if not all(type(name) is str for name in kwargs):
            raise self.refused("names of arguments are text", found="a dict with other keys")
        if type(cls) is not Opaque or not cls.is_global:
            raise self.refused("only classes make new objects", found=self.shown(cls))
        call = self._calls.get(cls)
        if call is not None:
            if kwargs:
                raise self.bad_call(cls.symbol, args)
            return call(self, args)
        self.used.add(cls.symbol)
        return Opaque(cls.module, cls.name, "newobj", args, kwargs, source=cls.source)

    def build(self, node: Any, state: Any) -> None:
        """BUILD: what would be set on an object is kept as its state."""
        if type(node) is Opaque and not node.is_global:
            if node.has_state:
                raise self.refused("an object gets its state once", found=node.symbol)
            node.state, node.has_state = state, True
        elif type(node) is StateDict:
            if not isinstance(state, Mapping) or not all(type(name) is str for name in state):
                raise self.refused(
                    "what is set on a dict is text to value", found=self.shown(state)
                )
            node.aside = state
        elif type(node) is NumpyDTypeRef:
            arrays.build_dtype(self, node, state)
        elif type(node) is TensorRef and id(node) not in self.drafts:
            rebuild.build_variable(self, node, state)
        elif self.drafts.pop(id(node), None) is None:
            raise self.refused("no attribute is set on plain values", found=self.shown(node))
        elif type(node) is ArrayRef:
            arrays.build_array(self, node, state)
        elif type(node) is TensorRef:
            rebuild.build_bare_tensor(self, node, state)

    def check_key(self, key: Any) -> None:
        """Refuse dict keys and set items that are nested, huge, or collide on purpose."""
        rule = keys.broken_rule(key, self.key_hashes)
        if rule is not None:
            raise self.refused(rule, found=self.shown(key))
        if type(key) is tuple or type(key) is frozenset:
            self.spend(8 * len(key))

    def finish(self) -> Any:
        """STOP: the one object left.

        Raises:
            FormatError: more or fewer are left, or bytes follow.
        """
        if self.marks or len(self.stack) != 1:
            left = len(self.stack) + sum(len(below) for below in self.marks)
            raise self.refused("one object is left at the end of a pickle", found=f"{left}")
        if self.pos != self.end:
            found = f"{self.end - self.pos:,} bytes"
            raise self.refused("nothing follows the end of a pickle", found=found)
        if self.drafts:
            raise self.refused("an array or tensor that is begun is also filled")
        return self.stack[0]
