"""One line on stderr that says what is being done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from holdfast.io.progress import is_watched

if TYPE_CHECKING:
    from typing_extensions import Self


class Line:
    """One line on stderr that says what is being done, where a person watches.

    It is written only when told to: a bar that moves by itself would disturb what is measured.
    """

    def __init__(self) -> None:
        self._is_watched = is_watched()

    def show(self, text: str) -> None:
        """Put this text in place of the one before."""
        if self._is_watched:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.show("")
