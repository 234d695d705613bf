"""What can be set from outside, by environment variables, with defaults that suit most machines."""

from __future__ import annotations

import os

from holdfast.errors import UsageError
from holdfast.io.arena import SEGMENT


def writer_threads() -> int:
    """``HOLDFAST_WRITER_THREADS``: how many threads write one file; 0: the caller, buffered."""
    return _whole("HOLDFAST_WRITER_THREADS", 2)


def segment_count() -> int:
    """``HOLDFAST_WRITE_BUFFER_MIB``: memory between a save and the disk, in whole segments."""
    return max(2, (_whole("HOLDFAST_WRITE_BUFFER_MIB", 32) << 20) // SEGMENT)


def _whole(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(
            f"the environment variable {name} is not a whole number",
            found=repr(text),
            cure="Set it to a number, or leave it out.",
        )
    return int(text)
