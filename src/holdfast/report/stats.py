"""What the numbers in tensors are like: statistics, a histogram, and what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal, NamedTuple

from holdfast.report.values import non_finite

FlagKind = Literal[
    "nan", "inf", "zero", "constant", "dead rows", "exploding", "subnormal", "unreadable"
]

#: A root mean square beyond this, and this many times the median of the part's, is exploding.
_LARGE, _TIMES_MEDIAN = 1e3, 100.0
#: Subnormal numbers are told of from this share on; types of 8 bits and less consist of them.
_SUBNORMAL_SHARE = 0.01


class Flag(NamedTuple):
    """One thing that looks wrong: what kind of thing, and in words how much of it."""

    kind: FlagKind
    text: str


@dataclass(frozen=True, slots=True)
class Bins:
    """A histogram of the finite numbers: ``counts[i]`` lie from ``edges[i]`` to ``edges[i + 1]``.

    The widths are one power of two; the last edge is left out of its bin, as the others are.
    """

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorStats:
    """The statistics of one tensor.

    ``minimum``, ``maximum``, ``mean``, ``std`` (of the numbers themselves: divided by their count)
    and ``norm`` (the root of the sum of squares) are those of the finite numbers; of complex ones
    their magnitudes. They are None where there are none. ``counted`` is how many numbers were
    looked at: of a sparse tensor those it stores, of an expanded one those that have bytes.
    ``dead_rows`` are rows of zeros along the first of several axes. ``why`` says of a tensor
    without statistics what it is instead.
    """

    name: str
    part: str | None
    dtype: str
    shape: tuple[int, ...]
    numel: int
    counted: int = 0
    minimum: float | int | None = None
    maximum: float | int | None = None
    mean: float | None = None
    std: float | None = None
    norm: float | None = None
    zeros: int = 0
    nans: int = 0
    infs: int = 0
    subnormals: int = 0
    dead_rows: int = 0
    histogram: Bins = Bins()
    flags: tuple[Flag, ...] = ()
    why: str | None = None

    @property
    def is_finite(self) -> bool:
        """Whether it could be read and has neither NaN nor infinities."""
        return (
            not self.nans and not self.infs and not any(f.kind == "unreadable" for f in self.flags)
        )

    @property
    def rms(self) -> float | None:
        """The root mean square of the finite numbers."""
        finite = self.counted - self.nans - self.infs
        return None if self.norm is None or not finite else self.norm / math.sqrt(finite)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; infinities are text."""
        values = {name: getattr(self, name) for name in self.__slots__}
        edges = [plain(edge) for edge in self.histogram.edges]
        return {
            **values,
            **{name: plain(values[name]) for name in ("minimum", "maximum", "mean", "std", "norm")},
            "shape": list(self.shape),
            "histogram": {"edges": edges, "counts": list(self.histogram.counts)},
            "flags": [flag._asdict() for flag in self.flags],
        }


@dataclass(frozen=True, slots=True)
class StatsReport:
    """The statistics of a checkpoint's tensors, in the order of the file.

    ``is_complete`` is False where the tree describes more tensors than could be listed.
    """

    file: str
    tensors: tuple[TensorStats, ...]
    is_complete: bool = True

    @property
    def ok(self) -> bool:
        """Whether all could be read, and no number is NaN or infinite."""
        return all(tensor.is_finite for tensor in self.tensors)

    @property
    def flagged(self) -> tuple[TensorStats, ...]:
        """Those of which something looks wrong."""
        return tuple(tensor for tensor in self.tensors if tensor.flags)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "file": self.file,
            "ok": self.ok,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "is_complete": self.is_complete,
        }

    def __str__(self) -> str:
        count = f"{len(self.tensors):,} tensor{'s' if len(self.tensors) != 1 else ''}"
        lines = [f"{self.file}: {count}, {len(self.flagged):,} of them flagged"]
        for tensor in self.flagged:
            lines.append(f"  {tensor.name}: {'; '.join(flag.text for flag in tensor.flags)}")
        return "\n".join(lines)


def plain(value: float | int | None) -> float | int | str | None:
    """A number as JSON has it; those that are not finite as text."""
    if value is None or isinstance(value, int) or math.isfinite(value):
        return value
    return non_finite(value)


def is_weight(dtype: str, shape: Sequence[int]) -> bool:
    """Whether a tensor holds floating-point numbers, and more than one."""
    return dtype.startswith(("float", "bfloat", "complex", "<f", ">f")) and math.prod(shape) > 1


def flagged(tensors: Sequence[TensorStats]) -> list[TensorStats]:
    """The same with flags; what is exploding is seen beside the others of its part."""
    sizes: dict[str | None, list[float]] = {}
    for tensor in tensors:
        if tensor.rms and is_weight(tensor.dtype, tensor.shape):
            sizes.setdefault(tensor.part, []).append(tensor.rms)
    usual = {part: median(each) for part, each in sizes.items()}
    return [_flagged(tensor, usual.get(tensor.part, 0.0)) for tensor in tensors]


def _flagged(tensor: TensorStats, usual: float) -> TensorStats:
    flags = [*tensor.flags, *_flags(tensor)]
    rms = tensor.rms if is_weight(tensor.dtype, tensor.shape) else None
    if rms is not None and rms > _LARGE and rms > _TIMES_MEDIAN * usual:
        times = f", {rms / usual:.3g} times the median of its part" if usual else ""
        flags.append(Flag("exploding", f"root mean square {rms:.3g}{times}"))
    return replace(tensor, flags=tuple(flags))


def _flags(tensor: TensorStats) -> list[Flag]:
    of = f"of {tensor.counted:,}"
    flags = []
    if tensor.nans:
        flags.append(Flag("nan", f"{tensor.nans:,} NaN {of}"))
    if tensor.infs:
        flags.append(Flag("inf", f"{tensor.infs:,} infinite {of}"))
    if not is_weight(tensor.dtype, tensor.shape):  # masks, indices and counters are as they are
        return flags
    if tensor.minimum == tensor.maximum is not None and not tensor.nans and not tensor.infs:
        if tensor.minimum == 0:
            flags.append(Flag("zero", "all zero"))
        elif not tensor.dtype.startswith("complex"):  # whose sizes alone are the same
            flags.append(Flag("constant", f"all {tensor.minimum:.6g}"))
    elif tensor.dead_rows:
        dead = f"{tensor.dead_rows:,} of {tensor.shape[0]:,} rows"
        flags.append(Flag("dead rows", f"{dead} {'is' if tensor.dead_rows == 1 else 'are'} zero"))
    if tensor.subnormals > _SUBNORMAL_SHARE * tensor.counted:
        share = tensor.subnormals / tensor.counted
        flags.append(Flag("subnormal", f"{share:.1%} are subnormal"))
    return flags
