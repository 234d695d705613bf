"""The lines of ``holdfast show`` that are about a program: what it takes, gives, calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from holdfast.cli import text
from holdfast.cli.output import Cell
from holdfast.spec.program import Port, ProgramInfo, ProgramRecord

#: Of operators those that are called most are shown, of ports the first.
_OPERATORS, _PORTS = 10, 20


def rows(program: ProgramInfo) -> Iterator[list[Cell]]:
    """The rows of a table: a word, and what it is."""
    if program.record is not None:
        yield [Cell("made"), Cell(_made(program.record))]
        if program.record.parent.get("id"):
            parent = text.shortened(str(program.record.parent["id"]))
            yield [Cell("from"), Cell(f"checkpoint {parent}")]
    for word, ports in (("takes", program.inputs), ("gives", program.outputs)):
        for port in ports[:_PORTS]:
            yield [Cell(word), Cell(_port(port))]
        if len(ports) > _PORTS:
            yield [Cell(word), Cell(f"… and {len(ports) - _PORTS} more")]
    if program.opsets:
        opsets = (f"{text.shortened(name)} {number}" for name, number in program.opsets.items())
        yield [Cell("opset"), Cell(", ".join(opsets))]
    if program.operators:
        yield [Cell("calls"), Cell(_operators(program.operators))]


def _made(record: ProgramRecord) -> str:
    made = f"by {text.shortened(record.method)}"
    if record.source is not None:
        made += f", from {text.shortened(record.source)}"
    if record.parent:
        step = record.parent.get("step")
        weights = "weights" if step is None else f"weights of step {text.shortened(str(step))}"
        made += f", {weights} of {text.shortened(str(record.parent.get('file')))}"
    return made + (", in training mode" if record.is_training else "")


def _port(port: Port) -> str:
    return text.shortened(str(port))


def _operators(operators: Mapping[str, int]) -> str:
    often = sorted(operators.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{text.shortened(name)} {count}" for name, count in often[:_OPERATORS])
    more = len(often) - _OPERATORS
    return shown + (f" and {more} more" if more > 0 else "")
