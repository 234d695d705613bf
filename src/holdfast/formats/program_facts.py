"""What the readers of the three kinds of programs say of them, the record of holdfast first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.errors import FormatError
from holdfast.spec import program as records
from holdfast.spec.program import Port, ProgramInfo, ProgramRecord


@dataclass(slots=True)
class Facts:
    """A program's facts, the text in its file without the record, and what is to be noted."""

    program: ProgramInfo
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What the graph or the code itself says."""

    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    opsets: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def facts(found: Found, metadata: Mapping[str, str], key: str, file: str) -> Facts:
    """The record's ports, which name their dimensions, where there is one; else the graph's own.

    A record that cannot be read is noted: the program may be whole all the same.
    """
    record: ProgramRecord | None = None
    notes, rest = found.notes, dict(metadata)
    if key in metadata:
        try:
            record = records.decode(metadata[key], file=file)
        except FormatError as error:
            notes = (*notes, f"{error.what}: {error.found}")
        else:
            del rest[key]
    program = ProgramInfo(
        inputs=found.inputs if record is None else record.inputs,
        outputs=found.outputs if record is None else record.outputs,
        operators=found.operators,
        opsets=found.opsets,
        record=record,
    )
    return Facts(program, rest, notes)
