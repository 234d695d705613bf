"""Summary → the lines of a page that a person reads: parts, below them tensors and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from holdfast.report.summary import OpaqueFacts, Summary, TensorFacts, ValueFacts

Kind = Literal["part", "group", "tensor", "value", "opaque"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line: ``name`` below its part, columns for tensors, ``text`` for the rest.

    ``tensors`` counts those of a part or group; ``shape`` is None except for a tensor's.
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


def outline(summary: Summary, *, depth: int | None = None) -> Iterator[Row]:
    """The rows of a summary; what lies more than ``depth`` steps down is folded into groups.

    Depth 1 gives the parts alone.
    """
    owners = _owners(summary)
    below: dict[str | None, list[Row]] = {total.name: [] for total in summary.parts}
    for tensor in summary.tensors:
        below[tensor.part].append(_tensor(tensor, owners))
    for value in summary.values:
        below[value.part].append(_value(value))
    for opaque in summary.opaques:
        below[opaque.part].append(_opaque(opaque))
    for total in summary.parts:
        level = 0 if total.name is None else 1
        if total.name is not None:
            yield Row("part", 0, total.name, total.tensors, total.numel, total.nbytes)
        rows = [replace(row, level=level) for row in below[total.name]]
        yield from rows if depth is None else _folded(rows, depth - level)


def _folded(rows: list[Row], depth: int) -> list[Row]:
    folded: dict[str, Row] = {}
    for row in rows if depth > 0 else ():
        steps = row.name.split(".")
        name = ".".join(steps[:depth])
        if len(steps) <= depth:
            folded[f"{row.kind} {name}"] = row
            continue
        group = folded.get(name) or Row("group", row.level, name)
        folded[name] = replace(
            group,
            tensors=group.tensors + (row.kind == "tensor"),
            numel=group.numel + row.numel,
            nbytes=group.nbytes + row.nbytes,
        )
    return list(folded.values())


def _tensor(facts: TensorFacts, owners: Mapping[str, str]) -> Row:
    notes = [
        "" if facts.kind in ("tensor", "parameter") else facts.kind,
        f"same bytes as {facts.shares_with}" if facts.shares_with else "",
        "expanded" if facts.is_expanded else "",
        f"of {owners[owner]}" if (owner := facts.name.rpartition(".")[0]) in owners else "",
    ]
    return Row(
        "tensor",
        0,
        _below(facts.name, facts.part),
        numel=facts.numel,
        nbytes=facts.nbytes,
        dtype=facts.dtype,
        shape=facts.shape,
        text=", ".join(note for note in notes if note),
    )


def _value(facts: ValueFacts) -> Row:
    return Row("value", 0, _below(facts.name, facts.part), text=facts.text)


def _opaque(facts: OpaqueFacts) -> Row:
    name = _below(facts.name, facts.part)
    return Row("opaque", 0, name, text=f"an object of {facts.symbol}, not built")


def _below(name: str, part: str | None) -> str:
    if part is not None and name != part:
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
