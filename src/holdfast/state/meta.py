"""Tensors of a live module that have no memory yet: they take what is loaded as theirs.

Parameters stay the objects that they are, as optimizers and ties hold on to them, wherever PyTorch
can swap them; where it cannot (a graph hangs on one), another takes its place in the module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from holdfast.state.names import tensors_of
from holdfast.state.shapes import is_lazy


def fill(module: nn.Module, state: Mapping[str, Any], *, new: Container[str] = ()) -> None:
    """Give every meta tensor of a module the memory of its saved one.

    No second copy is made, unless the saved one has another element type or shares its memory with
    others. ``new`` are the names of those whose memory was made for the module alone.
    """
    if not has_meta(module):
        return
    shared = _shared(state)
    with _without_references(module):
        for name, live in tensors_of(module):
            value = state.get(name)
            if live.is_meta and isinstance(value, torch.Tensor) and not value.is_meta:
                is_shared = _memory(value) in shared and name not in new
                _put(module, live, _like(live, value, is_shared=is_shared))


def has_meta(module: nn.Module) -> bool:
    """Whether a module has tensors that have no memory."""
    return any(tensor.is_meta for _, tensor in tensors_of(module))


def emptying(module: nn.Module) -> Callable[[], None]:
    """What makes tensors that have no memory or no shape now such ones again."""
    bare = [(home, name, value) for home, name, value in _homes(module) if value.is_meta]
    lazy = [(home, name, value, type(value)) for home, name, value in _homes(module, is_lazy)]

    def undo() -> None:
        with _without_references(module) if bare else nullcontext():
            for home, name, value in bare:
                if home[name] is not value:
                    home[name] = value
                elif not value.is_meta:
                    empty = torch.empty_like(value, device="meta")
                    torch.utils.swap_tensors(value, _like(value, empty, is_shared=False))
        for home, name, value, kind in lazy:
            if not is_lazy(value):
                home[name] = kind(device=value.device, dtype=value.dtype)

    return undo


def _homes(
    module: nn.Module, chosen: Callable[[Any], bool] = lambda value: not is_lazy(value)
) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Where in a module each chosen tensor is: the dict, its name there, and the tensor."""
    for owner in module.modules():
        for home in (owner._parameters, owner._buffers):
            for name, value in home.items():
                if value is not None and chosen(value):
                    yield home, name, value


def _put(module: nn.Module, live: torch.Tensor, made: torch.Tensor) -> None:
    """Make one tensor of a module another one, or put the other in its place."""
    try:
        torch.utils.swap_tensors(live, made)
    except RuntimeError:  # somebody has a weak reference to it, or a graph ends in it
        for home, name, _ in list(_homes(module, lambda value: value is live)):
            home[name] = made


@contextmanager
def _without_references(module: nn.Module) -> Iterator[None]:
    """Recurrent layers keep weak references to their weights, and a list of them, made anew."""
    layers = [each for each in module.modules() if isinstance(each, nn.RNNBase)]
    for layer in layers:
        layer._flat_weight_refs = []
    try:
        yield
    finally:
        for layer in layers:
            layer._init_flat_weights()


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
