"""A model becomes a program, and a program is loaded: short stories of calls to ``programs``."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.errors import FormatError, HoldfastError, UsageError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.programs import modes, nesting, trusting
from holdfast.programs.describing import input_ports, output_ports
from holdfast.programs.devices import usable
from holdfast.programs.inputs import Inputs, as_inputs
from holdfast.programs.making import Wish, commit_all, compared, make, scratch
from holdfast.programs.program import ExportedProgram, OnnxProgram, Program, TorchScriptProgram
from holdfast.programs.report import ExportReport
from holdfast.programs.saying import said
from holdfast.programs.sizes import as_dims, cases, widened
from holdfast.restoring import load_parts
from holdfast.runs import where
from holdfast.spec.program import Port, ProgramRecord
from holdfast.state.match import Options
from holdfast.state.names import unwrap
from holdfast.state.parts import as_parts

#: The suffix or the name of each format.
_FORMATS = {
    "torchscript": ("ts", "torchscript"),
    "torch.export": ("pt2", "torch.export"),
    "onnx": ("onnx",),
}


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    dynamic: Any = "batch",
    opset: int | None = None,
    method: Any = "script",
    freeze: bool = False,
    check: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    trust: Any = (),
    train: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> ExportReport:
    """Write a model with its computation: TorchScript (.ts), torch.export (.pt2) or ONNX (.onnx).

    The program is run in its own runtime and compared with the model, on the example and on other
    values and sizes, before the file gets its name. The modes of the model and its submodules are
    put back, nothing is moved.

    Args:
        model: the model, on the device of the example.
        example_inputs: a tensor, a tuple of them, or a dict of them by the parameters of forward.
        path: the file; its suffix says the format (.ts, .torchscript, .pt2, .onnx).
        format: ``torchscript``, ``pt2`` or ``onnx``, where the suffix does not say.
        dynamic: which dimensions may have any size: ``"batch"``, the first of each input; names by
            input and dimension, ``{"x": {0: "batch", 2: "length"}}``; None for none.
        opset: of ONNX, that operator set or an error; None takes torch's default.
        method: of TorchScript: ``"script"``, ``"trace"``, or a script in which some submodules are
            traced: ``{"backbone": "trace"}``.
        freeze: of TorchScript: make the weights constants of the code.
        check: False writes it without comparing.
        checkpoint: weights to load into the model first, by any path that ``load_model`` takes;
            the model keeps them, also where the export fails.
        trust: classes that the checkpoint may build.
        train: of TorchScript: keep training mode where the model is in it.
        input_names: what the inputs are called from outside; by default as in ``forward``.
        output_names: what the outputs are called.

    Raises:
        ExportError: the model cannot become such a program, or the program computes something else.
        UsageError: an option or an input that does not fit.
        MismatchError, FormatError: the checkpoint does not fit, or cannot be read.
        MissingExtraError: ONNX needs packages that are not installed.
        FileError: the file cannot be written; what was there before is untouched.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            "export() takes a model",
            wanted="an instance of torch.nn.Module",
            found=f"{type(model).__module__}.{type(model).__qualname__}",
        )
    kind = _kind_of(path, format)
    model = unwrap(model)  # the wrappers of training (compile, DataParallel) stay behind
    _check_options(kind, opset=opset, method=method, freeze=freeze, train=train)
    inputs = as_inputs(model, example_inputs, input_names)
    dims = as_dims(dynamic, inputs)
    target = _target(path)
    parent = {} if checkpoint is None else _loaded(checkpoint, model, trust)
    _check_weights(model)  # which may have come just now
    with (
        modes.unwrapped_within(model),
        modes.exported(model, train=train) as buffers,
        scratch(target) as folder,
    ):
        wide = widened(inputs, dims)
        wish = Wish(kind, model, wide, dims, opset, method, freeze, buffers)
        call = partial(_call, model, buffers)
        outputs, structure = output_ports(call, inputs, wide, dims, output_names)
        record = _record(wish, input_ports(inputs, dims), outputs, structure, parent)
        made = make(wish, record, folder, target.name)
        tried = cases(inputs, dims, made.record.ranges)
        checked = compared(made, wish, call, tried) if check else None
        files = commit_all(made, target, kind)
    trusting.note_ours(target)
    return ExportReport(
        path=os.fspath(path),
        format=kind,
        method=made.record.method,
        nbytes=sum(file.stat().st_size for file in files),
        inputs=record.inputs,
        outputs=record.outputs,
        record=made.record,
        opset=made.opset,
        checked=checked,
        files=tuple(map(str, files)),
        notes=(*made.lost, *made.notes),
    )


def load_program(
    path: str | os.PathLike[str],
    *,
    device: Any = "cpu",
    providers: Sequence[str] | None = None,
    trust: Any = (),
) -> Program:
    """Load a program: TorchScript, torch.export or ONNX, found by the file's bytes.

    TorchScript and torch.export files are code: they are loaded with ``trust=True``, or when this
    process exported them. ``providers`` are ONNX Runtime's; by default those of the device.

    Raises:
        UntrustedError: it would run code of a file that this process did not export.
        FormatError: the file is no program, or is damaged.
        MissingExtraError: ONNX needs onnxruntime, which is not installed.
    """
    with open_source(path) as source:
        index = read_index(source)
    record = None if index.program is None else index.program.record
    place = Path(os.path.realpath(path))
    if providers is not None and not isinstance(providers, list | tuple):
        wanted = 'a list of names, ["CPUExecutionProvider"]'
        raise UsageError("providers are several", wanted=wanted, found=repr(providers)[:100])
    if index.format == "onnx":
        return OnnxProgram(place, str(device), providers, record)
    kinds = {"torchscript": TorchScriptProgram, "exported": ExportedProgram}
    if index.format not in kinds:
        raise FormatError(
            "this file is no program",
            file=path,
            wanted="TorchScript, torch.export (.pt2) or ONNX",
            found=index.format,
            cure="It holds weights alone: holdfast.load_model(path, model).",
        )
    if providers is not None:
        raise UsageError("providers are ONNX Runtime's, and this is no ONNX file", file=path)
    trusting.check(place, trust, "this file")
    there = usable(device)
    try:
        return kinds[index.format](place, there, record)
    except (HoldfastError, MemoryError):
        raise
    except Exception as error:  # of torch's loaders, which raise whatever a damaged file leads to
        raise FormatError(
            "torch cannot load this program",
            file=path,
            found=said(error),
            cure="Made by another version of torch? Export it anew.",
        ) from error


def _target(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a NUL
        raise UsageError("this is no path", found=repr(path)[:100]) from error


def _kind_of(path: Any, format: str | None) -> str:
    if not isinstance(path, str | os.PathLike):
        raise UsageError("a program is written to a path", found=repr(path)[:100])
    asked = Path(path).suffix.lstrip(".").lower() if format is None else format
    for kind, names in _FORMATS.items():
        if asked in names:
            return kind
    raise UsageError(
        "what kind of program to write is not known",
        wanted='a suffix .ts, .torchscript, .pt2 or .onnx, or format="torchscript", "pt2", "onnx"',
        found=os.fspath(path) if format is None else repr(format),
    )


def _check_options(kind: str, *, opset: Any, method: Any, freeze: bool, train: bool) -> None:
    if freeze and train:
        raise UsageError("a frozen program cannot be trained: leave out train=, or freeze=")
    misplaced = {
        "opset=": opset is not None and kind != "onnx",
        "method=": method != "script" and kind != "torchscript",
        "freeze=": freeze and kind != "torchscript",
        "train=": train and kind != "torchscript",
    }
    for option, is_given in misplaced.items():
        if is_given:
            place = "ONNX" if option == "opset=" else "TorchScript"
            raise UsageError(f"{option} is for {place}", found=f"a {kind} file")


def _loaded(checkpoint: str | os.PathLike[str], model: nn.Module, trust: Any) -> dict[str, Any]:
    """Load the weights; what to record of where they came from."""
    if not isinstance(checkpoint, str | os.PathLike):
        raise UsageError("a checkpoint is named by a path", found=repr(checkpoint)[:100])
    place = where.resolve(checkpoint)
    live = as_parts({"model": model})
    report = load_parts(place, live, Options(), rng=False, trust=trust)
    return {"id": report.id, "step": report.step, "file": os.fspath(checkpoint)}


def _check_weights(model: nn.Module) -> None:
    if not hasattr(model, "training"):
        raise UsageError(
            "a frozen TorchScript module cannot be exported: its weights are constants",
            cure="It is a program as it is: torch.jit.save. Or export what it was frozen from.",
        )
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise UsageError(
                "the model has no weights: it is on the meta device",
                tensor=name,
                cure='Give it memory, model.to_empty(device="cpu"), and weights: checkpoint=...',
            )


def _record(
    wish: Wish, inputs: tuple[Port, ...], outputs: tuple[Port, ...], structure: Any, parent: Any
) -> ProgramRecord:
    return ProgramRecord(
        method=wish.kind,
        inputs=inputs,
        outputs=outputs,
        keywords=wish.inputs.keywords,
        structure=structure,
        is_training=wish.model.training,
        source=_class_of(wish.model),
        parent=parent,
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )


def _class_of(model: nn.Module) -> str:
    kind = type(model)
    if isinstance(model, torch.jit.ScriptModule):
        return str(model.original_name)
    return f"{kind.__module__}.{kind.__qualname__}"


def _call(model: nn.Module, buffers: modes.Buffers, inputs: Inputs) -> Any:
    """What the model gives as it is now: each call finds its buffers as they were."""
    torch.manual_seed(0)  # for what is random in training mode; the caller's state comes back
    given = inputs.copied()
    try:
        return nesting.own(model(*given.args, **given.kwargs))
    finally:
        buffers.put_back()


__all__ = ["ExportReport", "Program", "export", "load_program"]
