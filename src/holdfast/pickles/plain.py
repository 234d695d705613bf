"""Calls of the closed table that give plain values."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from holdfast.spec.index import DeviceRef, LayoutRef, Opaque, SizeRef, StateDict

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

    Args = tuple[Any, ...]

_LATIN1 = frozenset({"latin1", "latin-1", "iso-8859-1"})
_DEVICE = re.compile(r"[a-z][a-z0-9_]{0,31}(:[0-9]{1,6})?")
_LAYOUTS = frozenset(
    f"torch.{name}"
    for name in (
        *("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"),
        *("_mkldnn", "jagged"),
    )
)


def ordered_dict(m: Machine, args: Args) -> StateDict:
    """``OrderedDict()``, or with one list of pairs (Python 2 wrote them that way)."""
    made = StateDict()
    if not args:
        return made
    pairs = _one(m, "collections.OrderedDict", args, (list, tuple, dict))
    m.spend(16 * len(pairs))
    for pair in pairs.items() if isinstance(pairs, dict) else pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise m.bad_call("collections.OrderedDict", args)
        m.check_key(pair[0])
        made[pair[0]] = pair[1]
    return made


def counter(m: Machine, args: Args) -> Counter[Any]:
    """``Counter()`` or ``Counter(dict)``."""
    made: Counter[Any] = Counter()
    if args:
        counts = _one(m, "collections.Counter", args, (dict,))
        m.spend(16 * len(counts))
        dict.update(made, counts)
    return made


def set_(m: Machine, args: Args) -> set[Any]:
    """``set()`` or ``set(list)``."""
    if not args:
        return set()
    items = _one(m, "builtins.set", args, (list, tuple, set, frozenset))
    m.spend(16 * len(items))
    for item in items:
        m.check_key(item)
    return set(items)


def complex_(m: Machine, args: Args) -> complex:
    """``complex(real, imag)``."""
    if len(args) != 2 or not all(type(part) in (int, float) for part in args):
        raise m.bad_call("builtins.complex", args)
    return complex(float(args[0]), float(args[1]))


def bytearray_(m: Machine, args: Args) -> bytearray:
    """``bytearray()``, of bytes, or of text in latin-1; never of a length."""
    if not args:
        return bytearray()
    if type(args[0]) is bytes and len(args) == 1:
        m.spend(len(args[0]))
        return bytearray(args[0])
    return bytearray(encode(m, args, "builtins.bytearray"))


def bytes_(m: Machine, args: Args) -> bytes:
    """``bytes()``: how protocol 2 writes ``b""``; never of a length."""
    if args:
        raise m.bad_call("builtins.bytes", args)
    return b""


def encode(m: Machine, args: Args, name: str = "_codecs.encode") -> bytes:
    """``_codecs.encode(text, "latin1")``: how protocol 2 writes bytes."""
    if len(args) != 2 or type(args[0]) is not str or type(args[1]) is not str:
        raise m.bad_call(name, args)
    if args[1] not in _LATIN1:
        raise m.bad_call(name, args)
    m.spend(len(args[0]))
    try:
        return args[0].encode("latin1")
    except UnicodeEncodeError:
        raise m.bad_call(name, args) from None


def size(m: Machine, args: Args) -> SizeRef:
    """``torch.Size(tuple of int)``."""
    sizes = _one(m, "torch.Size", args, (tuple, list)) if args else ()
    m.spend(8 * len(sizes))
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in sizes):
        raise m.bad_call("torch.Size", args)
    return SizeRef(sizes)


def device(m: Machine, args: Args) -> DeviceRef:
    """``torch.device("cuda", 0)``; a device that this machine lacks is as good as any."""
    text = ":".join(str(part) for part in args if type(part) is str or _is_index(part))
    if not 1 <= len(args) <= 2 or not _DEVICE.fullmatch(text):
        raise m.bad_call("torch.device", args)
    return DeviceRef(text)


def layout(m: Machine, args: Args) -> LayoutRef:
    """``torch.serialization._get_layout("torch.strided")``."""
    name = _one(m, "torch.serialization._get_layout", args, (str,))
    if name not in _LAYOUTS:
        raise m.bad_call("torch.serialization._get_layout", args)
    return LayoutRef(name.removeprefix("torch."))


def reconstructor(m: Machine, args: Args) -> Opaque:
    """``copyreg._reconstructor(cls, object, None)``: how protocols 0 and 1 make an object."""
    if len(args) != 3 or not isinstance(args[0], Opaque) or not args[0].is_global:
        raise m.bad_call("copyreg._reconstructor", args)
    cls, base, _ = args
    if isinstance(base, Opaque) and base.symbol == "builtins.object":
        return Opaque(cls.module, cls.name, "newobj", source=cls.source)
    return m.unknown_call(m.global_("copyreg", "_reconstructor", is_known=False), args)


def newobj(m: Machine, args: Args) -> Any:
    """``copyreg.__newobj__(cls, *args)``: what the opcode NEWOBJ does."""
    if not args:
        raise m.bad_call("copyreg.__newobj__", args)
    return m.new(args[0], args[1:], {})


def _one(m: Machine, symbol: str, args: Args, kinds: tuple[type, ...]) -> Any:
    if len(args) != 1 or not isinstance(args[0], kinds):
        raise m.bad_call(symbol, args)
    return args[0]


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 16
