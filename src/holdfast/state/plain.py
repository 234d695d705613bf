"""State as plain values: NumPy becomes torch and Python; what no table knows is an error.

What is changed is noted by path, so that a restore gives back what was there. Only what
``torch.load(weights_only=True)`` opens is let through: whoever leaves holdfast loses nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from holdfast.errors import CaptureError
from holdfast.spec.tree import Path, dotted, walk
from holdfast.state.sharding import box_of, can_be_spread, is_spread, local_of

_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray)
_TORCH_LEAVES = (torch.dtype, torch.device, torch.layout)
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_KEYS = (str, int, float, bool, bytes, type(None))
_MAPPINGS: tuple[type, ...] = (dict, OrderedDict, Counter)

#: Containers inside containers: far from where Python's picklers and recursion end.
DEEPEST = 100
#: Bits of a whole number: torch's closed unpickler knows no opcode for more than 255 bytes.
_MOST_BITS = 2000


def to_plain(value: Any, path: Path, notes: dict[str, str]) -> Any:
    """Rebuild ``value`` of plain values; ``notes`` gains what stood at which pointer.

    Containers are new, tensors are the same objects (arrays share their memory with the new
    tensors): whoever keeps the result copies it first.

    Raises:
        CaptureError: a value outside the closed table; the error names its path.
    """
    return _plain(value, path, notes, ())


def _plain(value: Any, path: Path, notes: dict[str, str], above: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind is torch.Tensor:  # most of what a state dict holds
        return _tensor(value, path)
    if kind in _LEAVES:
        return _leaf(value, path, notes)
    if isinstance(value, _TORCH_LEAVES):
        return value
    if isinstance(value, torch.Tensor):
        return _tensor(value, path)
    if isinstance(value, np.generic):
        return _scalar(value, path, notes)
    if isinstance(value, np.ndarray):
        return _array(value, path, notes)
    if id(value) in above:
        raise _outside(value, path, "a container that holds itself cannot be saved")
    if len(above) >= DEEPEST:
        raise _outside(value, path, f"values nested over {DEEPEST} levels deep cannot be saved")
    inside = (*above, id(value))
    if kind in _MAPPINGS:
        return _mapping(value, path, notes, inside)
    if kind in (list, tuple):
        return kind(_plain(v, (*path, i), notes, inside) for i, v in enumerate(value))
    if kind is torch.Size:
        return value
    if kind is set:
        return _set(value, path, notes)
    raise _outside(value, path)


def _leaf(value: Any, path: Path, notes: dict[str, str]) -> Any:
    if _is_huge(value):
        raise _outside(value, path, f"a whole number of over {_MOST_BITS:,} bits cannot be saved")
    if value == b"" and type(value) is bytes:
        # Its pickle calls bytes(), which torch's closed table does not have; bytearray it does.
        notes[pointer(path)] = "bytes"
        return bytearray()
    return value


def _is_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(type(part) is not tuple and _is_key(part) for part in key)
    return type(key) in _KEYS and key != b"" and not _is_huge(key)


def _is_huge(value: Any) -> bool:
    return type(value) is int and value.bit_length() > _MOST_BITS


def _mapping(
    value: Mapping[Any, Any], path: Path, notes: dict[str, str], above: tuple[int, ...]
) -> Any:
    result: Any = type(value)()
    for key, item in value.items():
        if not _is_key(key):
            raise _outside(key, (*path, key), "a dict key of this type cannot be saved")
        result[key] = _plain(item, (*path, key), notes, above)
    # A module's state dict carries the versions of its layers here; torch saves it too.
    metadata = getattr(value, "_metadata", None)
    if metadata is not None:
        result._metadata = _plain(metadata, (*path, "_metadata"), {}, above)
    return result


def _set(value: set[Any], path: Path, notes: dict[str, str]) -> set[Any]:
    result = set()
    for item in value:
        # The item itself is the last step of its path: a set has no other.
        is_scalar = isinstance(item, np.generic)
        plain = _scalar(item, (*path, item.item()), notes) if is_scalar else item
        if type(plain) is tuple or not _is_key(plain):
            raise _outside(item, path, "a set may hold whole and real numbers and text only")
        result.add(plain)
    return result


def _tensor(value: torch.Tensor, path: Path) -> torch.Tensor:
    if is_spread(value):
        return _spread(value, path)
    value = local_of(value)
    if isinstance(value, UninitializedTensorMixin):
        raise CaptureError(
            f"a lazy parameter has no value yet, at {dotted(path)!r}",
            cure="Run one batch through the model before making the Run.",
        )
    if value.is_meta:
        raise CaptureError(
            f"a tensor on the meta device has no values, at {dotted(path)!r}",
            cure="Give it some first: model.to_empty(device=...) and initialize, or load "
            "weights: holdfast.load_state(checkpoint, model=model).",
        )
    is_plain = type(value) in _TENSORS
    if not is_plain or value.is_nested or value.layout is torch._mkldnn:  # type: ignore[attr-defined]
        raise _outside(value, path, "a tensor of this class cannot be saved as plain state")
    return value


def _spread(value: Any, path: Path) -> torch.Tensor:
    """A tensor of which several processes have their shares stays what it is."""
    if any(placement.is_partial() for placement in value.placements):
        raise CaptureError(
            f"a tensor whose processes have addends, and no elements yet, at {dotted(path)!r}",
            wanted="shards or copies",
            found=str(value.placements),
            cure="Give it a value first: tensor.redistribute(placements=[...]).",
        )
    return value  # type: ignore[no-any-return]


def refuse_spread(tree: Any, *, cure: str) -> None:
    """Go on only with a tree of which this process has everything.

    Raises:
        CaptureError: a tensor is spread over processes.
    """
    for path, leaf in walk(tree) if can_be_spread() else ():
        if is_spread(leaf):
            box = box_of(leaf)
            raise CaptureError(
                f"a tensor that is spread over processes, at {dotted(path)!r}",
                wanted=f"all of its shape {tuple(leaf.shape)} in this process",
                found=f"{box.sizes} of it",
                cure=cure,
            )


def _scalar(value: np.generic, path: Path, notes: dict[str, str]) -> Any:
    if value.dtype.kind not in "biufc" or value.dtype.itemsize > 16 or not _is_exact(value):
        raise _outside(value, path)
    notes[pointer(path)] = f"numpy.{value.dtype.name}"
    return value.item()


def _is_exact(value: np.generic) -> bool:
    """Whether the Python number holds all of it (a long double does not fit a float)."""
    return type(value.item()) in (bool, int, float, complex)


def _array(value: np.ndarray[Any, Any], path: Path, notes: dict[str, str]) -> torch.Tensor:
    if type(value) is not np.ndarray or value.dtype.kind not in "biufc":
        raise _outside(value, path, f"a NumPy array of {value.dtype} cannot be saved")
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    try:
        # A copy where torch cannot share it: negative strides, read-only memory.
        can_share = native.flags.writeable and native.flags.c_contiguous
        tensor = torch.from_numpy(native if can_share else native.copy("C"))
    except TypeError as error:
        raise _outside(value, path, f"a NumPy array of {value.dtype} cannot be saved") from error
    notes[pointer(path)] = "numpy.ndarray" + _layout(value)
    return tensor


def _layout(value: np.ndarray[Any, Any]) -> str:
    """What of byte order and memory order a tensor cannot hold; empty for most arrays."""
    is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    if value.dtype.isnative and not is_fortran:
        return ""
    return f" {value.dtype.str} {'F' if is_fortran else 'C'}"


def _outside(value: Any, path: Path, what: str | None = None) -> CaptureError:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    return CaptureError(
        f"{what or 'an object of this class cannot be saved'}, at {dotted(path)!r}",
        wanted="dict, list, tuple, set, numbers, text, bytes, tensors, NumPy arrays and scalars",
        found=name,
        cure="Turn it into such values, or give its object as a part of its own with state_dict "
        "and load_state_dict.",
    )


def pointer(path: Path) -> str:
    """A path as one text: a JSON pointer (RFC 6901), with keys that are no text as ``~:repr``."""
    return "".join("/" + segment(step) for step in path)


def segment(step: Any) -> str:
    """One step of a pointer; it holds no slash and is never empty."""
    is_text = isinstance(step, str) and step
    escaped = (step if is_text else repr(step)).replace("~", "~0").replace("/", "~1")
    return escaped if is_text else f"~:{escaped}"


def tensors_of(value: Any) -> Iterable[torch.Tensor]:
    """Every tensor in a plain tree, in order; one that stands twice comes twice."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
