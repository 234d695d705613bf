"""Outputs that are nested: tensors with names, and the structure that they came in.

A structure is JSON: ``[place]`` for a tensor, ``{"tuple": [...]}``, ``{"list": [...]}``,
``{"dict": {...}}``, or ``{"value": ...}`` for a constant (None, a number, text).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from holdfast.errors import FormatError, UsageError
from holdfast.programs.inputs import unusual

#: What stands in an output and is no tensor.
_CONSTANTS = (type(None), bool, int, float, str)
_DEEPEST = 50


def flatten(outputs: Any) -> tuple[list[str], list[torch.Tensor], Any]:
    """The names of the tensors in what a model gives, the tensors, and the structure.

    The one tensor of a model that gives one is called ``output``; the others by their keys and
    places, joined by dots (``logits``, ``output.0``).

    Raises:
        UsageError: an object in it that no program can give.
    """
    names: list[str] = []
    tensors: list[torch.Tensor] = []
    structure = _taken(outputs, (), names, tensors)
    return names, tensors, structure


def _taken(value: Any, path: tuple[str, ...], names: list[str], tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor) and (kind := unusual(value)) is not None:
        raise _impossible(path, f"a {kind} tensor", "Give a dense one: tensor.to_dense().")
    if isinstance(value, torch.Tensor):
        names.append(_name(path))
        tensors.append(value)
        return [len(tensors) - 1]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        items = {key: _taken(each, (*path, key), names, tensors) for key, each in value.items()}
        return {"dict": items}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        taken = (
            _taken(each, (*path, str(place)), names, tensors) for place, each in enumerate(value)
        )
        return {kind: list(taken)}
    if isinstance(value, float) and not math.isfinite(value):
        raise _impossible(path, f"the constant {value}", "Give it as a tensor.")
    if isinstance(value, _CONSTANTS):
        return {"value": value}
    found = f"{type(value).__module__}.{type(value).__qualname__}"
    raise _impossible(path, found, "Wrap the model in one whose forward gives these.")


def _impossible(path: tuple[str, ...], found: str, cure: str) -> UsageError:
    return UsageError(
        "the model gives something that no program can give",
        tensor=_name(path),
        wanted="tensors, in tuples, lists and dicts with names",
        found=found,
        cure=cure,
    )


def _name(path: tuple[str, ...]) -> str:
    if not path or path[0].isdigit():
        path = ("output", *path)
    return ".".join(path)


def constants(structure: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What in a structure is no tensor, each with its name."""
    if isinstance(structure, list):
        return
    ((kind, value),) = structure.items()
    if kind == "value":
        yield _name(path), value
        return
    items = value.items() if kind == "dict" else enumerate(value)
    for key, each in items:
        yield from constants(each, (*path, str(key)))


def own(outputs: Any) -> Any:
    """The same outputs with tensors of their own: they may lie in what is put back behind them."""
    _, tensors, structure = flatten(outputs)
    return nested(structure, [tensor.detach().clone() for tensor in tensors])


def nested(structure: Any, tensors: Sequence[Any]) -> Any:
    """The tensors in their structure again.

    Raises:
        FormatError: it is no structure of so many tensors.
    """
    try:
        return _put(structure, tensors, 0)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise FormatError(
            "the record of this program does not say how its outputs are nested",
            found=str(error)[:200],
            cure="The file is broken: export the program anew.",
        ) from error


def _put(structure: Any, tensors: Sequence[Any], depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels")
    if isinstance(structure, list):
        (place,) = structure
        return tensors[place]
    ((kind, value),) = structure.items()
    if kind == "value":
        return value
    if kind == "dict":
        return {key: _put(each, tensors, depth + 1) for key, each in value.items()}
    if kind not in ("tuple", "list"):
        raise ValueError(f"a {kind!r}"[:100])
    items = [_put(each, tensors, depth + 1) for each in value]
    return tuple(items) if kind == "tuple" else items
