"""Make a program in a scratch folder, compare it with the model, and commit its files."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.errors import ExportError, FormatError, HoldfastError, UsageError
from holdfast.io import locks, temps
from holdfast.io.commit import commit, explain
from holdfast.io.folders import make_folders
from holdfast.io.sink import Sink
from holdfast.programs import onnx_file, torch_export, torchscript
from holdfast.programs.check import Checked, compare
from holdfast.programs.inputs import Inputs
from holdfast.programs.modes import Buffers
from holdfast.programs.nesting import constants, own
from holdfast.programs.program import ExportedProgram, OnnxProgram, Program, TorchScriptProgram
from holdfast.programs.sizes import Case, Dims
from holdfast.spec import program as records
from holdfast.spec.program import ProgramRecord

_COPIED_NBYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be made: the model on an example, and the options of its format."""

    kind: str
    model: nn.Module
    inputs: Inputs
    dims: Dims
    opset: int | None
    method: Any
    freeze: bool
    buffers: Buffers  # of the model, as they were: tracing may change them


@dataclass(slots=True)
class Made:
    """A program in a scratch folder: the files to commit, the program itself last.

    ``lost`` are branches in the model's code of which a trace keeps one.
    """

    files: list[Path]
    record: ProgramRecord
    opset: int | None = None
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A folder beside the target, gone at the end; of one that dies, at the next export.

    Raises:
        FileError: it cannot be made.
    """
    try:
        make_folders(target.parent)
        temps.sweep(target)
        folder, lock = temps.create_folder(target)
    except OSError as error:
        raise explain(error, target, what="program") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            locks.close(lock)


def make(wish: Wish, record: ProgramRecord, folder: Path, name: str) -> Made:
    """Write the program into a folder; ``name`` is the one it is to have in the end.

    Raises:
        ExportError: the model cannot become such a program.
        MissingExtraError: ONNX needs packages that are not installed.
        FileError: the disk is full, or refuses otherwise.
    """
    makers = {"torchscript": _script, "torch.export": _graph, "onnx": _onnx}
    try:
        return makers[wish.kind](wish, record, folder, name)
    except HoldfastError:
        raise
    except OSError as error:
        raise explain(error, folder.parent / name, what="program") from error


def _script(wish: Wish, record: ProgramRecord, folder: Path, _name: str) -> Made:
    kind, parts = torchscript.checked_method(wish.method, wish.model)
    made, found = torchscript.make(wish.model, wish.inputs.copied(), wish.method, record.structure)
    wish.buffers.put_back()
    if wish.freeze:
        made = torchscript.frozen(made)
    how = kind + (f" ({', '.join(parts)} traced)" if parts else "")
    how += ", frozen" if wish.freeze else ""
    file, record = folder / "program", replace(record, method=how)
    torchscript.save(made, file, records.encode(record))
    return Made([file], record, None, found.notes, found.lost)


def _graph(wish: Wish, record: ProgramRecord, folder: Path, _name: str) -> Made:
    file = folder / "program.pt2"
    made = torch_export.make(wish.model, wish.inputs.copied(), wish.dims)
    record = replace(record, ranges=made.ranges)
    torch_export.save(made.program, file, records.encode(record))
    return Made([file], record, None, made.warned.notes)


def _onnx(wish: Wish, record: ProgramRecord, folder: Path, name: str) -> Made:
    for where, value in constants(record.structure):
        if value is not None:
            raise ExportError(
                "an ONNX model gives tensors alone",
                tensor=where,
                found=repr(value)[:100],
                cure="Give a tensor there, or leave it out; .ts and .pt2 files keep it.",
            )
    _check_onnx_ports(record)
    names = tuple(port.name for port in record.outputs)
    made = onnx_file.make(
        wish.model, wish.inputs.copied(), wish.dims, folder, opset=wish.opset, outputs=names
    )
    if wish.buffers.are_changed():  # by the tracing of the older exporter, which reads them then
        raise ExportError(
            "this model changes its own buffers, and torch's older exporter would keep those of a "
            "later call",
            found=f"opset {made.opset}, by {made.exporter}",
            cure="Ask for opset 18 or above, or use a .ts or .pt2 file.",
        )
    record = replace(record, method=made.exporter, ranges=made.ranges)
    data = f"{name}.{secrets.token_hex(4)}.data"  # of its own: an older program keeps its weights
    files = onnx_file.finish(made, record, data)
    return Made(files, record, made.opset, made.notes, made.lost)


def _check_onnx_ports(record: ProgramRecord) -> None:
    """What ONNX has no form for, and says in words of its own when it is too late."""
    for port in (*record.inputs, *record.outputs):
        if port.dtype is not None and port.dtype.startswith("complex"):
            raise ExportError(
                "ONNX has no complex numbers",
                tensor=port.name,
                found=port.dtype,
                cure="Take and give torch.view_as_real(...) of them; .ts and .pt2 files keep them.",
            )
    taken = {port.name for port in record.inputs}
    for port in record.outputs:
        if not port.name or port.name in taken:
            raise UsageError(
                "in ONNX every input and output has a name of its own",
                tensor=port.name or None,
                found="an output with the name of an input" if port.name else "no name",
                cure="Name them: output_names=[...].",
            )


def compared(
    made: Made, wish: Wish, call: Callable[[Inputs], Any], tried: Iterable[Case]
) -> Checked:
    """Run the file in its own runtime beside the model.

    Raises:
        ExportError: it computes something else, or a trace may have missed a branch.
    """
    cure = "Mend the model, or write it with check=False knowing what it does."
    if wish.kind == "torchscript":
        cure = 'method="trace" or a .pt2 file may do. ' + cure
    if "trac" in made.record.method:
        cure = (
            'A trace keeps one branch of control flow and the sizes it saw: method="script" '
            "(a .ts file) keeps them all."
        )
    if made.lost:
        raise ExportError(
            "this trace holds one branch of code that depends on values: the others are lost",
            found="; ".join(made.lost)[:400],
            cure=cure,
        )
    try:
        program = _loaded(made.files[-1], wish.kind, made.record)
    except FormatError as error:  # of a scratch file, which nobody will find
        raise ExportError(
            f"what was written as {wish.kind} cannot be run: {error.what}",
            found=error.found,
            cure="Another dtype, operator set or format may do. " + cure,
        ) from error
    buffers = None if wish.kind == "onnx" else Buffers(program.module)

    def run(inputs: Inputs) -> Any:
        torch.manual_seed(0)  # as the model's call begins, for what is random in training mode
        try:
            return own(program.run(inputs.copied().tensors))
        finally:
            if buffers is not None:
                buffers.put_back()

    names = [port.name for port in made.record.outputs]
    checked = compare(call, run, tried, names, cure=cure)
    _check_is_dynamic(wish, checked)
    return checked


def _check_is_dynamic(wish: Wish, checked: Checked) -> None:
    """Refuse a dimension that is said to be dynamic, and of which the model takes one size."""
    for port, named in wish.dims.items():
        for dim, name in named.items():
            other = [label for label in checked.refused if f"{name}=" in label]
            if other and not any(f"{name}=" in label for label in checked.cases):
                raise ExportError(
                    f"dimension {dim} of {port} cannot be dynamic: the model itself refuses other "
                    "sizes",
                    wanted=f"any {name}",
                    found=f"it fails at {', '.join(other)}"[:300],
                    cure="Use x.shape[...] or -1 there; or leave the dimension out: dynamic=None "
                    "for none.",
                )


def _loaded(file: Path, kind: str, record: ProgramRecord) -> Program:
    device = torch.device("cpu")
    if kind == "onnx":
        return OnnxProgram(file, "cpu", None, record)
    return {"torchscript": TorchScriptProgram, "torch.export": ExportedProgram}[kind](
        file, device, record
    )


def commit_all(made: Made, target: Path, kind: str) -> tuple[Path, ...]:
    """Give the files their names, the program last; what an older one lay in goes then.

    Raises:
        FileError: the file system said no; what was there before is untouched.
    """
    old = _old_data(target) if kind == "onnx" else set()
    done: list[Path] = []
    try:
        for file in made.files:
            place = target if file is made.files[-1] else target.parent / file.name
            commit(place, file.stat().st_size, partial(_copy, file), what="program")
            done.append(place)
    except BaseException:
        for place in done:  # weights without their program; the program comes last
            place.unlink(missing_ok=True)
        raise
    for name in old - {place.name for place in done}:
        (target.parent / name).unlink(missing_ok=True)
    return tuple(done)


def _old_data(target: Path) -> set[str]:
    """The files that an ONNX model of ours has its weights in, if one is there already."""
    if not target.is_file():
        return set()
    try:
        found = onnx_file.data_beside(target)
    except Exception:
        return set()
    return {name for name in found if name.startswith(f"{target.name}.") and name.endswith(".data")}


def _copy(file: Path, sink: Sink) -> None:
    with file.open("rb") as opened:
        while data := opened.read(_COPIED_NBYTES):
            sink(data)
    sink.end()
