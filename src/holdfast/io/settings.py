"""What can be set from outside, by environment variables, with defaults that suit most machines."""

from __future__ import annotations

import os

from holdfast.errors import UsageError
from holdfast.io.arena import SEGMENT

_MOST_THREADS, _MOST_MIB = 256, 65536


def check() -> None:
    """Raise UsageError where a setting makes no sense: better now than at the first save."""
    writer_threads()
    segment_count()


def writer_threads() -> int:
    """``HOLDFAST_WRITER_THREADS``: how many write one file, and fill the memory for it.

    0: the caller writes, buffered.
    """
    return _whole("HOLDFAST_WRITER_THREADS", 2, most=_MOST_THREADS)


def segment_count() -> int:
    """``HOLDFAST_WRITE_BUFFER_MIB``: memory between a save and the disk, in whole segments.

    Two at least: one fills while the other is written.
    """
    nbytes = _whole("HOLDFAST_WRITE_BUFFER_MIB", 32, most=_MOST_MIB) << 20
    if nbytes < 2 * SEGMENT:
        raise UsageError(
            "the environment variable HOLDFAST_WRITE_BUFFER_MIB is too small",
            wanted=f"{2 * SEGMENT >> 20} or more",
            found=str(nbytes >> 20),
            cure=f"One piece of {SEGMENT >> 20} MiB fills while another is written: set it to "
            "more, or leave it out.",
        )
    return nbytes // SEGMENT


def _whole(name: str, default: int, *, most: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(
            f"the environment variable {name} is not a whole number",
            found=repr(text),
            cure="Set it to a number, or leave it out.",
        )
    if int(text) > most:
        raise UsageError(
            f"the environment variable {name} is too large",
            wanted=f"{most:,} or less",
            found=text,
            cure="Set it to less, or leave it out.",
        )
    return int(text)
