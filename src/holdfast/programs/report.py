"""What came of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.programs.check import Checked
from holdfast.spec.program import Port, ProgramRecord


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, what it takes and gives, and how far it is from the model.

    ``opset`` is that of ONNX. ``checked`` is None where the check was not wanted. ``files`` are all
    that belong to it: one, but for ONNX above 2 GB.
    """

    path: str
    format: str
    method: str
    nbytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    record: ProgramRecord
    opset: int | None = None
    checked: Checked | None = None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parent(self) -> Mapping[str, Any]:
        """The checkpoint that the weights were loaded from; empty where none was given."""
        return self.record.parent

    def __str__(self) -> str:
        opset = "" if self.opset is None else f", opset {self.opset}"
        lines = [f"{self.path}: {self.format} by {self.method}{opset}, {self.nbytes:,} bytes"]
        lines += [f"  takes {port}" for port in self.inputs]
        lines += [f"  gives {port}" for port in self.outputs]
        if self.checked is None:
            lines.append("  not compared with the model: check=False")
        else:
            cases = ", ".join(self.checked.cases)
            lines.append(f"  compared with the model on {cases}:")
            lines += [f"    {each}" for each in self.checked.outputs]
            if self.checked.refused:
                lines.append(f"  the model itself refuses {', '.join(self.checked.refused)}")
        for name, (least, most) in self.record.ranges.items():
            lines.append(f"  {name} is at least {least}" + (f", at most {most}" if most else ""))
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; the keys are stable."""
        return {
            "path": self.path,
            "format": self.format,
            "method": self.method,
            "nbytes": self.nbytes,
            "opset": self.opset,
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [port.to_json() for port in self.outputs],
            "checked": None if self.checked is None else self.checked.to_json(),
            "files": list(self.files),
            "notes": list(self.notes),
            "record": self.record.to_json(),
        }
