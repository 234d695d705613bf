"""What exporters warn of: branches that a trace has lost, and what torch says of its own code."""

from __future__ import annotations

import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.jit._trace import TracerWarning  # torch.jit has it, too, and does not say so to mypy
from torch.overrides import TorchFunctionMode

#: Where warnings are not about the user's code: torch, this package, the standard library.
_TORCH = Path(torch.__file__).parent
_OURS = Path(__file__).parent.parent
_STDLIB = Path(sysconfig.get_path("stdlib"))
#: What is installed beside it is theirs; it lies within it where there is no environment.
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(slots=True)
class Warned:
    """Texts, each once: ``lost`` are branches in the user's code of which a trace keeps one.

    ``notes`` are what torch says of its own code. What the tracer warns of there is left out:
    nearly all of it checks sizes and modes, and other sizes are tried. A module of torch that
    branches on values (AdaptiveLogSoftmaxWithLoss) is found by the comparison or not at all.
    """

    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


#: What gives Python a bool of tensors' values, and is no conversion that the tracer warns of.
_DECIDING = {
    *(torch.equal, torch.allclose, torch.is_nonzero),
    *(torch.Tensor.equal, torch.Tensor.allclose, torch.Tensor.is_nonzero),
}


class _Deciding(TorchFunctionMode):
    """Notes where the user's code asks for such a bool while it is traced."""

    def __init__(self, lost: list[str]) -> None:
        super().__init__()
        self._lost = lost

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the signature is torch's
        if torch._C._get_tracing_state() is None:  # torch.cond compiles this, and takes no frames
            return func(*args, **(kwargs or {}))
        frame = sys._getframe(1)
        if func in _DECIDING:
            name = getattr(func, "__name__", str(func))
            text = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}: a bool of torch.{name}"
            if is_theirs(Path(frame.f_code.co_filename)) and text not in self._lost:
                self._lost.append(text)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = func(*args, **(kwargs or {}))
        for each in caught:  # of the line that asked, not of this one
            warnings.warn_explicit(
                each.message, each.category, frame.f_code.co_filename, frame.f_lineno
            )
        return result


@contextmanager
def listening() -> Iterator[Warned]:
    """Collect these; what else is warned of in the user's code is shown as ever."""
    found = Warned()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with _Deciding(found.lost):
            yield found
    for each in caught:
        if issubclass(each.category, DeprecationWarning | FutureWarning):
            continue  # docs/programs.md says it once
        file = Path(each.filename)
        text = f"{file.name}:{each.lineno}: {_first_sentence(each.message)}"
        in_theirs = is_theirs(file)
        if not issubclass(each.category, TracerWarning):
            if in_theirs:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
            elif text not in found.notes and "_flat_weights[" not in text:  # which an RNN has twice
                found.notes.append(text)
        elif in_theirs and text not in found.lost:
            found.lost.append(text)


def is_theirs(file: Path) -> bool:
    """Whether a file is the user's own code, or that of a package with models."""
    if file.is_relative_to(_TORCH) or file.is_relative_to(_OURS):
        return False
    return not file.is_relative_to(_STDLIB) or bool(_INSTALLED & set(file.parts))


def _first_sentence(message: Warning | str) -> str:
    return str(message).partition(". ")[0][:300]
