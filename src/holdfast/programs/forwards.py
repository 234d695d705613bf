"""The ``forward`` that a tracer sees: inputs by position, and outputs that it has a form for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from holdfast.programs.inputs import Inputs, positional_names, signature_of
from holdfast.programs.nesting import flatten


def is_traceable(structure: Any) -> bool:
    """Whether a trace can give outputs nested so: tensors, dicts or lists of them, tuples of such.

    An empty one and a constant have no form there.
    """
    if isinstance(structure, list):
        return True
    ((kind, value),) = structure.items()
    if kind == "tuple":
        return bool(value) and all(map(is_traceable, value))
    inner = value.values() if kind == "dict" else value
    return kind != "value" and bool(value) and all(isinstance(each, list) for each in inner)


@contextmanager
def plain(model: nn.Module, inputs: Inputs, *, flat: bool = False) -> Iterator[None]:
    """Until the end, ``forward`` takes the inputs by position, under their names, and nothing else.

    torch traces a call with names only where every parameter can also go by position, and its older
    ONNX exporter makes an input of a default. With ``flat`` the outputs are one tuple of tensors.
    """
    if isinstance(model, torch.jit.ScriptModule):
        yield
        return
    signature, count = signature_of(model), len(inputs.args)
    given = signature.bind(*inputs.args, **inputs.kwargs).arguments
    if not flat and not inputs.keywords and len(given) == len(signature.parameters):
        yield
        return
    forward = model.forward
    names = (*positional_names(signature, count), *inputs.keywords)

    def positional(*args: Any) -> Any:
        made = forward(*args[:count], **dict(zip(inputs.keywords, args[count:], strict=True)))
        return tuple(flatten(made)[1]) if flat else made

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    positional.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    before = vars(model).get("forward")
    model.forward = positional
    try:
        yield
    finally:
        if before is None:
            del model.forward
        else:
            model.forward = before
