"""torch.export: the graph of a model with the shapes it was made for, some of them dynamic."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.errors import ExportError
from holdfast.programs.inputs import Inputs, signature_of
from holdfast.programs.modes import without_deprecations
from holdfast.programs.sizes import Dims, sizes_of
from holdfast.programs.tracing import Warned, listening
from holdfast.spec.program import EXTRA_FILE

#: torch says at length, through these, what the error that it raises says, too.
_CHATTY = ("torch.fx.experimental.symbolic_shapes", "torch._export", "torch.onnx")


def make(model: nn.Module, inputs: Inputs, dims: Dims) -> tuple[Any, Warned]:
    """The exported program of a model, and what torch warned of.

    Each named dimension of its inputs takes any size.

    Raises:
        ExportError: a dimension is fixed, or what is computed hangs on the values of tensors.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ExportError(
            "torch.export takes models, and this is a TorchScript module",
            cure="Export the model itself, or this one as .ts or .onnx.",
        )
    shapes = _shapes(model, inputs, dims)
    with quiet(), listening() as found:
        try:
            made = torch.export.export(model, inputs.args, inputs.kwargs, dynamic_shapes=shapes)
        except Exception as error:  # it raises errors of many modules of torch, and the model's
            raise _letter(error, inputs, dims) from error
    return made, found


def save(made: Any, path: Path, record: str) -> None:
    """Write it, with the record as an extra file."""
    with without_deprecations():
        torch.export.save(made, str(path), extra_files={EXTRA_FILE: record})


def load(path: Path) -> Any:
    """Load it; this runs code that is in the file."""
    with without_deprecations(), quiet():
        return torch.export.load(str(path))


def _shapes(model: nn.Module, inputs: Inputs, dims: Dims) -> dict[str, Any] | None:
    """The dynamic dimensions, nested as the parameters of ``forward`` are."""
    if not dims:
        return None
    made = {name: torch.export.Dim(name, min=1) for name in sizes_of(inputs, dims)}
    by_input = [
        {dim: made[given] for dim, given in dims.get(name, {}).items()} or None
        for name in inputs.names
    ]
    count = len(inputs.args)
    kwargs = dict(zip(inputs.keywords, by_input[count:], strict=True))
    bound = signature_of(model).bind(*by_input[:count], **kwargs)
    return dict(bound.arguments)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch logs beside the errors it raises."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _letter(error: Exception, inputs: Inputs, dims: Dims) -> ExportError:
    text = str(error)
    fixed = re.findall(r"^\s+(\w+) = (\d+)\s*$", text, re.MULTILINE)
    fixed = [(name, size) for name, size in fixed if name in sizes_of(inputs, dims)]
    if fixed:
        return _fixed(fixed, inputs, dims)
    relation = re.findall(r"^\s+(\w+) = ([^\n]*\w[^\n]*)$", text, re.MULTILINE)
    if "Constraints violated" in text and relation:
        found = ", ".join(f"{name} = {what}" for name, what in relation)
        return ExportError(
            "the model does not take every size of its dynamic dimensions",
            wanted=", ".join(sizes_of(inputs, dims)),
            found=found[:300],
            cure="Name those dimensions so that they agree, or leave them out of dynamic=.",
        )
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return ExportError(
            "what this model computes hangs on the values of tensors, which one graph cannot hold",
            found=code_at(text),
            cure='TorchScript keeps such control flow: a .ts file with method="script". '
            "Or write it with torch.where or torch.cond.",
        )
    lines = [line for line in text.splitlines() if line.strip()]
    return ExportError(
        "this model cannot be exported by torch.export",
        found=f"{type(error).__name__}: {lines[0] if lines else ''}"[:300],
        cure='TorchScript may take it: a .ts file with method="script".',
    )


def _fixed(fixed: list[tuple[str, str]], inputs: Inputs, dims: Dims) -> ExportError:
    (name, size), *_ = fixed
    places = [
        f"dimension {dim} of {port}"
        for port, named in dims.items()
        for dim, given in named.items()
        if given == name
    ]
    return ExportError(
        f"{', '.join(places)} cannot be dynamic: the model fixes it",
        wanted=f"any {name}",
        found=f"{name} = {size}: the model's code holds that size as a constant, or takes it from "
        "one (a view, a reshape, a buffer)",
        cure="Use x.shape[...] or -1 there; or leave the dimension out: dynamic=None for none.",
    )


def code_at(text: str) -> str:
    """The line of the user's code that torch points at, with its place."""
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s+([^\n]+)', text)
    if not places:
        return text.strip().splitlines()[0][:300] if text.strip() else ""
    file, line, function, code = places[-1]
    return f"{Path(file).name}:{line}, in {function}: {code.strip()}"[:300]


def parameters_of(program: Any) -> tuple[list[str], list[str]]:
    """The names of what an exported program takes by position, and by name."""
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    _, named = program.call_spec.in_spec.children()
    count = len(named.context) if inspect.isclass(named.type) and named.type is dict else 0
    return names[: len(names) - count], list(named.context or []) if count else []
