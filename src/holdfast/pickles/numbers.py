"""Opcodes of whole numbers and of tuples of them, decoded once for all tensors that share them."""

from __future__ import annotations

from typing import Any

_WIDTHS = {ord("K"): 2, ord("M"): 3, ord("J"): 5}
_GETS = b"hj"
_MARK, _TUPLE = ord("("), ord("t")
_COUNTS = {0x85: 1, 0x86: 2, 0x87: 3}


class Numbers(dict["bytes | None", Any]):
    """What opcodes push: an int for BININT1, BININT2 or BININT, else a tuple of ints.

    Of BINGET and LONG_BINGET it is the place in the memo. None stands for EMPTY_TUPLE. The value is
    None where opcode and numbers do not fit together.
    """

    def __missing__(self, written: bytes | None) -> Any:
        """Decode what was not asked for before."""
        if written is None:
            value: Any = ()
        elif written[0] in _GETS or len(written) == _WIDTHS.get(written[0]):
            value = _number(written)
        else:
            value = _tuple(written)
        self[written] = value
        return value


def _number(written: bytes) -> int:
    return int.from_bytes(written[1:], "little", signed=written[0] == ord("J"))


def _tuple(written: bytes) -> tuple[int, ...] | None:
    made = []
    at = 1 if written[0] == _MARK else 0
    while (width := _WIDTHS.get(written[at])) is not None:
        made.append(_number(written[at : at + width]))
        at += width
    is_right = written[at] == _TUPLE or _COUNTS.get(written[at]) == len(made)
    return tuple(made) if is_right else None
