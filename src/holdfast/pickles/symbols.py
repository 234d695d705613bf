"""Every symbol that a pickle names or calls, also in broken, cut-off and hostile pickles.

The strict reader stops at the first broken rule. A pickle that breaks behind its payload has
already run elsewhere, so this walk goes on as far as the bytes allow. It keeps a stack and a memo
of names only, makes no object and takes time and memory in proportion to the bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from holdfast.io.source import Source
from holdfast.pickles import tracing
from holdfast.pickles.table import python3_name
from holdfast.pickles.values import LONGEST_NAME, Constant, Made, Symbol, Walk

#: More opcodes than any checkpoint's pickle has.
MOST_OPCODES = 100_000_000
#: Objects on the memo, and distinct symbols: a hundred bytes of memory each.
_MOST_MEMOS = 10_000_000
_MOST_SYMBOLS = 10_000
_MOST_CONSTANTS = 1_000_000
_MOST_MARKS = 1_000_000
#: Bytes read at a time; the first look is shorter, as most members are no pickles.
_FIRST_WINDOW, _WINDOW = 1 << 12, 1 << 20
_LONGEST_LINE = 64 << 20
#: What an opcode's fixed arguments need at most.
_REACH = 16
_STOP = 0x2E
#: Bytes without any of these name no symbol: lines, STACK_GLOBAL, extension codes.
_MAY_NAME = re.compile(rb"[\n\x93\x82-\x84]")
_ENDS = "it cannot be followed behind byte {:,}: {}"


class Ends(Exception):  # noqa: N818 (no error: how a walk comes to its end)
    """The walk cannot go on; the text says why."""


class Short(Ends):
    """The bytes end before the pickle does."""


class Limit(Ends):
    """The walk is too long: a reader would go on where it ends."""


class Allowance:
    """How many opcodes the walks of one scan may take together."""

    def __init__(self, opcodes: int = MOST_OPCODES) -> None:
        self.opcodes = opcodes


class Walker:
    """The state of one walk: a window of the bytes, and an abstract stack and memo.

    ``is_guess`` says that nobody calls these bytes a pickle: the walk then ends where every reader
    would stop. ``memo`` is that of the pickle before, which some readers keep.
    """

    def __init__(
        self,
        source: Source,
        start: int,
        allowance: Allowance,
        *,
        is_guess: bool,
        memo: dict[int, Any] | None = None,
    ) -> None:
        self.source, self.is_guess = source, is_guess
        # A reader may keep the memo of the pickle before.
        self.is_later = start > 0
        self.allowance = allowance
        self.base, self.pos, self.data, self.edge = start, 0, b"", 0
        self.frame_end: int | None = None
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {} if memo is None else memo
        self.uses_memo = self.memo_is_unsure = False
        self.protocol, self.has_protocol = 0, False
        self.has_cut_line = False
        self.problem: str | None = None
        self.symbols: dict[tuple[str, str], Symbol] = {}
        self.constants: list[Constant] = []
        self._refill(_FIRST_WINDOW)

    # ---- bytes

    @property
    def at(self) -> int:
        """The position in the source of the byte that is next."""
        return self.base + self.pos

    def _refill(self, nbytes: int) -> None:
        self.base += self.pos
        self.pos = 0
        self.data = self.source.read_at(self.base, min(nbytes, self.source.size - self.base))
        self._set_edge()

    def _set_edge(self) -> None:
        # Up to here an opcode and its fixed arguments lie in the window, or the bytes end.
        self.edge = len(self.data) - (_REACH if self._more() else 1)
        if self.frame_end is not None:
            self.edge = min(self.edge, self.frame_end - self.base - 1)

    def _more(self) -> bool:
        """Whether bytes lie behind the window."""
        return self.base + len(self.data) < self.source.size

    def number(self, nbytes: int) -> int:
        """The next bytes as an unsigned number."""
        return int.from_bytes(self.take(nbytes), "little")

    def take(self, nbytes: int) -> bytes:
        """The next few bytes."""
        stop = self.pos + nbytes
        if stop > len(self.data):
            raise Short("it ends in the middle of a value")
        taken = self.data[self.pos : stop]
        self.pos = stop
        return taken

    def skip(self, nbytes: int) -> bytes | None:
        """Pass over a value; its bytes if they are few."""
        if nbytes > self.source.size - self.at:
            raise Short("it ends in the middle of a value")
        if nbytes <= LONGEST_NAME:
            if self.pos + nbytes > len(self.data):
                self._refill(_WINDOW)
            return self.take(nbytes)
        self.pos += nbytes
        if self.pos >= len(self.data):
            self._refill(_WINDOW)
        return None

    def line(self) -> bytes:
        """The next bytes up to a newline; a last line may lack it, as in some readers."""
        stop = self.data.find(b"\n", self.pos)
        while stop < 0 and self._more():
            if len(self.data) - self.pos >= _LONGEST_LINE:
                raise Limit("it holds a line of more than 64 MiB")
            self._refill(max(_WINDOW, 4 * (len(self.data) - self.pos)))
            stop = self.data.find(b"\n", self.pos)
        found = self.data[self.pos : stop if stop >= 0 else len(self.data)]
        self.pos += len(found) + 1
        if stop < 0:
            self.pos, self.has_cut_line = len(self.data), True
            self.problem = self.problem or _ENDS.format(self.at, "it ends in the middle of a line")
        return found

    def frame(self, nbytes: int) -> None:
        """Begin a frame of so many bytes."""
        if self.frame_end is not None:
            self._cut()
        if nbytes > self.source.size - self.at:
            # One of the readers goes on with what is there.
            self.problem = self.problem or _ENDS.format(self.at - 9, "its frame ends with the file")
            return
        self.frame_end = self.at + nbytes
        self._set_edge()

    def _cut(self) -> None:
        """A frame's edge is no opcode's: one reader drops bytes there, and reads other names.

        Modules/_pickle.c: a line that does not end in the buffer is read anew from the file.
        """
        self.nameless().ways["called"] = None
        self.problem = self.problem or f"a frame ends where no opcode does, near byte {self.at:,}"

    # ---- what does not fit

    def misfit(self, what: str) -> None:
        """Every reader stops here; a walk through a pickle that is one goes on."""
        if self.frame_end is not None and self.at > self.frame_end:
            self._cut()
            self.frame_end = None
        if self.is_guess:
            raise Ends(what)
        self.doubt(what)

    def doubt(self, what: str) -> None:
        """Note what most readers stop at, and go on as those would that do not."""
        if self.problem is None:
            self.problem = f"it does not fit at byte {self.at - 1:,}: {what}"

    def give_up(self, what: str) -> None:
        """No reader and no walk can go on."""
        raise Ends(what)

    def cut_off(self) -> None:
        """A value is cut off."""
        raise Short("it ends in the middle of a value")

    def pop(self) -> Any:
        """The topmost value; None (a plain value) where there is none."""
        if self.stack:
            return self.stack.pop()
        self.misfit("it takes more than there is")
        return None

    def to_mark(self) -> list[Any]:
        """The values above the last mark, which is removed."""
        items = self.stack
        if self.marks:
            self.stack = self.marks.pop()
        else:
            self.stack = []
            self.misfit("it goes back to a mark that it never set")
        return items

    def mark(self) -> None:
        """Begin a new stack on top."""
        if len(self.marks) >= _MOST_MARKS:
            raise Limit("it nests marks by the million")
        self.marks.append(self.stack)
        self.stack = []

    def put(self, number: int | None) -> None:
        """Keep the topmost value under a number; None is one that is not known."""
        if not self.stack:
            self.misfit("it keeps what is not there")
            return
        if len(self.memo) >= _MOST_MEMOS:
            raise Limit("it keeps more objects than any checkpoint holds")
        self.uses_memo = True
        if number is None:
            self.memo_is_unsure = True
        else:
            self.memo[number] = self.stack[-1]

    def get(self, number: int | None) -> None:
        """Push what was kept under a number."""
        self.uses_memo = True
        is_unsure = self.memo_is_unsure or (self.is_guess and self.is_later)
        if number is not None and number not in self.memo and not is_unsure:
            self.misfit("it gets what it never put")
        # A reader that goes on with an older memo would find something: it is not known what.
        found = Made(None) if number is None else self.memo.get(number, Made(None))
        self.stack.append(Made(None) if self.memo_is_unsure else found)

    # ---- symbols

    def name(self, module: str, name: str) -> Symbol:
        """The symbol of that name, as Python 3 calls it today."""
        raw = (module, name)
        if self.protocol < 3:
            module, name = python3_name(module, name)
        symbol = self.symbols.get((module, name))
        if symbol is None:
            if len(self.symbols) >= _MOST_SYMBOLS:
                raise Limit("it names more symbols than any checkpoint does")
            symbol = Symbol(module, name, *raw, self.at)
            self.symbols[module, name] = symbol
        return symbol

    def nameless(self) -> Symbol:
        """The symbol of what has no name in the file: it is known only when the pickle runs."""
        symbol = self.symbols.get(("", "unknown"))
        if symbol is None:
            symbol = self.symbols["", "unknown"] = Symbol("", "unknown", "", "unknown", self.at)
        return symbol

    def constant(self, nbytes: int, decode: Callable[[bytes], str] | None) -> None:
        """Push text or bytes of that length; ``decode`` is None for bytes."""
        start = self.at
        few = self.skip(nbytes)
        text = None
        if decode is not None and few is not None:
            try:
                text = decode(few)
            except UnicodeError:
                self.misfit("a text in it is none")
        self.push(Constant(start, nbytes, text, decode), few)

    def push(self, constant: Constant, few: bytes | None) -> None:
        """Push a constant, and keep it aside if it may hold a pickle; ``few`` are its bytes."""
        self.stack.append(constant)
        if few is None or _MAY_NAME.search(few):
            if len(self.constants) >= _MOST_CONSTANTS:
                raise Limit("it holds more texts with line breaks than any checkpoint does")
            self.constants.append(constant)

    # ---- the walk

    def run(self) -> Walk:
        """Walk to STOP, or as far as it goes."""
        handlers, is_finished, is_cut_short = tracing.HANDLERS, False, False
        is_short = False
        left = self.allowance.opcodes
        try:
            while not is_finished:
                if self.pos > self.edge:
                    self._go_on()
                left -= 1
                code = self.data[self.pos]
                self.pos += 1
                if code == _STOP:
                    is_finished = self._at_stop()
                elif left < 0:
                    raise Limit("it is longer than any checkpoint's pickle")
                else:
                    handlers[code](self)
        except (IndexError, struct.error):  # fixed arguments, cut off
            is_short = True
            self.problem = self.problem or _ENDS.format(self.at - 1, "it ends in a value")
        except Ends as reason:
            is_cut_short, is_short = isinstance(reason, Limit), isinstance(reason, Short)
            if self.problem is None or is_cut_short:
                self.problem = _ENDS.format(self.at - 1, reason)
        self.allowance.opcodes = left
        top = self.stack[-1] if self.stack else None
        return Walk(
            tuple(self.symbols.values()),
            min(self.at, self.source.size),
            self.problem,
            is_finished,
            top,
            self.has_protocol,
            tuple(self.constants),
            is_cut_short,
            is_short or self.has_cut_line,
            self.memo if self.uses_memo else None,
        )

    def _go_on(self) -> None:
        if self.frame_end is not None and self.at >= self.frame_end:
            if self.at > self.frame_end:
                self._cut()
            self.frame_end = None
            self._set_edge()
            if self.pos <= self.edge:
                return
        if self._more():
            self._refill(_WINDOW)
        if self.pos >= len(self.data):
            raise Short("it ends before its end")

    def _at_stop(self) -> bool:
        if not self.stack:
            self.misfit("it takes more than there is")
        if self.frame_end is not None and self.at != self.frame_end:
            self._cut()  # one reader drops what is left of the frame, another goes on with it
        return True


def walk(
    source: Source,
    start: int = 0,
    *,
    is_guess: bool = False,
    allowance: Allowance | None = None,
    memo: dict[int, Any] | None = None,
) -> Walk:
    """Follow the pickle that begins at ``start``, run nothing, and tell what it names.

    ``memo`` is what a reader kept of the pickle before; it is changed.

    Raises:
        FileError: the file system said no.
        TruncatedError: the file became shorter meanwhile.
    """
    allowance = Allowance() if allowance is None else allowance
    return Walker(source, start, allowance, is_guess=is_guess, memo=memo).run()
