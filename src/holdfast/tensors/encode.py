"""Any object → pickle and storages, by the standard pickler with persistent ids, as torch does.

PyTorch's own code reduces most kinds of tensors; plain ones, of which a state dict has thousands,
are reduced here to the same values in a fraction of the time (torch/_tensor.py,
``_reduce_ex_internal``).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import pickle
import types
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.serialization import location_tag, normalize_storage_type

from holdfast.errors import CaptureError
from holdfast.formats.at_rest import collector_at_rest
from holdfast.spec import tree
from holdfast.spec.dtypes import BY_NAME

#: The protocol torch.save uses by default.
PROTOCOL = 2


class _NoHooks:
    """Stands for the hooks of a tensor, which are never saved: an empty OrderedDict each time."""

    __slots__ = ()


#: Most of what a pickler meets is no storage.
_NO_STORAGE = frozenset(
    (
        *(str, int, float, bool, type(None), bytes, tuple, list, dict, OrderedDict, type),
        *(types.FunctionType, types.BuiltinFunctionType, type(torch.FloatStorage), torch.Tensor),
        _NoHooks,
    )
)
#: Storage classes and bytes of an element, of the types that torch pickles with a storage class.
_STORAGE_CLASSES = {
    getattr(torch, dtype.name): (getattr(torch, dtype.storage_class), dtype.itemsize)
    for dtype in BY_NAME.values()
    if dtype.storage_class is not None and not dtype.is_quantized
}
_CPU = torch.device("cpu")
_SMALL = 64 << 10
#: torch before 2.13 has names of dimensions, which it refuses to save.
_has_names = getattr(torch.Tensor, "has_names", lambda tensor: False)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An object as torch.save would write it: the pickle, and its storages in key order.

    ``referenced`` has, per storage, the bytes that the object's tensors refer to (None: a storage
    was pickled by itself, so all of it); it is empty where nobody asked for it.
    """

    pickle: bytes
    storages: tuple[torch.UntypedStorage, ...]
    referenced: tuple[int | None, ...] = ()


#: The part of a storage that a tensor refers to, in bytes: start, stop, and how many it uses.
_Span: TypeAlias = tuple[int, int, int]


def _referenced(spans: list[_Span] | None) -> int | None:
    """The bytes that several tensors refer to together; of two for the same, once."""
    if spans is None:
        return None
    if len(spans) == 1:
        start, stop, used = spans[0]
        return min(stop - start, used)
    covered, end = 0, 0
    for start, stop, _ in sorted(set(spans)):
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return min(covered, sum(used for _, _, used in set(spans)))


class _Id:
    """Stands for a storage in what a tensor is reduced to."""

    __slots__ = ("persistent",)

    def __init__(self, persistent: tuple[Any, ...]) -> None:
        self.persistent = persistent


class _Pickler(pickle.Pickler):
    """Storages become persistent ids, numbered as first met; everything else pickles itself."""

    def __init__(self, buffer: io.BytesIO, *, notes_views: bool = False) -> None:
        super().__init__(buffer, protocol=PROTOCOL)
        self.notes_views = notes_views
        self.storages: list[torch.UntypedStorage] = []
        self.keys: dict[int, str] = {}
        self.dtypes: dict[int, torch.dtype] = {}
        self.spans: dict[int, list[_Span]] = {}

    def reducer_override(self, obj: Any) -> Any:
        """What the pickler asks, once, about all but numbers, text and plain containers."""
        if type(obj) is _NoHooks:
            return OrderedDict, ()
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        if self.notes_views and _has_bytes(obj):
            self._note_view(obj, obj.untyped_storage())
        return self._reduced(obj) if _is_ordinary(obj) else NotImplemented

    def _reduced(self, tensor: torch.Tensor) -> Any:
        storage, dtype = tensor.untyped_storage(), tensor.dtype
        storage_type, itemsize = _STORAGE_CLASSES[dtype]
        return torch._utils._rebuild_tensor_v2, (
            _Id(self._identify(storage, dtype, storage_type, storage.nbytes() // itemsize)),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.requires_grad,
            _NoHooks(),
        )

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        kind = type(obj)
        if kind is _Id:
            return obj.persistent  # type: ignore[no-any-return]
        if kind in _NO_STORAGE:
            return None
        if isinstance(obj, torch.storage.TypedStorage):
            storage = obj._untyped_storage
            storage_type = getattr(torch, obj._pickle_storage_type())
            return self._identify(storage, obj.dtype, storage_type, obj._size())
        if isinstance(obj, torch.UntypedStorage):
            storage_type = normalize_storage_type(type(obj))
            return self._identify(obj, torch.uint8, storage_type, obj.nbytes())
        return None

    def _identify(
        self, storage: torch.UntypedStorage, dtype: torch.dtype, storage_type: Any, numel: int
    ) -> tuple[Any, ...]:
        location = "cpu" if storage.device == _CPU else location_tag(storage)
        if location != "meta" and (place := storage.data_ptr()) != 0:
            known = self.dtypes.setdefault(place, dtype)
            if known is not dtype:
                raise CaptureError(
                    "tensors that view one memory as different dtypes cannot be saved together",
                    wanted=f"one dtype ({known})",
                    found=f"also {dtype}",
                    cure="Save a clone of one of them: tensor.clone().",
                )
        address = storage._cdata
        key = self.keys.get(address)
        if key is None:
            key = self.keys[address] = str(len(self.keys))
            # The list keeps the storage alive, so that no other one can take its address.
            self.storages.append(storage)
        return ("storage", storage_type, key, location, numel)

    def _note_view(self, tensor: torch.Tensor, storage: torch.UntypedStorage) -> None:
        nbytes = tensor.nbytes
        if nbytes == 0:
            return
        itemsize = tensor.element_size()
        start = stop = int(tensor.storage_offset()) * itemsize
        if tensor.is_contiguous():
            stop += nbytes
        else:
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            stop += (sum((int(n) - 1) * int(step) for n, step in steps) + 1) * itemsize
        self.spans.setdefault(storage._cdata, []).append((start, stop, nbytes))

    def referenced(self) -> tuple[int | None, ...]:
        if not self.notes_views:
            return ()
        return tuple(_referenced(self.spans.get(s._cdata)) for s in self.storages)


def _is_ordinary(obj: Any) -> bool:
    """Whether torch reduces an object to a call of ``_rebuild_tensor_v2`` and nothing else."""
    return (
        type(obj) is torch.Tensor
        and obj.dtype in _STORAGE_CLASSES
        and (obj.is_cpu or obj.is_cuda)
        and obj.layout is torch.strided
        and not (obj.__dict__ or obj.is_nested or obj.is_conj() or obj.is_neg() or _has_names(obj))
        and obj._backward_hooks is None
    )


def _has_bytes(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a view of one storage; of other classes nothing is known."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return False
    is_view = tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_nested)
    return is_view and torch._C._has_storage(tensor)


def encode(obj: Any, *, notes_views: bool = False) -> Encoded:
    """Pickle any object as torch.save does (protocol 2); its storages are referred to, not copied.

    ``notes_views`` counts what of each storage the tensors refer to.

    Raises:
        CaptureError: something in it cannot be pickled; its path is named where there is one.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, notes_views=notes_views)
    try:
        with collector_at_rest():
            pickler.dump(obj)
    except CaptureError:
        raise
    except Exception as error:  # whatever the object's own __reduce__ raises
        raise _cannot_pickle(obj, error) from error
    return Encoded(buffer.getvalue(), tuple(pickler.storages), pickler.referenced())


def _cannot_pickle(obj: Any, error: Exception) -> CaptureError:
    path, leaf = _find_culprit(obj)
    name = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
    return CaptureError(
        f"an object of {name} cannot be pickled" + (f", at {path!r}" if path else ""),
        found=f"{type(error).__name__}: {error}",
        cure="Save its state instead (its state_dict(), numbers, text, tensors), or leave it out.",
    )


def _find_culprit(obj: Any) -> tuple[str, Any]:
    for path, leaf in tree.walk(obj):
        try:
            _Pickler(io.BytesIO()).dump(leaf)
        except Exception:  # the error is already at hand; only the place is looked for
            return tree.dotted(path), leaf
    return "", obj


def storage_bytes(storage: torch.UntypedStorage) -> memoryview:
    """The bytes of a storage, without a copy when it is on the CPU and not small."""
    if storage.device != _CPU:
        storage = storage.cpu()
    if storage.nbytes() <= _SMALL:  # some thousands of these: a copy is faster than a view
        return memoryview(ctypes.string_at(storage.data_ptr(), storage.nbytes()))
    return flat(storage).numpy().data


def flat(storage: torch.UntypedStorage) -> torch.Tensor:
    """A storage as one tensor of bytes, where it is."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


with contextlib.suppress(ModuleNotFoundError):
    # ``alignment`` has torch import it, in the first save: out of descriptors then, it would fail.
    importlib.import_module("torch.utils.serialization.config")


def alignment() -> int | None:
    """The alignment of storages in files this torch writes; None for versions that have none."""
    read = getattr(torch.serialization, "_get_storage_alignment", None)
    return None if read is None else int(read())
