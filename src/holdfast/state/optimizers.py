"""What torch's own ``Optimizer.load_state_dict`` leaves to be wished for."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch

from holdfast.state.sharding import is_sharded, spread_state

#: Keys of a group that are there or not for reasons other than the optimizer's class.
_INCIDENTAL = {"params", "param_names", "initial_lr", "swa_lr"}

#: Options that say what torch can do where the parameters are: on a CPU it refuses to step with
#: ``capturable``, on a GPU a captured graph needs it.
OF_THE_DEVICE = frozenset({"capturable"})


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    recast: Container[int] = frozenset(),
    held: Mapping[int, Mapping[Any, Any]] = MappingProxyType({}),
) -> None:
    """Load a state; floating-point state keeps its saved dtype, on its parameter's device.

    torch turns it into the parameter's dtype, so that the float32 state of a bfloat16 parameter
    would come back rounded; that is right only for parameters at the positions in ``recast``, which
    have another dtype than they were saved with. A class with a ``load_state_dict`` of its own is
    left to it. Options that a saved group does not have, and those that depend on where parameters
    are, stay as the live one has them. ``held`` are tensors that are filled afterwards, by
    position: torch would copy them, and cast them.
    """
    optimizer.load_state_dict({**state, "param_groups": _with_live_options(optimizer, state)})
    if type(optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict:
        saved = chain.from_iterable(group["params"] for group in state["param_groups"])
        live = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        for position, (index, parameter) in enumerate(zip(saved, live, strict=True)):
            spread_state(optimizer.state.get(parameter, {}), parameter)
            if position not in recast and not is_sharded(parameter):
                _keep_dtypes(optimizer.state.get(parameter, {}), state["state"].get(index, {}))
            if position in held:
                now = optimizer.state[parameter]
                optimizer.state[parameter] = {
                    name: now[name] if tensor is None else tensor
                    for name, tensor in held[position].items()
                }


def with_hooks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer | None:
    """The optimizer whose steps torch's hooks see: the one given, or the one inside it.

    A class around another optimizer (PostLocalSGDOptimizer) may have none of its own. None where
    nothing is known.
    """
    if hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return optimizer
    inside = [each for each in vars(optimizer).values() if isinstance(each, torch.optim.Optimizer)]
    return with_hooks(inside[0]) if len(inside) == 1 else None


def is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether loading its state is torch's own code alone, which changes no tensor it is given."""
    return (
        type(optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict
        and not optimizer._optimizer_load_state_dict_pre_hooks
        and not optimizer._optimizer_load_state_dict_post_hooks
    )


def _with_live_options(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> list[dict[str, Any]]:
    sizes = [
        [len(group["params"]) for group in each]
        for each in (state["param_groups"], optimizer.param_groups)
    ]
    if sizes[0] != sizes[1]:
        raise ValueError(f"parameters per group: {sizes[0]} in the state, {sizes[1]} here")
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    return [
        {**live, **saved, **{name: live[name] for name in OF_THE_DEVICE & live.keys()}}
        for live, saved in groups
    ]


def _keep_dtypes(live: Any, saved: Any) -> None:
    if not isinstance(live, dict) or not isinstance(saved, Mapping):
        return
    for key, value in saved.items():
        now = live.get(key)
        if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor):
            if now.dtype != value.dtype:
                live[key] = value.to(device=now.device)
        else:
            _keep_dtypes(now, value)


def other_kind(saved: Any, live: Any) -> str | None:
    """Why a state seems to be that of another class: each side has keys the other has not.

    Keys on one side only are no reason: versions of torch add them.
    """
    if not isinstance(saved, Mapping) or not isinstance(live, Mapping):
        return None
    only_saved = sorted(str(key) for key in saved.keys() - live.keys() - _INCIDENTAL)
    only_live = sorted(str(key) for key in live.keys() - saved.keys() - _INCIDENTAL)
    if not only_saved or not only_live:
        return None
    return (
        "the state of another class: only the checkpoint has "
        f"{', '.join(only_saved)}; only the live one {', '.join(only_live)}"
    )
