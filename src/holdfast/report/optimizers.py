"""Optimizers in a checkpoint: their groups of parameters, and how much state they keep.

What ``torch.optim.Optimizer.state_dict`` gives is known by its two keys, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.report.totals import Sum, Total
from holdfast.report.values import json_of, text_of
from holdfast.spec.index import SIZED, ArrayRef, Index, Opaque


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """One group: how many parameters, their names where they are known, and its options.

    ``options`` has a text for each key but the parameters; ``values`` the same as JSON.
    """

    parameters: int
    names: tuple[str, ...]
    options: Mapping[str, str]
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; an option without a JSON form is its text."""
        options = {
            name: text if self.values[name] is None and text != "None" else self.values[name]
            for name, text in self.options.items()
        }
        return {"parameters": self.parameters, "names": list(self.names), "options": options}


@dataclass(frozen=True, slots=True)
class StateFacts:
    """What an optimizer keeps under one name, such as ``exp_avg``, for all its parameters.

    ``dtypes`` are those of the tensors; ``values`` counts what is no tensor.
    """

    name: str
    tensors: int
    numel: int
    nbytes: int
    dtypes: tuple[str, ...]
    values: int

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "dtypes": list(self.dtypes)
        }


@dataclass(frozen=True, slots=True)
class OptimizerFacts:
    """One optimizer's state dict; ``name`` is where it stands, "" for the whole file.

    ``tensors`` and ``nbytes`` are those of all its state together.
    """

    name: str
    groups: tuple[GroupFacts, ...]
    state: tuple[StateFacts, ...]
    tensors: int
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "name": self.name,
            "groups": [group.to_json() for group in self.groups],
            "state": [each.to_json() for each in self.state],
            "tensors": self.tensors,
            "nbytes": self.nbytes,
        }


def find_optimizers(index: Index, name: str | None = None) -> tuple[OptimizerFacts, ...]:
    """The optimizers that are the file, a part of it, or right below a part.

    With ``name`` only those that stand there or below.
    """
    recorded = {} if index.record is None else index.record.parameters
    return tuple(
        _facts(place, node, recorded.get(place))
        for place, node in _candidates(index.tree)
        if _is_optimizer(node) and (name is None or f"{place}.".startswith(f"{name}."))
    )


def _candidates(tree: Any) -> Iterator[tuple[str, Any]]:
    yield "", tree
    if not isinstance(tree, dict):
        return
    for key, child in tree.items():
        if type(key) is not str or type(child) in SIZED:
            continue
        yield key, child
        below = child.items() if isinstance(child, dict) else ()
        for step, node in enumerate(child) if isinstance(child, list) else below:
            if isinstance(node, dict):
                yield f"{key}.{step}"[:1000], node


def _is_optimizer(node: Any) -> bool:
    if not isinstance(node, dict) or not isinstance(node.get("state"), dict):
        return False
    groups = node.get("param_groups")
    return type(groups) is list and all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    )


def _facts(place: str, node: dict[Any, Any], recorded: Any) -> OptimizerFacts:
    groups = node["param_groups"]
    known = recorded if type(recorded) is list and len(recorded) == len(groups) else None
    counted = _Counted()
    for state in node["state"].values():
        for key, value in state.items() if isinstance(state, dict) else ():
            counted.add(str(key)[:200], value)
    whole = counted.whole()
    return OptimizerFacts(
        place,
        tuple(
            _group(group, group.get("param_names") if known is None else known[position])
            for position, group in enumerate(groups)
        ),
        counted.facts(),
        whole.tensors,
        whole.nbytes,
    )


class _Counted:
    """What is kept for all parameters, by its name."""

    def __init__(self) -> None:
        self._sums: dict[str, Sum] = {}
        self._dtypes: dict[str, dict[str, None]] = {}
        self._values: dict[str, int] = {}

    def add(self, name: str, value: Any) -> None:
        if name not in self._sums:
            self._sums[name], self._dtypes[name], self._values[name] = Sum(), {}, 0
        for item in value if type(value) in (list, tuple) else (value,):
            if type(item) in SIZED:
                dtype = item.dtype_str if type(item) is ArrayRef else item.dtype.name
                self._sums[name].add(item)
                self._dtypes[name][dtype] = None
            else:
                self._values[name] += 1

    def whole(self) -> Total:
        whole = Sum()
        for each in self._sums.values():
            whole.merge(each)
        return whole.total(None)

    def facts(self) -> tuple[StateFacts, ...]:
        found = []
        for name, each in self._sums.items():
            total, dtypes = each.total(name), tuple(self._dtypes[name])
            found.append(
                StateFacts(
                    name, total.tensors, total.numel, total.nbytes, dtypes, self._values[name]
                )
            )
        return tuple(found)


def _group(group: dict[Any, Any], known: Any) -> GroupFacts:
    count = len(group["params"])
    fits = isinstance(known, list | tuple) and len(known) == count
    options = {str(key)[:200]: value for key, value in group.items() if key not in _NO_OPTIONS}
    return GroupFacts(
        count,
        tuple(str(name) for name in known if name is not None) if fits else (),
        {name: _text(value) for name, value in options.items()},
        {name: json_of(value) for name, value in options.items()},
    )


_NO_OPTIONS = ("params", "param_names")


def _text(value: Any) -> str:
    if isinstance(value, SIZED):
        return f"a tensor of shape {list(value.shape)}"
    return f"an object of {value.symbol}" if isinstance(value, Opaque) else text_of(value)
