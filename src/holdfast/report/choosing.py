"""Choosing leaves by name or pattern, and the letters about names that are not there."""

from __future__ import annotations

import re
from typing import Any

from holdfast.errors import MissingPartError, UsageError
from holdfast.report.leaves import Leaf
from holdfast.report.values import text_of
from holdfast.spec.index import Opaque

#: Names that a mistyped one is compared with: the time for one comparison is about 0.1 ms.
_NAMES_COMPARED = 2000


def chosen(found: list[Leaf], name: str | None, grep: str | None, file: str) -> list[Leaf]:
    """The leaves that bear ``name`` or lie below it, and in whose names ``grep`` is found.

    Raises:
        MissingPartError: nothing bears ``name``.
        UsageError: ``grep`` is no regular expression.
    """
    if name is not None:
        below = [leaf for leaf in found if leaf.name == name or leaf.name.startswith(f"{name}.")]
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


def _nothing_called(name: str, found: list[Leaf], file: str) -> MissingPartError:
    names = dict.fromkeys(each for leaf in found for each in (leaf.part, leaf.name) if each)
    close = _close(name, list(names))
    return MissingPartError(
        f"nothing in this checkpoint is called {name!r}",
        file=file,
        found=", ".join(close or list(names)[:5]) or "nothing at all",
        cure="Its names are those that holdfast show prints without a name.",
    )


def not_a_tensor(name: str, node: Any, names: list[str], file: str) -> MissingPartError:
    """The error for a name that no tensor bears; ``node`` is what bears it, if anything does."""
    close = _close(name, names)
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


def _close(name: str, names: list[str]) -> list[str]:
    import difflib  # only mistakes need it

    return difflib.get_close_matches(name, names[:_NAMES_COMPARED], n=3)
