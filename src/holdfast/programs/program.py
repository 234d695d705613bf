"""A program that is loaded: one object for TorchScript, torch.export and ONNX."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from holdfast.errors import HoldfastError, UsageError
from holdfast.programs import onnx_running, torch_export, torchscript
from holdfast.programs.calling import bound, checked
from holdfast.programs.modes import without_deprecations
from holdfast.programs.nesting import flatten, nested
from holdfast.programs.saying import first_line
from holdfast.spec.program import Port, ProgramRecord

#: The least and the largest size of a dynamic dimension, by its name.
Ranges: TypeAlias = Mapping[str, tuple[int, int | None]]


class Program(ABC):
    """Callable with tensors or NumPy arrays, by position or by name; gives the same kind back.

    ``inputs`` and ``outputs`` are ports: name, dtype, shape with the names of dynamic dimensions.
    ``metadata`` is what ``export`` recorded (empty for files of others), ``format`` one of
    ``torchscript``, ``torch.export``, ``onnx``.
    """

    format: str

    def __init__(
        self,
        path: Path,
        record: ProgramRecord | None,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        *,
        defaults: Mapping[str, Any] | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        self.path = path
        self.inputs = tuple(inputs if record is None else record.inputs)
        self.outputs = tuple(outputs if record is None else record.outputs)
        self.metadata: dict[str, Any] = {} if record is None else record.to_json()
        self._record = record
        self._defaults = {} if record is not None else dict(defaults or {})
        self._ranges: Ranges = (ranges or {}) if record is None else record.ranges

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it: tensors or arrays by position, by name, or one dict of them by name.

        Raises:
            UsageError: a name, a dtype or a shape that the program does not take, or values that it
                fails on.
        """
        if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
            kwargs, args = dict(args[0]), ()
        values = bound(self.inputs, args, kwargs, defaults=self._defaults, file=self.path)
        tensors = checked(self.inputs, values, self._ranges, file=self.path)
        try:
            result = self.run(tensors)
        except (HoldfastError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each runtime has errors of its own
            raise UsageError(
                "the program fails on what it is called with",
                file=self.path,
                found=first_line(error),
                cure="Its inputs have the right dtypes and shapes: are their values such as the "
                "model takes?",
            ) from error
        given = [value for port, value in zip(self.inputs, values, strict=True) if port.is_tensor]
        are_arrays = bool(given) and all(isinstance(v, np.ndarray | np.generic) for v in given)
        return _as_arrays(result) if are_arrays else result

    def __repr__(self) -> str:
        takes = ", ".join(map(str, self.inputs))
        gives = ", ".join(map(str, self.outputs))
        return f"<{self.format} program {self.path.name}: ({takes}) -> ({gives})>"

    @property
    def module(self) -> Any:
        """The TorchScript module, for further training, or torch.export's graph as a module.

        An optimizer for it has to be made anew: the parameters are other ones than the model's.
        """
        raise UsageError(
            "an ONNX program is no module",
            file=self.path,
            cure="Export to .ts for further training, or load the weights: holdfast.load_state.",
        )

    @abstractmethod
    def run(self, tensors: Sequence[Any]) -> Any:
        """What comes of tensors in the order of the inputs; nothing is checked before."""


class TorchScriptProgram(Program):
    """A TorchScript module."""

    format = "torchscript"

    def __init__(self, path: Path, device: torch.device, record: ProgramRecord | None) -> None:
        self._module = torchscript.load(path, device)
        self._device = device
        inputs, defaults = torchscript.ports_of(self._module, path)
        super().__init__(path, record, inputs, (), defaults=defaults)

    @property
    def module(self) -> torch.jit.ScriptModule:
        """The module itself, on its device; further training needs an optimizer of its own."""
        return self._module

    def run(self, tensors: Sequence[Any]) -> Any:
        """On the device; the outputs stay there."""
        there = _moved(tensors, self._device)
        keywords = () if self._record is None else self._record.keywords
        count = len(there) - len(keywords)
        named = dict(zip(keywords, there[count:], strict=True))
        with without_deprecations(), torch.no_grad():
            made = self._module(*there[:count], **named)
        if self._record is not None and self._record.method.startswith("trace"):
            return nested(self._record.structure, flatten(made)[1])  # which traces keep less of
        return made


class ExportedProgram(Program):
    """A program of torch.export."""

    format = "torch.export"

    def __init__(self, path: Path, device: torch.device, record: ProgramRecord | None) -> None:
        program = torch_export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        self._device = device
        self._graph = program.module()
        self._signature = torch_export.signature_in(program)
        inputs, outputs = torch_export.ports_of(program)
        super().__init__(path, record, inputs, outputs, ranges=torch_export.ranges_of(program))

    @property
    def module(self) -> Any:
        """The graph as a module, its parameters named as the model's."""
        return self._graph

    def run(self, tensors: Sequence[Any]) -> Any:
        """On the device; the outputs stay there."""
        args, kwargs = self._signature.nested(_moved(tensors, self._device))
        with without_deprecations(), torch.no_grad():
            return self._graph(*args, **kwargs)


class OnnxProgram(Program):
    """An ONNX model in ONNX Runtime."""

    format = "onnx"

    def __init__(
        self, path: Path, device: str, providers: Sequence[str] | None, record: ProgramRecord | None
    ) -> None:
        self._session = onnx_running.session(path, onnx_running.providers_for(device, providers))
        self._names = [each.name for each in self._session.get_inputs()]
        inputs, outputs = (
            [Port(*port) for port in onnx_running.ports_of(nodes)]
            for nodes in (self._session.get_inputs(), self._session.get_outputs())
        )
        super().__init__(path, record, inputs, outputs)

    @property
    def providers(self) -> list[str]:
        """Where ONNX Runtime runs it."""
        return list(self._session.get_providers())

    def run(self, tensors: Sequence[Any]) -> Any:
        """By the providers; the outputs are on the CPU."""
        by_name = dict(zip((port.name for port in self.inputs), tensors, strict=True))
        used = [by_name[name] for name in self._names]  # one that nothing uses may be gone
        found = onnx_running.run(self._session, self._names, used)
        if self._record is not None:
            return nested(self._record.structure, found)
        return found[0] if len(found) == 1 else tuple(found)


def _moved(values: Sequence[Any], device: torch.device) -> list[Any]:
    return [each.to(device) if isinstance(each, torch.Tensor) else each for each in values]


def _as_arrays(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _array(value)
    if isinstance(value, Mapping):
        return {key: _as_arrays(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        made = [_as_arrays(each) for each in value]
        return tuple(made) if isinstance(value, tuple) else made
    return value


def _array(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
