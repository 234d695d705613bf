"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])


def json_option(keys: str) -> Callable[[_Function], _Function]:
    """``--json``; ``keys`` documents what the answer holds."""
    return click.option("--json", "as_json", is_flag=True, help=f"Answer as JSON: {keys}.")
