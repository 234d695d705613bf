"""Tensors as text, letter for letter as ``print(tensor)`` gives it, from NumPy arrays.

The rules are those of torch/_tensor_str.py with its default options: four digits, lines of 80, and
of more than a thousand elements only three at each end of each axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Elements above which a tensor is printed in part, and how many are printed at each end then.
THRESHOLD, EDGE = 1000, 3
_PRECISION, _LINE = 4, 80
_PREFIX = "tensor("


@dataclass(frozen=True, slots=True)
class Look:
    """What torch says of a tensor beside its elements.

    ``dtype`` is torch's name without the prefix. ``suffixes`` are those that come before the type
    (``device='meta'``), ``more`` those behind it.
    """

    dtype: str
    shape: tuple[int, ...]
    is_parameter: bool = False
    requires_grad: bool = False
    suffixes: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


def is_summarized(shape: Sequence[int]) -> bool:
    """Whether torch prints only the edges of a tensor of this shape."""
    return math.prod(shape) > THRESHOLD


def edges(array: Array) -> Array:
    """The elements that torch prints of a large tensor: the first and last three of each axis."""
    for axis, size in enumerate(array.shape):
        if size > 2 * EDGE:
            array = np.take(array, [*range(EDGE), *range(size - EDGE, size)], axis)
    return array


def dense_text(array: Array, look: Look) -> str:
    """A dense tensor; ``array`` has all its elements, or its ``edges`` if it is large."""
    suffixes = list(look.suffixes)
    if math.prod(look.shape) == 0:
        body = "[]"
        suffixes += [f"size={look.shape}"] if len(look.shape) != 1 else []
        suffixes += [f"dtype=torch.{look.dtype}"] if look.dtype != "float32" else []
    else:
        body = body_text(array, look.shape, look.dtype, len(_PREFIX))
        suffixes += _dtype_suffix(look.dtype)
    return finished(body, [*suffixes, *look.more], look)


def meta_text(look: Look) -> str:
    """A tensor without elements."""
    dtype = [f"dtype=torch.{look.dtype}"] if look.dtype != "float32" else []
    return finished("...", ["device='meta'", f"size={look.shape}", *dtype], look)


def sparse_text(parts: dict[str, Array], layout: str, look: Look) -> str:
    """A sparse tensor, by its components under torch's names."""
    lines = []
    for name, array in parts.items():
        shown = edges(array) if is_summarized(array.shape) else array
        dtype = look.dtype if name == "values" else str(array.dtype)
        body = body_text(shown, array.shape, dtype, len(f"{_PREFIX}{name}={_PREFIX}"))
        size = f", size={array.shape}" if array.size == 0 else ""
        lines.append(f"{name}={_PREFIX}{body}{size})")
    body = (",\n" + " " * len(_PREFIX)).join(lines)
    nnz = parts["values"].shape[0]
    suffixes = [f"size={look.shape}", f"nnz={nnz}", *_dtype_suffix(look.dtype)]
    suffixes.append(f"layout=torch.{layout}")
    return finished(body, suffixes, look, begins_line=layout == "sparse_coo")


def finished(body: str, suffixes: list[str], look: Look, *, begins_line: bool = False) -> str:
    """The body in its parentheses, with what follows it, on lines that are not too long."""
    if look.requires_grad:
        suffixes = [*suffixes, "requires_grad=True"]
    text = _PREFIX + body
    width = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if begins_line or width + len(suffix) + 2 > _LINE:
            text += f",\n{' ' * len(_PREFIX)}{suffix}"
            width = len(_PREFIX) + len(suffix)
            begins_line = False
        else:
            text += f", {suffix}"
            width += len(suffix) + 2
    return f"Parameter containing:\n{text})" if look.is_parameter else f"{text})"


def body_text(array: Array, shape: tuple[int, ...], dtype: str, indent: int) -> str:
    """The nested brackets of the elements; ``indent`` is where they begin."""
    if math.prod(shape) == 0:
        return "[]"
    parts = _parts(array, dtype)
    formats = [_Format(part, counts_nan=dtype == "float8_e8m0fnu") for part in parts]
    values = np.stack(parts, -1)
    return _nested(values, shape, indent, formats, is_short=is_summarized(shape))


def _dtype_suffix(dtype: str) -> list[str]:
    is_default = dtype in ("float32", "complex64", "int64", "bool")
    return [] if is_default else [f"dtype=torch.{dtype}"]


def _parts(array: Array, dtype: str) -> list[Array]:
    """The numbers that one element is made of: two for complex ones."""
    if array.dtype.kind == "c":
        return [array.real.astype(np.float64), array.imag.astype(np.float64)]
    if "float" in dtype:
        return [array.astype(np.float64)]
    return [array]


class _Format:
    """How all elements are written, so that they stand in columns.

    ``counts_nan`` is how torch 2.13 sees float8_e8m0fnu: NaN is finite, and its least number zero.
    """

    def __init__(self, values: Array, *, counts_nan: bool = False) -> None:
        self.is_real = values.dtype.kind == "f"
        self.has_whole = self.has_power = False
        flat = values.reshape(-1)
        if self.is_real:
            flat = flat[flat != 2.0**-127 if counts_nan else np.isfinite(flat) & (flat != 0)]
            self._choose(flat)
        self.width = 1
        if flat.size:
            extra = 1 if self.is_real and self.has_whole and not self.has_power else 0
            self.width = max(len(self._plain(value)) for value in flat.tolist()) + extra

    def _choose(self, nonzero: Array) -> None:
        self.has_whole = bool(np.all(nonzero == np.ceil(nonzero)))
        if nonzero.size:
            least, most = np.abs(nonzero).min(), np.abs(nonzero).max()
            with np.errstate(over="ignore"):  # the quotient may be too large: it is over 1000
                self.has_power = bool(most / least > 1000.0 or most > 1.0e8 or least < 1.0e-4)

    def _plain(self, value: Any) -> str:
        if not self.is_real:
            return f"{value}"
        if self.has_power:
            return f"{value:.{_PRECISION}e}"
        return f"{value:.0f}" if self.has_whole else f"{value:.{_PRECISION}f}"

    def __call__(self, value: Any) -> str:
        text = self._plain(value)
        if self.is_real and self.has_whole and not self.has_power and math.isfinite(value):
            text += "."
        return text.rjust(self.width)


def _element(value: Sequence[Any], formats: list[_Format]) -> str:
    if len(formats) == 1:
        return formats[0](value[0])
    real, imaginary = formats[0](value[0]), f"{formats[1](value[1])}j".lstrip()
    return real + imaginary if imaginary[0] in "+-" else f"{real}+{imaginary}"


def _nested(
    values: Array, shape: tuple[int, ...], indent: int, formats: list[_Format], *, is_short: bool
) -> str:
    """One axis in brackets; the last axis of ``values`` has the numbers of one element."""
    if not shape:
        return _element(values.tolist(), formats)
    has_gap = is_short and shape[0] > 2 * EDGE
    if len(shape) == 1:
        items = [_element(value, formats) for value in values.tolist()]
        if has_gap:
            items.insert(EDGE, " ...")
        room = sum(each.width + 1 for each in formats) + 1
        count = max(1, (_LINE - indent) // room)
        lines = [", ".join(items[at : at + count]) for at in range(0, len(items), count)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    items = [_nested(each, shape[1:], indent + 1, formats, is_short=is_short) for each in values]
    if has_gap:
        items.insert(EDGE, "...")
    gap = "," + "\n" * (len(shape) - 1) + " " * (indent + 1)
    return "[" + gap.join(items) + "]"
