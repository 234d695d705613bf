"""What the pickles of TorchScript programs call beyond the closed table, and their modules.

Sources: torch/jit/_pickle.py, torch/csrc/jit/serialization/pickler.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.errors import RefusedError
from holdfast.pickles.limits import DEEPEST
from holdfast.spec.index import Opaque

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine
    from holdfast.pickles.table import Call, Symbol

#: The names of classes whose code is in the file itself begin with this.
OWN_CLASSES = "__torch__."
_MODULE = "torch.jit._pickle"
#: Nodes that the modules of one program may describe, shared ones counted each time.
_MOST_NODES = 2_000_000


def _list(name: str) -> Call:
    def build(m: Machine, args: tuple[Any, ...]) -> Any:
        if len(args) != 1 or not isinstance(args[0], list):
            raise m.bad_call(f"{_MODULE}.{name}", args)
        return args[0]

    return build


def _tagged(m: Machine, args: tuple[Any, ...]) -> Any:
    """``restore_type_tag(value, "List[str]")``: the value; its type is for the program alone."""
    if len(args) != 2 or type(args[1]) is not str:
        raise m.bad_call(f"{_MODULE}.restore_type_tag", args)
    return args[0]


def _numbered(m: Machine, args: tuple[Any, ...]) -> Any:
    raise m.refused("every tensor of a file lies in it", found=f"only a number: {m.shown(args)}")


#: Calls for ``Machine(calls=...)``.
CALLS: dict[Symbol, Call] = {
    **{
        (_MODULE, name): _list(name)
        for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")
    },
    (_MODULE, "restore_type_tag"): _tagged,
    (_MODULE, "build_tensor_from_id"): _numbered,
}


class Unfolder:
    """Turns the modules of a program into dicts of their attributes; what is shared stays so."""

    def __init__(self, file: str, member: str) -> None:
        self._file, self._member = file, member
        self._made: dict[int, tuple[Any, Any, int]] = {}
        self._open: set[int] = set()

    def __call__(self, tree: Any) -> Any:
        """The tree with a dict in place of each module.

        Raises:
            RefusedError: modules hold themselves, are too deep, or describe far too much.
        """
        return self._unfold(tree, 0)[0]

    def _unfold(self, node: Any, depth: int) -> tuple[Any, int]:
        if not _is_module(node) and type(node) not in (dict, list, tuple):
            return node, 1
        found = self._made.get(id(node))
        if found is not None:
            return found[1:]
        if id(node) in self._open or depth > DEEPEST:
            raise self._refused(f"modules do not hold themselves, nor {DEEPEST} levels of others")
        self._open.add(id(node))
        made, count = self._inside(node, depth + 1)
        self._open.discard(id(node))
        if count > _MOST_NODES:
            raise self._refused("a program describes about as much as it holds")
        self._made[id(node)] = (node, made, count)
        return made, count

    def _inside(self, node: Any, depth: int) -> tuple[Any, int]:
        if isinstance(node, list | tuple):
            parts = [self._unfold(item, depth) for item in node]
            return type(node)(part for part, _ in parts), 1 + sum(count for _, count in parts)
        held = node.state if _is_module(node) else node
        pairs = {key: self._unfold(value, depth) for key, value in held.items()}
        return {key: part for key, (part, _) in pairs.items()}, 1 + sum(
            count for _, count in pairs.values()
        )

    def _refused(self, rule: str) -> RefusedError:
        return RefusedError(
            f"refused: {rule}",
            file=self._file,
            member=self._member,
            cure="The file is broken, or made to do harm: do not load it with anything else.",
        )


def _is_module(node: Any) -> bool:
    return (
        type(node) is Opaque
        and node.how == "newobj"
        and f"{node.module}.".startswith(OWN_CLASSES)
        and not node.args
        and isinstance(node.state, dict)
        and not node.items
        and not node.pairs
    )
