"""Tensors of a live module that have no memory yet: they take what is loaded as theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import nn

from holdfast.state.names import tensors_of
from holdfast.state.shapes import is_lazy


def fill(module: nn.Module, state: Mapping[str, Any], *, new: Container[str] = ()) -> None:
    """Give every meta tensor of a module the memory of its saved one.

    No second copy is made, unless the saved one has another element type or shares its memory with
    others. ``new`` are the names of those whose memory was made for the module alone.
    Parameters stay the objects that they are: optimizers and ties hold on to them.
    """
    shared = _shared(state)
    for name, live in tensors_of(module):
        value = state.get(name)
        if live.is_meta and isinstance(value, torch.Tensor) and not value.is_meta:
            is_shared = _memory(value) in shared and name not in new
            torch.utils.swap_tensors(live, _like(live, value, is_shared=is_shared))


def has_meta(module: nn.Module) -> bool:
    """Whether a module has tensors that have no memory."""
    return any(tensor.is_meta for _, tensor in tensors_of(module))


def emptying(module: nn.Module) -> Callable[[], None]:
    """What makes tensors that have no memory or no shape now such ones again."""
    empty = [live for _, live in tensors_of(module) if live.is_meta and not is_lazy(live)]
    lazy: list[tuple[nn.Module, str, Any, Any]] = [
        (owner, name, value, type(value))
        for owner in module.modules()
        for home in (owner._parameters, owner._buffers)
        for name, value in home.items()
        if is_lazy(value)
    ]

    def undo() -> None:
        for live in empty:
            if not live.is_meta:
                bare = torch.empty_like(live, device="meta")
                if isinstance(live, nn.Parameter):
                    bare = nn.Parameter(bare, requires_grad=live.requires_grad)
                torch.utils.swap_tensors(live, bare)
        for owner, name, value, kind in lazy:
            if not is_lazy(value):
                home = owner._parameters if name in owner._parameters else owner._buffers
                home[name] = kind(device=value.device, dtype=value.dtype)

    return undo


def _like(live: torch.Tensor, value: torch.Tensor, *, is_shared: bool) -> torch.Tensor:
    """A tensor of the kind of a live one with the elements of another."""
    made = value.detach().to(live.dtype)
    if made is value or _memory(made) == _memory(value):
        made = made.clone() if is_shared else made
    if isinstance(live, nn.Parameter):
        return nn.Parameter(made, requires_grad=live.requires_grad)
    return made


def _memory(value: torch.Tensor) -> int:
    return 0 if value.layout is not torch.strided else value.untyped_storage().data_ptr()


def _shared(state: Mapping[str, Any]) -> set[int]:
    """The storages of which several tensors are views, or one is a part only."""
    tensors = [v for v in state.values() if isinstance(v, torch.Tensor) and not is_lazy(v)]
    counts = Counter(_memory(value) for value in tensors)
    partial = {
        _memory(value)
        for value in tensors
        if value.layout is torch.strided and value.untyped_storage().nbytes() > value.nbytes
    }
    return partial | {memory for memory, count in counts.items() if count > 1}
