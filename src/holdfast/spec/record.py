"""The record: what holdfast knows of a checkpoint beyond its tensors, as JSON.

It is the archive member ``<root>/holdfast.json`` of a checkpoint, and the only place where the
order, the lineage and the metrics of a run are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from holdfast.errors import FormatError

#: The version of the record's layout; readers take this one and older ones.
VERSION = 1

#: The member's name inside the archive's root folder.
MEMBER = "holdfast.json"


@dataclass(frozen=True, slots=True)
class Record:
    """One checkpoint's record.

    ``sequence`` grows with each save in a run and alone decides the order. ``parent`` is the id of
    the checkpoint that training went on from. ``time`` is UTC in ISO 8601 and ``elapsed`` the
    seconds since the run object was made. ``metrics`` are floats. ``best`` maps a metric to its
    mode, ``min`` or ``max``. ``parameters`` maps an optimizer part to the names
    ``part.parameter`` of its parameters, per group and index. ``converted`` maps tree paths to
    what stood there before capture (``numpy.ndarray``, ``numpy.float64``, ...).
    """

    id: str
    step: int | None = None
    sequence: int | None = None
    parent: str | None = None
    time: str | None = None
    elapsed: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, list[list[str | None]]] = field(default_factory=dict)
    converted: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; metrics that are not finite are NaN, Infinity, -Infinity."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["metrics"] = {name: _float_to_json(value) for name, value in self.metrics.items()}
        return {"holdfast": VERSION, **values}


def encode(record: Record) -> bytes:
    """The bytes of the record's member: UTF-8 JSON, keys in a fixed order, no NaN literals."""
    return json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False, indent=1).encode()


def decode(data: bytes, *, file: object = None) -> Record:
    """Read a record's bytes; unknown keys of later versions are left out.

    Raises:
        FormatError: the bytes are no record.
    """
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"bytes that are no JSON ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("holdfast"), int):
        raise _broken(file, "JSON without the key 'holdfast'")
    known = {f.name: values[f.name] for f in fields(Record) if f.name in values}
    _check(known, file)
    known["metrics"] = {k: _float_from_json(v) for k, v in known.get("metrics", {}).items()}
    return Record(**known)


_SHAPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "step": (int, type(None)),
    "sequence": (int, type(None)),
    "parent": (str, type(None)),
    "time": (str, type(None)),
    "elapsed": (int, float, type(None)),
    "metrics": (dict,),
    "best": (dict,),
    "parameters": (dict,),
    "converted": (dict,),
    "provenance": (dict,),
}


def _check(values: Mapping[str, Any], file: object) -> None:
    if "id" not in values:
        raise _broken(file, "no 'id'")
    for name, value in values.items():
        if not isinstance(value, _SHAPES[name]) or isinstance(value, bool):
            raise _broken(file, f"{name!r} of type {type(value).__name__}")
    for name, value in values.get("metrics", {}).items():
        if isinstance(value, bool) or (
            not isinstance(value, int | float) and value not in ("NaN", "Infinity", "-Infinity")
        ):
            raise _broken(file, f"metric {name!r} of {value!r}")
    for mode in values.get("best", {}).values():
        if mode not in ("min", "max"):
            raise _broken(file, f"mode {mode!r} of a metric")
    for name, groups in values.get("parameters", {}).items():
        if not _is_names(groups):
            raise _broken(file, f"no names of parameters in {name!r}")


def _is_names(groups: Any) -> bool:
    """Whether a value has the names of an optimizer's parameters, per group and index."""
    return isinstance(groups, list) and all(
        isinstance(group, list) and all(isinstance(name, str | None) for name in group)
        for group in groups
    )


def _broken(file: object, found: str) -> FormatError:
    return FormatError(
        "the record of this checkpoint cannot be read",
        file=file,
        member=MEMBER,
        wanted="a JSON object that holdfast wrote",
        found=found,
        cure="The tensors may be whole all the same: holdfast verify says so.",
    )


def _float_to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _float_from_json(value: float | str) -> float:
    return float(value)
