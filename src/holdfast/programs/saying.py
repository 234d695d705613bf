"""What an error of torch, a runtime or a user's model says, in one line for a letter."""

from __future__ import annotations

import re
import traceback

#: The line of a TorchScript traceback that is the error itself.
_NAMED = re.compile(r"(builtins\.)?\w+(Error|Exception): ")
_LONGEST = 300


def said(error: BaseException) -> str:
    """The line that says what happened, without those of a traceback in the text before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = (line for line in reversed(lines) if _NAMED.match(line))
    line = next(named, lines[0] if lines else type(error).__name__)
    return line.removeprefix("builtins.")[:_LONGEST]


def first_line(error: BaseException) -> str:
    """The same with the class of the error before it."""
    name, line = type(error).__name__, said(error)
    return (line if line.startswith(name) else f"{name}: {line}")[:_LONGEST]


def raised_in(error: BaseException, file: str) -> str:
    """The same with the last line of ``file`` that the error came by."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return first_line(error) + (f" (line {lines[-1]})" if lines else "")
