"""Summary → the lines of a page that a person reads: parts, below them tensors and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from holdfast.report.facts import OpaqueFacts, Summary, TensorFacts, ValueFacts
from holdfast.report.optimizers import GroupFacts, StateFacts
from holdfast.report.paths import first_few
from holdfast.spec.words import count

Kind = Literal["part", "group", "tensor", "value", "opaque", "param_group", "state"]


class Row(NamedTuple):
    """One line: ``name`` below its part, columns for tensors, ``text`` for the rest.

    ``tensors`` counts those of a part, a group or one kind of an optimizer's state; ``shape`` is
    None except for a tensor's.
    """

    kind: Kind
    level: int
    name: str
    tensors: int = 0
    numel: int = 0
    nbytes: int = 0
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    text: str = ""


def outline(summary: Summary, *, depth: int | None = None, is_short: bool = False) -> Iterator[Row]:
    """The rows of a summary; what lies more than ``depth`` steps down is folded into groups.

    Depth 1 gives the parts alone. With ``is_short`` an optimizer is a line for each group and one
    for each kind of state, instead of one for each parameter's.
    """
    below: dict[str | None, list[Row]] = {total.name: [] for total in summary.parts}
    hidden: dict[str | None, tuple[str, ...]] = {}
    if is_short:
        hidden = _places(summary)
        for part, row in _short(summary):
            below.setdefault(part, []).append(row)
    modules = _modules(summary)
    owners = _owners(summary)
    for tensor in summary.tensors:
        if not tensor.name.startswith(hidden.get(tensor.part, ())):
            below[tensor.part].append(_tensor(tensor, owners))
    for value in summary.values:
        if _owner_of(value, modules) is None and not value.name.startswith(
            hidden.get(value.part, ())
        ):
            below[value.part].append(_value(value))
    for opaque in summary.opaques:
        if not opaque.name.startswith(hidden.get(opaque.part, ())):
            below[opaque.part].append(_opaque(opaque, modules.get((opaque.part, opaque.name), [])))
    for total in summary.parts:
        level = 0 if total.name is None else 1
        if total.name is not None:
            yield Row("part", 0, total.name, total.tensors, total.numel, total.nbytes)
        rows = below[total.name]
        yield from rows if depth is None else _folded(rows, depth - level)


def _folded(rows: list[Row], depth: int) -> list[Row]:
    folded: dict[str, Row] = {}
    for row in rows if depth > 0 else ():
        # A name in brackets is one of several that are the same when dotted: it stays whole.
        steps = [row.name] if row.name.startswith("[") else row.name.split(".")
        name = ".".join(steps[:depth])
        if len(steps) <= depth:
            folded[f"{row.kind} {name}"] = row
            continue
        group = folded.get(name) or Row("group", row.level, name)
        folded[name] = group._replace(
            tensors=group.tensors + (1 if row.kind == "tensor" else row.tensors),
            numel=group.numel + row.numel,
            nbytes=group.nbytes + row.nbytes,
        )
    return list(folded.values())


def _tensor(facts: TensorFacts, owners: Mapping[str, str]) -> Row:
    text = "" if facts.kind in ("tensor", "parameter") else facts.kind
    if facts.same_as:
        text += f"{', ' if text else ''}same bytes as {facts.same_as}"
    elif facts.shares_with:
        text += f"{', ' if text else ''}in the storage of {facts.shares_with}"
    if facts.is_expanded:
        text += f"{', ' if text else ''}expanded"
    if owners and (owner := owners.get(facts.name.rpartition(".")[0])) is not None:
        text += f"{', ' if text else ''}of {owner}"
    return Row(
        "tensor",
        _level(facts.part),
        _below(facts.name, facts.part),
        0,
        facts.numel,
        facts.nbytes,
        facts.dtype,
        facts.shape,
        text,
    )


def _value(facts: ValueFacts) -> Row:
    return Row("value", _level(facts.part), _below(facts.name, facts.part), text=facts.text)


def _opaque(facts: OpaqueFacts, attributes: list[str]) -> Row:
    text = _OPAQUE[facts.kind].format(facts.symbol)
    if attributes:
        text += f" ({', '.join(attributes)})"
    return Row("opaque", _level(facts.part), _below(facts.name, facts.part), text=text)


def _modules(summary: Summary) -> dict[tuple[str | None, str], list[str]]:
    """The plain attributes of each module, in one line with it: ``in_features=4``.

    What every module has and is as usual, ``training=True``, is left out.
    """
    found: dict[tuple[str | None, str], list[str]] = {
        (facts.part, facts.name): [] for facts in summary.opaques if facts.kind == "module"
    }
    for value in summary.values if found else ():
        owner = _owner_of(value, found)
        name = value.name.rpartition(".")[2]
        if owner is not None and (name, value.text) != ("training", "True"):
            found[owner].append(f"{name}={value.text}")
    return found


def _owner_of(
    value: ValueFacts, modules: Mapping[tuple[str | None, str], list[str]]
) -> tuple[str | None, str] | None:
    """The module that a value is a plain attribute of; None if it is none's."""
    owner = (value.part, value.name.rpartition(".")[0])
    return owner if owner in modules else None


_OPAQUE = {
    "module": "a module of class {}",
    "object": "an object of {}, not built",
    "name": "the name {}, not looked up",
}


def _short(summary: Summary) -> Iterator[tuple[str | None, Row]]:
    """The lines that stand for an optimizer, and the part each belongs to."""
    for optimizer in summary.optimizers:
        for position, group in enumerate(optimizer.groups):
            part, name = _place(summary, optimizer.name, f"param_groups.{position}")
            yield part, Row("param_group", _level(part), name, text=_group_text(group))
        for state in optimizer.state:
            part, name = _place(summary, optimizer.name, f"state.*.{state.name}")
            yield part, _state_row(state, _level(part), name)


def _state_row(state: StateFacts, level: int, name: str) -> Row:
    if not state.tensors:
        return Row("value", level, name, text=f"{state.values:,} plain values")
    dtype = state.dtypes[0] if len(state.dtypes) == 1 else "mixed"
    text = f"and {state.values:,} plain values" if state.values else ""
    return Row("state", level, name, state.tensors, state.numel, state.nbytes, dtype, None, text)


def _group_text(group: GroupFacts) -> str:
    names = f" ({first_few(group.names)})" if group.names else ""
    parameters = f"{count(group.parameters, 'parameter')}{names}"
    options = [f"{key} {text}" for key, text in group.options.items() if text not in _UNSET]
    return "; ".join([parameters, ", ".join(options)]) if options else parameters


#: Options of torch's optimizers that are not used say so.
_UNSET = ("None", "False")


def _place(summary: Summary, owner: str, rest: str) -> tuple[str | None, str]:
    """The part that a line belongs to, and its name below it."""
    full = f"{owner}.{rest}" if owner else rest
    for total in summary.parts:
        if total.name is not None and full.startswith(f"{total.name}."):
            return total.name, full[len(total.name) + 1 :]
    return None, full


def _places(summary: Summary) -> dict[str | None, tuple[str, ...]]:
    """How the names begin of what optimizers hold, by part."""
    found: dict[str | None, tuple[str, ...]] = {}
    for optimizer in summary.optimizers:
        for name in ("state.", "param_groups."):
            full = f"{optimizer.name}.{name}" if optimizer.name else name
            part, _ = _place(summary, optimizer.name, name)
            found[part] = (*found.get(part, ()), full)
    return found


def _level(part: str | None) -> int:
    return 0 if part is None else 1


def _below(name: str, part: str | None) -> str:
    if part is not None and name.startswith(f"{part}."):
        return name[len(part) + 1 :]
    return name or "the whole file"


def _owners(summary: Summary) -> dict[str, str]:
    """``optimizer.state.0`` → the parameter it belongs to, as the record has it."""
    owners: dict[str, str] = {}
    for part, groups in (summary.record or {}).get("parameters", {}).items():
        lists = groups if isinstance(groups, list) else []
        names = [name for group in lists if isinstance(group, list) for name in group]
        owners.update({f"{part}.state.{i}": str(n) for i, n in enumerate(names) if n is not None})
    return owners
