"""What a program takes and gives, and where it comes from: its ports, and the record in its file.

The record is JSON in the file's own metadata: the extra file ``holdfast.json`` of TorchScript and
torch.export, the entry ``holdfast`` of ONNX's ``metadata_props``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import FormatError

#: The version of the record's layout; readers take this one and older ones.
VERSION = 1

#: Where the record lies: an extra file of TorchScript and torch.export, a property of ONNX.
EXTRA_FILE = "holdfast.json"
PROPERTY = "holdfast"
#: Outputs are nested in at most 50 levels, and a record has two for each.
_DEEPEST = 150


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: ``shape`` holds sizes, names of dynamic dimensions, or None (unknown).

    ``dtype`` is torch's name of it without ``torch.``; both are None where the file does not say.
    Of what is no tensor it is the kind alone: ``int``, ``string``, ``sequence``.
    """

    name: str
    dtype: str | None = None
    shape: tuple[int | str | None, ...] | None = None

    @property
    def is_tensor(self) -> bool:
        """Whether it takes or gives a tensor, as far as the file says."""
        return self.dtype is None or self.shape is not None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype or 'any tensor'}"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype or 'any dtype'} [{sizes}]"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        shape = None if self.shape is None else list(self.shape)
        return {"name": self.name, "dtype": self.dtype, "shape": shape}


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """What ``export`` knew of a program.

    ``method`` is how it was made (``script``, ``trace``, ``torch.export``, ``onnx``). ``keywords``
    are the parameters of ``forward`` that the inputs go to where they are given by name; the first
    ones, that are not, go by position. ``structure`` is how the outputs are nested: a place in
    ``outputs``, a list of structures, a mapping of them, or a constant (see ``programs.nesting``).
    ``source`` is the class of the model and ``parent`` the checkpoint its weights were loaded from
    (``id``, ``step``, ``file``). ``versions`` are those of Python and the packages. ``ranges`` are
    the sizes that a dynamic dimension may have, where that is not every one: ``(least, most)``.
    """

    method: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    keywords: tuple[str, ...] = ()
    structure: Any = None
    is_training: bool = False
    source: str | None = None
    parent: Mapping[str, Any] = field(default_factory=dict)
    time: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        ports = ("inputs", "outputs")
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            "holdfast_program": VERSION,
            **values,
            **{name: [port.to_json() for port in values[name]] for name in ports},
            "keywords": list(self.keywords),
            "parent": dict(self.parent),
            "versions": dict(self.versions),
            "ranges": {name: list(each) for name, each in self.ranges.items()},
        }


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What a program's file says without being run.

    ``operators`` counts what its graph or code calls, ``opsets`` are ONNX's by domain. ``inputs``
    and ``outputs`` are those of the record, else what the file itself says of them.
    """

    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    opsets: Mapping[str, int] = field(default_factory=dict)
    record: ProgramRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [port.to_json() for port in self.outputs],
            "operators": dict(self.operators),
            "opsets": dict(self.opsets),
            "record": None if self.record is None else self.record.to_json(),
        }


def encode(record: ProgramRecord) -> str:
    """The text of the record."""
    return json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False)


def decode(text: str, *, file: object = None) -> ProgramRecord:
    """Read a record's text; unknown keys of later versions are left out.

    Raises:
        FormatError: it is no record of a program.
    """
    try:
        values = json.loads(text)
        _check_plain(values, 0)
        # NaN, Infinity and lone surrogates, which JSON has not and Python's reader takes
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
        if not isinstance(values, dict) or not isinstance(values.get("holdfast_program"), int):
            raise ValueError("no key 'holdfast_program'")
        return ProgramRecord(
            method=_is(str, values["method"]),
            inputs=_ports(values["inputs"]),
            outputs=_ports(values["outputs"]),
            keywords=tuple(_is(str, name) for name in _is(list, values["keywords"])),
            structure=values["structure"],
            is_training=_is(bool, values["is_training"]),
            source=None if values["source"] is None else _is(str, values["source"]),
            parent=_is(dict, values["parent"]),
            time=None if values["time"] is None else _is(str, values["time"]),
            versions=_is(dict, values["versions"]),
            ranges={name: _range(each) for name, each in _is(dict, values["ranges"]).items()},
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            "the record of this program cannot be read",
            file=file,
            member=EXTRA_FILE,
            wanted="a JSON object that holdfast wrote",
            found=str(error)[:200],
            cure="The program may be whole all the same.",
        ) from error


def _check_plain(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels of values")
    inner = value.values() if isinstance(value, dict) else value
    for each in inner if isinstance(value, dict | list) else ():
        _check_plain(each, depth + 1)


def _ports(values: Any) -> tuple[Port, ...]:
    return tuple(_port(value) for value in _is(list, values))


def _port(value: Any) -> Port:
    dtype, shape = value["dtype"], value["shape"]
    if shape is not None and not _is_shape(shape):
        raise ValueError(f"a shape of {shape!r}"[:100])
    return Port(
        _is(str, value["name"]),
        None if dtype is None else _is(str, dtype),
        None if shape is None else tuple(shape),
    )


def _range(value: Any) -> tuple[int, int | None]:
    least, most = _is(list, value)
    return _is(int, least), None if most is None else _is(int, most)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(
        size is None or isinstance(size, str) or (type(size) is int and 0 <= size < 1 << 63)
        for size in shape
    )


def _is(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is needed")
    return value
