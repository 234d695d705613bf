"""torch.export: the graph of a model with the shapes it was made for, some of them dynamic."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils._pytree import tree_unflatten

from holdfast.errors import ExportError
from holdfast.programs.inputs import Inputs, signature_of
from holdfast.programs.modes import without_deprecations
from holdfast.programs.saying import first_line, said
from holdfast.programs.sizes import Dims, sizes_of
from holdfast.programs.tracing import Warned, is_theirs, listening
from holdfast.spec.program import EXTRA_FILE, Port

#: torch says at length, through these, what the error that it raises says, too.
_CHATTY = ("torch.fx.experimental.symbolic_shapes", "torch._export", "torch.onnx")


@dataclass(frozen=True, slots=True)
class Graph:
    """An exported program, and the sizes its dynamic dimensions may have where not all may be."""

    program: Any
    ranges: Mapping[str, tuple[int, int | None]]
    warned: Warned


def make(model: nn.Module, inputs: Inputs, dims: Dims) -> Graph:
    """The exported program of a model; its named dimensions take every size that can be.

    Raises:
        ExportError: a dimension is fixed, or what is computed hangs on the values of tensors.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ExportError(
            "torch.export takes models, and this is a TorchScript module",
            cure="Export the model itself, or this one as .ts or .onnx.",
        )
    ranges: _Ranges = dict.fromkeys(sizes_of(inputs, dims), _ANY)
    with quiet(), listening() as found:
        while True:
            shapes = _shapes(model, inputs, dims, ranges)
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # whole graphs of what it refuses
                    made = torch.export.export(
                        model, inputs.args, inputs.kwargs, dynamic_shapes=shapes
                    )
                break
            except Exception as error:  # it raises errors of many modules of torch, and of models
                narrower = _narrowed(str(error), ranges)
                if narrower is None:
                    raise _letter(error, inputs, dims) from error
                ranges = narrower
    return Graph(made, {name: each for name, each in ranges.items() if each != _ANY}, found)


def save(made: Any, path: Path, record: str) -> None:
    """Write it, with the record as an extra file.

    By way of memory: where the disk is full, torch's own writer ends the process.

    Raises:
        ExportError: something in it has no form in a file, such as a named tuple.
    """
    data = io.BytesIO()
    try:
        with without_deprecations():
            torch.export.save(made, data, extra_files={EXTRA_FILE: record})
    except MemoryError:
        raise
    except Exception as error:  # of torch's serializer
        raise ExportError(
            "this program cannot be saved as a .pt2 file",
            found=first_line(error),
            cure="Give plain tuples, lists and dicts from forward; or use a .ts or .onnx file.",
        ) from error
    path.write_bytes(data.getbuffer())


def load(path: Path) -> Any:
    """Load it; this runs code that is in the file."""
    with without_deprecations(), quiet():
        return torch.export.load(str(path))


_Ranges = Mapping[str, tuple[int, int | None]]
_ANY: tuple[int, int | None] = (1, None)
#: A range is narrowed one by one where torch says only that its least size is not possible.
_MOST_LEAST = 64


def _narrowed(text: str, ranges: _Ranges) -> _Ranges | None:
    """The ranges that torch suggests; None where it suggests something else, or nothing new.

    A convolution takes no image smaller than its kernel: that is no reason to refuse the others.
    """
    found = dict(ranges)
    suggested = text.partition("Suggested fixes:")[2]
    for name, rest in re.findall(r"^\s+(\w+) = (\S.*)$", suggested, re.MULTILINE):
        bounds = re.fullmatch(rf"Dim\('{name}'(?:, min=(\d+))?(?:, max=(\d+))?\)", rest)
        if name not in found or bounds is None:
            return None
        least, most = found[name]
        most = int(bounds[2]) if bounds[2] else most
        found[name] = (int(bounds[1] or least), most)
    if found == ranges and not suggested:  # a size at which something in it would be one
        guards = r"Not all values of (\w+) = .* satisfy the generated guard .* != 1\."
        for name in {name for name in re.findall(guards, text) if name in found}:
            least, most = found[name]
            found[name] = (least + 1, most)
    is_new = found != ranges and all(least <= _MOST_LEAST for least, _ in found.values())
    return found if is_new else None


def _shapes(model: nn.Module, inputs: Inputs, dims: Dims, ranges: _Ranges) -> dict[str, Any] | None:
    """The dynamic dimensions, nested as the parameters of ``forward`` are."""
    if not dims:
        return None
    made = {
        name: torch.export.Dim(name, min=least, max=most) for name, (least, most) in ranges.items()
    }
    by_input = [
        {dim: made[given] for dim, given in dims.get(name, {}).items()} or None
        for name in inputs.names
    ]
    count = len(inputs.args)
    kwargs = dict(zip(inputs.keywords, by_input[count:], strict=True))
    bound = signature_of(model).bind(*by_input[:count], **kwargs)
    for name in bound.arguments:
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            raise ExportError(
                "torch.export takes no dynamic sizes of what forward has no parameter for",
                wanted="a parameter for each input",
                found=f"**{name}",
                cure="Name the inputs in forward, or use dynamic=None. A .ts file by "
                'method="trace" takes them.',
            )
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
            found=code_at(error),
            cure='TorchScript keeps such control flow: a .ts file with method="script". '
            "Or write it with torch.where or torch.cond.",
        )
    return ExportError(
        "this model cannot be exported by torch.export",
        found=first_line(error),
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


def code_at(error: BaseException) -> str:
    """The line of the user's code that torch points at, with its place."""
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s+([^\n]+)', str(error))
    if not places:  # then it was raised while that code ran
        frames = traceback.extract_tb(error.__traceback__)
        places = [
            (frame.filename, frame.lineno, frame.name, frame.line or "")
            for frame in frames
            if is_theirs(Path(frame.filename))
        ]
    own = [place for place in places if not place[0].startswith("<")]
    if not own:
        return said(error)
    file, line, function, code = own[-1]
    return f"{Path(file).name}:{line}, in {function}: {code.strip()}"[:300]


@dataclass(frozen=True, slots=True)
class Signature:
    """How the inputs of an exported program are nested, and what in them is constant."""

    spec: Any  # torch's TreeSpec of (args, kwargs)
    arguments: tuple[Any, ...]

    def nested(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, of the values that are no constants, in their order."""
        given = iter(values)
        leaves = [each.value if _is_constant(each) else next(given) for each in self.arguments]
        args, kwargs = tree_unflatten(leaves, self.spec)
        return tuple(args), dict(kwargs)


def signature_in(program: Any) -> Signature:
    """The signature of an exported program."""
    specs = program.graph_signature.input_specs
    given = tuple(each.arg for each in specs if each.kind is InputKind.USER_INPUT)
    return Signature(program.call_spec.in_spec, given)


def ports_of(program: Any) -> tuple[list[Port], list[Port]]:
    """What an exported program takes and gives, constants left out."""
    nodes = {node.name: node for node in program.graph.nodes}
    given = [name for name in program.graph_signature.user_outputs if isinstance(name, str)]
    taken = [each for each in signature_in(program).arguments if not _is_constant(each)]
    return [_port(nodes[each.name]) for each in taken], [_port(nodes[name]) for name in given]


def _is_constant(argument: Any) -> bool:
    return isinstance(argument, ConstantArgument)


def _port(node: Any) -> Port:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return Port(node.name, None if value is None else _kind(value))
    sizes = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return Port(node.name, str(value.dtype).removeprefix("torch."), sizes)


def _kind(value: Any) -> str:
    symbolic = {torch.SymInt: "int", torch.SymFloat: "float", torch.SymBool: "bool"}
    return symbolic.get(type(value), type(value).__name__)


def ranges_of(program: Any) -> dict[str, tuple[int, int | None]]:
    """The sizes that its dynamic dimensions may have, by the names that ports give them."""
    constraints = program.range_constraints.items()
    return {
        str(symbol): (_size(each.lower) or 0, _size(each.upper)) for symbol, each in constraints
    }


def _size(bound: Any) -> int | None:
    """A bound of torch's, which is an int, one of sympy's, or infinite in one of several ways."""
    is_finite = isinstance(bound, int) or bound.is_Integer
    return int(bound) if is_finite and bound < sys.maxsize else None
