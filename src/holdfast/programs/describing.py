"""The ports of a model: what its inputs and outputs are called, their dtypes and shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from holdfast.errors import ExportError, HoldfastError, UsageError
from holdfast.programs.inputs import Inputs, checked_names
from holdfast.programs.nesting import flatten
from holdfast.programs.saying import first_line
from holdfast.programs.sizes import Dims, resized, sizes_of
from holdfast.spec.program import Port

Shape = tuple[int | str | None, ...]


def input_ports(inputs: Inputs, dims: Dims) -> tuple[Port, ...]:
    """One for each input, with the names of its dynamic dimensions."""
    return tuple(
        Port(name, dtype_of(tensor), _named(tensor, dims.get(name, {})))
        for name, tensor in zip(inputs.names, inputs.tensors, strict=True)
    )


def _named(tensor: torch.Tensor, names: Any) -> Shape:
    return tuple(names.get(dim, size) for dim, size in enumerate(tensor.shape))


def dtype_of(tensor: torch.Tensor) -> str:
    """Torch's name of a dtype, without ``torch.``."""
    return str(tensor.dtype).removeprefix("torch.")


def output_ports(
    call: Callable[[Inputs], Any],
    example: Inputs,
    inputs: Inputs,
    dims: Dims,
    names: Sequence[str] | None,
) -> tuple[tuple[Port, ...], Any]:
    """One for each output, and the structure they are nested in.

    ``inputs`` are the example with two along each dynamic dimension that has one.
    Which dimensions of the outputs are dynamic is found by calling the model on other sizes.

    Raises:
        ExportError: the model fails on the example.
        UsageError: it gives what no program can, or the names do not fit.
    """
    _try(call, example, "the model fails on the example inputs", _CALL_IT)
    fixed = "a dimension of one cannot be dynamic: the model fails where there are two"
    given = _try(call, inputs, fixed, _NAME_THEM)
    found, tensors, structure = flatten(given)
    if names is None and len(set(found)) != len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UsageError(
            "two outputs of the model would have one name",
            found=repr(twice),
            cure=f"Name all {len(found)} of them: output_names=[...].",
        )
    if names is not None:
        found = list(checked_names(names, len(tensors), "output"))
    shapes: list[Shape] = [tuple(tensor.shape) for tensor in tensors]
    for name, size in sizes_of(inputs, dims).items():
        shapes = _with_name(call, inputs, dims, shapes, tensors, name, size)
    ports = zip(found, tensors, shapes, strict=True)
    return tuple(Port(name, dtype_of(tensor), shape) for name, tensor, shape in ports), structure


_CALL_IT = "Call it on them yourself first: model(...). On which device are they?"
_NAME_THEM = (
    'Say which dimensions are dynamic, dynamic={"x": {0: "batch"}}, or none are: dynamic=None.'
)


def _try(call: Callable[[Inputs], Any], inputs: Inputs, what: str, cure: str) -> Any:
    try:
        return call(inputs)
    except HoldfastError:
        raise
    except Exception as error:  # whatever the model raises
        raise ExportError(what, found=first_line(error), cure=cure) from error


def _with_name(
    call: Callable[[Inputs], Any],
    inputs: Inputs,
    dims: Dims,
    shapes: list[Shape],
    before: list[torch.Tensor],
    name: str,
    size: int,
) -> list[Shape]:
    """The shapes with a name where they follow that dimension, None where they change otherwise."""
    try:
        _, after, _ = flatten(call(resized(inputs, dims, {name: size + 1})))
    except Exception:
        return shapes
    if [tensor.ndim for tensor in after] != [tensor.ndim for tensor in before]:
        return [(None,) * len(shape) for shape in shapes]
    return [
        tuple(
            known if old == new else (name if (old, new) == (size, size + 1) else None)
            for known, old, new in zip(shape, a.shape, b.shape, strict=True)
        )
        for shape, a, b in zip(shapes, before, after, strict=True)
    ]
