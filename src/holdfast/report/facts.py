"""What is known of a checkpoint's content, as plain facts with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from holdfast.report.optimizers import OptimizerFacts
from holdfast.report.totals import Total
from holdfast.spec.program import ProgramInfo


class TensorFacts(NamedTuple):
    """One tensor of a checkpoint.

    ``kind`` is ``tensor``, ``parameter``, ``sparse_…`` (torch's layout), ``meta`` (no bytes),
    ``array`` (NumPy's), ``chunked`` (in several pieces) or the name of a tensor class. ``nbytes``
    counts its elements; an expanded tensor (stride 0) refers to fewer bytes than that.
    ``shares_with`` is the first tensor that lies in the same storage, ``same_as`` the first that
    is the same elements of it in the same shape: another name of one tensor.
    """

    name: str
    part: str | None
    kind: str
    shape: tuple[int, ...]
    dtype: str
    numel: int
    nbytes: int
    storage: str | None = None
    shares_with: str | None = None
    is_expanded: bool = False
    same_as: str | None = None


class ValueFacts(NamedTuple):
    """One plain value: ``text`` as Python writes it, and ``value`` as JSON if it can be.

    The text is shortened, except that of the one value that was asked for by its name.

    Where ``value`` is None and ``type`` is not ``NoneType``, the text alone says what it is.
    """

    name: str
    part: str | None
    type: str
    text: str
    value: Any = None


class OpaqueFacts(NamedTuple):
    """One object of a class outside the table: its place and its class, which is never built.

    ``kind`` is ``module`` (an ``nn.Module``), ``object``, or ``name`` (the symbol alone).
    """

    name: str
    part: str | None
    symbol: str
    kind: str = "object"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a checkpoint holds; ``is_complete`` is False where the tree was too large to list.

    ``metadata``, ``programs``, ``program`` and ``symbols`` are those of the whole file, as in its
    index.
    """

    file: str
    format: str
    file_nbytes: int
    record: dict[str, Any] | None
    parts: tuple[Total, ...]
    dtypes: tuple[Total, ...]
    total: Total
    tensors: tuple[TensorFacts, ...]
    values: tuple[ValueFacts, ...]
    opaques: tuple[OpaqueFacts, ...]
    optimizers: tuple[OptimizerFacts, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    program: ProgramInfo | None = None
    symbols: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values; the keys are the fields' names, and stable."""
        rows = ("parts", "dtypes", "tensors", "values", "opaques")
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            **values,
            **{name: [row._asdict() for row in values[name]] for name in rows},
            "total": self.total._asdict(),
            "optimizers": [each.to_json() for each in self.optimizers],
            "metadata": dict(self.metadata),
            "program": None if self.program is None else self.program.to_json(),
            **{name: list(values[name]) for name in ("programs", "symbols", "notes")},
        }
