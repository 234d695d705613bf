"""An assembler for pickles and archives that no honest writer would write."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import pytest

from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.tensors.load import load_file


class Raw(bytes):
    """Opcodes as they are."""


class Assembler:
    """Values to opcodes, pickles to archives."""

    raw = Raw

    def ops(self, value: Any) -> bytes:
        if isinstance(value, Raw):
            return value
        if isinstance(value, bool) or value is None:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(data)) + data
        if isinstance(value, bytes):
            return b"B" + struct.pack("<I", len(value)) + value
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.ops, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.ops, value)) + b"e"
        assert isinstance(value, dict)
        return b"}(" + b"".join(self.ops(k) + self.ops(v) for k, v in value.items()) + b"u"

    def sym(self, module: str, name: str) -> Raw:
        return Raw(f"c{module}\n{name}\n".encode())

    def call(self, function: Any, *args: Any) -> Raw:
        return Raw(self.ops(function) + self.ops(args) + b"R")

    def new(self, cls: Any, *args: Any) -> Raw:
        return Raw(self.ops(cls) + self.ops(args) + b"\x81")

    def build(self, made: Any, state: Any) -> Raw:
        return Raw(self.ops(made) + self.ops(state) + b"b")

    def util(self, name: str, *args: Any) -> Raw:
        return self.call(self.sym("torch._utils", name), *args)

    def hooks(self) -> Raw:
        return self.call(self.sym("collections", "OrderedDict"))

    def storage(self, key: str = "0", cls: str = "FloatStorage", numel: int = 4) -> Raw:
        pid = ("storage", self.sym("torch", cls), key, "cpu", numel)
        return Raw(self.ops(pid) + b"Q")

    def tensor(
        self,
        size: Any = (4,),
        stride: Any = (1,),
        offset: Any = 0,
        storage: Any = None,
        grad: Any = False,
        hooks: Any = None,
        bits: tuple[Any, ...] = (),
    ) -> Raw:
        storage = self.storage() if storage is None else storage
        hooks = self.hooks() if hooks is None else hooks
        return self.util("_rebuild_tensor_v2", storage, offset, size, stride, grad, hooks, *bits)

    def pickle(self, value: Any) -> bytes:
        return b"\x80\x02" + self.ops(value) + b"."

    def archive(
        self,
        pickle: bytes,
        storages: dict[str, bytes] | None = None,
        extra: dict[str, bytes] | None = None,
    ) -> bytes:
        members = {
            "a/data.pkl": pickle,
            "a/byteorder": b"little",
            **{f"a/data/{key}": data for key, data in (storages or {}).items()},
            "a/version": b"3\n",
            **(extra or {}),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return buffer.getvalue()

    def file(self, value: Any, storages: dict[str, bytes] | None = None) -> bytes:
        return self.archive(self.pickle(value), {"0": bytes(16)} if storages is None else storages)

    def look(self, data: bytes) -> Any:
        with open_source(io.BytesIO(data)) as source:
            return read_index(source)

    def load(self, data: bytes, **options: Any) -> Any:
        return load_file(io.BytesIO(data), **options)


@pytest.fixture
def asm() -> Assembler:
    return Assembler()
