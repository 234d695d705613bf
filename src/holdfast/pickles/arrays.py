"""Calls of the closed table that give NumPy arrays, scalars and dtypes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from holdfast.spec.index import ArrayRef, NumpyDTypeRef, NumpyScalar, Opaque

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

    Args = tuple[Any, ...]

#: Kinds of dtypes that are plain bytes: bool, int, unsigned, float, complex, bytes, text.
_PLAIN = re.compile(r"[biufcSU][0-9]{1,9}")
_ANY = re.compile(r"[a-zA-Z][0-9]{0,9}")


def dtype(m: Machine, args: Args) -> NumpyDTypeRef:
    """``numpy.dtype("f8", False, True)``; BUILD says the byte order.

    A dtype of something else than numbers and text keeps its letter only: such arrays can be
    looked at (their shape), not loaded.
    """
    if not args or len(args) > 3:
        raise m.bad_call("numpy.dtype", args)
    if isinstance(args[0], Opaque):  # a dtype of another package, such as ml_dtypes.bfloat16
        return NumpyDTypeRef("|O")
    if type(args[0]) is not str or not _ANY.fullmatch(args[0].lstrip("<>|=")[:12]):
        raise m.bad_call("numpy.dtype", args)
    return NumpyDTypeRef(_with_order(args[0].lstrip("<>|="), args[0][0]))


def build_dtype(m: Machine, ref: NumpyDTypeRef, state: Any) -> None:
    """BUILD on a dtype: ``(version, byte order, subarray, names, fields, itemsize, …)``."""
    if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
        raise m.refused("a NumPy dtype is built with its byte order", found=m.shown(state))
    ref.text = _with_order(ref.text[1:], state[1])


def reconstruct(m: Machine, args: Args) -> Any:
    """``_reconstruct(numpy.ndarray, (0,), b"b")``: an array that BUILD fills."""
    if len(args) != 3 or not isinstance(args[0], Opaque) or not args[0].is_global:
        raise m.bad_call("numpy.core.multiarray._reconstruct", args)
    if args[0].symbol != "numpy.ndarray":
        return m.table_call("numpy.core.multiarray", "_reconstruct", args)
    ref = ArrayRef("", (0,), False, b"")
    m.drafts[id(ref)] = ref
    return ref


def build_array(m: Machine, ref: ArrayRef, state: Any) -> None:
    """BUILD on an array: ``(version, shape, dtype, is_fortran, bytes)``."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise m.refused("an array is built of shape, dtype, order, bytes", found=m.shown(state))
    _, shape, kind, is_fortran, data = state
    _fill(m, ref, shape, kind, data)
    ref.fortran_order = bool(is_fortran is True or is_fortran == 1)


def from_buffer(m: Machine, args: Args) -> ArrayRef:
    """``_frombuffer(bytes, dtype, shape, order)``: how protocol 5 writes an array."""
    if len(args) != 4 or args[3] not in ("C", "F", "A"):
        raise m.bad_call("numpy.core.numeric._frombuffer", args)
    ref = ArrayRef("", (0,), False, b"")
    _fill(m, ref, args[2], args[1], args[0])
    ref.fortran_order = args[3] == "F"
    return ref


def scalar(m: Machine, args: Args) -> NumpyScalar:
    """``scalar(dtype, bytes)``."""
    if not 1 <= len(args) <= 2 or not isinstance(args[0], NumpyDTypeRef):
        raise m.bad_call("numpy.core.multiarray.scalar", args)
    kind, data = args[0], _bytes_of(args[1]) if len(args) == 2 else b""
    nbytes = _itemsize(kind)
    if nbytes is not None and (data is None or len(data) != nbytes):
        raise m.refused("a NumPy scalar has the bytes of its dtype", found=m.shown(args))
    m.spend(len(data or b""))
    return NumpyScalar(kind.text, data or b"")


def _fill(m: Machine, ref: ArrayRef, shape: Any, kind: Any, data: Any) -> None:
    if not isinstance(kind, NumpyDTypeRef) or not isinstance(shape, tuple):
        raise m.refused("an array has a shape and a dtype", found=m.shown((shape, kind)))
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in shape) or len(shape) > 64:
        raise m.refused("an array's sizes are whole numbers from 0 on", found=m.shown(shape))
    nbytes, raw = _itemsize(kind), _bytes_of(data)
    if nbytes is not None:
        if raw is None or math.prod(shape) * max(nbytes, 1) != len(raw):
            raise m.refused(
                "an array has the bytes of its shape and dtype",
                wanted=f"{kind.text} {m.shown(shape)}",
                found=m.shown(data) if raw is None else f"{len(raw):,} bytes",
            )
        m.spend(len(raw))
        ref.data = raw
    ref.dtype_str, ref.shape = kind.text, shape


def _itemsize(kind: NumpyDTypeRef) -> int | None:
    """Bytes of one element; None for what is neither number nor text."""
    if not _PLAIN.fullmatch(kind.text[1:]):
        return None
    return int(kind.text[2:]) * (4 if kind.text[1] == "U" else 1)


def _bytes_of(data: Any) -> bytes | None:
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    if isinstance(data, str):  # Python 2 had no other bytes
        try:
            return data.encode("latin1")
        except UnicodeEncodeError:
            return None
    return None


def _with_order(code: str, order: str) -> str:
    has_no_order = code[:1] in "SVO" or code in ("b1", "i1", "u1")
    if has_no_order:
        return f"|{code}"
    return f"{'>' if order == '>' else '<'}{code}"
