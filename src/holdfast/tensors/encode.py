"""Any object → pickle and storages, by the standard pickler with persistent ids, as torch does."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.serialization import location_tag, normalize_storage_type

from holdfast.errors import CaptureError
from holdfast.spec import tree

#: The protocol torch.save uses by default.
PROTOCOL = 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """An object as torch.save would write it: the pickle, and its storages in key order.

    ``referenced`` has, per storage, the bytes that the object's tensors refer to (None: a storage
    was pickled by itself, so all of it).
    """

    pickle: bytes
    storages: tuple[torch.UntypedStorage, ...]
    referenced: tuple[int | None, ...] = ()


@dataclass(slots=True)
class _Views:
    """The parts of one storage that tensors refer to, as byte spans."""

    spans: set[tuple[int, int, int]] = field(default_factory=set)

    def referenced(self) -> int | None:
        if not self.spans:
            return None
        covered, end = 0, 0
        for start, stop, _ in sorted(self.spans):
            covered += max(0, stop - max(start, end))
            end = max(end, stop)
        return min(covered, sum(nbytes for _, _, nbytes in self.spans))


class _Pickler(pickle.Pickler):
    """Storages become persistent ids, numbered as first met; everything else pickles itself."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=PROTOCOL)
        self.storages: list[torch.UntypedStorage] = []
        self.keys: dict[int, str] = {}
        self.dtypes: dict[int, torch.dtype] = {}
        self.views: dict[int, _Views] = {}

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        if isinstance(obj, torch.Tensor):
            self._note_view(obj)
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
        if storage.device.type != "meta" and storage.data_ptr() != 0:
            known = self.dtypes.setdefault(storage.data_ptr(), dtype)
            if known != dtype:
                raise CaptureError(
                    "tensors that view one memory as different dtypes cannot be saved together",
                    wanted=f"one dtype ({known})",
                    found=f"also {dtype}",
                    cure="Save a clone of one of them: tensor.clone().",
                )
        key = self.keys.get(storage._cdata)
        if key is None:
            key = self.keys[storage._cdata] = str(len(self.keys))
            # The list keeps the storage alive, so that no other one can take its address.
            self.storages.append(storage)
        return ("storage", storage_type, key, location_tag(storage), numel)

    def _note_view(self, tensor: torch.Tensor) -> None:
        if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_nested:
            return
        if not torch._C._has_storage(tensor) or tensor.numel() == 0:
            return
        views = self.views.setdefault(tensor.untyped_storage()._cdata, _Views())
        itemsize = tensor.element_size()
        start = int(tensor.storage_offset()) * itemsize
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        reach = sum((int(n) - 1) * int(step) for n, step in steps)
        stop = start + (reach + 1) * itemsize
        views.spans.add((start, stop, tensor.numel() * itemsize))

    def referenced(self) -> tuple[int | None, ...]:
        none = _Views()
        return tuple(self.views.get(s._cdata, none).referenced() for s in self.storages)


def encode(obj: Any) -> Encoded:
    """Pickle any object as torch.save does (protocol 2); its storages are referred to, not copied.

    Raises:
        CaptureError: something in it cannot be pickled; its path is named where there is one.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    try:
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
    """The bytes of a storage, without a copy when it is on the CPU."""
    if storage.device.type != "cpu":
        storage = storage.cpu()
    if storage.nbytes() == 0:
        return memoryview(b"")
    return flat(storage).numpy().data


def flat(storage: torch.UntypedStorage) -> torch.Tensor:
    """A storage as one tensor of bytes, where it is."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def alignment() -> int | None:
    """The alignment of storages in files this torch writes; None for versions that have none."""
    read = getattr(torch.serialization, "_get_storage_alignment", None)
    return None if read is None else int(read())
