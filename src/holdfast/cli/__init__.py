"""The command ``holdfast``: thin shells over the library, each loaded only when it is called."""

from __future__ import annotations

from holdfast.cli.app import main

__all__ = ["main"]
