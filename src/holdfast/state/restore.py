"""Put captured states back into live parts, all of them or none."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from holdfast.errors import MismatchError
from holdfast.state.parts import LoaderPart, OptimizerPart, Part
from holdfast.state.rng import capture_rng, restore_rng


def restore(
    parts: Mapping[str, Part], states: Mapping[str, Any], rng: Mapping[str, Any] | None
) -> list[str]:
    """Restore every part from its state, then the global generators; name what was left.

    The order is fixed: state that its own code may refuse, modules, loaders (they draw from the
    generators), generators. When one refuses, those before it get their former state back.

    Raises:
        MismatchError: a part refused its state; nothing has changed.
    """
    undo: list[Callable[[], object]] = []
    before = capture_rng()
    undo.append(lambda: restore_rng(before))
    try:
        for part in sorted(parts.values(), key=lambda part: part.stage):
            undo.append(_undoing(part))
            _restore_part(part, states[part.name])
        left = restore_rng(rng) if rng is not None else []
    except MismatchError:
        for step in reversed(undo):
            step()
        raise
    for part in parts.values():
        if isinstance(part, OptimizerPart):
            follow_devices(part.live)
    return left


def _restore_part(part: Part, state: Any) -> None:
    try:
        part.restore(state)
    except Exception as error:  # the part's own code, or torch's
        setter = f"{type(part.live).__qualname__}.{part.methods[1]}"
        raise MismatchError(
            f"{part.name!r} did not take the state that was saved; nothing was changed",
            found=f"{type(error).__name__}: {error}",
            cure=f"Look at {setter}, or leave the part out.",
        ) from error


def _undoing(part: Part) -> Callable[[], object]:
    """What gives a part its present state back."""
    if isinstance(part, LoaderPart) and getattr(part.live, "_iterator", None) is None:
        # Asked for its state a loader would start; one that has not started has none.
        return lambda: part.live.load_state_dict({})
    before = part.copy()
    return lambda: part.restore(before)


#: Optimizers whose restored state has not yet met its parameters in a step.
_waiting: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
_hooked: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()


def follow_devices(optimizer: torch.optim.Optimizer) -> None:
    """Let restored state follow parameters that are moved before the next step.

    ``model.to(device)`` after loading moves the parameters and leaves the optimizer's state where
    it was; the next step moves it too, once.
    """
    _waiting.add(optimizer)
    if optimizer not in _hooked:
        # It stays registered: torch does not let a hook remove itself while hooks run.
        _hooked.add(optimizer)
        optimizer.register_step_pre_hook(_before_step)


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer in _waiting:
        _waiting.discard(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                _move(optimizer.state.get(parameter, {}), parameter.device, group)


def _move(state: dict[str, Any], device: torch.device, group: Mapping[str, Any]) -> None:
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.device != device:
            # torch keeps the step count on the CPU, except for these two kinds.
            stays = key == "step" and not (group.get("capturable") or group.get("fused"))
            if not stays:
                state[key] = value.to(device)
