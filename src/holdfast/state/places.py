"""Places in a checkpoint at which the state of a live part may stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.spec.index import SIZED
from holdfast.spec.tree import Path, dotted
from holdfast.state.pairing import WRAPPERS
from holdfast.state.shapes import is_tensor

#: What is customary where a part's own name is not there, by the part's kind.
CUSTOMARY: dict[str, tuple[str, ...]] = {
    "module": ("model", "model_state_dict", "state_dict", "module"),
    "optimizer": ("optimizer", "optimizer_state_dict", "optim", "optimizer_states"),
    "scheduler": (
        *("scheduler", "scheduler_state_dict", "lr_scheduler", "lr_scheduler_state_dict"),
        "lr_schedulers",
    ),
    "scaler": ("scaler", "scaler_state_dict", "grad_scaler"),
}
#: By which of its names a state is known where it has no customary one: any of these sets.
_SIGNS: dict[str, tuple[frozenset[str], ...]] = {
    "scheduler": (
        frozenset({"last_epoch", "_step_count"}),
        frozenset({"last_epoch", "num_bad_epochs"}),
        frozenset({"_last_lr", "_schedulers"}),
    ),
    "scaler": (frozenset({"scale", "growth_factor"}),),
}
#: How deep states lie, and how many mappings are looked at.
_DEEPEST, _MOST_MAPPINGS = 3, 1000
#: What a Lightning checkpoint has at its top; the model's names begin with an attribute's there.
LIGHTNING = "pytorch-lightning_version"


class Parameter(NamedTuple):
    """A parameter of a live optimizer: ``part.parameter``, where that is known, and its shape."""

    name: str | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A live part as choosing sees it: its kind, and of a module its names with their shapes.

    ``parameters`` are an optimizer's.
    """

    name: str
    kind: str
    shapes: Mapping[str, str]
    parameters: Sequence[Parameter] = ()


class Found(NamedTuple):
    """Where the state of a part is, and why it is taken from there; None: it bears its name.

    ``aside`` are names beside the state in the same mapping: those without its prefix.
    """

    path: Path
    state: Any
    why: str | None = None
    prefix: str = ""
    aside: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The path as people write it."""
        return dotted((*self.path, *self.prefix.split("."))).rstrip(".") or "the whole file"


def may_be(state: Any, part: Wanted) -> bool:
    """Whether a value may be a part's state at all (``"model": {"name": "resnet50"}`` is none)."""
    if part.kind == "module":
        has_tensors = any(shape.startswith("(") for shape in part.shapes.values())
        return isinstance(state, Mapping) and (
            not has_tensors or any(map(is_tensor, state.values()))
        )
    if part.kind == "optimizer":
        return is_optimizer_state(state)
    return part.kind not in CUSTOMARY or isinstance(state, Mapping)


def bears_signs(state: Mapping[Any, Any], kind: str) -> bool:
    """Whether a mapping has the names that states of a kind have."""
    return any(names <= state.keys() for names in _SIGNS.get(kind, ()))


def is_optimizer_state(value: Any) -> bool:
    """Whether a value is made as torch's optimizers make their state dicts."""
    if not isinstance(value, Mapping) or not isinstance(value.get("state"), Mapping):
        return False
    groups = value.get("param_groups")
    return isinstance(groups, list | tuple) and all(map(_is_group, groups))


def _is_group(value: Any) -> bool:
    """Whether a value is a group: options, and the keys of its parameters' states."""
    if not isinstance(value, Mapping) or not isinstance(value.get("params"), list | tuple):
        return False
    names = value.get("param_names")
    keys = all(isinstance(key, int | str) for key in value["params"])
    return keys and (names is None or isinstance(names, list | tuple))


def containers(tree: Any) -> Iterator[tuple[Path, Mapping[Any, Any]]]:
    """Mappings at any place down to a depth, the root first; no others lie in those of tensors."""
    todo: list[tuple[Path, Any]] = [((), tree)]
    count = 0
    while todo and count < _MOST_MAPPINGS:
        path, node = todo.pop(0)
        if isinstance(node, Mapping):
            count += 1
            yield path, node
        if len(path) >= _DEEPEST:
            continue
        if isinstance(node, Mapping):
            steps: Any = node.items()
        else:
            steps = enumerate(node) if isinstance(node, list | tuple) else ()
        todo += [
            ((*path, step), child)
            for step, child in steps
            if isinstance(child, Mapping | list | tuple) and not isinstance(child, SIZED)
        ]


def is_taken(path: Path, taken: set[Path]) -> bool:
    """Whether a place is another part's, or lies in the state of one."""
    return path in taken or any(path[: len(each)] == each for each in taken if each)


def states_of_modules(tree: Any, taken: set[Path]) -> Iterator[Found]:
    """Every mapping with tensors in it, and of Lightning's also what is below an attribute."""
    is_lightning = isinstance(tree, Mapping) and LIGHTNING in tree
    for path, node in containers(tree):
        if is_taken(path, taken) or not any(map(is_tensor, node.values())):
            continue
        yield Found(path, node)
        if is_lightning and path == ("state_dict",):
            yield from _below_attributes(path, node)


def _below_attributes(path: Path, node: Mapping[Any, Any]) -> Iterator[Found]:
    names = [name for name in node if isinstance(name, str)]
    for prefix in dict.fromkeys(each for name in names for each in _attributes(name)):
        yield below(path, node, prefix)


def _attributes(name: str) -> Iterator[str]:
    """What a name begins with: an attribute, also one inside of wrappers (``_orig_mod.model.``)."""
    prefix = ""
    for step in name.split(".")[:-1]:
        prefix += f"{step}."
        yield prefix
        if step not in WRAPPERS:
            return


def below(path: Path, node: Mapping[Any, Any], prefix: str) -> Found:
    """What of a state dict has names with a prefix, without it."""
    names = [name for name in node if isinstance(name, str)]
    state = {name.removeprefix(prefix): node[name] for name in names if name.startswith(prefix)}
    aside = tuple(name for name in names if not name.startswith(prefix))
    return Found(path, state, None, prefix, aside)
