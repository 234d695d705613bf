"""A program that is loaded: one object for TorchScript, torch.export and ONNX."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.errors import UsageError
from holdfast.programs import onnx_running, torch_export, torchscript
from holdfast.programs.calling import bound, checked
from holdfast.programs.modes import without_deprecations
from holdfast.programs.nesting import nested
from holdfast.spec.program import Port, ProgramRecord


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
        keywords: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.inputs = tuple(inputs if record is None else record.inputs)
        self.outputs = tuple(outputs if record is None else record.outputs)
        self.metadata: dict[str, Any] = {} if record is None else record.to_json()
        self._record = record
        self._keywords = tuple(keywords if record is None else record.keywords)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it: tensors or arrays by position, by name, or one dict of them by name.

        Raises:
            UsageError: a name, a dtype or a shape that the program does not take.
        """
        if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
            kwargs, args = dict(args[0]), ()
        values = bound(self.inputs, args, kwargs, file=self.path)
        are_arrays = all(isinstance(value, np.ndarray | np.generic) for value in values)
        ranges = {} if self._record is None else self._record.ranges
        tensors = checked(self.inputs, values, ranges, file=self.path)
        result = self.run(tensors)
        return _as_arrays(result) if are_arrays and values else result

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
    def run(self, tensors: Sequence[torch.Tensor]) -> Any:
        """What comes of tensors in the order of the inputs; nothing is checked before."""

    def _split(
        self, tensors: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Those that go by position, and those that go by name."""
        count = len(tensors) - len(self._keywords)
        return list(tensors[:count]), dict(zip(self._keywords, tensors[count:], strict=True))


class TorchScriptProgram(Program):
    """A TorchScript module."""

    format = "torchscript"

    def __init__(self, path: Path, device: torch.device, record: ProgramRecord | None) -> None:
        self._module = torchscript.load(path, device)
        self._device = device
        super().__init__(path, record, _ports_of_schema(self._module), ())

    @property
    def module(self) -> torch.jit.ScriptModule:
        """The module itself, on its device; further training needs an optimizer of its own."""
        return self._module

    def run(self, tensors: Sequence[torch.Tensor]) -> Any:
        """On the device; the outputs stay there."""
        args, kwargs = self._split([tensor.to(self._device) for tensor in tensors])
        with without_deprecations(), torch.no_grad():
            return self._module(*args, **kwargs)


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
        inputs, outputs, keywords = _ports_of_graph(program)
        super().__init__(path, record, inputs, outputs, keywords)

    @property
    def module(self) -> Any:
        """The graph as a module, its parameters named as the model's."""
        return self._graph

    def run(self, tensors: Sequence[torch.Tensor]) -> Any:
        """On the device; the outputs stay there."""
        args, kwargs = self._split([tensor.to(self._device) for tensor in tensors])
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

    def run(self, tensors: Sequence[torch.Tensor]) -> Any:
        """By the providers; the outputs are on the CPU."""
        by_name = dict(zip((port.name for port in self.inputs), tensors, strict=True))
        used = [by_name[name] for name in self._names]  # one that nothing uses may be gone
        found = onnx_running.run(self._session, self._names, used)
        if self._record is not None:
            return nested(self._record.structure, found)
        return found[0] if len(found) == 1 else tuple(found)


def _ports_of_schema(module: Any) -> list[Port]:
    arguments = module.forward.schema.arguments[1:]
    return [Port(each.name) for each in arguments]


def _ports_of_graph(program: Any) -> tuple[list[Port], list[Port], list[str]]:
    _, keywords = torch_export.parameters_of(program)
    nodes = {node.name: node for node in program.graph.nodes}
    given = [name for name in program.graph_signature.user_outputs if isinstance(name, str)]
    inputs = [_port(name, nodes[name]) for name in program.graph_signature.user_inputs]
    return inputs, [_port(name, nodes[name]) for name in given], keywords


def _port(name: str, node: Any) -> Port:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return Port(name)
    sizes = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return Port(name, str(value.dtype).removeprefix("torch."), sizes)


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
