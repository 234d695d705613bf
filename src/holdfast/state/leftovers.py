"""What of a checkpoint no live part takes: plain values, other states, objects of other classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.pickles.limits import nodes
from holdfast.spec.index import Index, Opaque
from holdfast.spec.tree import walk
from holdfast.state.match import Matched
from holdfast.state.places import is_optimizer_state
from holdfast.state.shapes import is_tensor
from holdfast.tensors.trust import Trust
from holdfast.tensors.whole import needed

#: What holdfast keeps in a checkpoint beside its parts; other code may use these names otherwise.
_OURS = ("rng", "extra")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """``extra`` are values to hand to the caller, ``not_asked`` states that no part took.

    ``opaque`` are values with objects in them of classes that nobody trusts, and those classes.
    """

    extra: Mapping[Any, Any] = field(default_factory=dict)
    not_asked: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()


def leftovers(index: Index, matched: Matched, trust: Trust) -> Leftovers:
    """Sort what stands at the top of a checkpoint and belongs to no part.

    Of holdfast's own, ``extra`` is what was saved as such. Of others' it is every value that is no
    state: ``epoch``, ``loss``, ``args``, ``hyper_parameters``.
    """
    tree, recipes = index.tree, matched.recipes.values()
    if not isinstance(tree, Mapping):
        return Leftovers()
    taken = {recipe.path[0] for recipe in recipes if recipe.path}
    # Of a bare state dict the names are taken, and other tensors are no values of the caller's.
    bare = [recipe for recipe in recipes if not recipe.path]
    taken |= {name for recipe in bare for name in recipe.saved}
    if index.record is not None:
        left = (str(key) for key in tree if key not in taken and key not in _OURS)
        return Leftovers(tree.get("extra") or {}, () if bare else tuple(left))
    extra, not_asked, opaque = {}, [], []
    for key, value in tree.items():
        if key in taken or value is None or (bare and is_tensor(value)):
            continue
        if missing := _untrusted(value, trust):
            opaque.append(f"{key} ({', '.join(missing)})")
        elif _is_state(value):
            not_asked.append(str(key))
        else:
            extra[key] = value
    return Leftovers(extra, tuple(not_asked), tuple(opaque))


def _untrusted(value: Any, trust: Trust) -> list[str]:
    if not any(type(node) is Opaque for node in nodes(value)):
        return []
    return list(needed(value, trust))


def _is_state(value: Any) -> bool:
    """Whether a value is what parts are made of: dicts of tensors, optimizers' states."""
    if isinstance(value, Mapping):
        return is_optimizer_state(value) or any(is_tensor(leaf) for _, leaf in walk(value))
    return isinstance(value, list) and any(
        isinstance(each, Mapping) and any(is_tensor(leaf) for _, leaf in walk(each))
        for each in value
    )
