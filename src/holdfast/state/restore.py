"""Put captured states back into live parts, all of them or none."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from holdfast.errors import MismatchError
from holdfast.state.meta import has_meta
from holdfast.state.names import tensors_of
from holdfast.state.optimizers import with_hooks
from holdfast.state.parts import LoaderPart, ModulePart, OptimizerPart, Part
from holdfast.state.recipe import Recipe
from holdfast.state.rng import capture_rng, restore_rng


def restore(
    parts: Mapping[str, Part],
    states: Mapping[str, Any],
    rng: Mapping[str, Any] | None,
    recipes: Mapping[str, Recipe] = MappingProxyType({}),
) -> list[str]:
    """Restore every part from its state, then the global generators; name what was left.

    The order is fixed: state that its own code may refuse, modules, loaders (they draw from the
    generators), generators. When one refuses, those before it get their former state back.

    Raises:
        MismatchError: a part refused its state; nothing has changed.
    """
    before, bare = capture_rng(), _without_memory(parts)
    undo: dict[str, Callable[[], object]] = {"the generators": lambda: restore_rng(before)}
    try:
        for part in sorted(parts.values(), key=_stage):
            if isinstance(part, OptimizerPart):
                _check_kept(part, bare, _without_memory(parts))
            undo[repr(part.name)] = _undoing(part, recipes.get(part.name))
            _restore_part(part, states[part.name], recipes.get(part.name))
        left = _restore_rng(rng) if rng is not None else []
    except BaseException as error:  # an interruption must not leave half of it either
        _undo_all(undo, error)
        raise
    for part in parts.values():
        stepped = with_hooks(part.live) if isinstance(part, OptimizerPart) else None
        if stepped is not None:
            follow_devices(stepped)
        if (what := part.left_out(states[part.name])) is not None:
            left.append(what)
    return left


def _without_memory(parts: Mapping[str, Part]) -> list[torch.Tensor]:
    """The tensors on the meta device of all live modules."""
    modules = [part.live for part in parts.values() if isinstance(part, ModulePart)]
    return [tensor for each in modules for _, tensor in tensors_of(each) if tensor.is_meta]


def _check_kept(
    part: OptimizerPart, before: Iterable[torch.Tensor], now: Iterable[torch.Tensor]
) -> None:
    """Refuse an optimizer of parameters that others have taken the place of.

    Raises:
        MismatchError: it steps such ones, and would do nothing.
    """
    left = {id(tensor) for tensor in now}
    gone = {id(tensor) for tensor in before if tensor.is_meta and id(tensor) not in left}
    stepped = [p for group in part.live.param_groups for p in group["params"] if id(p) in gone]
    if stepped:
        raise MismatchError(
            f"{part.name!r} steps {len(stepped)} parameters on the meta device that others had to "
            "take the place of, as something holds on to them; nothing was changed",
            found=f"the first has the shape {tuple(stepped[0].shape)}",
            cure="Load the model by itself, make the optimizer then, and load its state.",
        )


def _stage(part: Part) -> int:
    """When it is restored; a module without memory gets it before optimizers look where it is."""
    return 0 if isinstance(part, ModulePart) and has_meta(part.live) else part.stage


def _undo_all(undo: dict[str, Callable[[], object]], error: BaseException) -> None:
    """Give every part its former state back, last first.

    Raises:
        MismatchError: one did not take it; the others have theirs.
    """
    stuck: dict[str, Exception] = {}
    for name in reversed(undo):
        try:
            undo[name]()
        except Exception as refusal:  # the part's own code; the others must have their turn
            stuck[name] = refusal
    if stuck:
        first = next(iter(stuck.values()))
        what = error.what if isinstance(error, MismatchError) else repr(error)
        raise MismatchError(
            f"{what.partition(';')[0]}, and then {' and '.join(stuck)} did not take back its own",
            found=f"{type(first).__name__}: {first}",
            cure="Load a state that fits before going on. All other parts are as they were.",
        ) from error


def _restore_part(part: Part, state: Any, recipe: Recipe | None) -> None:
    try:
        part.restore(state, recipe)
    except Exception as error:  # the part's own code, or torch's
        setter = f"{type(part.live).__qualname__}.{part.methods[1]}"
        raise MismatchError(
            f"{part.name!r} did not take the state that was saved; nothing was changed",
            found=f"{type(error).__name__}: {error}",
            cure=f"Look at {setter}, or leave the part out.",
        ) from error


def _restore_rng(state: Mapping[str, Any]) -> list[str]:
    try:
        return restore_rng(state)
    except Exception as error:  # whatever NumPy and torch raise of a state they do not know
        raise MismatchError(
            "the random generators did not take the state that was saved; nothing was changed",
            found=f"{type(error).__name__}: {error}",
            cure="load_state() without rng=True leaves the generators as they are.",
        ) from error


def _undoing(part: Part, recipe: Recipe | None) -> Callable[[], object]:
    """What gives a part its present state back."""
    if isinstance(part, LoaderPart):
        return _undoing_loader(part.live)
    return part.undoing(recipe)


def _undoing_loader(loader: Any) -> Callable[[], object]:
    """Asked for its state a loader would start, and draw; so what a restore changes is kept.

    Restoring makes a new iterator, which sets the sampler's generator and the dataset's position.
    """
    fields = ("_iterator", "_initial_iter_for_state_dict", "next_iter_state")
    before = {name: getattr(loader, name) for name in fields if hasattr(loader, name)}
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), getattr(batches, "sampler", None))
    found = {id(g): g for g in (getattr(owner, "generator", None) for owner in owners)}
    generators = [(g, g.get_state()) for g in found.values() if isinstance(g, torch.Generator)]
    dataset = Part("dataset", getattr(loader, "dataset", None))
    has_state = all(hasattr(dataset.live, name) for name in ("state_dict", "load_state_dict"))
    position = dataset.copy() if has_state else None

    def undo() -> None:
        for name, value in before.items():
            setattr(loader, name, value)
        for generator, state in generators:
            generator.set_state(state)
        if has_state:
            dataset.restore(position)

    return undo


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
        optimizer.register_step_pre_hook(_before_step)
        _hooked.add(optimizer)


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
