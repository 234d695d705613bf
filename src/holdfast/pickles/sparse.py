"""Sparse tensors of a pickle: their components, checked as far as headers go.

Whether indices are in range is seen only once they are read: ``tensors.build`` checks that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.pickles import checks
from holdfast.spec.index import LayoutRef, SparseRef, TensorRef

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

_COMPRESSED = {
    "sparse_csr": ("crow_indices", "col_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsc": ("ccol_indices", "row_indices"),
}


def sparse(m: Machine, layout: Any, data: Any) -> SparseRef:
    """The sparse tensor that ``_rebuild_sparse_tensor(layout, data)`` describes.

    Raises:
        RefusedError: the components are not what the layout needs.
    """
    if type(layout) is not LayoutRef or not isinstance(data, tuple):
        raise m.refused("a sparse tensor has a layout", found=m.shown((layout, data)))
    if layout.name == "sparse_coo" and len(data) in (3, 4):
        return _coordinates(m, data)
    if layout.name in _COMPRESSED and len(data) == 4:
        names = (*_COMPRESSED[layout.name], "values")
        parts = dict(zip(names, (_component(m, part) for part in data[:3]), strict=True))
        for name in names[:2]:
            _whole_numbers(m, parts[name])
        return SparseRef(layout.name, _shape(m, data[3]), parts)
    raise m.refused("a sparse tensor has the parts of its layout", found=m.shown((layout, data)))


def _coordinates(m: Machine, data: tuple[Any, ...]) -> SparseRef:
    indices, values = _component(m, data[0]), _component(m, data[1])
    _whole_numbers(m, indices)
    if len(indices.shape) != 2 or indices.dtype.name != "int64":
        raise m.refused("indices of a sparse tensor are int64 with two dimensions",
                        found=f"{indices.dtype.torch_name} {m.shown(indices.shape)}")  # fmt: skip
    coalesced = data[3] if len(data) == 4 else None
    if coalesced is not None:
        coalesced = checks.flag(m, coalesced, "is_coalesced")
    parts = {"indices": indices, "values": values}
    return SparseRef("sparse_coo", _shape(m, data[2]), parts, coalesced)


def _component(m: Machine, part: Any) -> TensorRef:
    if not isinstance(part, TensorRef) or part.subclass is not None or part.quantizer is not None:
        raise m.refused("parts of a sparse tensor are plain tensors", found=m.shown(part))
    checks.within_reach(m, part, "a part of a sparse tensor")
    return part


def _whole_numbers(m: Machine, indices: TensorRef) -> None:
    if indices.dtype.name not in ("int64", "int32"):
        raise m.refused("indices are int64 or int32", found=indices.dtype.torch_name)


def _shape(m: Machine, size: Any) -> tuple[int, ...]:
    shape, _ = checks.geometry(m, size, size)
    return shape
