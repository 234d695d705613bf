"""What a conversion did, or would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.converting.items import Item


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What ``convert`` wrote, or with ``dry_run`` would write.

    ``files`` are the paths, with the bytes of each. ``items`` has every tensor; ``left_out`` what
    of the source is not in the new file. ``unfit`` counts, by name, finite numbers that the new
    type cannot hold (they became infinite, NaN, or its largest number). ``part`` is the part of the
    source that was taken, None for all of it.
    """

    source: str
    format_from: str
    format_to: str
    part: str | None
    files: Mapping[str, int]
    items: tuple[Item, ...] = field(repr=False)
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unfit: Mapping[str, int] = field(default_factory=dict)
    is_dry_run: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""
        return sum(self.files.values())

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; the keys are stable."""
        return {
            "source": self.source,
            "format_from": self.format_from,
            "format_to": self.format_to,
            "part": self.part,
            "files": dict(self.files),
            "nbytes": self.nbytes,
            "tensors": [item.to_json() for item in self.items],
            "left_out": list(self.left_out),
            "notes": list(self.notes),
            "unfit": dict(self.unfit),
            "is_dry_run": self.is_dry_run,
        }
