"""One tensor of an ONNX model: element type, sizes, and where its bytes lie.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, message TensorProto.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import RefusedError
from holdfast.formats.protobuf import BYTES, VARINT, Field, Walker
from holdfast.spec.dtypes import BY_NAME, BY_SAFETENSORS, DType

_DIMS, _TYPE, _SEGMENT, _STRINGS, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 6, 8, 9, 13, 14
_INT32, _INT64, _UINT64, _FLOAT, _DOUBLE = 5, 7, 11, 4, 10
_SINGULAR = {_TYPE: VARINT, _NAME: BYTES, _RAW: BYTES, _LOCATION: VARINT}
_TOO_BIG = 1 << 63
#: More than any framework has.
_MOST_DIMS = 64

STRING = 8
#: ONNX's element types. Those of 4 and 2 bits have no type in torch that is as packed.
_TYPES: dict[int, DType] = {
    number: BY_NAME[name]
    for number, name in {
        1: "float32",
        2: "uint8",
        3: "int8",
        4: "uint16",
        5: "int16",
        6: "int32",
        7: "int64",
        9: "bool",
        10: "float16",
        11: "float64",
        12: "uint32",
        13: "uint64",
        14: "complex64",
        15: "complex128",
        16: "bfloat16",
        17: "float8_e4m3fn",
        18: "float8_e4m3fnuz",
        19: "float8_e5m2",
        20: "float8_e5m2fnuz",
        24: "float8_e8m0fnu",
    }.items()
} | {27: BY_SAFETENSORS["F6_E2M3"], 28: BY_SAFETENSORS["F6_E3M2"]}
#: Bits and name of types that are shown as the bytes they are packed in.
PACKED = {21: (4, "uint4"), 22: (4, "int4"), 23: (4, "float4"), 25: (2, "uint2"), 26: (2, "int2")}

#: Which field holds the numbers of a type when they are not raw bytes: ``onnx.proto`` says so.
_NUMBER_FIELDS = {1: _FLOAT, 14: _FLOAT, 11: _DOUBLE, 15: _DOUBLE, 7: _INT64} | {
    12: _UINT64,
    13: _UINT64,
}


@dataclass(slots=True)
class Proto:
    """What a TensorProto says, its fields not yet checked against each other."""

    name: str = ""
    data_type: int = 0
    dims: tuple[int, ...] = ()
    raw: Field | None = None
    numbers: dict[int, list[Field]] = field(default_factory=dict)
    strings: list[Field] = field(default_factory=list)
    external: list[Field] = field(default_factory=list)
    is_external: bool = False


def read_proto(walker: Walker, start: int, end: int) -> Proto:
    """The fields of a TensorProto.

    Raises:
        RefusedError: one that may be there once is there twice, or is of another kind.
    """
    proto, dims, met = Proto(), list[int](), set[int]()
    for each in walker.fields(start, end):
        number = each.number
        if number in _SINGULAR and (each.wire != _SINGULAR[number] or number in met):
            raise walker.refused("a tensor has each of its fields once", tensor=proto.name)
        met.add(number)
        if number == _DIMS:
            sizes = walker.varints(each.start, each.end) if each.wire == BYTES else [each.value]
            for size in sizes:
                dims.append(size)
                if len(dims) > _MOST_DIMS or size >= _TOO_BIG:
                    rule = f"a tensor has at most {_MOST_DIMS} sizes, each from 0 on"
                    raise walker.refused(rule, tensor=proto.name)
        elif number == _TYPE:
            proto.data_type = each.value
        elif number == _NAME:
            proto.name = walker.text(each)
        elif number == _RAW:
            proto.raw = each
        elif number == _LOCATION:
            proto.is_external = each.value == 1
        elif number in (_FLOAT, _INT32, _INT64, _DOUBLE, _UINT64):
            proto.numbers.setdefault(number, []).append(each)
        elif number in (_STRINGS, _EXTERNAL):
            (proto.strings if number == _STRINGS else proto.external).append(each)
        elif number == _SEGMENT:
            raise walker.refused("a tensor is stored in one piece", tensor=proto.name)
    proto.dims = tuple(dims)
    return proto


@dataclass(frozen=True, slots=True)
class Shape:
    """The geometry of a tensor as the tree has it; ``note`` says where that is not the model's."""

    dtype: DType
    sizes: tuple[int, ...]
    nbytes: int
    note: str | None = None


def dtype_of(number: int) -> str | None:
    """The name of an element type, torch's where it has it; None for one that is not known."""
    if number in PACKED:
        return PACKED[number][1]
    if number == STRING:
        return "string"
    dtype = _TYPES.get(number)
    return None if dtype is None else dtype.name


def shape_of(walker: Walker, proto: Proto) -> Shape:
    """Element type, sizes and bytes of a tensor of numbers, in exact arithmetic.

    Raises:
        RefusedError: the type is unknown, or there are too many elements.
    """
    if math.prod(size or 1 for size in proto.dims) >= _TOO_BIG:
        rule = "a tensor has fewer than 2**63 elements"
        raise walker.refused(rule, tensor=proto.name, found=f"sizes {list(proto.dims)}"[:200])
    numel = math.prod(proto.dims)
    if proto.data_type in PACKED:
        bits, name = PACKED[proto.data_type]
        nbytes = (numel * bits + 7) // 8
        note = (
            f"{proto.name[:100]} holds {name}, {8 // bits} in a byte, of sizes {list(proto.dims)}; "
            "its bytes are shown"
        )
        return Shape(BY_NAME["uint8"], (nbytes,), nbytes, note)
    dtype = _TYPES.get(proto.data_type)
    if dtype is None:
        rule = "an element type is one of ONNX's"
        raise walker.refused(rule, tensor=proto.name, found=f"number {proto.data_type}")
    return Shape(dtype, proto.dims, dtype.nbytes_of(numel))


def number_field(proto: Proto) -> tuple[int, str]:
    """The field that a tensor's numbers are in, and NumPy's name of what each becomes."""
    number = _NUMBER_FIELDS.get(proto.data_type, _INT32)
    if number in (_FLOAT, _DOUBLE):
        return number, "f4" if number == _FLOAT else "f8"
    dtype = _TYPES.get(proto.data_type)
    itemsize = 1 if dtype is None else dtype.itemsize
    return number, f"{'i' if proto.data_type in (3, 5, 6, 7) else 'u'}{itemsize}"


def is_one_place(proto: Proto) -> bool:
    """Whether the bytes are in one place only: raw, a file beside, or one kind of numbers."""
    places = [proto.raw is not None, proto.is_external, bool(proto.strings), *proto.numbers]
    return sum(map(bool, places)) <= 1


def wrong_size(walker: Walker, proto: Proto, shape: Shape, found: Any) -> RefusedError:
    """The error for a tensor with more or fewer bytes than its elements take."""
    return walker.refused(
        "a tensor has exactly the bytes of its elements",
        tensor=proto.name,
        wanted=f"{shape.nbytes:,} bytes for {shape.dtype.torch_name} {list(shape.sizes)}"[:200],
        found=f"{found:,}",
    )
