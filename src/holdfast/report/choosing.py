"""Choosing leaves by name or pattern, and the letters about names that are not there."""

from __future__ import annotations

import re
from typing import Any

from holdfast.errors import MissingPartError, UsageError
from holdfast.report.leaves import Leaf, leaves
from holdfast.report.values import text_of
from holdfast.spec.index import SIZED, NumpyScalar, Opaque
from holdfast.spec.naming import closest, several


def chosen(found: list[Leaf], name: str | None, grep: str | None, file: str) -> list[Leaf]:
    """The leaves that bear ``name`` or lie below it, and in whose names ``grep`` is found.

    Raises:
        MissingPartError: nothing bears ``name``.
        UsageError: ``grep`` is no regular expression.
    """
    if name is not None:
        below = [leaf for leaf in found if _is_meant(leaf, name)]
        if not below:
            raise _nothing_called(name, found, file)
        found = below
    if grep is None:
        return found
    try:
        pattern = re.compile(grep)
    except re.error as error:
        raise UsageError(f"this is no regular expression: {error}", found=repr(grep)) from error
    return [leaf for leaf in found if pattern.search(leaf.name)]


def _is_meant(leaf: Leaf, name: str) -> bool:
    if name in (leaf.name, leaf.dotted, leaf.part):
        return True
    return leaf.dotted.startswith(f"{name}.") or leaf.name.startswith(f"{name}[")


def _nothing_called(name: str, found: list[Leaf], file: str) -> MissingPartError:
    names = dict.fromkeys(each for leaf in found for each in (leaf.part, leaf.name) if each)
    close = closest(name, list(names))
    return MissingPartError(
        f"nothing in this checkpoint is called {name!r}",
        file=file,
        found=", ".join(close or list(names)[:5]) or "nothing at all",
        cure="Its names are those that holdfast show prints without a name.",
    )


class ByName:
    """The tensors and arrays of a tree, by name."""

    def __init__(self, tree: Any) -> None:
        found = leaves(tree).found  # names beyond a million are not found by name
        self._nodes = {leaf.name: leaf.value for leaf in found}
        self._shared: dict[str, list[str]] = {}
        for leaf in found:
            if leaf.name != leaf.dotted:
                self._shared.setdefault(leaf.dotted, []).append(leaf.name)

    def names(self) -> list[str]:
        """The names of all tensors and arrays, in order."""
        return [name for name, node in self._nodes.items() if isinstance(node, SIZED)]

    def find(self, name: str, file: str) -> Any:
        """The tensor, array or NumPy scalar of that name.

        Raises:
            MissingPartError: nothing bears it, or no tensor does, or several do.
        """
        if not isinstance(name, str):
            raise UsageError(
                "a tensor is asked for by its name",
                wanted="text, such as 'model.fc.weight'",
                found=repr(name)[:80],
                cure="checkpoint.names() lists all.",
            )
        node = self._nodes.get(name)
        if isinstance(node, (*SIZED, NumpyScalar)):
            return node
        if node is None and name in self._shared:
            raise several(name, self._shared[name], file)
        raise _not_a_tensor(name, node, list(self._nodes), file)


def _not_a_tensor(name: str, node: Any, names: list[str], file: str) -> MissingPartError:
    """The error for a name that no tensor bears; ``node`` is what bears it, if anything does."""
    close = closest(name, names)
    if node is not None:
        found = f"a plain value: {text_of(node)}" if not isinstance(node, Opaque) else node.symbol
    else:
        below = [each for each in names if each.startswith(f"{name}.")]
        found = ", ".join(below[:3] or close or names[:5]) or "nothing at all"
    return MissingPartError(
        f"no tensor in this checkpoint is called {name!r}",
        file=file,
        found=found,
        cure="checkpoint.names() lists all tensors; plain values are in checkpoint.tree.",
    )
