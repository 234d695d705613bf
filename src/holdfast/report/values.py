"""Plain values of a checkpoint as short text and as JSON."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from holdfast.report.leaves import is_plain_sequence
from holdfast.spec.index import (
    DeviceRef,
    DTypeRef,
    LayoutRef,
    NumpyDTypeRef,
    NumpyScalar,
    SizeRef,
    StorageRef,
)

#: Longest text of one value; what is longer is shortened and its length said.
TEXT_LIMIT = 120

#: Longest text or sequence that stands in JSON as it is; longer ones are None there.
JSON_LIMIT = 10_000

#: str() of a longer integer is an error in Python, or takes hours.
INTEGER_BITS = 4096

_STRUCT_CODES = {
    **{f"i{n}": code for n, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{f"u{n}": code for n, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    **{f"f{n}": code for n, code in ((2, "e"), (4, "f"), (8, "d"))},
    "b1": "?",
}


def type_of(value: Any) -> str:
    """The type in one word: ``int``, ``torch.dtype``, ``numpy.float64``."""
    if isinstance(value, NumpyScalar):
        return f"numpy {value.dtype_str}"
    words = {
        DTypeRef: "torch.dtype",
        DeviceRef: "torch.device",
        LayoutRef: "torch.layout",
        StorageRef: "storage",
        NumpyDTypeRef: "numpy.dtype",
    }
    if type(value) in words:
        return words[type(value)]
    return "torch.Size" if isinstance(value, SizeRef) else type(value).__name__


def text_of(value: Any) -> str:
    """One line, as Python would write it, at most ``TEXT_LIMIT`` characters."""
    text = _text(value)
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[: TEXT_LIMIT - 24].rstrip()}… {_size_of(value, text)}"


def whole_text_of(value: Any) -> str:
    """The same on one line, however long."""
    return _text(value, None)


def json_of(value: Any) -> Any:
    """The value as JSON; None where it has no JSON form or is very long (its text says more).

    Non-finite floats become the strings NaN, Infinity and -Infinity, as in the record.
    """
    if isinstance(value, NumpyScalar):
        return json_of(_unpack(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= INTEGER_BITS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else non_finite(value)
    if isinstance(value, str):
        return value if len(value) <= JSON_LIMIT else None
    if isinstance(value, list | tuple) and len(value) <= JSON_LIMIT:
        return [json_of(item) for item in value] if is_plain_sequence(value) else None
    if isinstance(value, DTypeRef | DeviceRef | LayoutRef):
        return _text(value)
    return {} if isinstance(value, dict) and not value else None


def _text(value: Any, limit: int | None = TEXT_LIMIT) -> str:
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS:
        return f"<integer of {value.bit_length()} bits>"
    if isinstance(value, str | bytes):
        return repr(value if limit is None else value[: 2 * limit])
    if is_plain_sequence(value):
        return _text_of_sequence(value, limit)
    if isinstance(value, list | tuple | set | frozenset | Mapping) and value:
        return "<holds itself>"  # any other container is no leaf; repr() might never end
    if isinstance(value, NumpyScalar):
        number = _unpack(value)
        return repr(number if number is not None else value.data)
    if isinstance(value, DTypeRef):
        return f"torch.{value.name}"
    if isinstance(value, LayoutRef):
        return f"torch.{value.name}"
    if isinstance(value, DeviceRef):
        return f"device({value.text!r})"
    if isinstance(value, NumpyDTypeRef):
        return f"numpy.dtype({value.text!r})"
    if isinstance(value, StorageRef):
        return f"a storage of {value.nbytes:,} bytes ({value.dtype.name})"
    return "{}" if isinstance(value, Mapping) else repr(value)


def _text_of_sequence(value: Any, limit: int | None) -> str:
    items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    inner = ", ".join(_text(item, limit) for item in list(items)[:limit])
    if isinstance(value, list):
        return f"[{inner}]"
    if isinstance(value, set | frozenset):
        return f"{{{inner}}}" if value else "set()"
    return f"({inner},)" if len(value) == 1 else f"({inner})"


def _size_of(value: Any, text: str) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return f"({len(value)} values)"
    if isinstance(value, str):
        return f"({len(value)} characters)"
    return f"({len(value)} bytes)" if isinstance(value, bytes) else f"({len(text)} characters)"


def _unpack(scalar: NumpyScalar) -> Any:
    order, code = scalar.dtype_str[:1], _STRUCT_CODES.get(scalar.dtype_str[1:])
    layout = ("<" if order in "<|=" else ">") + (code or "")
    if code is None or struct.calcsize(layout) != len(scalar.data):
        return None
    return struct.unpack(layout, scalar.data)[0]


def non_finite(value: float) -> str:
    """The name of a float that JSON has no number for."""
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
