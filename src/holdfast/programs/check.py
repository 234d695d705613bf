"""Does the program compute what the model does? On the example, and on other values and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from holdfast.errors import ExportError
from holdfast.programs.inputs import Inputs
from holdfast.programs.nesting import flatten
from holdfast.programs.saying import first_line
from holdfast.programs.sizes import Case

#: How much an element may differ, relative to itself and to the scale of the output, by dtype.
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-7, 1e-9),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 1e-3),
    torch.bfloat16: (4e-2, 8e-3),
    torch.complex64: (1e-4, 1e-5),
    torch.complex128: (1e-7, 1e-9),
}

#: What is larger than this many times the smaller elements is no scale for them: a masked logit of
#: -1e9 would let pass any others.
_OUTLYING = 1000.0

Call = Callable[[Inputs], Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest differences of one output over all cases: absolute, and relative to its scale.

    The scale is the largest element, without those that lie far beyond the smaller ones.
    """

    name: str
    dtype: str
    absolute: float
    relative: float
    rtol: float
    atol: float

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.dtype}): largest difference {self.absolute:.3g}, relative "
            f"{self.relative:.3g}; allowed {self.rtol:g} of each element + {self.atol:g} of the "
            "largest"
        )

    def or_worse(self, other: Difference) -> Difference:
        """The larger of each of the two."""
        absolute = max(self.absolute, other.absolute)
        return replace(self, absolute=absolute, relative=max(self.relative, other.relative))

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the cases that were run, those the model itself refuses, differences."""

    cases: tuple[str, ...]
    refused: tuple[str, ...]
    outputs: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        outputs = [each.to_json() for each in self.outputs]
        return {"cases": list(self.cases), "refused": list(self.refused), "outputs": outputs}


def compare(
    model: Call, program: Call, cases: Iterable[Case], names: Sequence[str], *, cure: str
) -> Checked:
    """Run both on each case; ``names`` are those of the outputs, ``cure`` says what to do.

    A case that the model itself refuses shows nothing, and is left out.

    Raises:
        ExportError: the program fails where the model does not, or gives something else.
    """
    done: list[str] = []
    refused: list[str] = []
    worst: dict[str, Difference] = {}
    for case in cases:
        try:
            expected = model(case.inputs)
        except Exception as error:  # whatever the model raises about such inputs
            if case.is_example:
                raise ExportError(
                    "the model fails on the example", found=first_line(error)
                ) from error
            refused.append(case.label)
            continue
        try:
            found = program(case.inputs)
        except Exception as error:  # whatever the runtime raises
            raise _fails(case, error, cure) from error
        for each in _differences(case, expected, found, names, cure):
            worst[each.name] = each.or_worse(worst.get(each.name, each))
        done.append(case.label)
    return Checked(tuple(done), tuple(refused), tuple(worst.values()))


def _differences(
    case: Case, expected: Any, found: Any, names: Sequence[str], cure: str
) -> Iterable[Difference]:
    _, wanted, structure = flatten(expected)
    _, given, other = flatten(found)
    if len(given) != len(wanted) or not _alike(structure, other):
        raise _other(case, "other outputs than the model", structure, other, cure)
    if len(given) != len(names):
        many = "another number of outputs than on the example"
        raise _other(case, many, len(names), len(given), cure)
    for name, want, have in zip(names, wanted, given, strict=True):
        if want.shape != have.shape or want.dtype != have.dtype:
            raise ExportError(
                f"the program gives another {_kind(want, have)} than the model",
                tensor=name,
                wanted=f"{want.dtype} {list(want.shape)}",
                found=f"{have.dtype} {list(have.shape)}, on {case}",
                cure=cure,
            )
        yield _difference(case, name, want, have.to(want.device), cure)


def _kind(want: torch.Tensor, have: torch.Tensor) -> str:
    return "shape" if want.shape != have.shape else "dtype"


def _alike(structure: Any, other: Any) -> bool:
    """Whether two structures are the same but for tuples and lists, which runtimes mix up."""

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return node
        ((kind, value),) = node.items()
        if kind in ("tuple", "list"):
            return [plain(each) for each in value]
        return {key: plain(each) for key, each in value.items()} if kind == "dict" else node

    return bool(plain(structure) == plain(other))


def _difference(
    case: Case, name: str, want: torch.Tensor, have: torch.Tensor, cure: str
) -> Difference:
    rtol, atol = TOLERANCES.get(want.dtype, (0.0, 0.0))
    dtype = str(want.dtype).removeprefix("torch.")
    if want.numel() == 0:
        return Difference(name, dtype, 0.0, 0.0, rtol, atol)
    wide = torch.complex128 if want.is_complex() else torch.float64
    a, b = want.detach().to(wide), have.detach().to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a - b).abs())
    finite = torch.where(a.isfinite(), a.abs(), 0.0)
    scale = _scale(finite)
    allowed = rtol * finite + atol * scale
    absolute = float("inf") if bool(gap.isnan().any()) else float(gap.max())
    relative = float((gap / finite.clamp(min=scale)).max()) if scale else absolute
    if bool((gap > allowed).any()) or absolute == float("inf"):
        raise ExportError(
            "the program computes something else than the model",
            tensor=name,
            wanted=f"within {rtol:g} of each element + {atol:g} of the largest ({dtype})",
            found=f"a difference of {absolute:.3g} (relative {relative:.3g}) on {case}",
            cure=cure,
        )
    return Difference(name, dtype, absolute, relative, rtol, atol)


def _scale(sizes: torch.Tensor) -> float:
    """The largest of an output's sizes, or a thousand times what a tenth of them stays below."""
    largest, above = float(sizes.max()), sizes[sizes > 0]
    if not above.numel():
        return largest
    low = float(above.kthvalue(1 + above.numel() // 10).values)
    return min(largest, _OUTLYING * low)


def _fails(case: Case, error: Exception, cure: str) -> ExportError:
    is_size = "=" in case.label
    what = "the program fails where the model does not"
    if is_size:
        what = f"the program takes only the sizes it was made with: it fails at {case.label}"
    return ExportError(
        what,
        wanted=f"what the model gives on {case}",
        found=first_line(error),
        cure=cure + (" Or say that nothing is dynamic: dynamic=None." if is_size else ""),
    )


def _other(case: Case, what: str, wanted: Any, found: Any, cure: str) -> ExportError:
    return ExportError(
        f"the program gives {what}",
        wanted=str(wanted)[:150],
        found=f"{str(found)[:150]}, on {case}",
        cure=cure,
    )
