"""Which tensors of a checkpoint are the weights: one part, by name or by what it looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.arrays.read import SIZED
from holdfast.errors import MissingPartError, UsageError
from holdfast.spec.index import ArrayRef, Index
from holdfast.spec.tree import dotted, walk

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one part, by their dotted names below it, in order.

    ``part`` is None when the whole file is one state dict; ``left_out`` names values of the part
    that are no tensors; ``aside`` is what a state dict carries beside its entries.
    """

    part: str | None
    tensors: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    aside: Mapping[str, Any] | None = None


def weights_of(tree: Any, index: Index, part: str | None) -> Weights:
    """The tensors of ``part``, or of the one part that looks like a state dict.

    Raises:
        MissingPartError: nothing bears that name, or nothing in the file is a tensor.
        UsageError: several parts could be meant; they are listed.
    """
    name, node = (part, _part(tree, part, index)) if part else _only(tree, index)
    tensors, left_out = {}, []
    for path, leaf in walk(node):
        if _is_tensor(leaf):
            tensors[dotted(path)] = leaf
        elif path:
            left_out.append(dotted(path))
    if not tensors:
        raise MissingPartError(
            f"there is no tensor in {name!r}" if name else "there is no tensor in this checkpoint",
            file=index.file,
            found=", ".join(_candidates(tree)[:_SHOWN]) or "no part with tensors",
            cure="holdfast show FILE lists what is in it.",
        )
    aside = getattr(node, "aside", None)
    return Weights(name, tensors, tuple(left_out), aside)


def _part(tree: Any, part: str, index: Index) -> Any:
    """The node at a dotted name; keys may hold dots themselves."""
    found = _below(tree, part)
    if found is None:
        raise MissingPartError(
            f"nothing in this checkpoint is called {part!r}",
            file=index.file,
            found=", ".join(_candidates(tree)[:_SHOWN]) or "no part with tensors",
            cure="holdfast show FILE lists what is in it.",
        )
    return found


def _below(node: Any, name: str) -> Any:
    if isinstance(node, list | tuple):
        node = {str(position): item for position, item in enumerate(node)}
    if not isinstance(node, Mapping):
        return None
    for key, child in node.items():
        text = str(key)
        if text == name:
            return child
        if name.startswith(f"{text}."):
            found = _below(child, name[len(text) + 1 :])
            if found is not None:
                return found
    return None


def _only(tree: Any, index: Index) -> tuple[str | None, Any]:
    if index.programs:  # a program is one model, its parts are the submodules
        return None, tree
    if not isinstance(tree, Mapping) or any(_is_tensor(value) for value in tree.values()):
        return None, tree
    names = _candidates(tree)
    if len(names) == 1:
        return names[0], _below(tree, names[0])
    if not names:
        return None, tree
    raise UsageError(
        "this checkpoint holds several parts, and which one are the weights is not said",
        file=index.file,
        found=", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else ""),
        cure=f'Name one: --part {names[0]}, or part="{names[0]}".',
    )


def _candidates(tree: Any) -> list[str]:
    """The entries at the top that hold tensors and are no optimizer's state."""
    if not isinstance(tree, Mapping):
        return []
    return [
        str(key)
        for key, value in tree.items()
        if isinstance(value, Mapping)
        and not _is_optimizer(value)
        and key not in ("rng", "extra")
        and any(_is_tensor(leaf) for _, leaf in walk(value))
    ]


def _is_optimizer(node: Mapping[Any, Any]) -> bool:
    return "state" in node and "param_groups" in node


def _is_tensor(node: Any) -> bool:
    if isinstance(node, ArrayRef):
        return node.dtype_str[1:2] in "biufc"
    return isinstance(node, SIZED)
