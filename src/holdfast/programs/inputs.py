"""What a model is called with: example tensors, in the order and under the names of ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from holdfast.errors import UsageError


@dataclass(frozen=True, slots=True)
class Inputs:
    """Tensors by name; the last ``len(keywords)`` go to those parameters of ``forward`` by name."""

    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    keywords: tuple[str, ...] = ()

    @property
    def args(self) -> tuple[torch.Tensor, ...]:
        """Those that go by position."""
        return self.tensors[: len(self.tensors) - len(self.keywords)]

    @property
    def kwargs(self) -> dict[str, torch.Tensor]:
        """Those that go by name."""
        rest = self.tensors[len(self.tensors) - len(self.keywords) :]
        return dict(zip(self.keywords, rest, strict=True))

    def copied(self) -> Inputs:
        """The same with tensors of their own: a model may write into what it is given."""
        return self.having([tensor.detach().clone() for tensor in self.tensors])

    def having(self, tensors: Sequence[torch.Tensor]) -> Inputs:
        """The same places with other tensors in them."""
        return replace(self, tensors=tuple(tensors))


def as_inputs(model: nn.Module, example: Any, names: Sequence[str] | None = None) -> Inputs:
    """Take a tensor, a tuple of tensors or a dict of them by the parameters of ``forward``.

    ``names`` are what the inputs are called from outside; by default as ``forward`` calls them.

    Raises:
        UsageError: no tensors, they do not fit ``forward``, or the names do not fit them.
    """
    signature = signature_of(model)
    if isinstance(example, Mapping):
        inputs = _by_name(model, signature, example)
    else:
        several = isinstance(example, tuple | list)
        inputs = _by_position(signature, tuple(example) if several else (example,))
    _check_tensors(inputs)
    try:
        signature.bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        raise _misfit(model, signature, str(error)) from error
    if names is None:
        return inputs
    return replace(inputs, names=checked_names(names, len(inputs.names), "input"))


def signature_of(model: nn.Module) -> inspect.Signature:
    """The signature of ``forward``, of a TorchScript module too."""
    if not isinstance(model, torch.jit.ScriptModule):
        return inspect.signature(model.forward)
    arguments = model.forward.schema.arguments[1:]  # type: ignore[attr-defined]
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    defaults = [each.default_value if each.has_default_value() else empty for each in arguments]
    pairs = zip(arguments, defaults, strict=True)
    return inspect.Signature(
        [inspect.Parameter(each.name, kind, default=default) for each, default in pairs]
    )


def checked_names(names: Sequence[str], count: int, what: str) -> tuple[str, ...]:
    """Names for so many inputs or outputs: as many, each text, each once.

    Raises:
        UsageError: they are not.
    """
    is_text = isinstance(names, list | tuple) and all(isinstance(n, str) and n for n in names)
    if not is_text or len(names) != count or len(set(names)) != count:
        raise UsageError(
            f"{what}_names names each {what} once",
            wanted=f"{count} different names",
            found=repr(names)[:200],
        )
    return tuple(names)


def _by_position(signature: inspect.Signature, tensors: tuple[Any, ...]) -> Inputs:
    return Inputs(positional_names(signature, len(tensors)), tensors)


def positional_names(signature: inspect.Signature, count: int) -> tuple[str, ...]:
    """What the first parameters are called; those of ``*xs`` are ``xs_0``, ``xs_1``."""
    known: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            known.append(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            known += [f"{parameter.name}_{number}" for number in range(count - len(known))]
    known += [f"input_{number}" for number in range(len(known), count)]
    return tuple(known[:count])


def _by_name(
    nn_module: nn.Module, signature: inspect.Signature, example: Mapping[Any, Any]
) -> Inputs:
    """By position as far as the first parameters are all there, the others by name."""
    parameters = list(signature.parameters.values())
    order = {parameter.name: place for place, parameter in enumerate(parameters)}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    strange = [name for name in example if not isinstance(name, str) or name not in order]
    if strange and not (takes_any and all(isinstance(name, str) for name in strange)):
        raise _misfit(nn_module, signature, f"an input called {strange[0]!r}")
    names = sorted(example, key=lambda name: order.get(name, len(order)))
    first = 0
    for parameter in parameters:
        is_next = first < len(names) and names[first] == parameter.name
        if not is_next or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            break
        first += 1
    return Inputs(tuple(names), tuple(example[name] for name in names), tuple(names[first:]))


def _check_tensors(inputs: Inputs) -> None:
    if not inputs.tensors:
        raise UsageError(
            "a model is exported by calling it on an example",
            wanted="a tensor, a tuple of tensors, or a dict of them by the parameters of forward",
            found="no input",
        )
    for name, value in zip(inputs.names, inputs.tensors, strict=True):
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                "the inputs of a program are tensors",
                tensor=name,
                wanted="a tensor, a tuple of tensors, or a dict of them by the parameters of "
                "forward",
                found=f"{type(value).__module__}.{type(value).__qualname__}",
                cure="Wrap the model in one whose forward takes tensors alone.",
            )
        check_dense(name, value, "a dense tensor")


def check_dense(name: str, value: torch.Tensor, wanted: str, file: object = None) -> None:
    """Go on only with a tensor that a program can take.

    Raises:
        UsageError: it is a meta, sparse, nested or quantized one.
    """
    if (kind := unusual(value)) is not None:
        raise UsageError(
            "the inputs of a program are dense tensors with values",
            file=file,
            tensor=name,
            wanted=wanted,
            found=f"a {kind} tensor",
        )


def unusual(tensor: torch.Tensor) -> str | None:
    """What kind of tensor no program takes or gives; None for a dense one with values."""
    if tensor.is_meta:
        return "meta"
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    return None


def _misfit(model: nn.Module, signature: inspect.Signature, found: str) -> UsageError:
    takes = ", ".join(map(str, signature.parameters.values()))
    return UsageError(
        "the example does not fit what the model is called with",
        wanted=f"{type(model).__name__}.forward({takes})"[:300],
        found=found[:300],
    )
