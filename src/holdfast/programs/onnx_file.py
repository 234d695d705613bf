"""ONNX: torch's exporter on top of torch.export, and its older one, on top of tracing.

The first knows operator sets from 18 on. Asked for an older one it converts what it made, and where
that fails it quietly writes the newer one; so what is written is looked at, and the older exporter
is tried, which writes the set it is asked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.errors import ExportError, MissingExtraError, UsageError
from holdfast.programs import torch_export
from holdfast.programs.forwards import plain
from holdfast.programs.inputs import Inputs
from holdfast.programs.saying import first_line
from holdfast.programs.sizes import Dims
from holdfast.programs.tracing import listening
from holdfast.spec.program import PROPERTY, Port, ProgramRecord, encode

#: The operator sets that each of torch's two exporters writes.
OLDEST, NEWEST_OLD, OLDEST_NEW = 7, 20, 18

#: A protobuf has less than 2 GiB; weights beyond this lie in a file beside it.
ONE_FILE_NBYTES = 1 << 31
_MARGIN = 1 << 24


@dataclass(slots=True)
class Made:
    """An ONNX model in a scratch folder, and how it was made."""

    path: Path
    exporter: str
    opset: int
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # branches of which a trace keeps one
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)


def need_onnx() -> Any:
    """The onnx package.

    Raises:
        MissingExtraError: it, or what torch's exporter needs, is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "onnx") from error
    return onnx


def missing_extra(package: str) -> MissingExtraError:
    """The letter for a package of the extra that is not installed."""
    return MissingExtraError(
        f"ONNX needs {package}, which is not installed", cure='pip install "holdfast[onnx]"'
    )


def make(
    model: nn.Module,
    inputs: Inputs,
    dims: Dims,
    folder: Path,
    *,
    opset: int | None,
    outputs: tuple[str, ...],
) -> Made:
    """Write the model into a folder, with the operator set asked for or not at all.

    Raises:
        ExportError: an operator that the set lacks, a dimension that is fixed, control flow.
        UsageError: there is no such operator set.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    newest = need_onnx().defs.onnx_opset_version()
    is_number = isinstance(opset, int) and not isinstance(opset, bool)
    if opset is not None and not (is_number and OLDEST <= opset <= newest):
        raise UsageError(
            "this is no operator set of ONNX that can be written",
            wanted=f"{OLDEST} to {newest}, or None",
            found=repr(opset),
        )
    if isinstance(model, torch.jit.ScriptModule) or (opset is not None and opset < OLDEST_NEW):
        return _older(model, inputs, dims, folder, opset, outputs)
    graph = torch_export.make(model, inputs, dims)
    try:
        made = _newer(graph.program, inputs, folder, opset, outputs)
        made.notes += graph.warned.notes
        made.ranges = graph.ranges
        return made
    except ExportError as error:
        if opset is not None and opset > NEWEST_OLD:
            raise
        made = _older(model, inputs, dims, folder, opset, outputs)
        made.notes.append(
            f"made by torch's older exporter, as its default one failed: "
            f"{error.found or error.what}"
        )
        return made


def _newer(
    graph: Any, inputs: Inputs, folder: Path, opset: int | None, outputs: tuple[str, ...]
) -> Made:
    path = folder / "model.onnx"
    try:
        with _quietly(), listening() as found:
            program = torch.onnx.export(
                graph,
                input_names=list(inputs.names),
                output_names=list(outputs),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(str(path))
    except OSError:
        raise
    except Exception as error:  # the exporter wraps what many packages raise
        raise _letter(error, opset) from error
    made = Made(path, "torch.onnx (torch.export)", _opset(path), found.notes)
    if opset is not None and made.opset != opset:
        raise ExportError(
            "the default exporter wrote another operator set than was asked for",
            wanted=f"opset {opset}",
            found=f"opset {made.opset}",
        )
    return made


def _older(
    model: nn.Module,
    inputs: Inputs,
    dims: Dims,
    folder: Path,
    opset: int | None,
    outputs: tuple[str, ...],
) -> Made:
    path = folder / "model.onnx"
    # By name: an axis of None would be named by torch.
    axes = {name: dict(named) for name, named in dims.items() if named}
    arguments: Any = inputs.tensors
    if isinstance(model, torch.jit.ScriptModule) and inputs.kwargs:
        arguments = (*inputs.args, inputs.kwargs)
    try:
        with _quietly(), listening() as found, plain(model, inputs, flat=True):
            torch.onnx.export(
                model,
                arguments,
                str(path),
                input_names=list(inputs.names),
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=opset,
                dynamo=False,
            )
    except OSError:
        raise
    except Exception as error:  # of torch, or of the model
        raise _letter(error, opset) from error
    made = Made(path, "torch.onnx (tracing)", _opset(path), found.notes, found.lost)
    if opset is not None and made.opset != opset:
        raise ExportError(
            "torch wrote another operator set than was asked for",
            wanted=f"opset {opset}",
            found=f"opset {made.opset}",
            cure=f"Ask for that one: opset={made.opset}.",
        )
    return made


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Both exporters print what they raise, and more; their C++ whole graphs, past Python."""
    with (
        _without_output(1),
        torch_export.quiet(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        _without_graphs(),
    ):
        yield


@contextlib.contextmanager
def _without_output(fd: int) -> Iterator[None]:
    """Nothing of what this process writes to a descriptor is seen, until the end."""
    sys.stdout.flush()
    try:
        kept = os.dup(fd)
    except OSError:  # it is closed: nothing is seen anyhow
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, fd)
        os.close(kept)


@contextlib.contextmanager
def _without_graphs() -> Iterator[None]:
    """Its C++ prints the whole graph of a model that it fails on."""
    ask = getattr(torch._C, "_jit_is_onnx_log_enabled", lambda: False)
    tell = getattr(torch._C, "_jit_set_onnx_log_enabled", lambda _: None)
    was = bool(ask())
    tell(False)
    try:
        yield
    finally:
        tell(was)


def _opset(path: Path) -> int:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    return int(found[0]) if found else 0


def _letter(error: Exception, opset: int | None) -> ExportError:
    text = "\n".join(_chain(error))
    operator = re.search(r"operator '([\w:.]+)'", text) or re.search(
        r"No ONNX function found for <OpOverload\(op='([\w:.]+)'", text
    )
    asked = "" if opset is None else f" of opset {opset}"
    if operator is None:
        return ExportError(
            "this model cannot be written as ONNX",
            found=first_line(error),
            cure="A .pt2 file takes more of torch than ONNX does.",
        )
    since = re.search(r"added in version (\d+)", text)
    return ExportError(
        f"an operator of this model has no counterpart in ONNX{asked}",
        member=operator[1],
        cure=f"It is there from opset {since[1]} on: opset={since[1]}."
        if since
        else "Try a newer opset=, write that layer with other operators, or use a .pt2 file.",
    )


def _chain(error: BaseException | None) -> Any:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def finish(made: Made, record: ProgramRecord, data_name: str) -> list[Path]:
    """Put the record into the file; the files to commit, weights beside it first.

    Dynamic dimensions get the names they were given, which torch replaces by its own.

    Where all do not fit into one file below 2 GB, the weights go to ``data_name`` beside it.
    """
    import onnx

    model = onnx.load(str(made.path))
    entry = model.metadata_props.add()
    entry.key, entry.value = PROPERTY, encode(record)
    _name_dimensions(model.graph, record.inputs)
    nbytes = sum(len(each.raw_data) for each in model.graph.initializer)
    for path in made.path.parent.iterdir():
        if path.is_file():
            path.unlink()
    if nbytes + _MARGIN < ONE_FILE_NBYTES:
        onnx.save(model, str(made.path))
        return [made.path]
    onnx.save(
        model,
        str(made.path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data_name,
        size_threshold=1024,
    )
    return [made.path.parent / data_name, made.path]


def _name_dimensions(graph: Any, inputs: Sequence[Port]) -> None:
    names: dict[str, str] = {}
    shapes = {port.name: port.shape or () for port in inputs}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, name in zip(dims, shapes.get(value.name, ()), strict=False):
            if dim.dim_param and isinstance(name, str):
                names[dim.dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def data_beside(path: Path) -> set[str]:
    """The names of files beside an ONNX model that its weights lie in, as its own bytes say."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {name for name in found if Path(name).name == name}
