"""The plain names of parameters and buffers, whatever wraps the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from holdfast.errors import UsageError

#: The attribute under which torch.compile keeps the module it wraps.
COMPILED = "_orig_mod"
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(module: nn.Module) -> nn.Module:
    """The user's own module inside DataParallel, DistributedDataParallel and torch.compile."""
    while (attribute := _transparent(module)) is not None:
        module = getattr(module, attribute)
    return module


def _transparent(module: nn.Module) -> str | None:
    """The attribute that holds the wrapped module, when ``module`` is such a wrapper."""
    if COMPILED in module._modules and type(module).__name__ == "OptimizedModule":
        return COMPILED
    return "module" if isinstance(module, _PARALLEL) else None


def wrapper_prefixes(module: nn.Module) -> list[tuple[str, str]]:
    """For each wrapper inside ``module``: its prefix, and the prefix of what it wraps."""
    found = []
    for name, child in module.named_modules(remove_duplicate=False):
        attribute = _transparent(child)
        if attribute is not None:
            prefix = f"{name}." if name else ""
            found.append((prefix, f"{prefix}{attribute}."))
    return sorted(found, key=lambda pair: -len(pair[1]))


def plain_name(name: str, wrappers: Iterable[tuple[str, str]]) -> str:
    """A key of a state dict without the segments that wrappers inside the model add."""
    # Inner wrappers come first: their prefixes contain those of the outer ones.
    for outer, inner in wrappers:
        if name.startswith(inner):
            name = outer + name.removeprefix(inner)
        elif name == inner.removesuffix("."):
            name = outer.removesuffix(".")
    return name


def plain_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their plain names; tied ones under each of theirs."""
    plain = unwrap(module)
    wrappers = wrapper_prefixes(plain)
    return {plain_name(name, wrappers): tensor for name, tensor in tensors_of(plain)}


def tensors_of(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """All parameters and buffers under the module's own names; tied ones under each of theirs."""
    return [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]


def parameter_names(modules: Mapping[str, nn.Module]) -> dict[int, str]:
    """``part.parameter`` of every parameter by its ``id``; a tied one has its first name."""
    names: dict[int, str] = {}
    for name, parameter in _parameters(modules):
        names.setdefault(id(parameter), name)
    return names


def first_names(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """``part.parameter`` of every parameter, with the first name of a tied one for each of its."""
    firsts = parameter_names(modules)
    return {name: firsts[id(parameter)] for name, parameter in _parameters(modules)}


def _parameters(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters by ``part.parameter``; tied ones under each of their names."""
    for part, module in modules.items():
        plain = unwrap(module)
        wrappers = wrapper_prefixes(plain)
        for name, parameter in plain.named_parameters(remove_duplicate=False):
            yield f"{part}.{plain_name(name, wrappers)}", parameter


def optimizer_names(
    part: str, optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> list[list[str]]:
    """The names of an optimizer's parameters, per group and index.

    Raises:
        UsageError: it steps a parameter that belongs to no part; group and shape are named.
    """
    result: list[list[str]] = []
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise _homeless(part, index, parameter)
        result.append([names[id(parameter)] for parameter in group["params"]])
    return result


def known_names(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> list[list[str | None]]:
    """The names of an optimizer's parameters; None for those that belong to no part."""
    return [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]


def _homeless(part: str, group: int, parameter: Any) -> UsageError:
    return UsageError(
        f"{part!r} steps a parameter that belongs to no part: group {group}, "
        f"shape {tuple(parameter.shape)}",
        cure="Give the module that owns it as a part too; if the model was replaced or moved after "
        "the optimizer was made, make the optimizer again from model.parameters().",
    )
