"""An index and its source → the objects torch.load would give, and nothing in the file is run."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from holdfast.arrays import values as arrays
from holdfast.errors import FormatError, RefusedError, UsageError
from holdfast.io.source import Source
from holdfast.spec.index import (
    ArrayRef,
    ChunkedRef,
    DeviceRef,
    DTypeRef,
    Index,
    LayoutRef,
    NumpyDTypeRef,
    NumpyScalar,
    Opaque,
    SizeRef,
    SparseRef,
    StateDict,
    StorageRef,
    TensorRef,
)
from holdfast.tensors import build
from holdfast.tensors.objects import build_opaque, set_attributes
from holdfast.tensors.storages import Storages
from holdfast.tensors.trust import Trust, untrusted
from holdfast.tensors.whole import has_modules, needed, weights_of

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})


def materialise(
    index: Index,
    source: Source,
    *,
    map_location: Any = "cpu",
    mmap: bool = False,
    verify: bool | None = None,
    trust: Iterable[Any] | Mapping[str, Any] = (),
    opaque: str = "error",
    on_progress: Callable[[int], object] | None = None,
) -> Any:
    """Build what the index's tree describes; storages are read straight into torch's memory.

    ``opaque="keep"`` leaves objects of untrusted classes as ``Opaque``, tensors inside them built;
    ``"state_dict"`` does the same and gives modules as their state dicts, unless all classes in one
    are trusted. ``on_progress`` gets the number of bytes of each piece read.

    Raises:
        UntrustedError: the tree needs classes that are not trusted; all are named at once.
        DamagedError: bytes are not those that were saved; file, member and tensors are named.
        RefusedError: a rule for hostile files is broken.
        UsageError: an option is none.
    """
    if opaque not in ("error", "keep", "state_dict"):
        raise UsageError("opaque= is 'error', 'keep' or 'state_dict'", found=repr(opaque)[:100])
    trusted = Trust(trust)
    missing = needed(index.tree, trusted) if opaque == "error" else {}
    if missing:
        raise untrusted(index.file, missing, has_modules=has_modules(index.tree))
    tree = weights_of(index, trusted) if opaque == "state_dict" else index.tree
    keeps = opaque != "error"
    storages = Storages(
        index,
        source,
        map_location=map_location,
        mmap=mmap,
        verify=verify,
        on_progress=on_progress,
    )
    builder = Materialiser(index.file, storages, trusted, map_location, keeps=keeps)
    try:
        storages.read_ahead(tree)
        return builder.build(tree)
    except RecursionError as error:
        raise RefusedError(
            "refused: a tree is no deeper than Python's stack",
            file=index.file,
            cure="Call this from fewer nested calls, or raise sys.setrecursionlimit.",
        ) from error
    finally:
        builder.forget()


class Materialiser:
    """Builds nodes; what the file names twice is one object.

    With ``keeps`` NumPy arrays and scalars of objects stay references, as opaque objects do.
    """

    def __init__(
        self,
        file: str,
        storages: Storages,
        trust: Trust,
        map_location: Any,
        *,
        keeps: bool = False,
    ) -> None:
        self.file, self.storages, self.trust = file, storages, trust
        self._keeps = keeps
        self._map_location = map_location
        self._made: dict[int, tuple[Any, Any]] = {}
        self._builders: dict[type, Callable[[Any], Any]] = {
            dict: self._dict,
            StateDict: self._state_dict,
            list: self._list,
            tuple: self._tuple,
            Counter: self._counter,
            set: self._set,
            frozenset: self._set,
            bytearray: bytearray,
            torch.Tensor: lambda tensor: tensor,  # it stands for one that is read later
            TensorRef: self._tensor,
            SparseRef: self._sparse,
            ChunkedRef: lambda ref: build.chunked(ref, storages, self.build),
            StorageRef: lambda ref: build.typed_storage(ref, storages),
            Opaque: lambda node: build_opaque(self, node),
            ArrayRef: partial(self._of_numpy, arrays.array),
            NumpyScalar: partial(self._of_numpy, arrays.scalar),
            NumpyDTypeRef: lambda ref: self._of_numpy(_dtype, ref),
            SizeRef: torch.Size,
            DTypeRef: lambda ref: build.torch_dtype(ref.name),
            DeviceRef: self._device,
            LayoutRef: lambda ref: getattr(torch, ref.name),
        }

    def build(self, node: Any) -> Any:
        """The object a node describes, the same one each time."""
        kind = type(node)
        if kind in _PLAIN:
            return node
        found = self._made.get(id(node))
        if found is not None:
            return found[1]
        made = self._builders[kind](node)
        # A tuple that holds itself by way of a list is made while its own items are.
        return self.remember(node, made)

    def remember(self, node: Any, made: Any) -> Any:
        """Keep what a node became, before its parts lead back to it; the first one counts."""
        return self._made.setdefault(id(node), (node, made))[1]

    def forget(self) -> None:
        """Let go of what was made: the table below leads back here, and would keep it all alive."""
        self._builders.clear()
        self._made.clear()

    def recall(self, node: Any) -> Any:
        """What a node became already; None when it did not."""
        return self._made.get(id(node), (None, None))[1]

    def device_for(self, device: Any) -> Any:
        """Where a tensor without a storage goes (torch/_utils.py, ``_get_restore_location``)."""
        wanted = self._map_location
        if wanted is None:
            return device
        if isinstance(wanted, Mapping):
            return wanted.get(device, device)
        if isinstance(wanted, str | torch.device):
            return wanted
        raise UsageError(
            "map_location cannot be a function here: the file holds tensors without a storage",
            cure="Give a device or a dict.",
        )

    def _list(self, node: list[Any]) -> list[Any]:
        made: list[Any] = self.remember(node, [])
        made.extend(map(self.build, node))
        return made

    def _tuple(self, node: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(self.build, node))

    def _dict(self, node: dict[Any, Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = self._store(self.remember(node, {}), node)
        return made

    def _counter(self, node: Counter[Any]) -> Any:
        return self._store(self.remember(node, Counter()), node)

    def _state_dict(self, node: StateDict) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = self._store(self.remember(node, OrderedDict()), node)
        for name, value in (node.aside or {}).items():
            if hasattr(OrderedDict, name) or name.startswith("__"):
                raise RefusedError(
                    "refused: what is set on a dict shadows nothing that dicts have",
                    file=self.file,
                    found=name[:100],
                )
            setattr(made, name, self.build(value))
        return made

    def _store(self, made: Any, node: Mapping[Any, Any]) -> Any:
        for key, value in node.items():
            built = key if type(key) is str else self._hashable(self.build(key))
            made[built] = self.build(value)
        return made

    def _set(self, node: set[Any] | frozenset[Any]) -> set[Any] | frozenset[Any]:
        return type(node)(self._hashable(self.build(item)) for item in node)

    def _hashable(self, value: Any) -> Any:
        try:
            hash(value)
        except TypeError as error:
            raise FormatError(
                "a key in this file is no key once it is built", file=self.file, found=str(error)
            ) from error
        return value

    def _of_numpy(self, build_it: Callable[..., Any], ref: Any) -> Any:
        try:
            return build_it(ref, file=self.file)
        except RefusedError:
            if self._keeps:
                return ref
            raise

    def _tensor(self, ref: TensorRef) -> torch.Tensor:
        return self._finished(ref, build.dense(ref, self.storages, self.build))

    def _sparse(self, ref: SparseRef) -> torch.Tensor:
        return self._finished(ref, build.sparse(ref, self.build, file=self.file))

    def _finished(self, ref: TensorRef | SparseRef, made: torch.Tensor) -> torch.Tensor:
        cls = None if ref.subclass is None else self.build(ref.subclass)
        if cls is not None and not isinstance(cls, Opaque):
            made = self._as_subclass(made, cls)
        if ref.is_parameter:
            made = torch.nn.Parameter(made, ref.requires_grad)
        self.remember(ref, made)
        if ref.attributes is not None:
            set_attributes(self, made, self.build(ref.attributes))
        return made

    def _as_subclass(self, made: torch.Tensor, cls: Any) -> torch.Tensor:
        if not isinstance(cls, type) or not issubclass(cls, torch.Tensor):
            raise FormatError(
                "this file makes a tensor of what is no class of tensors",
                file=self.file,
                found=f"{cls.__module__}.{cls.__qualname__}",
            )
        return made if type(made) is cls else made.as_subclass(cls)

    def _device(self, ref: DeviceRef) -> torch.device:
        try:
            return torch.device(ref.text)
        except RuntimeError as error:
            raise FormatError(
                f"torch {torch.__version__} knows no device {ref.text!r}", file=self.file
            ) from error


def _dtype(ref: NumpyDTypeRef, *, file: str) -> Any:
    return arrays.dtype(ref.text, file=file)
