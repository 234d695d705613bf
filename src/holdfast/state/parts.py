"""Parts: the live objects a checkpoint is made of, each seen through one small adapter."""

from __future__ import annotations

import copy
import random
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from holdfast.errors import CaptureError, UsageError
from holdfast.state import names, own_code
from holdfast.state.meta import emptying, fill
from holdfast.state.optimizers import is_plain, restore_optimizer
from holdfast.state.recipe import Recipe
from holdfast.state.rng import pack_python, unpack_python
from holdfast.state.shapes import is_lazy
from holdfast.state.sharding import is_sharded, spread_as

#: Names that are options somewhere or have a meaning of their own in a checkpoint.
RESERVED = frozenset(
    (
        *("rng", "ranks", "extra", "holdfast", "self"),
        *("metrics", "step", "wait", "which", "required"),
        *("strict", "rename", "select", "cast", "map_location", "trust", "path", "source"),
        *("folder", "keep", "every", "background", "name", "start_from", "start_step", "grace"),
    )
)


@dataclass(frozen=True, slots=True)
class Part:
    """One named live object; the base of the adapters.

    ``stage`` is its place in a restore, lowest first: state that its own code may refuse, then
    modules, then loaders, then generators. ``is_watched`` says that a change between a save and
    the end of the loop's body is looked for.
    """

    name: str
    live: Any

    kind: ClassVar[str] = "state"
    stage: ClassVar[int] = 1
    is_watched: ClassVar[bool] = False
    #: How its class calls reading and setting a state, for messages.
    methods: ClassVar[tuple[str, str]] = ("state_dict()", "load_state_dict()")

    def capture(self) -> Any:
        """The live state, by reference where the object gives references.

        Raises:
            CaptureError: the object's own code raised, or gave None (that is how a part is absent).
        """
        cure = f"Look at {type(self.live).__qualname__}.{self.methods[0]}."
        try:
            state = self._read()
        except Exception as error:  # the user's own code
            raise CaptureError(
                f"the state of {self.name!r} could not be read: its {self.methods[0]} raised",
                found=f"{type(error).__name__}: {error}",
                cure=cure,
            ) from error
        if state is None:
            raise CaptureError(
                f"{self.name!r} has no state: its {self.methods[0]} returned None", cure=cure
            )
        return state

    def _read(self) -> Any:
        return self.live.state_dict()

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Put a captured state back into the live object; ``recipe`` says what of it there is."""
        self.live.load_state_dict(state)

    def notes(self) -> tuple[str, ...]:
        """What a report should say of putting a state back into it."""
        return ()

    def left_out(self, state: Any) -> str | None:
        """What of the live object no state can put back, in words; None when it is whole."""
        return None

    def copy(self) -> Any:
        """A state that further training does not change.

        Raises:
            CaptureError: it holds what cannot be copied.
        """
        return _copied(self.name, self.capture())

    def undoing(self, recipe: Recipe | None = None) -> Callable[[], object]:
        """What gives it its present state back; ``recipe`` says what is not touched meanwhile."""
        before = self.copy()
        return lambda: self.restore(before)


class ModulePart(Part):
    """An nn.Module, saved as the plain model whatever wraps it."""

    __slots__ = ()
    kind = "module"
    stage = 2

    def capture(self) -> Any:
        """The state dict of the unwrapped module under plain names."""
        state = Part(self.name, names.unwrap(self.live)).capture()
        return _renamed(state, self._plain_names(state))

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Load the plain names into the module, wrapped or not."""
        plain = names.unwrap(self.live)
        to_live = {new: old for old, new in self._plain_names(plain.state_dict()).items()}
        recipe = recipe or Recipe((), None)
        all_names = {key: to_live.get(key, key) for key in state}
        late = {to_live.get(key, key) for key in recipe.late}
        live = plain.state_dict() if any(map(is_sharded, plain.parameters())) else {}
        if live:  # each process has its share
            state = spread_as(
                state, {new: live[old] for new, old in all_names.items() if old in live}
            )
        fill(plain, _renamed(state, all_names), new=late)
        now = {key: name for key, name in all_names.items() if name not in late}
        if now or not late:
            own_code.load(
                plain,
                _renamed(state, now),
                to_live.values(),
                later=late,
                is_partial=recipe.is_partial,
            )
        if recipe.is_its_own:
            own_code.copy_back(names.plain_tensors(plain), state)

    def undoing(self, recipe: Recipe | None = None) -> Callable[[], object]:
        """The same; tensors that have no memory lose again what they are given."""
        late = recipe.late if recipe else frozenset()
        state = self.capture()
        kept = {k for k, v in state.items() if not (k in late or _is_meta(v) or is_lazy(v))}
        empty, before = emptying(names.unwrap(self.live)), _renamed(state, {k: k for k in kept})
        before = _copied(self.name, before)

        def undo() -> None:
            empty()
            partial = len(kept) < len(state)
            self.restore(before, Recipe((), None, is_partial=partial, is_its_own=True))

        return undo

    def _plain_names(self, state: Mapping[str, Any]) -> dict[str, str]:
        wrappers = names.wrapper_prefixes(names.unwrap(self.live))
        return {key: names.plain_name(key, wrappers) for key in state}


def _copied(name: str, state: Any) -> Any:
    try:
        return copy.deepcopy(state)
    except Exception as error:  # whatever copying somebody's objects raises
        raise CaptureError(
            f"the state of {name!r} cannot be copied, so what it is now could not be put back",
            found=f"{type(error).__name__}: {error}",
        ) from error


def _is_meta(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta


def _renamed(state: Mapping[str, Any], mapping: Mapping[str, str]) -> Any:
    """The entries of a state dict that have a new name, under it."""
    if all(mapping.get(name) == name for name in state):
        return state
    result: Any = type(state)()
    for key, new in mapping.items():
        result[new] = state[key]
    if hasattr(state, "_metadata"):
        result._metadata = state._metadata
    return result


class OptimizerPart(Part):
    """A torch optimizer; its state dict is torch's own, by position."""

    __slots__ = ()
    kind = "optimizer"

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Load the state; it keeps its saved dtypes where its parameter has kept its own."""
        recipe = recipe or Recipe((), None)
        restore_optimizer(self.live, state, recast=recipe.recast, held=recipe.held)

    def undoing(self, recipe: Recipe | None = None) -> Callable[[], object]:
        """The same; torch's own code gives it other tensors and changes none that it has."""
        if not is_plain(self.live):
            return super().undoing(recipe)
        before = self.live.state_dict()
        return lambda: self.restore(before)


class SchedulerPart(Part):
    """A learning rate scheduler: small, and stepped by hand."""

    __slots__ = ()
    kind = "scheduler"
    is_watched = True


#: What disabled scalers were given: they keep no state themselves, and save it again.
_given: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class ScalerPart(SchedulerPart):
    """A gradient scaler; a disabled one (on a CPU) hands on the state that it was given."""

    __slots__ = ()
    kind = "scaler"

    def _read(self) -> Any:
        return self.live.state_dict() if self.live.is_enabled() else _given.get(self.live, {})

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Set the scale and its counts; a disabled scaler keeps them for the next save."""
        if self.live.is_enabled():
            self.live.load_state_dict(state)
        else:
            _given[self.live] = state

    def notes(self) -> tuple[str, ...]:
        """That a disabled scaler does nothing with its state."""
        if self.live.is_enabled():
            return ()
        return ("the live scaler is disabled: the state is kept, and saved again",)


class LoaderPart(Part):
    """torchdata's StatefulDataLoader."""

    __slots__ = ()
    kind = "loader"
    stage = 3
    is_watched = True

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Load the position, then create the iterator that ``iter()`` will use.

        Creating it draws from the global generators, so it must happen before they are restored.
        """
        self.live.load_state_dict(state)
        self.live.state_dict()

    def left_out(self, state: Any) -> str | None:
        """The generators inside worker processes: a state has the order of samples, not those."""
        workers = getattr(self.live, "num_workers", 0)
        is_between_epochs = isinstance(state, Mapping) and state.get("_iterator_finished") is True
        if not workers or (is_between_epochs and not self.live.persistent_workers):
            return None
        return (
            f"the random generators inside the {workers} workers of {self.name!r}: the samples and "
            "their order are as they were, but random numbers drawn in the workers (augmentation) "
            "begin anew. With num_workers=0, or a generator seeded per sample, they go on too"
        )


class TorchGeneratorPart(Part):
    """A torch.Generator; its state is a byte tensor."""

    __slots__ = ()
    kind = "generator"
    stage = 4
    is_watched = True
    methods = ("get_state()", "set_state()")

    def _read(self) -> Any:
        return self.live.get_state()

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Set the generator's state."""
        self.live.set_state(state)


class NumpyGeneratorPart(Part):
    """A numpy.random.Generator; its state is that of its bit generator."""

    __slots__ = ()
    kind = "generator"
    stage = 4
    is_watched = True
    methods = ("bit_generator.state", "bit_generator.state")

    def _read(self) -> Any:
        return self.live.bit_generator.state

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Set the generator's state."""
        self.live.bit_generator.state = state


class PythonRandomPart(Part):
    """A random.Random; its state is the tuple of ``getstate``."""

    __slots__ = ()
    kind = "generator"
    stage = 4
    is_watched = True
    methods = ("getstate()", "setstate()")

    def _read(self) -> Any:
        return pack_python(self.live.getstate())

    def restore(self, state: Any, recipe: Recipe | None = None) -> None:
        """Set the generator's state."""
        self.live.setstate(unpack_python(state))


_CLASSES: tuple[tuple[type | tuple[type, ...], type[Part]], ...] = (
    (nn.Module, ModulePart),
    (torch.optim.Optimizer, OptimizerPart),
    (torch.Generator, TorchGeneratorPart),
    (np.random.Generator, NumpyGeneratorPart),
    (random.Random, PythonRandomPart),
    (
        (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau),
        SchedulerPart,
    ),
    (torch.amp.GradScaler, ScalerPart),
)


def as_parts(live: Mapping[str, Any]) -> dict[str, Part]:
    """An adapter for every live object that is not None, modules first as given.

    Raises:
        UsageError: a reserved name, or an object that cannot be a part; the error shows the way.
    """
    for name in live:
        if name in RESERVED or name.startswith("_"):
            raise UsageError(
                f"a part cannot be called {name!r}: that name has a meaning of its own",
                cure=f"Call it something else, such as {name.strip('_') + '_state'!r}.",
            )
    return {name: as_part(name, value) for name, value in live.items() if value is not None}


def as_part(name: str, live: Any) -> Part:
    """The adapter for one live object."""
    if isinstance(live, type):
        raise _no_part(name, f"the class {live.__qualname__} itself", "Give an instance of it.")
    if _is_stateful_loader(live):
        return LoaderPart(name, live)
    if isinstance(live, torch.utils.data.DataLoader):
        raise _plain_loader(name)
    for classes, adapter in _CLASSES:
        if isinstance(live, classes):
            return adapter(name, live)
    both = ("state_dict", "load_state_dict")
    missing = [method for method in both if not callable(getattr(live, method, None))]
    if not missing:
        return Part(name, live)
    found = f"{type(live).__module__}.{type(live).__qualname__}, without {' and '.join(missing)}"
    raise _no_part(name, found, _cure(name, live))


def _cure(name: str, live: Any) -> str:
    inside = live.values() if isinstance(live, Mapping) else live
    if isinstance(live, Mapping | list | tuple) and any(
        hasattr(each, "state_dict") for each in inside
    ):
        return f"Give each object in it as a part of its own: {name}_1=..., {name}_2=..."
    return (
        "Plain values go into run.extra, or extra= of save_state, and come back in report.extra; "
        "other objects need both."
    )


def _no_part(name: str, found: str, cure: str) -> CaptureError:
    return CaptureError(
        f"{name!r} cannot be a part",
        wanted="a module, an optimizer, a generator, or an object with state_dict and "
        "load_state_dict",
        found=found,
        cure=cure,
    )


def _is_stateful_loader(live: Any) -> bool:
    return any(cls.__name__ == "StatefulDataLoader" for cls in type(live).__mro__)


def _plain_loader(name: str) -> CaptureError:
    return CaptureError(
        f"{name!r} is a plain DataLoader, which cannot say where it is",
        wanted="torchdata's StatefulDataLoader",
        found="torch.utils.data.DataLoader",
        cure="from torchdata.stateful_dataloader import StatefulDataLoader\n"
        f"{name} = StatefulDataLoader(dataset, ...)   # the same arguments\n"
        "If you save at the end of epochs only, leave the loader out: that resumes exactly\n"
        "(but not with persistent_workers=True: they draw their seeds once, at the start).",
    )


def modules_of(parts: Mapping[str, Part]) -> dict[str, nn.Module]:
    """The live modules among the parts, by name."""
    return {name: part.live for name, part in parts.items() if isinstance(part, ModulePart)}
