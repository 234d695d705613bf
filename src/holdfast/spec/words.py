"""Numbers and names as people read them."""

from __future__ import annotations

#: Names of real models stay below 120 characters.
_LONGEST_NAME = 160

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(nbytes: float) -> str:
    """Bytes in the unit that fits: ``524 B``, ``9.4 KiB``."""
    unit = 0
    while nbytes >= 1024 and unit < len(_UNITS) - 1:
        nbytes /= 1024
        unit += 1
    return f"{nbytes:.0f} B" if unit == 0 else f"{nbytes:.1f} {_UNITS[unit]}"


def count(number: int, word: str) -> str:
    """``1 tensor``, ``1,024 tensors``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def shortened(full: str) -> str:
    """A name, with the middle left out where it is so long that it would hide all others."""
    return full if len(full) <= _LONGEST_NAME else f"{full[:100]}…{full[-50:]}"
