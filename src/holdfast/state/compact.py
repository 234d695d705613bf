"""Only referenced bytes are stored: a slice does not drag its whole storage along."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from holdfast.state.plain import tensors_of


def compact(value: Any) -> Any:
    """Replace tensors that use a part of their storage by equal ones in storages of their own.

    Views of the same bytes go on sharing them, as the views of one tied weight do. Tensors that
    use the whole storage, and quantized or sparse ones, stay the objects they are.
    """
    groups: dict[int, dict[int, torch.Tensor]] = defaultdict(dict)
    whole: set[int] = set()  # storages of which one tensor uses everything, as most do
    for tensor in tensors_of(value):
        if _can_move(tensor):
            storage = tensor.untyped_storage()
            if tensor.nbytes == storage.nbytes() and tensor.is_contiguous():
                whole.add(storage._cdata)
            else:
                groups[storage._cdata][id(tensor)] = tensor
    moved: dict[int, torch.Tensor] = {}
    for address, group in groups.items():
        views = list(group.values())
        if address not in whole and _is_sparse_use(views):
            moved.update(_move(views))
    return _replace(value, moved) if moved else value


def _can_move(tensor: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.numel() > 0


def _is_sparse_use(views: Sequence[torch.Tensor]) -> bool:
    nbytes = views[0].untyped_storage().nbytes()
    covered = sum(stop - start for start, stop, _ in _islands(views))
    return covered < nbytes or sum(_used(group[0]) for group in _twins(views)) < nbytes


def _used(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage that a tensor reaches over: start, stop."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    reach = sum((int(n) - 1) * int(step) for n, step in steps)
    start = int(tensor.storage_offset())
    return start * tensor.element_size(), (start + reach + 1) * tensor.element_size()


def _twins(views: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """The views grouped by geometry: two names of one tied weight refer to the same elements."""
    groups: dict[Any, list[torch.Tensor]] = defaultdict(list)
    for view in views:
        groups[view.storage_offset(), view.shape, view.stride(), view.dtype].append(view)
    return list(groups.values())


def _islands(views: Sequence[torch.Tensor]) -> list[tuple[int, int, list[torch.Tensor]]]:
    """The runs of bytes that the views cover together, each with its views."""
    islands: list[tuple[int, int, list[torch.Tensor]]] = []
    for view in sorted(views, key=_span):
        start, stop = _span(view)
        if islands and start < islands[-1][1]:
            begin, end, members = islands[-1]
            islands[-1] = (begin, max(end, stop), [*members, view])
        else:
            islands.append((start, stop, [view]))
    return islands


def _move(views: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    moved = {}
    for start, stop, members in _islands(views):
        twins = _twins(members)
        if len(twins) == 1 or _are_apart([group[0] for group in twins], start, stop):
            apart = {key: view for group in twins for key, view in _move_twins(group).items()}
            # Views that overlap themselves may take more apart than all they cover together.
            if _stored(apart.values()) <= stop - start:
                moved.update(apart)
                continue
        flat = torch.empty(0, dtype=torch.uint8, device=members[0].device)
        flat.set_(members[0].untyped_storage(), start, (stop - start,), (1,))
        storage = flat.clone().untyped_storage()
        for view in members:
            offset = int(view.storage_offset()) - start // view.element_size()
            moved[id(view)] = _dress(view, storage, offset, view.shape, view.stride())
    return moved


def _stored(views: Iterable[torch.Tensor]) -> int:
    """The bytes of all storages that some views lie in."""
    storages = {view.untyped_storage()._cdata: view.untyped_storage() for view in views}
    return sum(storage.nbytes() for storage in storages.values())


def _are_apart(views: Sequence[torch.Tensor], start: int, stop: int) -> bool:
    """Whether views whose spans overlap share no element: two columns of one matrix do not."""
    itemsize = views[0].element_size()
    if any(view.element_size() != itemsize for view in views):
        return False
    is_taken = torch.zeros((stop - start) // itemsize, dtype=torch.bool, device="cpu")
    for view in views:
        offset = int(view.storage_offset()) - start // itemsize
        # Of elements met twice by one view itself, one is enough to look at.
        steps = [(n, step) for n, step in zip(view.shape, view.stride(), strict=True) if step]
        shape, stride = ([pair[at] for pair in steps] for at in (0, 1))
        mine = is_taken.as_strided(shape, stride, offset)
        if bool(mine.any()):
            return False
        mine.fill_(True)
    return True


def _move_twins(group: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    first = _alone(group[0])
    storage, at = first.untyped_storage(), int(first.storage_offset())
    shape, stride = first.shape, first.stride()
    return {id(view): _dress(view, storage, at, shape, stride) for view in group}


def _alone(view: torch.Tensor) -> torch.Tensor:
    if _used(view) > (span := _span(view))[1] - span[0]:  # expanded: keep its few bytes
        flat = torch.empty(0, dtype=torch.uint8, device=view.device)
        flat.set_(view.untyped_storage(), span[0], (span[1] - span[0],), (1,))
        return _dress(view, flat.clone().untyped_storage(), 0, view.shape, view.stride())
    # Conjugation and negation are bits of the view; the bytes are copied as they lie.
    raw = torch.empty(0, dtype=view.dtype, device=view.device)
    raw.set_(view.untyped_storage(), view.storage_offset(), view.shape, view.stride())
    dense = raw.clone(memory_format=torch.preserve_format)
    return _dress(view, dense.untyped_storage(), 0, dense.shape, dense.stride())


def _dress(
    view: torch.Tensor,
    storage: torch.UntypedStorage,
    offset: int,
    shape: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """A tensor over other memory with all that made the view what it is."""
    tensor = torch.empty(0, dtype=view.dtype, device=view.device)
    tensor.set_(storage, offset, tuple(shape), tuple(stride))
    bits = torch._utils.get_tensor_metadata(view)
    if bits:
        torch._utils.set_tensor_metadata(tensor, bits)
    if isinstance(view, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, requires_grad=view.requires_grad)
    return tensor.requires_grad_(view.requires_grad)


def _replace(value: Any, moved: Mapping[int, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return moved.get(id(value), value)
    if isinstance(value, Mapping):
        result: Any = type(value)()
        for key, item in value.items():
            result[key] = _replace(item, moved)
        if hasattr(value, "_metadata"):
            result._metadata = value._metadata
        return result
    if type(value) in (list, tuple):
        return type(value)(_replace(item, moved) for item in value)
    return value
