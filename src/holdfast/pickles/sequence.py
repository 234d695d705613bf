"""Pickles that lie in a file one after another; none says how long it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.errors import TruncatedError
from holdfast.io.source import Source
from holdfast.pickles.machine import Machine
from holdfast.pickles.reader import Pickled, interpret
from holdfast.pickles.table import Call, Symbol

#: How much is read at first (the pickle of 100,000 tensors is smaller, and each try begins anew),
#: and how many times more when the pickle does not end in it.
WINDOW = 16 << 20
_GROWTH = 4
#: Pickles hold what is no tensor: names, numbers, NumPy arrays.
LARGEST = 4 << 30


class _First(Machine):
    """A machine for the first of several pickles: something may follow its end."""

    __slots__ = ()

    def finish(self) -> Any:
        self.end = self.pos
        return super().finish()


def read_next(
    source: Source,
    offset: int,
    *,
    persistent: Callable[[Machine, Any], Any],
    encoding: str = "utf-8",
    member: str | None = None,
    calls: Callable[[], Mapping[Symbol, Call]] | None = None,
    window: int = WINDOW,
    most: int = LARGEST,
) -> tuple[Pickled, int]:
    """The pickle that begins at ``offset``, and the offset behind its end.

    At most ``most`` bytes are read, in windows that grow from ``window`` bytes until the pickle
    ends in them; each begins anew, so ``persistent`` may see an id again, and ``calls`` is asked
    for what it gives each time.

    Raises:
        TruncatedError: the file ends before the pickle.
        RefusedError: a rule for hostile files is broken.
        FormatError: there is no pickle.
    """
    room = max(0, min(source.size - offset, most))
    nbytes = min(window, room)
    while True:
        m = _First(
            source.read_at(offset, nbytes),
            persistent=persistent,
            encoding=encoding,
            file=source.name,
            member=member,
            calls=calls() if calls else None,
        )
        try:
            return interpret(m), offset + m.end
        except TruncatedError:
            if nbytes == room:
                if offset + room < source.size:
                    wanted = f"at most {most:,} bytes"
                    raise m.refused("pickles are small", wanted=wanted, found="more") from None
                raise
        nbytes = min(nbytes * _GROWTH, room)
