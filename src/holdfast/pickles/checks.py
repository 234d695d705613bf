"""Checks of a tensor's geometry, in exact arithmetic, before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.spec.dtypes import BY_NAME, DType
from holdfast.spec.index import DTypeRef, Opaque, StorageRef, TensorRef

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

#: Sizes, strides, offsets and counts of elements stay below this, as in torch.
_TOO_BIG = 1 << 63

_SEQUENCES = (tuple, list)

#: Bits of one element in memory; of two types torch packs several into a byte.
_BITS = {name: 8 * dtype.itemsize for name, dtype in BY_NAME.items()}
_BITS |= {"quint4x2": 4, "quint2x4": 2}

#: What may be read several times over by an expanded tensor whose values must be looked at.
_EXPANDED_NBYTES = 1 << 28


class Box(NamedTuple):
    """Sizes and strides that are right by themselves.

    ``reach`` is how many elements past the first the last one lies; below 0 where there is none.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    reach: int


def box(m: Machine, size: Any, stride: Any) -> Box:
    """Sizes and strides, checked.

    Raises:
        RefusedError: they are no tuples of whole numbers, or of too many elements.
    """
    sizes, strides = geometry(m, size, stride)
    reach, span = 0, 1
    for count, step in zip(sizes, strides, strict=True):
        span *= count or 1
        reach += (count - 1) * step
    if span >= _TOO_BIG:
        raise m.refused("a tensor has fewer than 2**63 elements", found=m.shown(sizes))
    return Box(sizes, strides, -1 if 0 in sizes else reach)


def geometry(m: Machine, size: Any, stride: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides as tuples of the same length, of whole numbers from 0 on."""
    if not isinstance(size, _SEQUENCES) or not isinstance(stride, _SEQUENCES):
        raise m.refused("a tensor's size and stride are tuples", found=m.shown((size, stride)))
    if len(size) != len(stride):
        found = f"{len(size)} sizes, {len(stride)} strides"
        raise m.refused("a tensor has as many sizes as strides", found=found)
    m.spend(16 * len(size))
    for numbers in (size, stride):
        for number in numbers:
            if type(number) is not int or not 0 <= number < _TOO_BIG:
                raise m.refused(
                    "a tensor's sizes and strides are whole numbers from 0 on",
                    found=m.shown(number),
                )
    return tuple(size), tuple(stride)


def view(m: Machine, dtype: DType, storage: Any, offset: Any, size: Any, stride: Any) -> TensorRef:
    """A reference to a tensor that lies inside its storage.

    Raises:
        RefusedError: an argument is no such thing, or an element lies past the storage's end.
    """
    if type(storage) is not StorageRef:
        raise m.refused("a tensor is a view of a storage", found=m.shown(storage))
    return placed(m, dtype, storage, offset, box(m, size, stride))


def placed(m: Machine, dtype: DType, storage: StorageRef, offset: Any, room: Box) -> TensorRef:
    """A reference to the tensor of a box at an offset in a storage; raises like ``view``."""
    if type(offset) is not int or not 0 <= offset < _TOO_BIG:
        raise m.refused("a tensor's offset is a whole number from 0 on", found=m.shown(offset))
    sizes, strides, reach = room
    if reach >= 0 and (offset + reach + 1) * _BITS[dtype.name] > 8 * storage.nbytes:
        raise m.refused(
            "every element of a tensor lies inside its storage",
            wanted=f"{((offset + reach + 1) * _BITS[dtype.name] + 7) // 8:,} bytes "
            f"in storage {storage.key!r}",
            found=f"{storage.nbytes:,}",
        )
    return TensorRef(dtype, sizes, strides, storage, offset)


def flag(m: Machine, value: Any, what: str) -> bool:
    """``value`` as a bool (Python 2 wrote 0 and 1)."""
    if type(value) is not bool and not (type(value) is int and value in (0, 1)):
        raise m.refused(f"{what} is true or false", found=m.shown(value))
    return bool(value)


def gradient(m: Machine, value: Any, dtype: DType) -> bool:
    """``requires_grad``, which only floating and complex numbers can have."""
    wanted = flag(m, value, "requires_grad")
    if wanted and not dtype.name.startswith(("float", "bfloat", "complex")):
        raise m.refused("only floating point tensors require gradients", found=dtype.torch_name)
    return wanted


def hooks(m: Machine, value: Any) -> None:
    """Backward hooks, which every torch since 0.4 writes as an empty dict, are not taken over."""
    if value is not None and not (isinstance(value, dict) and not value):
        raise m.refused("a stored tensor has no backward hooks", found=m.shown(value))


def dtype(m: Machine, value: Any) -> DType:
    """The element type that a ``torch.<dtype>`` names."""
    if type(value) is not DTypeRef:
        raise m.refused("an element type is a torch.dtype", found=m.shown(value))
    return BY_NAME[value.name]


def within_reach(m: Machine, ref: TensorRef, what: str) -> None:
    """An expanded tensor whose values must be visited may not be much larger than its storage."""
    stored = 0 if ref.storage is None else ref.storage.nbytes
    if ref.nbytes > stored + _EXPANDED_NBYTES:
        raise m.refused(f"{what} is not expanded beyond its storage", found=m.shown(ref.shape))


def is_function(value: Any) -> bool:
    """Whether a value is a bare symbol."""
    return type(value) is Opaque and value.how == "global"
