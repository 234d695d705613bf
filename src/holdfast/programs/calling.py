"""What a program is called with, checked against its inputs before the runtime sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from holdfast.errors import UsageError
from holdfast.programs.inputs import check_dense
from holdfast.spec.program import Port


def bound(
    inputs: Sequence[Port],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    file: object,
) -> list[Any]:
    """One value for each input, in their order.

    Raises:
        UsageError: too many or too few, or names that no input bears.
    """
    names = [port.name for port in inputs]
    by_name = dict(zip(names, args, strict=False))
    twice = [name for name in kwargs if name in by_name]
    strange = [name for name in kwargs if name not in names]
    values = {**defaults, **by_name, **kwargs}
    missing = [name for name in names if name not in values]
    if len(args) > len(names) or twice or strange or missing:
        given = [*(f"{len(args)} by position" for _ in range(bool(args))), *map(str, kwargs)]
        raise UsageError(
            "the program is called with other inputs than it takes",
            file=file,
            wanted=", ".join(names),
            found=", ".join(given) or "none",
        )
    return [values[name] for name in names]


def checked(
    inputs: Sequence[Port],
    values: Sequence[Any],
    ranges: Mapping[str, tuple[int, int | None]],
    *,
    file: object,
) -> list[Any]:
    """The values as tensors, of the dtypes and shapes that the inputs say.

    Of an input that takes no tensor (a number, text) it is the value itself.

    Raises:
        UsageError: one is no tensor, or of another dtype or shape.
    """
    sizes: dict[str, tuple[int, str]] = {}
    tensors: list[Any] = []
    for port, value in zip(inputs, values, strict=True):
        if not port.is_tensor:
            tensors.append(value)
            continue
        tensor = _tensor(port, value, file)
        check_dense(port.name, tensor, str(port), file)
        dtype = str(tensor.dtype).removeprefix("torch.")
        if port.dtype is not None and dtype != port.dtype:
            raise UsageError(
                "an input has another dtype than the program takes",
                file=file,
                tensor=port.name,
                wanted=port.dtype,
                found=dtype,
                cure=f"{port.name}.to(torch.{port.dtype}), or .astype for an array.",
            )
        if not _fits(port, tuple(tensor.shape), sizes):
            raise UsageError(
                "an input has another shape than the program takes",
                file=file,
                tensor=port.name,
                wanted=f"{port}{_known(port, sizes)}",
                found=str(list(tensor.shape)),
            )
        tensors.append(tensor)
    for name, (least, most) in ranges.items():
        size, port_name = sizes.get(name, (least, ""))
        if size < least or (most is not None and size > most):
            raise UsageError(
                "a dimension has a size that the program does not take",
                file=file,
                tensor=port_name,
                wanted=f"{name} of at least {least}" + (f", at most {most}" if most else ""),
                found=size,
            )
    return tensors


def _tensor(port: Port, value: Any, file: object) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return as_tensor(value)
    raise UsageError(
        "the inputs of a program are tensors or NumPy arrays",
        file=file,
        tensor=port.name,
        wanted=str(port),
        found=f"{type(value).__module__}.{type(value).__qualname__}",
    )


def as_tensor(value: Any) -> torch.Tensor:
    """A NumPy array or scalar as a tensor; bfloat16 is ml_dtypes'.

    Raises:
        UsageError: torch has no such dtype.
    """
    array = np.array(value, order="C", ndmin=0)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if str(array.dtype) == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "torch has no tensors of this dtype",
            wanted="an array of numbers",
            found=f"an array of {array.dtype}",
        ) from error


def _fits(port: Port, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> bool:
    """Whether a shape is one the port takes; named sizes are noted, and agree among inputs."""
    if port.shape is None:
        return True
    if len(shape) != len(port.shape):
        return False
    for wanted, size in zip(port.shape, shape, strict=True):
        if isinstance(wanted, int) and wanted != size:
            return False
        if isinstance(wanted, str) and sizes.setdefault(wanted, (size, port.name))[0] != size:
            return False
    return True


def _known(port: Port, sizes: Mapping[str, tuple[int, str]]) -> str:
    others = [
        f"{name} is {sizes[name][0]} in {sizes[name][1]}"
        for name in port.shape or ()
        if isinstance(name, str) and name in sizes and sizes[name][1] != port.name
    ]
    return f" ({', '.join(others)})" if others else ""
