"""Which tensors of a checkpoint are the weights: one part, by name or by what it looks like."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from holdfast.errors import MissingPartError, RefusedError, UsageError
from holdfast.report.leaves import inside
from holdfast.spec.index import SIZED, ArrayRef, Index, Opaque, StateDict
from holdfast.spec.naming import closest, several
from holdfast.spec.tree import Path, bracketed, distinct, dotted, step_text, walk

_SHOWN = 8

#: Leaves that one part may have; a pickle of a hundred bytes can describe any number of them.
_MOST_LEAVES = 1_000_000


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one part, by their dotted names below it, in order.

    ``part`` is None when the whole file is one state dict; ``left_out`` names values of the part
    that are no tensors, and the parts beside it where it was not asked for by name; ``bracketed``
    names tensors that had to be told apart, as their dotted names are the same; ``aside`` is what a
    state dict carries beside its entries.
    """

    part: str | None
    tensors: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    bracketed: tuple[str, ...] = ()
    aside: Mapping[str, Any] | None = None


def weights_of(tree: Any, index: Index, part: str | None) -> Weights:
    """The tensors of ``part``, or of the one part that looks like a state dict.

    ``part`` may also be what several names of one state dict begin with, ``model.encoder``.

    Raises:
        MissingPartError: nothing bears that name, or several do, or nothing in it is a tensor.
        UsageError: several parts could be meant; they are listed.
        RefusedError: the part has more than a million entries.
    """
    chosen = _part(tree, part, index) if part else _only(tree, index)
    found = list(_leaves(chosen.node, index.file))
    if chosen.prefix:
        found = [(path, leaf) for path, leaf in found if dotted(path).startswith(chosen.prefix)]
    paths = [path for path, leaf in found if _is_tensor(leaf)]
    plain = [_name(path, chosen) for path in paths]
    names = distinct(plain, lambda position: paths[position])
    tensors = dict(zip(names, (leaf for _, leaf in found if _is_tensor(leaf)), strict=True))
    if not tensors:
        raise MissingPartError(
            f"there is no tensor in {chosen.name!r}"
            if chosen.name
            else "there is no tensor in this checkpoint",
            file=index.file,
            found=", ".join(_candidates(tree)[:_SHOWN]) or "no part with tensors",
            cure="holdfast show FILE lists what is in it.",
        )
    left_out = [dotted(path) for path, leaf in found if path and not _is_tensor(leaf)]
    apart = tuple(new for new, old in zip(names, plain, strict=True) if new != old)
    aside = None if chosen.prefix else getattr(chosen.node, "aside", None)
    return Weights(chosen.name, tensors, (*left_out, *chosen.left_out), apart, aside)


def _name(path: Path, chosen: _Chosen) -> str:
    """A tensor's name below its part; where it is the part, the last step of that."""
    if not path:
        return (chosen.name or "tensor").rpartition(".")[2]
    return dotted(path).removeprefix(chosen.prefix)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A node, or of a node what begins with ``prefix``; ``left_out`` are the parts beside it."""

    name: str | None
    node: Any
    prefix: str = ""
    left_out: tuple[str, ...] = ()


def _leaves(node: Any, file: str) -> Iterator[tuple[Path, Any]]:
    for count, leaf in enumerate(walk(node, below=inside)):
        if count >= _MOST_LEAVES:
            raise RefusedError(
                "a part to convert has at most so many entries",
                file=file,
                wanted=f"{_MOST_LEAVES:,} entries",
                found="more",
            )
        yield leaf


def _part(tree: Any, part: str, index: Index) -> _Chosen:
    """What bears a name; keys may hold dots themselves.

    Raises:
        MissingPartError: nothing bears it, or several nodes do.
    """
    found = dict(_below(tree, part, (), set()))
    if len(found) == 1:
        return _Chosen(part, next(iter(found.values())))
    if found:
        raise several(part, [bracketed(path) for path in found], index.file)
    leaves = list(_leaves(tree, index.file))
    if any(dotted(path).startswith(f"{part}.") for path, _ in leaves):
        return _Chosen(part, tree, f"{part}.")
    names = [step_text(step) for step, _ in inside(tree)]
    close = closest(part, list(dict.fromkeys([*names, *(dotted(path) for path, _ in leaves)])))
    raise MissingPartError(
        f"nothing in this checkpoint is called {part!r}",
        file=index.file,
        found=", ".join(close or names[:_SHOWN]) or "nothing at all",
        cure="holdfast show FILE lists what is in it.",
    )


def _below(node: Any, name: str, path: Path, seen: set[Any]) -> Iterator[tuple[Path, Any]]:
    """The nodes that bear a name, dotted or in brackets, below a node."""
    if (id(node), name) in seen:
        return
    seen.add((id(node), name))
    for step, child in inside(node):
        below = (*path, step)
        for text, following in ((step_text(step), "."), (bracketed((step,)), "[")):
            if name == text:
                yield below, child
            elif name.startswith(f"{text}{following}"):
                rest = name[len(text) :]
                yield from _below(child, rest.removeprefix("."), below, seen)


def _only(tree: Any, index: Index) -> _Chosen:
    """The weights where nobody said which: never an optimizer's state among them."""
    if index.programs or not isinstance(tree, Mapping):
        return _Chosen(None, tree)  # a program is one model, its parts are the submodules
    names = _candidates(tree)
    usual = [name for name in names if name in _USUAL]
    if _is_flat(tree) or (not _is_training(tree) and any(map(_is_tensor, tree.values()))):
        return _Chosen(None, tree)
    if len(names) > 1 and len(usual) != 1:
        raise UsageError(
            "this checkpoint holds several parts, and which one are the weights is not said",
            file=index.file,
            found=", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else ""),
            cure=f'Name one: --part {shlex.quote(names[0])}, or part="{names[0]}".',
        )
    if names:
        name = usual[0] if usual else names[0]
        others = tuple(each for each in map(step_text, tree) if each != name)
        return replace(_part(tree, name, index), left_out=others)
    optimizers = [key for key, value in tree.items() if _is_optimizer(value)]
    weights = {key: value for key, value in tree.items() if key not in optimizers}
    if not optimizers or not any(map(_is_tensor, weights.values())):
        return _Chosen(None, tree)
    return _Chosen(None, weights, left_out=tuple(map(step_text, optimizers)))


#: What the weights are called in the checkpoints of most training scripts, and of Lightning.
_USUAL = ("model", "model_state_dict", "state_dict", "module")


def _is_flat(tree: Mapping[Any, Any]) -> bool:
    """Whether it is a state dict itself: one says so, or its keys are paths."""
    own = [key for key, value in tree.items() if _is_tensor(value)]
    return bool(own) and (isinstance(tree, StateDict) or any("." in str(key) for key in own))


def _is_training(tree: Mapping[Any, Any]) -> bool:
    """Whether more than weights is in it: an optimizer, or plain values such as an epoch."""
    return any(
        _is_optimizer(value) or not (_is_tensor(value) or _is_mapping(value))
        for value in tree.values()
    )


def _candidates(tree: Any) -> list[str]:
    """The entries at the top that hold tensors and are no optimizer's state."""
    if not isinstance(tree, Mapping):
        return []
    found = [
        key
        for key, value in tree.items()
        if _is_mapping(value)
        and not _is_optimizer(value)
        and key not in ("rng", "extra")
        and _has_tensors(value)
    ]
    return list(distinct([step_text(key) for key in found], lambda position: (found[position],)))


def _has_tensors(node: Any) -> bool:
    leaves = zip(range(_MOST_LEAVES), walk(node, below=inside), strict=False)
    return any(_is_tensor(leaf) for _, (_, leaf) in leaves)


def _is_mapping(node: Any) -> bool:
    """Whether it is a dict, or an object of a subclass of one."""
    return isinstance(node, Mapping) or (type(node) is Opaque and bool(node.pairs))


def _is_optimizer(node: Any) -> bool:
    keys = {key for key, _ in node.pairs if type(key) is str} if type(node) is Opaque else node
    return _is_mapping(node) and "state" in keys and "param_groups" in keys


def _is_tensor(node: Any) -> bool:
    if isinstance(node, ArrayRef):
        return node.dtype_str[1:2] in "biufc"
    return isinstance(node, SIZED)
