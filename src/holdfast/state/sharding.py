"""Live tensors of which this process has a share: ``DTensor`` of torch.distributed.tensor."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch


class Box(NamedTuple):
    """Where in a whole tensor a share lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The same as an index."""
        ends = zip(self.offsets, self.sizes, strict=True)
        return tuple(slice(at, at + size) for at, size in ends)


def can_be_spread() -> bool:
    """Whether this process has such tensors at all: whoever has one has imported their module."""
    return "torch.distributed.tensor" in sys.modules


def is_sharded(value: object) -> bool:
    """Whether a tensor's elements are spread over processes, or copied to each of them."""
    return can_be_spread() and isinstance(value, sys.modules["torch.distributed.tensor"].DTensor)


def is_spread(value: object) -> bool:
    """Whether no process has all elements of a tensor, or may have: it is cut along a mesh.

    The same on all ranks, also where one of them happens to have everything.
    """
    if not is_sharded(value):
        return False
    mesh, placements = value.device_mesh, value.placements  # type: ignore[attr-defined]
    return any(
        not placement.is_replicate() and mesh.size(number) > 1
        for number, placement in enumerate(placements)
    )


def box_of(value: Any) -> Box:
    """The box of the whole tensor that this process has."""
    (chunk,) = value.__create_chunk_list__()
    return Box(tuple(chunk.offsets), tuple(chunk.sizes))


def local_of(value: torch.Tensor) -> torch.Tensor:
    """The share of this process, in the same memory; a plain tensor is all its own."""
    if not is_sharded(value):
        return value
    with torch.no_grad():  # else it is made part of a graph, which takes ten times as long
        return value.to_local().detach()  # type: ignore[attr-defined, no-any-return]


def empty_share(like: Any, dtype: torch.dtype) -> Any:
    """A tensor spread as another is, with elements that are not set yet."""
    return _spread(torch.empty_like(local_of(like), dtype=dtype), like)


def share_like(whole: torch.Tensor, like: Any) -> Any:
    """A whole tensor, spread as another is: of the same shape, with its share copied."""
    local = whole.detach()[box_of(like).slices].to(local_of(like).device)
    return _spread(local.contiguous().clone(), like)


def _spread(local: torch.Tensor, like: Any) -> Any:
    module = sys.modules["torch.distributed.tensor"]
    return module.DTensor.from_local(
        local,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def spread_as(state: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict in which whole tensors are spread as the live ones of their names are."""
    return {
        name: share_like(value, live[name])
        if is_sharded(live.get(name)) and _is_whole(value, live[name])
        else value
        for name, value in state.items()
    }


def _is_whole(value: object, like: Any) -> bool:
    is_plain = isinstance(value, torch.Tensor) and not is_sharded(value)
    return is_plain and tuple(value.shape) == tuple(like.shape)  # type: ignore[attr-defined]


def spread_state(state: dict[Any, Any], parameter: torch.Tensor) -> None:
    """Spread what an optimizer keeps of a parameter as the parameter is, in place."""
    if is_sharded(parameter):
        for name, value in state.items():
            if name != "step" and _is_whole(value, parameter):
                state[name] = share_like(value, parameter)
