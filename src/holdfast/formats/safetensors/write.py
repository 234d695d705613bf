"""The layout of a safetensors file, known whole before its first byte is written.

Byte for byte what the ``safetensors`` package writes (0.8): tensors sorted by element type and
name, JSON without spaces, and spaces behind it so that the data starts at a multiple of 8. That
package writes several entries of ``__metadata__`` in an order that changes from run to run; here
they keep the order they are given in. Of none at all it makes broken JSON where there are no
tensors either; here an empty mapping is no ``__metadata__``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UsageError
from holdfast.spec.dtypes import DType

#: The key of the header that holds text, not a tensor.
METADATA = "__metadata__"
#: The header's JSON has at most this many bytes; every reader refuses more.
LONGEST_HEADER = 100_000_000
#: The order of the element types in the file: the widest first.
_ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8"),
    *("F6_E3M2", "F6_E2M3", "F4", "BOOL"),
)
_RANKS = {name: rank for rank, name in enumerate(_ORDER)}

_PLAIN_TORCH = "or write a .pt file, which holds it as it is."


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor with its place: ``offset`` counts from the file's first byte."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where every byte goes: the header, then the tensors one behind the other."""

    header: bytes
    tensors: tuple[Placed, ...]

    @property
    def nbytes(self) -> int:
        """The size of the whole file in bytes."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def layout(
    tensors: Iterable[tuple[str, DType, Sequence[int]]],
    metadata: Mapping[str, str] | None = None,
) -> Layout:
    """Place tensors of these names, element types and shapes in a file.

    ``float4_e2m1fn_x2`` has two numbers in an element, as in torch; the header counts numbers.

    Raises:
        UsageError: safetensors cannot hold one of them; the message says which, and what to do.
    """
    described = [_described(name, dtype, tuple(shape)) for name, dtype, shape in tensors]
    described.sort(key=lambda each: (_RANKS[each[1].safetensors or ""], each[0]))
    entries: dict[str, Any] = {METADATA: _checked(metadata)} if metadata else {}
    places, end = [], 0
    for name, dtype, shape, nbytes in described:
        if name in entries or name == METADATA:
            raise UsageError("a safetensors file has each name once", tensor=name)
        entries[name] = {
            "dtype": dtype.safetensors,
            "shape": _counted(dtype, shape),
            "data_offsets": [end, end + nbytes],
        }
        places.append((name, dtype, shape, end, nbytes))
        end += nbytes
    header = _header(entries)
    return Layout(header, tuple(Placed(n, d, s, len(header) + at, b) for n, d, s, at, b in places))


def _described(
    name: str, dtype: DType, shape: tuple[int, ...]
) -> tuple[str, DType, tuple[int, ...], int]:
    if dtype.safetensors is None:
        raise UsageError(
            f"safetensors has no type for {dtype.torch_name}",
            tensor=name,
            cure=_cure_of(dtype),
        )
    numel = math.prod(shape)
    if numel * dtype.bits % 8 or (dtype.safetensors == "F4" and not shape):
        raise UsageError(
            f"safetensors holds whole bytes of {dtype.torch_name}",
            tensor=name,
            found=f"shape {list(shape)}",
            cure=f"Convert it to another type, {_PLAIN_TORCH}",
        )
    return name, dtype, shape, dtype.nbytes_of(numel)


def _cure_of(dtype: DType) -> str:
    if dtype.is_complex:
        return f"Convert it to complex64, {_PLAIN_TORCH}"
    if dtype.is_quantized:
        return f"Dequantize it to float32, {_PLAIN_TORCH}"
    if dtype.name.startswith("bits"):
        return f"View it as uint8, {_PLAIN_TORCH}"
    whole = "uint8" if dtype.name.startswith("u") else "int8"
    return f"Convert it to {whole}, {_PLAIN_TORCH}"


def _counted(dtype: DType, shape: tuple[int, ...]) -> list[int]:
    return [*shape[:-1], 2 * shape[-1]] if dtype.safetensors == "F4" else list(shape)


def _checked(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError(
                "the metadata of a safetensors file maps text to text",
                found=f"{key!r}: {type(value).__name__}"[:100],
                cure="Write other values as JSON text.",
            )
    return dict(metadata)


def _header(entries: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "the names in a safetensors file are text that UTF-8 can hold",
            found=ascii(error.object[max(0, error.start - 10) : error.end])[:100],
            cure="Rename it.",
        ) from error
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise UsageError(
            "the header of a safetensors file is too long for any reader",
            wanted=f"at most {LONGEST_HEADER:,} bytes",
            found=f"{len(text):,}",
            cure="Write several files (--shard-size), or less metadata.",
        )
    return len(text).to_bytes(8, "little") + text
