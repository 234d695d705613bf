"""What TorchScript code calls, and the names of what ``forward`` takes: read as text, never run."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Beyond so many bytes of code nothing is counted.
MOST_CODE = 64 << 20
_MOST = 100_000

_OPS = re.compile(r"\bops\.(\w+)\.(\w+)\(|\btorch\.(\w+)\(")
_FORWARD = re.compile(r"^  def forward\(self: ([\w.]+)(.*?)\)(?: -> |:)", re.MULTILINE | re.DOTALL)
_ARGUMENT = re.compile(r",\s*(\w+): ")


def count(codes: Iterable[str]) -> dict[str, int]:
    """How often each operator is called: ``torch.linear(`` is ``linear``, others have a prefix."""
    counts: dict[str, int] = {}
    for code in codes:
        for found in _OPS.finditer(code):
            name = found[3] or f"{found[1]}.{found[2]}"
            if name in counts or len(counts) < _MOST:
                counts[name] = counts.get(name, 0) + 1
    return counts


def arguments(code: str, symbol: str) -> list[str]:
    """The names of what the ``forward`` of a class takes, without ``self``."""
    for found in _FORWARD.finditer(code):
        if found[1].rpartition(".")[2] == symbol.rpartition(".")[2]:
            return _ARGUMENT.findall(found[2])
    return []
