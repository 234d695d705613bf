"""Which dimensions of the inputs are dynamic, and inputs of other sizes and values.

Everything here is a function of values; random numbers come from a generator of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from holdfast.errors import UsageError
from holdfast.programs.inputs import Inputs

#: By input, the names of its dynamic dimensions: those that bear one name have one size.
Dims: TypeAlias = Mapping[str, Mapping[int, str]]

BATCH = "batch"
#: Integers that torch's generator does not reach.
_WIDEST = (1 << 63) - 1


def as_dims(dynamic: Any, inputs: Inputs) -> Dims:
    """Which dimensions are dynamic: ``"batch"`` (the first of every input), None, or a mapping.

    Raises:
        UsageError: a name or a dimension that is not there, or sizes that disagree.
    """
    if dynamic is None:
        return {}
    if isinstance(dynamic, Mapping):
        dims = {name: _of_input(name, wanted, inputs) for name, wanted in dynamic.items()}
    elif isinstance(dynamic, str) and dynamic == BATCH:
        with_first = zip(inputs.names, inputs.tensors, strict=True)
        dims = {name: {0: BATCH} for name, tensor in with_first if tensor.ndim}
    else:
        raise UsageError(
            "this does not say which dimensions are dynamic",
            wanted='"batch", None, or names by input and dimension: {"x": {0: "batch"}}',
            found=repr(dynamic)[:200],
        )
    sizes_of(inputs, dims)
    return dims


def _of_input(name: Any, wanted: Any, inputs: Inputs) -> dict[int, str]:
    if name not in inputs.names:
        raise UsageError(
            "dynamic names an input that is not there",
            wanted=f"one of {', '.join(inputs.names)}",
            found=repr(name),
        )
    tensor = inputs.tensors[inputs.names.index(name)]
    found: dict[int, str] = {}
    items = wanted.items() if isinstance(wanted, Mapping) else [(None, wanted)]
    for dim, given in items:
        is_name = isinstance(given, str) and given.isidentifier()
        if not isinstance(dim, int) or not -tensor.ndim <= dim < tensor.ndim or not is_name:
            raise UsageError(
                "dynamic names dimensions of an input",
                tensor=name,
                wanted=f'{{dimension: name}}, as {{0: "batch"}}, with {tensor.ndim} dimensions',
                found=repr(wanted)[:200],
            )
        found[dim % tensor.ndim] = given
    return found


def sizes_of(inputs: Inputs, dims: Dims) -> dict[str, int]:
    """The size of each named dimension.

    Raises:
        UsageError: one name for dimensions of different sizes.
    """
    found: dict[str, int] = {}
    first: dict[str, str] = {}
    for name, tensor in zip(inputs.names, inputs.tensors, strict=True):
        for dim, given in dims.get(name, {}).items():
            size = tensor.shape[dim]
            where = f"{size} in dimension {dim} of {name}"
            if found.setdefault(given, size) != size:
                raise UsageError(
                    f"the dimension {given!r} has two sizes in the example",
                    found=f"{first[given]}, {where}",
                    cure='Give them names of their own: dynamic={"x": {0: "batch"}, ...}.',
                )
            first.setdefault(given, where)
    return found


def widened(inputs: Inputs, dims: Dims) -> Inputs:
    """The same, with at least two along each dynamic dimension.

    Tracers take a size of 1 (or 0) for a constant: a batch of one would be frozen.
    """
    tensors = []
    for name, tensor in zip(inputs.names, inputs.tensors, strict=True):
        for dim in dims.get(name, {}):
            size = tensor.shape[dim]
            if size == 1:
                tensor = torch.cat([tensor, tensor], dim)
            elif size == 0:
                raise UsageError(
                    "the example is empty along a dynamic dimension",
                    tensor=name,
                    wanted="at least one",
                    found=f"shape {list(tensor.shape)}",
                )
        tensors.append(tensor)
    return inputs.having(tensors)


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs to try a program on; ``label`` says in words what they are."""

    label: str
    inputs: Inputs
    is_example: bool = False

    def __str__(self) -> str:
        pairs = zip(self.inputs.names, self.inputs.tensors, strict=True)
        shapes = ", ".join(f"{name} of shape {list(tensor.shape)}" for name, tensor in pairs)
        return f"{self.label}: {shapes}"[:200]


def cases(
    inputs: Inputs,
    dims: Dims,
    ranges: Mapping[str, tuple[int, int | None]] | None = None,
    seed: int = 0,
) -> Iterator[Case]:
    """The example, other values of its sizes, then other sizes of each dynamic dimension.

    ``ranges`` are the least and the largest size of those that may not have every size.
    """
    generator = torch.Generator().manual_seed(seed)
    yield Case("the example", inputs, is_example=True)
    yield Case("random values", _filled(inputs, dims, {}, generator))
    yield Case("the example negated", inputs.having([_negated(each) for each in inputs.tensors]))
    sizes = sizes_of(inputs, dims)
    bounds = {name: (ranges or {}).get(name, (1, None)) for name in sizes}
    tried = [{name: least + more for name, (least, _) in bounds.items()} for more in (0, 1, 2)]
    for name, size in sizes.items():  # twice: some models take only multiples
        tried += [{name: size + 3}, {name: 2 * size}]
    seen: list[dict[str, int]] = []
    for wanted in tried:
        changed = {
            name: size
            for name, size in wanted.items()
            if size != sizes[name] and size <= (bounds[name][1] or size)
        }
        if changed and changed not in seen:
            seen.append(changed)
            yield Case(_label(changed), _filled(inputs, dims, changed, generator))


def _label(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def resized(inputs: Inputs, dims: Dims, sizes: Mapping[str, int], seed: int = 1) -> Inputs:
    """Random inputs alike, with other sizes of some named dimensions."""
    return _filled(inputs, dims, sizes, torch.Generator().manual_seed(seed))


def _filled(
    inputs: Inputs, dims: Dims, sizes: Mapping[str, int], generator: torch.Generator
) -> Inputs:
    tensors = []
    for name, tensor in zip(inputs.names, inputs.tensors, strict=True):
        shape = list(tensor.shape)
        for dim, given in dims.get(name, {}).items():
            shape[dim] = sizes.get(given, shape[dim])
        tensors.append(alike(tensor, tuple(shape), generator))
    return inputs.having(tensors)


def alike(tensor: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random elements of the same kind: floats as wide as the example's, others in its range.

    Integers stay between the example's smallest and largest (they may be indices); where floats
    are not all finite (a mask of -inf), the elements are drawn from the example's.
    """
    if tensor.numel() == 0:
        return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    if tensor.dtype is torch.bool or tensor.is_complex() or not _is_finite(tensor):
        return _drawn(tensor, shape, generator)
    if tensor.is_floating_point():
        values = tensor.detach().double()
        width = float(values.std()) if tensor.numel() > 1 else 0.0
        made = torch.randn(shape, generator=generator, dtype=torch.float64) * (width or 1.0)
        return (made + float(values.mean())).to(tensor.device, tensor.dtype)
    numbers = tensor.detach().cpu().numpy()  # torch finds no least of uint16, uint32 and uint64
    low, high = int(numbers.min()), int(numbers.max())
    if high - low >= _WIDEST or high >= _WIDEST:
        return _drawn(tensor, shape, generator)
    made = torch.randint(low, high + 1, shape, generator=generator)
    return made.to(tensor.device, tensor.dtype)


def _drawn(
    tensor: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Elements of the example, at random."""
    drawn = torch.randint(tensor.numel(), shape, generator=generator)
    elements = tensor.detach().reshape(-1)
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch cannot index these
        return torch.from_numpy(elements.cpu().numpy()[drawn.numpy()]).to(tensor.device)
    return elements[drawn.to(tensor.device)]


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _negated(tensor: torch.Tensor) -> torch.Tensor:
    """The other sign takes the other branch of much control flow; integers may be indices."""
    return -tensor.detach() if tensor.is_floating_point() and _is_finite(tensor) else tensor
