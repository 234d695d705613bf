"""Which program files may run here: those that this process exported, and those it is told to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from holdfast.errors import UntrustedError

#: The files this process has exported, as they were then.
_ours: set[tuple[str, int, int, int, int]] = set()


def note_ours(path: Path) -> None:
    """Remember a file that this process has just written."""
    _ours.add(_identity(path))


def check(path: Path, trust: Any, what: str) -> None:
    """Let pass what may run code.

    Raises:
        UntrustedError: nobody said so, and it is no file that this process exported.
    """
    if trust is True or _identity(path) in _ours:
        return
    raise UntrustedError(
        f"{what} is a program: running it runs code that is in the file",
        file=path,
        found="a file that this process did not export",
        cure="If you know who made it: load_program(path, trust=True). Its weights can be read "
        "without running it (holdfast.open, load_state); ONNX files need no trust.",
    )


def _identity(path: Path) -> tuple[str, int, int, int, int]:
    found = path.stat()
    return (
        os.path.realpath(path),
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
    )
