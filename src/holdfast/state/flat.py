"""A tree as torch.distributed.checkpoint keeps one: tensors and values by name.

Models and optimizers are taken apart to their tensors, as torch does it (``_traverse.py``), so that
its own loaders find them; everything else is a value, whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from holdfast.errors import CaptureError
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.tree import Path, dotted
from holdfast.state.places import is_optimizer_state
from holdfast.state.sharding import is_spread

_DTYPES = {f"torch.{name}" for name, dtype in BY_NAME.items() if not dtype.is_quantized}


@dataclass(frozen=True, slots=True)
class Flat:
    """Tensors, spread or not, and other values by name, and the path that each had in the tree."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)


def flatten(tree: Mapping[str, Any], opened: Container[str]) -> Flat:
    """Take a tree apart; at its top, ``opened`` are those of which every tensor has its own name.

    Raises:
        CaptureError: two places have one name, or a tensor that is spread lies where none can.
    """
    flat = Flat()
    for key, value in tree.items():
        _walk(flat, (key,), value, key in opened)
    return flat


def _walk(flat: Flat, path: Path, value: Any, is_open: bool) -> None:
    if isinstance(value, torch.Tensor):
        has_slices = is_open and _is_plain(value)
        if is_spread(value) and not has_slices:
            raise _homeless(path, value)
        _put(flat, flat.tensors if has_slices else flat.values, path, value)
    elif _is_opened(value, is_open):
        steps = value.items() if isinstance(value, Mapping) else enumerate(value)
        for step, item in steps:
            _walk(flat, (*path, step), item, is_open)
    elif has_spread(value):
        raise _homeless(path, value)
    else:
        _put(flat, flat.values, path, value)


def _homeless(path: Path, value: Any) -> CaptureError:
    return CaptureError(
        f"a tensor that is spread over processes, at {dotted(path)!r}",
        wanted="such tensors in modules and in optimizers, which say how they are spread",
        found=f"a {type(value).__name__} of something else",
        cure="Keep an average of a model as a module (copy.deepcopy of it, sharded like it), or "
        "the shares of each rank as plain tensors: parameter.to_local().",
    )


def _put(flat: Flat, where: dict[str, Any], path: Path, value: Any) -> None:
    name = ".".join(map(str, path))
    if name in flat.paths:
        raise CaptureError(
            f"two places in the state have the name {name!r}",
            wanted="in a folder of several processes each has its own",
            found=f"{dotted(flat.paths[name])} and {dotted(path)}",
            cure="Rename one of them: dots in keys look like keys within keys.",
        )
    where[name] = value
    flat.paths[name] = path


def _is_plain(value: torch.Tensor) -> bool:
    """Whether a slice of torch's can be planned of it; else it is a value as any other."""
    return value.layout is torch.strided and str(value.dtype) in _DTYPES


def _is_opened(value: Any, is_open: bool) -> bool:
    if isinstance(value, Mapping):
        return is_open and bool(value) and all(type(key) is str for key in value)
    return is_open and isinstance(value, list) and _holds_more(value)


def _holds_more(items: Sequence[Any]) -> bool:
    """Whether a list has tensors or dicts in it: torch keeps every other list whole."""
    return any(
        isinstance(item, torch.Tensor | Mapping) or (isinstance(item, list) and _holds_more(item))
        for item in items
    )


def has_spread(value: Any) -> bool:
    """Whether any tensor in a plain tree is spread over processes."""
    if isinstance(value, torch.Tensor):
        return is_spread(value)
    if isinstance(value, Mapping):
        return any(map(has_spread, value.values()))
    return isinstance(value, list | tuple) and any(map(has_spread, value))


def by_names(state: Any, names: Sequence[Sequence[str | None]]) -> Any:
    """The state of an optimizer by the names of its parameters, as torch's folders have it.

    ``names`` are ``part.parameter``, per group and index; the part is left out where what remains
    is the name of one parameter only. What is no such state stays as it is.
    """
    if not is_optimizer_state(state):
        return state
    counts = Counter(_plain(name) for group in names for name in group if name is not None)
    known = {
        index: _plain(name) if counts[_plain(name)] == 1 else name
        for group, given in zip(state["param_groups"], names, strict=True)
        for index, name in zip(group["params"], given, strict=True)
        if name is not None
    }
    groups = [
        {**group, "params": [known.get(index, index) for index in group["params"]]}
        for group in state["param_groups"]
    ]
    return {
        **state,
        "state": {known.get(key, key): value for key, value in state["state"].items()},
        "param_groups": groups,
    }


def _plain(name: str) -> str:
    return name.partition(".")[2]
