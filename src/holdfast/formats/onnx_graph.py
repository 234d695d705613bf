"""What an ONNX graph takes, gives and calls: ports and operators, by position, nothing run."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.formats.onnx_tensor import dtype_of
from holdfast.formats.protobuf import BYTES, VARINT, Field, Walker
from holdfast.spec.program import Port

#: The fields of GraphProto, ValueInfoProto, TypeProto, TensorShapeProto and NodeProto (onnx.proto).
_INPUT, _OUTPUT = 11, 12
_NAME, _TYPE, _ELEMENT, _SHAPE, _DIM, _VALUE, _PARAM = 1, 2, 1, 2, 1, 1, 2
#: Dense and sparse ones, laid out alike; and what is no tensor.
_TENSORS, _OTHERS = (1, 8), {4: "sequence", 5: "map", 9: "optional"}
OPERATOR, DOMAIN = 4, 7
#: More than any graph has; what is beyond is left out.
_MOST_PORTS = _MOST_OPERATORS = 10_000
_LONGEST_NAME = 1000


@dataclass(slots=True)
class Calls:
    """The ports of a graph and the operators of it and of graphs inside it, with their counts."""

    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    operators: dict[str, int] = field(default_factory=dict)

    def port(self, walker: Walker, each: Field) -> None:
        """Take up a field of the graph if it is an input or an output."""
        ports = {_INPUT: self.inputs, _OUTPUT: self.outputs}.get(each.number)
        if ports is not None and len(ports) < _MOST_PORTS:
            ports.append(_port(walker, each))

    def node(self, operator: str, domain: str) -> None:
        """Count a node; operators of ONNX itself go without their domain."""
        name = operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"
        if name in self.operators or len(self.operators) < _MOST_OPERATORS:
            self.operators[name] = self.operators.get(name, 0) + 1


def short(walker: Walker, each: Field) -> str:
    """A name, or as much of it as a name may have."""
    return walker.text(each, most=_LONGEST_NAME)


def _port(walker: Walker, port: Field) -> Port:
    name, dtype, shape = "", None, None
    for each in walker.fields(port.start, port.end):
        if each.wire == BYTES and each.number == _NAME:
            name = short(walker, each)
        elif each.wire == BYTES and each.number == _TYPE:
            for kind in walker.fields(each.start, each.end):
                if kind.wire == BYTES and kind.number in _TENSORS:
                    dtype, shape = _tensor(walker, kind)
                elif kind.wire == BYTES and kind.number in _OTHERS:
                    dtype, shape = _OTHERS[kind.number], None
    return Port(name, dtype, shape)


def _tensor(walker: Walker, kind: Field) -> tuple[str | None, tuple[int | str | None, ...] | None]:
    dtype: str | None = None
    shape: list[int | str | None] | None = None
    for each in walker.fields(kind.start, kind.end):
        if each.number == _ELEMENT and each.wire == VARINT:
            dtype = dtype_of(each.value)
        elif each.number == _SHAPE and each.wire == BYTES:
            dims = walker.fields(each.start, each.end)
            shape = [_dim(walker, dim) for dim in dims if dim.number == _DIM and dim.wire == BYTES]
    return dtype, None if shape is None else tuple(shape)


def _dim(walker: Walker, dim: Field) -> int | str | None:
    size: int | str | None = None
    for each in walker.fields(dim.start, dim.end):
        if each.number == _VALUE and each.wire == VARINT and each.value < 1 << 63:
            size = each.value
        elif each.number == _PARAM and each.wire == BYTES and each.nbytes:
            size = short(walker, each)
    return size
