"""The state as it was saved, from names and the paths they had (torch's ``_traverse.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from holdfast.errors import RefusedError
from holdfast.pickles.limits import DEEPEST

#: Positions in lists that nothing may stand at, beyond those that something does.
_ALLOWANCE = 10_000


def nested(
    values: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]], *, file: str
) -> dict[str, Any]:
    """Nested dicts and lists of ``values``, each at its path; without one, at the top.

    Raises:
        RefusedError: two values stand at one place, or paths go through what holds nothing.
    """
    return _Nest(file, len(values)).of(values, paths)


class _Nest:
    def __init__(self, file: str, count: int) -> None:
        self._file, self._room = file, 2 * count + _ALLOWANCE
        self._made: set[int] = set()

    def of(
        self, values: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]
    ) -> dict[str, Any]:
        root: dict[str, Any] = {}
        self._made.add(id(root))
        for name, value in values.items():
            self._set(root, paths.get(name, (name,)), value, name)
        return root

    def _set(self, holder: Any, path: tuple[str | int, ...], value: Any, name: str) -> None:
        if len(path) > DEEPEST:
            raise self._refused(f"a tree is at most {DEEPEST} levels deep", name)
        for step, following in pairwise(path):
            found = self._at(holder, step, name)
            if found is None:
                found = {} if type(following) is str else []
                self._made.add(id(found))
                holder[step] = found
            elif id(found) not in self._made:
                raise self._refused("paths lead through dicts and lists", name)
            holder = found
        if self._at(holder, path[-1], name) is not None:
            raise self._refused("two values do not stand at one place", name)
        holder[path[-1]] = value

    def _at(self, holder: Any, step: str | int, name: str) -> Any:
        """What stands at a step, None for nothing; a list is made long enough."""
        if isinstance(holder, dict):
            return holder.get(step)
        if type(step) is not int or step < 0:
            raise self._refused("places in a list are numbers from 0 on", name)
        missing = step + 1 - len(holder)
        if missing > 0:
            self._room -= missing
            if self._room < 0:
                raise self._refused("lists are about as long as what stands in them", name)
            holder.extend([None] * missing)
        return holder[step]

    def _refused(self, rule: str, name: str) -> RefusedError:
        return RefusedError(
            f"refused: {rule}",
            file=self._file,
            member=".metadata",
            tensor=name[:200],
            cure="The folder is broken, or made to do harm: do not load it with anything else.",
        )
