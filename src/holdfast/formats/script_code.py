"""What TorchScript code calls, and what ``forward`` takes: read as text, never run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from holdfast.spec.program import Port

#: Beyond so many bytes of code nothing is counted.
MOST_CODE = 64 << 20
_MOST = 100_000

_OPS = re.compile(r"\bops\.(\w+)\.(\w+)\(|\btorch\.(\w+)\(")
_FORWARD = "\n  def forward("
_LONGEST_SIGNATURE = 1 << 16
#: Strings, of which only the end of their line is sure, and what begins, ends and parts arguments.
_MARKS = re.compile(r"""'(?:[^'\\\n]|\\.)*'?|"(?:[^"\\\n]|\\.)*"?|[()\[\]{},]""")
_ARGUMENT = re.compile(r"\s*(\w+): ([^=]*)")
_TENSORS = ("Tensor", "Optional[Tensor]")
_LONGEST_TYPE = 100


def count(codes: Iterable[str]) -> dict[str, int]:
    """How often each operator is called: ``torch.linear(`` is ``linear``, others have a prefix."""
    counts: dict[str, int] = {}
    for code in codes:
        for found in _OPS.finditer(code):
            name = found[3] or f"{found[1]}.{found[2]}"
            if name in counts or len(counts) < _MOST:
                counts[name] = counts.get(name, 0) + 1
    return counts


def member_of(symbol: str) -> str:
    """The member whose code has a class: ``code/__torch__/nets.py`` of ``__torch__.nets.Net``."""
    return f"code/{symbol.rpartition('.')[0].replace('.', '/')}.py"


def ports(code: str, symbol: str) -> tuple[Port, ...]:
    """What the ``forward`` of a class takes, without ``self``; what is no tensor has its type."""
    at = _forward(code, symbol.rpartition(".")[2])
    if at is None:
        return ()
    found = (_ARGUMENT.match(each) for each in _arguments(code[at : at + _LONGEST_SIGNATURE]))
    return tuple(_port(each[1], each[2].strip()) for each in list(found)[1:] if each is not None)


def _port(name: str, kind: str) -> Port:
    return Port(name, None if kind in _TENSORS else kind[:_LONGEST_TYPE])


def _forward(code: str, name: str) -> int | None:
    """Where the arguments of a class's ``forward`` begin."""
    # Each is looked for once: a pattern of all of it would take hours of code made for that.
    code = f"\n{code}"
    begin = code.find(f"\nclass {name}(")
    if begin < 0:
        return None
    at, end = code.find(_FORWARD, begin), code.find("\nclass ", begin + 1)
    return None if at < 0 or 0 <= end < at else at + len(_FORWARD) - 1


def _arguments(text: str) -> Iterator[str]:
    """The arguments of a signature, up to the parenthesis that ends it."""
    depth = start = 0
    for mark in _MARKS.finditer(text):
        if mark[0] in ("(", "[", "{"):
            depth += 1
        elif mark[0] in (")", "]", "}"):
            depth -= 1
        if depth < 0 or (mark[0] == "," and depth == 0):
            yield text[start : mark.start()]
            start = mark.end()
        if depth < 0:
            return
