"""Which tensors are read straight into live memory, last of all, and what stands for them before.

Whatever runs a part's own code comes first, while all can still be undone: the state it is given
has the live tensors themselves in the places of those that are read afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from holdfast.errors import MismatchError
from holdfast.spec.cutting import boxed
from holdfast.spec.index import ChunkedRef, TensorRef
from holdfast.state import names, own_code
from holdfast.state.optimizers import is_plain
from holdfast.state.parts import ModulePart, OptimizerPart, Part
from holdfast.state.recipe import Recipe
from holdfast.state.sharding import box_of, empty_share, is_sharded, local_of
from holdfast.tensors.build import torch_dtype
from holdfast.tensors.into import Target
from holdfast.tensors.storages import place_of


def postpone(
    part: Part,
    recipe: Recipe,
    others: Iterable[Target] = (),
    device: torch.device | None = None,
) -> tuple[Recipe, list[Target]]:
    """The recipe without the tensors that can be read last, and these with their live ones.

    ``others`` are those of other parts: no state of an optimizer is read into their memory. On
    ``device`` parameters without memory get theirs; where it is None, from what is built of them.
    """
    if isinstance(part, ModulePart) and not own_code.sees_tensors(names.unwrap(part.live)):
        return _of_module(part, recipe, others, device)
    if isinstance(part, OptimizerPart) and is_plain(part.live):
        return _of_optimizer(part.live, recipe, {each.live.data_ptr() for each in others})
    return recipe, []


def _of_module(
    part: ModulePart, recipe: Recipe, others: Iterable[Target], device: torch.device | None
) -> tuple[Recipe, list[Target]]:
    live = names.plain_tensors(part.live)
    rooms = {id(each.without_memory): each.live for each in others}
    owners: dict[str, list[str]] = {}
    for name, old in recipe.names.items():
        owners.setdefault(old, []).append(name)
    saved, late = dict(recipe.saved), set()
    targets: list[Target] = []
    _check_memory(part.name, live)
    for old, theirs in owners.items():
        homes, ref = [live[name] for name in theirs if name in live], recipe.saved[old]
        places = {place_of(local_of(home)) for home in homes}
        is_one = len(homes) == len(theirs) and len(places) == 1
        if not is_one or not _can_be_late(ref, homes[0]):
            continue
        if tuple(ref.shape) != tuple(homes[0].shape) or (homes[0].is_meta and device is None):
            continue
        bare = homes[0] if homes[0].is_meta else None
        if bare is not None:  # one room for it, whatever names it has, and in whatever parts
            new = torch.empty_like(bare, device=device, requires_grad=False)
            homes = [rooms.setdefault(id(bare), new)]
        # Read once; but each has a version counter of its own.
        targets += [_target(ref, home.detach(), bare) for home in homes]
        saved[old] = local_of(homes[0]).detach()
        late.update(theirs)
    return replace(recipe, saved=saved, late=frozenset(late)), targets


def _check_memory(name: str, live: Mapping[str, torch.Tensor]) -> None:
    """Refuse shares without memory: what is copied into them would be gone.

    Raises:
        MismatchError: there are some.
    """
    bare = [each for each, tensor in live.items() if is_sharded(tensor) and tensor.is_meta]
    if bare:
        raise MismatchError(
            f"{len(bare)} tensors of {name!r} are spread over processes and have no memory yet",
            tensor=bare[0],
            cure="Give them some first: model.to_empty(device=...). Then make the optimizer.",
        )


def _target(ref: Any, live: torch.Tensor, bare: torch.Tensor | None = None) -> Target:
    """What is read into a live tensor; of one spread over processes, this one's share."""
    if not is_sharded(live):
        return Target(ref, live, bare)
    box = box_of(live)
    window = [(at, at + size) for at, size in zip(box.offsets, box.sizes, strict=True)]
    return Target(boxed(ref, window), local_of(live), bare, is_box=True)


def _can_be_late(ref: Any, live: Any) -> bool:
    if is_sharded(live) and live.is_meta:
        return False
    live = local_of(live)
    return (
        type(ref) in (TensorRef, ChunkedRef)
        and type(live) in (torch.Tensor, nn.Parameter)
        and not live.is_quantized
        and live.layout is torch.strided
        and not _overlaps(live)
        and getattr(ref, "storage", ref) is not None
        and getattr(ref, "quantizer", None) is None
        and getattr(ref, "subclass", None) is None
        and getattr(ref, "attributes", None) is None
    )


def _overlaps(live: torch.Tensor) -> bool:
    """Whether elements of a tensor share memory, so that torch cannot copy into it."""
    sizes = zip(live.shape, live.stride(), strict=True)
    return any(size > 1 and step == 0 for size, step in sizes)


def _of_optimizer(
    optimizer: torch.optim.Optimizer, recipe: Recipe, full: set[int]
) -> tuple[Recipe, list[Target]]:
    """The same for an optimizer; ``full`` is memory, by its address, that others are read into."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = dict(recipe.saved["state"])
    targets: list[Target] = []
    held: dict[int, dict[Any, Any]] = {}
    taken: set[int] = set()
    for place, key in recipe.positions.items():
        parameter = parameters[place]
        state = states.get(key)
        if place in recipe.recast or parameter.is_meta or not isinstance(state, Mapping):
            continue
        late = dict.fromkeys(state)
        is_ours = parameter in optimizer.state and not _is_shared(optimizer.state, parameter)
        for name, ref in _large(state, parameter):
            if id(ref) not in taken:
                taken.add(id(ref))
                now = optimizer.state[parameter] if is_ours else {}
                late[name] = room = _room_for(ref, parameter, now, name, full)
                full.add(local_of(room).data_ptr())
                targets.append(_target(ref, room))
        held[place] = late
        states[key] = {name: value for name, value in state.items() if late[name] is None}
    return replace(recipe, saved={**recipe.saved, "state": states}, held=held), targets


def _references(owner: Mapping[Any, Any], key: Any) -> int:
    """What Python counts here for what a mapping has at a key; versions of it count otherwise."""
    return sys.getrefcount(owner[key])


#: The count for what only one mapping has.
_ALONE = _references({"alone": object()}, "alone")


def _is_shared(owner: Mapping[Any, Any], key: Any) -> bool:
    """Whether somebody else has what a mapping has at a key, too."""
    return _references(owner, key) > _ALONE


def _large(
    state: Mapping[Any, Any], parameter: torch.Tensor
) -> Iterator[tuple[Any, TensorRef | ChunkedRef]]:
    """What a state has of the size of its parameter; counts of steps have rules of their own."""
    for name, ref in state.items():
        if (
            type(ref) in (TensorRef, ChunkedRef)
            and name != "step"
            and (ref.numel > 1 or is_sharded(parameter))
            and ref.shape == tuple(parameter.shape)
            and ref.dtype.name.startswith(("float", "bfloat"))
            and parameter.dtype.is_floating_point
            and _can_be_late(ref, parameter)
        ):
            yield name, ref


def _room_for(
    ref: TensorRef | ChunkedRef,
    parameter: torch.Tensor,
    now: Mapping[Any, Any],
    name: Any,
    full: Container[int],
) -> torch.Tensor:
    """The live state tensor, where there is one of the kind that nobody else has, or a new one.

    PyTorch's own loading replaces these tensors: a ``state_dict()`` taken before keeps its values.
    """
    is_alone = name in now and not _is_shared(now, name)
    live = now.get(name)
    if is_sharded(parameter):
        made: torch.Tensor = empty_share(parameter, torch_dtype(ref.dtype))
        return made
    if (
        is_alone
        and type(live) is torch.Tensor
        and live.data_ptr() not in full
        and tuple(live.shape) == ref.shape
        and live.dtype is torch_dtype(ref.dtype)
        and live.device == parameter.device
        and live.layout is torch.strided
    ):
        return live
    return torch.empty(ref.shape, dtype=torch_dtype(ref.dtype), device=parameter.device)
