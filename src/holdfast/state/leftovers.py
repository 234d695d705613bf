"""What of a checkpoint no live part takes: plain values, other states, objects of other classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.pickles.limits import nodes
from holdfast.spec.index import Index, Opaque
from holdfast.state.match import Matched
from holdfast.state.places import is_optimizer_state
from holdfast.state.shapes import is_tensor, shape_of
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
    """Whether parts are made of a value, or of what is in it; other values may have tensors, too.

    A tensor without axes (``best_acc``) makes no state: to hand it on costs nothing.
    """
    mappings = (node for node in nodes(value) if isinstance(node, Mapping))
    return any(is_optimizer_state(each) or _is_state_dict(each) for each in mappings)


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    values = value.values()
    return all(map(is_tensor, values)) and any(shape_of(each) != "()" for each in values)
