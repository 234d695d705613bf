"""Live parts → one tree, ready to be encoded, and what the record must know of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from holdfast.errors import UsageError
from holdfast.state import names
from holdfast.state.compact import compact
from holdfast.state.flat import Flat, by_names, flatten
from holdfast.state.parts import LoaderPart, ModulePart, OptimizerPart, Part, modules_of
from holdfast.state.plain import refuse_spread, to_plain
from holdfast.state.rng import capture_rng
from holdfast.tensors.encode import encode

_SPREAD_CURE = (
    "A Run on all ranks saves it: holdfast.Run(folder, model=model, ...) behind "
    "torch.distributed.init_process_group()."
)


@dataclass(frozen=True, slots=True)
class Captured:
    """A tree of plain values and tensors, not yet copied, and notes for the record.

    ``parameters`` has the names of each optimizer's parameters per group and index, ``converted``
    what stood at which pointer before it was made plain.
    """

    tree: dict[str, Any]
    parameters: dict[str, list[list[str | None]]] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)

    def watched(self, parts: Mapping[str, Part]) -> dict[str, Any]:
        """A copy of what must not change between a save and the end of the loop's body."""
        small = {n: self.tree[n] for n, part in parts.items() if part.is_watched}
        small.update({n: self.tree[n] for n in ("extra", "rng") if n in self.tree})
        return copy.deepcopy(small)


def capture(
    parts: Mapping[str, Part], extra: Mapping[str, Any], *, rng: bool = True, spread: bool = False
) -> Captured:
    """Read the state of all parts: loaders first, the global generators last.

    A loader that has not started yet starts when it is asked for its state, and draws from the
    generators; read in this order both are saved as they are afterwards. Tensors that are
    ``spread`` over processes are taken where that is said, and stay what they are.

    Raises:
        CaptureError: a part whose state cannot be read, or holds what cannot be saved.
        UsageError: an optimizer with a parameter that belongs to no part.
    """
    converted: dict[str, str] = {}
    ordered = sorted(parts.values(), key=lambda part: not isinstance(part, LoaderPart))
    states = {part.name: to_plain(part.capture(), (part.name,), converted) for part in ordered}
    tree = {name: states[name] for name in parts}
    if extra:
        tree["extra"] = to_plain(_checked_extra(extra), ("extra",), converted)
    if rng:
        tree["rng"] = to_plain(capture_rng(), ("rng",), converted)
    if not spread:
        refuse_spread(tree, cure=_SPREAD_CURE)
        tree = compact(tree)
    return Captured(tree, optimizer_names(parts), converted)


def _checked_extra(extra: Any) -> dict[str, Any]:
    if not isinstance(extra, Mapping):
        raise UsageError("extra must be a dict", found=type(extra).__qualname__)
    return dict(extra)


def optimizer_names(parts: Mapping[str, Part]) -> dict[str, list[list[str | None]]]:
    """The names of the parameters of every optimizer among the parts."""
    known = names.parameter_names(modules_of(parts))
    return {
        name: [list(group) for group in names.optimizer_names(name, part.live, known)]
        for name, part in parts.items()
        if isinstance(part, OptimizerPart)
    }


def check(parts: Mapping[str, Part], extra: Mapping[str, Any], *, spread: bool = False) -> None:
    """Find out now what could not be captured later; nothing live is changed.

    A loader is asked only for what its dataset and sampler can say: asked for its own state it
    would start, and draw from the generators.

    Raises:
        CaptureError: a part that cannot be captured.
        UsageError: an optimizer with a parameter that belongs to no part.
    """
    parameters = optimizer_names(parts)
    tree = {}
    for part in parts.values():
        if isinstance(part, LoaderPart):
            _check_loader(part)
        else:
            tree[part.name] = to_plain(part.capture(), (part.name,), {})
    tree["extra"] = to_plain(_checked_extra(extra), ("extra",), {})
    # Only the pickle is made, no tensor is read: what it refuses is best known now.
    if spread:
        encode(compact(flat_of(tree, parameters, parts).values))
    else:
        refuse_spread(tree, cure=_SPREAD_CURE)
        encode(compact(tree))


def flat_of(
    tree: Mapping[str, Any],
    parameters: Mapping[str, Sequence[Sequence[str | None]]],
    parts: Mapping[str, Part],
) -> Flat:
    """A captured tree by names, as a folder of several processes has it.

    Of models and optimizers that is every tensor, the optimizers' by the names of ``parameters``.

    Raises:
        CaptureError: two places have one name, or a tensor that is spread lies where none can.
    """
    opened = {n for n, part in parts.items() if isinstance(part, ModulePart | OptimizerPart)}
    named = {
        name: by_names(state, parameters[name]) if name in parameters else state
        for name, state in tree.items()
    }
    return flatten(named, opened)


def _check_loader(part: LoaderPart) -> None:
    for attribute in ("dataset", "sampler", "batch_sampler"):
        source = getattr(part.live, attribute, None)
        if callable(getattr(source, "state_dict", None)):
            state = Part(f"{part.name}.{attribute}", source).capture()
            to_plain(state, (part.name, attribute), {})


def stray_tensors(parts: Mapping[str, Part]) -> dict[str, str]:
    """Tensors a module keeps as plain attributes: name → what to write instead."""
    found = {}
    for part, module in modules_of(parts).items():
        for path, owner in names.unwrap(module).named_modules():
            for attribute, value in vars(owner).items():
                if isinstance(value, torch.Tensor):
                    name = ".".join(filter(None, (part, path, attribute)))
                    found[name] = f'self.register_buffer("{attribute}", ...)'
    return found
