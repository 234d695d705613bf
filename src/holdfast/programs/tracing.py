"""Warnings of torch's tracer: code that depends on values, of which a trace keeps one branch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.jit._trace import TracerWarning  # torch.jit has it, too, and does not say so to mypy

_TORCH = Path(torch.__file__).parent


@dataclass(slots=True)
class Traced:
    """What a tracer warned of: in the user's code ``warnings``, in torch's own ``known``.

    torch's modules check sizes and modes in ways that the tracer warns of; what they compute does
    not hang on it, and other sizes are tried.
    """

    warnings: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)


@contextmanager
def traced() -> Iterator[Traced]:
    """Collect the tracer's warnings instead of showing them; others are shown as they are."""
    found = Traced()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TracerWarning)
        yield found
    for each in caught:
        if not issubclass(each.category, TracerWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
            continue
        file = Path(each.filename)
        is_torch = file.is_relative_to(_TORCH)
        text = f"{file.name}:{each.lineno}: {_first_sentence(each.message)}"
        kept = found.known if is_torch else found.warnings
        if text not in kept:
            kept.append(text)


def _first_sentence(message: Warning | str) -> str:
    return str(message).partition(". ")[0]
