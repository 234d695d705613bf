"""A true copy of live parts in memory: the best weights so far, to go back to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from holdfast.state.parts import Part
from holdfast.state.recipe import Recipe
from holdfast.state.restore import restore


class Snapshot:
    """The state of some parts at one moment; further training does not change it.

    ``model.state_dict()`` alone holds references: kept as "the best so far" it goes on training.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = dict(parts)
        self._states: dict[str, Any] = {name: part.copy() for name, part in parts.items()}

    def restore(self) -> None:
        """Put the copy back into the parts, all of them or none; it can be put back again.

        Raises:
            MismatchError: a part refused it, as it was changed since; nothing has changed.
        """
        # Optimizers keep the very tensors that they are given, and step them.
        recipes = {name: Recipe((), None, is_its_own=True) for name in self._parts}
        restore(self._parts, copy.deepcopy(self._states), None, recipes)

    def __repr__(self) -> str:
        return f"<Snapshot of {', '.join(self._parts)}>"
