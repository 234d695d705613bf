"""What the lenient walker keeps of the values on a pickle's stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

#: Names of modules and classes are shorter; a longer text is not kept.
LONGEST_NAME = 1000


@dataclass(eq=False, slots=True)
class Symbol:
    """A global that a pickle names, and what it does with it.

    ``raw_module`` and ``raw_name`` are as written; Python 2 names have others today. ``ways`` are
    ``called`` (also of classes that are made), ``built`` (BUILD on what it made) and ``patched``
    (BUILD on the symbol itself, which changes it for the whole process); without any of them it is
    only imported.
    """

    module: str
    name: str
    raw_module: str
    raw_name: str
    offset: int
    ways: dict[str, None] = field(default_factory=dict)
    made: Made = field(init=False)
    is_extension: bool = False

    def __post_init__(self) -> None:
        self.made = Made(self)


@dataclass(eq=False, slots=True)
class Made:
    """What a call of ``symbol`` gave; None: what is called has no name in the file."""

    symbol: Symbol | None


@dataclass(eq=False, slots=True)
class Constant:
    """Text or bytes: where they lie, and the text itself if it is short enough for a name.

    ``decode`` makes text of the bytes that the file holds; it is None for bytes.
    """

    offset: int
    nbytes: int
    text: str | None
    decode: Callable[[bytes], str] | None


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a walk came.

    ``end`` is the position behind the last opcode read. ``problem`` says what is wrong with the
    pickle, None when it came to its STOP as a whole one does. ``is_finished`` says that STOP was
    reached. ``top`` is the value left. ``constants`` are the texts and bytes that may hold a pickle
    themselves. ``is_cut_short`` says that a limit ended the walk where a reader would go on,
    ``is_short`` that the bytes ended before the pickle did. ``memo`` is what it kept, None if it
    did not use it.
    """

    symbols: tuple[Symbol, ...]
    end: int
    problem: str | None
    is_finished: bool
    top: object = None
    has_protocol: bool = False
    constants: tuple[Constant, ...] = ()
    is_cut_short: bool = False
    is_short: bool = False
    memo: dict[int, object] | None = None

    @property
    def is_convincing(self) -> bool:
        """Whether bytes of which nobody says that they are a pickle are one all the same.

        Readers stop at the first opcode that does not fit, and so did this walk. Up to there text
        may happen to name something, but only a pickle calls it or comes to a whole end.
        """
        if self.has_protocol:
            return self.problem is None or self._calls(self.symbols) or self.names_plainly
        # Bytes at random are a whole pickle of an extension code once in ten thousand times.
        symbols = [each for each in self.symbols if not each.is_extension]
        is_whole = self.problem is None and len(symbols) == len(self.symbols)
        return is_whole or self._calls(symbols)

    @staticmethod
    def _calls(symbols: Iterable[Symbol]) -> bool:
        return any(symbol.ways for symbol in symbols)

    @property
    def names_plainly(self) -> bool:
        """Whether it names a symbol as Python calls things: naming it imports a module."""
        return any(_is_plain(symbol) for symbol in self.symbols)


def _is_plain(symbol: Symbol) -> bool:
    return all(part.isidentifier() for part in f"{symbol.module}.{symbol.name}".split("."))
