"""TorchScript: a model scripted (its code compiled), traced (one call recorded), or both.

torch says that TorchScript goes away in favour of torch.export; until then it is what runs without
Python, keeps data-dependent control flow, and can be trained further.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from holdfast.errors import ExportError, FormatError, UsageError
from holdfast.programs.forwards import is_traceable, plain
from holdfast.programs.inputs import Inputs, positional_names, signature_of
from holdfast.programs.modes import without_deprecations
from holdfast.programs.saying import first_line
from holdfast.programs.tracing import Warned, listening
from holdfast.spec.program import EXTRA_FILE, Port

METHODS = ("script", "trace")


def checked_method(method: Any, model: nn.Module) -> tuple[str, dict[str, str]]:
    """The method for the whole, and the submodules that are traced within a script, by name.

    Raises:
        UsageError: there is no such method, or no such submodule.
    """
    if isinstance(method, str) and method in METHODS:
        return method, {}
    known = dict(model.named_modules())
    if isinstance(method, Mapping) and all(how == "trace" for how in method.values()):
        missing = [name for name in method if not name or name not in known]
        if method and not missing:
            return "script", dict(method)
        wanted = f"names of submodules, such as {', '.join(list(known)[1:4]) or '(it has none)'}"
    else:
        wanted = '"script", "trace", or a script with traced submodules: {"backbone": "trace"}'
    raise UsageError("this is no method to export by", wanted=wanted, found=repr(method)[:200])


def make(
    model: nn.Module, inputs: Inputs, method: Any, structure: Any
) -> tuple[torch.jit.ScriptModule, Warned]:
    """The TorchScript module of a model, and what torch warned of.

    A trace whose outputs are nested (``structure``) as TorchScript cannot trace them gives them as
    one tuple.

    Raises:
        ExportError: it cannot be scripted or traced.
    """
    kind, parts = checked_method(method, model)
    with listening() as found:
        if kind == "trace":
            made = _traced(model, inputs, "", flat=not is_traceable(structure))
        else:
            with _with_traced(model, inputs, parts):
                made = _scripted(model)
    return made, found


def _traced(model: nn.Module, inputs: Inputs, name: str, *, flat: bool = False) -> Any:
    try:
        with plain(model, inputs, flat=flat):
            return torch.jit.trace(model, inputs.tensors, strict=False, check_trace=False)
    except Exception as error:  # a tracer raises whatever the model and torch raise
        raise ExportError(
            "this model cannot be traced",
            member=name or None,
            found=first_line(error),
            cure='Try method="script", or a .pt2 file.',
        ) from error


@contextmanager
def _unmarked(model: nn.Module) -> Iterator[None]:
    """What the compiler notes in live modules goes again."""
    before = {module for module in model.modules() if "__overloads__" in vars(module)}
    try:
        yield
    finally:
        for module in set(model.modules()) - before:
            vars(module).pop("__overloads__", None)


def _scripted(model: nn.Module) -> Any:
    if isinstance(model, torch.jit.ScriptModule):
        return model
    parametrized = [n for n, module in model.named_modules() if is_parametrized(module)]
    if parametrized:
        raise ExportError(
            "this model cannot be scripted: its weights are computed by parametrizations",
            member=parametrized[0] or type(model).__name__,
            found="torch: Parametrization is not working with scripting",
            cure="torch.nn.utils.parametrize.remove_parametrizations(module, name) keeps what they "
            'compute now; or method="trace" or a .pt2 file may do.',
        )
    try:
        with _unmarked(model):
            return torch.jit.script(model)
    except Exception as error:  # the compiler raises errors of many classes
        with _unmarked(model):
            layer = _culprit(model)
        named = f'{{"{layer}": "trace"}}' if layer else '"trace"'
        raise ExportError(
            "this model cannot be scripted: TorchScript does not take all of Python",
            member=layer or f"{type(model).__name__}.forward",
            found=_reason(error),
            cure=f"Change that code, or trace it where it has no control flow: method={named}. "
            "A .pt2 file (torch.export) takes more of Python.",
        ) from error


def _culprit(model: nn.Module) -> str | None:
    """The innermost submodule that cannot be scripted; "" for the model itself."""
    for name, module in sorted(model.named_modules(), key=lambda pair: -pair[0].count(".")):
        if not name:
            continue
        try:
            torch.jit.script(module)
        except Exception:
            return str(name)
    return None


def _reason(error: Exception) -> str:
    """What the compiler says, with the line of code it points at."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    pointed = [place for place, line in enumerate(lines) if "<--- HERE" in line]
    code = lines[pointed[0] - 1].strip() if pointed and pointed[0] else ""
    where = next((line.strip() for line in lines if line.strip().startswith("File ")), "")
    said = lines[0].strip() if lines else type(error).__name__
    parts = [said, f"in: {code}" if code and code not in said else "", where.rstrip(":")]
    return "; ".join(part for part in parts if part)[:400]


@contextmanager
def _with_traced(model: nn.Module, inputs: Inputs, parts: Mapping[str, str]) -> Iterator[None]:
    """The model with traces in the places of some submodules, until the end of the block."""
    if not parts:
        yield
        return
    calls = _calls(model, inputs, parts)
    before = {name: model.get_submodule(name) for name in parts}
    try:
        for name, module in before.items():
            _put(model, name, _traced(module, calls[name], name))
        yield
    finally:
        for name, module in before.items():
            _put(model, name, module)


def _calls(model: nn.Module, inputs: Inputs, parts: Mapping[str, str]) -> dict[str, Inputs]:
    """What those submodules are called with when the model is."""
    found: dict[str, Inputs] = {}

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            names = (*positional_names(signature_of(module), len(args)), *kwargs)
            values = (*args, *kwargs.values())
            for each, value in zip(names, values, strict=True):
                if not _is_of_tensors(value):
                    raise _untraceable(name, each, value)
            found.setdefault(name, Inputs(names, values, tuple(kwargs)))

        return note

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True)
        for name in parts
    ]
    try:
        model(*inputs.args, **inputs.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for name in parts:
        if name not in found:
            raise ExportError(
                "a submodule that is to be traced is not called by the model", member=name
            )
    return found


def _is_of_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_of_tensors, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_of_tensors, value))
    return isinstance(value, torch.Tensor)


def _untraceable(layer: str, name: str, value: Any) -> ExportError:
    return ExportError(
        "a submodule that is to be traced is called with what is no tensor",
        member=layer,
        tensor=name,
        found=repr(value)[:100],
        cure="Trace the submodules within it, or the one around it; or script it.",
    )


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, module)


def frozen(made: torch.jit.ScriptModule) -> Any:
    """The same with its weights as constants of the code.

    Raises:
        UsageError: it is in training mode.
    """
    if made.training:
        raise UsageError(
            "a frozen program cannot be trained: its weights are constants",
            cure="Leave out train=True, or freeze=True.",
        )
    with without_deprecations():
        return torch.jit.freeze(made)


def save(made: torch.jit.ScriptModule, path: Path, record: str) -> None:
    """Write it, with the record as an extra file.

    By way of memory: where the disk is full, torch's own writer ends the process.

    Raises:
        ExportError: something in it has no form in a file.
    """
    data = io.BytesIO()
    try:
        with without_deprecations():
            torch.jit.save(made, data, _extra_files={EXTRA_FILE: record.encode()})
    except RuntimeError as error:  # of torch's serializer
        raise ExportError(
            "this program cannot be saved as TorchScript",
            found=first_line(error),
            cure="Code that is not torch's own (a torch.autograd.Function) has no form in a file: "
            "write its forward with torch's operators.",
        ) from error
    path.write_bytes(data.getbuffer())


def load(path: Path, device: Any) -> torch.jit.ScriptModule:
    """Load it onto a device; this runs code that is in the file."""
    with without_deprecations(), warnings.catch_warnings():
        made: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)
    return made


def ports_of(module: Any, path: Path) -> tuple[list[Port], dict[str, Any]]:
    """What the forward of a TorchScript module takes, and the defaults that it has.

    Raises:
        FormatError: it has no forward.
    """
    if not hasattr(module, "forward"):
        others = [name for name in module._c._method_names() if not name.startswith("_")]
        raise FormatError(
            "this TorchScript module has no forward, so it cannot be called",
            file=path,
            found=f"the methods {', '.join(others)}" if others else "no method",
            cure="torch.jit.load(path) gives the module, and runs code that is in the file.",
        )
    arguments = module.forward.schema.arguments[1:]
    tensors = ("Tensor", "Optional[Tensor]")
    kinds = [(each.name, str(each.type)) for each in arguments]
    ports = [Port(name) if kind in tensors else Port(name, kind) for name, kind in kinds]
    return ports, {each.name: each.default_value for each in arguments if each.has_default_value()}


__all__ = ["METHODS", "checked_method", "frozen", "load", "make", "ports_of", "save"]
