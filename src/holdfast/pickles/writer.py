"""Plain trees and tensor references → a pickle of protocol 2, as torch.save would write it.

Nothing is imported: symbols are written by their names. What comes out opens with
``torch.load(weights_only=True)``; what that refuses (opaque objects, NumPy arrays) is refused here.
Opcodes: Lib/pickletools.py of CPython. Calls: torch/_tensor.py and torch/_utils.py of torch 2.13.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from holdfast.errors import CaptureError
from holdfast.spec.index import (
    DeviceRef,
    DTypeRef,
    LayoutRef,
    Quantizer,
    SizeRef,
    SparseRef,
    StateDict,
    StorageRef,
    TensorRef,
)

_PROTO, _STOP = b"\x80\x02", b"."
_MARK, _REDUCE, _BUILD, _PERSID = b"(", b"R", b"b", b"Q"
_EMPTY_LIST, _EMPTY_DICT, _EMPTY_TUPLE = b"]", b"}", b")"
_APPENDS, _SETITEMS, _TUPLE = b"e", b"u", b"t"
_TUPLES = {1: b"\x85", 2: b"\x86", 3: b"\x87"}
_SIGNED_32 = range(-(1 << 31), 1 << 31)


def write(tree: Any) -> bytes:
    """The pickle of a tree; a node that is met twice is one object again when it is read.

    Raises:
        CaptureError: something in it has no plain form; its type is named.
    """
    writer = _Writer()
    writer.save(tree)
    return _PROTO + b"".join(writer.out) + _STOP


class _Writer:
    """Opcodes so far, and what is in the memo."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self._memo: dict[Any, int] = {}
        self._alive: list[Any] = []
        self._kinds: dict[type, Callable[[Any], None]] = {
            type(None): lambda _: self.out.append(b"N"),
            bool: lambda value: self.out.append(b"\x88" if value else b"\x89"),
            int: self._int,
            float: lambda value: self.out.append(b"G" + struct.pack(">d", value)),
            complex: lambda value: self._call("builtins", "complex", (value.real, value.imag)),
            str: self._text,
            bytes: lambda value: self._call(
                "_codecs", "encode", (value.decode("latin1"), "latin1")
            ),
            bytearray: lambda value: self._call("builtins", "bytearray", (bytes(value),)),
            list: lambda value: self._once(value, self._list),
            tuple: self._tuple,
            dict: lambda value: self._once(value, self._dict),
            StateDict: lambda value: self._once(value, self._state_dict),
            Counter: lambda value: self._call("collections", "Counter", (dict(value),)),
            set: lambda value: self._call("builtins", "set", (sorted(value, key=repr),)),
            SizeRef: lambda value: self._call("torch", "Size", (tuple(value),)),
            DTypeRef: lambda value: self._symbol("torch", value.name),
            DeviceRef: self._device,
            LayoutRef: self._layout,
            TensorRef: lambda value: self._once(value, self._tensor),
            SparseRef: lambda value: self._once(value, self._sparse),
        }

    def save(self, node: Any) -> None:
        """Write any node."""
        kind = self._kinds.get(type(node))
        if kind is None:
            raise CaptureError(
                "this has no plain form in a file of weights",
                found=f"{type(node).__module__}.{type(node).__qualname__}",
            )
        kind(node)

    def _once(self, node: Any, write: Callable[[Any], None]) -> None:
        """Write a node, or refer to where it was written before."""
        if self._get(id(node)):
            return
        self._alive.append(node)  # no other node may get its id meanwhile
        write(node)

    def _get(self, key: Any) -> bool:
        position = self._memo.get(key)
        if position is None:
            return False
        is_short = position < 256
        self.out.append(
            b"h" + bytes([position]) if is_short else b"j" + struct.pack("<I", position)
        )
        return True

    def _put(self, key: Any) -> None:
        position = self._memo[key] = len(self._memo)
        is_short = position < 256
        self.out.append(
            b"q" + bytes([position]) if is_short else b"r" + struct.pack("<I", position)
        )

    # ---- plain values

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out.append(b"K" + bytes([value]))
        elif 0 <= value < 65536:
            self.out.append(b"M" + struct.pack("<H", value))
        elif value in _SIGNED_32:
            self.out.append(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            size = bytes([len(data)]) if len(data) < 256 else struct.pack("<i", len(data))
            self.out.append((b"\x8a" if len(data) < 256 else b"\x8b") + size + data)

    def _text(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self.out.append(b"X" + struct.pack("<I", len(data)) + data)

    def _tuple(self, items: tuple[Any, ...]) -> None:
        if not items:
            self.out.append(_EMPTY_TUPLE)
            return
        if len(items) > 3:
            self.out.append(_MARK)
        for item in items:
            self.save(item)
        self.out.append(_TUPLES.get(len(items), _TUPLE))

    def _list(self, items: list[Any]) -> None:
        self.out.append(_EMPTY_LIST)
        self._put(id(items))
        self._fill(items, _APPENDS)

    def _dict(self, items: Mapping[Any, Any]) -> None:
        self.out.append(_EMPTY_DICT)
        self._put(id(items))
        self._fill((part for pair in items.items() for part in pair), _SETITEMS)

    def _state_dict(self, items: StateDict) -> None:
        self._call("collections", "OrderedDict", ())
        self._put(id(items))
        self._fill((part for pair in items.items() for part in pair), _SETITEMS)
        if items.aside:
            self._dict(items.aside)
            self.out.append(_BUILD)

    def _fill(self, parts: Iterable[Any], opcode: bytes) -> None:
        self.out.append(_MARK)
        before = len(self.out)
        for part in parts:
            self.save(part)
        if len(self.out) == before:
            self.out.pop()  # nothing to fill in
        else:
            self.out.append(opcode)

    # ---- symbols and calls

    def _symbol(self, module: str, name: str) -> None:
        if not self._get((module, name)):
            self.out.append(f"c{module}\n{name}\n".encode())
            self._put((module, name))

    def _call(self, module: str, name: str, args: tuple[Any, ...]) -> None:
        self._symbol(module if module != "builtins" else "__builtin__", name)
        self._tuple(args)
        self.out.append(_REDUCE)

    def _device(self, ref: DeviceRef) -> None:
        kind, _, index = ref.text.partition(":")
        self._call("torch", "device", (kind, int(index)) if index else (kind,))

    def _layout(self, ref: LayoutRef) -> None:
        self._call("torch.serialization", "_get_layout", (f"torch.{ref.name}",))

    # ---- tensors

    def _tensor(self, ref: TensorRef) -> None:
        if ref.is_parameter:
            self._symbol("torch._utils", "_rebuild_parameter")
            self.out.append(_MARK)
        self._data(ref)
        if ref.is_parameter:
            self.save(ref.requires_grad)
            self._call("collections", "OrderedDict", ())  # backward hooks, of which there are none
            self.out.append(_TUPLE + _REDUCE)
        self._put(id(ref))

    def _data(self, ref: TensorRef) -> None:
        if ref.storage is None:
            size, stride = tuple(ref.shape), tuple(ref.stride)
            args = (DTypeRef(ref.dtype.name), size, stride, ref.requires_grad)
            self._call("torch._utils", "_rebuild_meta_tensor_no_storage", args)
        else:
            self._view(ref, ref.storage)

    def _view(self, ref: TensorRef, storage: StorageRef) -> None:
        call = "_rebuild_tensor_v2" if ref.dtype.storage_class else "_rebuild_tensor_v3"
        self._symbol("torch._utils", call if ref.quantizer is None else "_rebuild_qtensor")
        self.out.append(_MARK)
        self._storage(ref, storage)
        for part in (ref.offset, tuple(ref.shape), tuple(ref.stride)):
            self.save(part)
        if ref.quantizer is not None:
            self._quantizer(ref.quantizer)
        self.save(ref.requires_grad and not ref.is_parameter)
        self._call("collections", "OrderedDict", ())  # backward hooks, of which there are none
        if call == "_rebuild_tensor_v3":
            self.save(DTypeRef(ref.dtype.name))
        self.out.append(_TUPLE + _REDUCE)

    def _quantizer(self, quantizer: Quantizer) -> None:
        self.out.append(_MARK)
        self._symbol("torch", quantizer.scheme)
        for part in (quantizer.scale, quantizer.zero_point):
            self.save(part)
        if quantizer.axis is not None:
            self.save(quantizer.axis)
        self.out.append(_TUPLE)

    def _storage(self, ref: TensorRef, storage: StorageRef) -> None:
        name, numel = ref.dtype.storage_class, storage.nbytes // ref.dtype.itemsize
        self.out.append(_MARK)
        self._text("storage")
        if name is None:
            self._symbol("torch.storage", "UntypedStorage")
            numel = storage.nbytes
        else:
            self._symbol("torch", name)
        for part in (storage.key, "cpu", numel):
            self.save(part)
        self.out.append(_TUPLE + _PERSID)

    def _sparse(self, ref: SparseRef) -> None:
        parts: list[Any] = [*ref.components.values(), SizeRef(ref.shape)]
        if ref.layout == "sparse_coo":
            parts.append(bool(ref.is_coalesced))
        self._call("torch._utils", "_rebuild_sparse_tensor", (LayoutRef(ref.layout), tuple(parts)))
        self._put(id(ref))
