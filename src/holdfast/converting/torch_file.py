"""A torch zip file of weights, or of a whole tree: planned first, then streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.converting.items import Elements, Item
from holdfast.formats.torch_zip import members, write
from holdfast.io.commit import Buffer
from holdfast.pickles import writer
from holdfast.spec.index import Quantizer, StateDict, StorageRef, TensorRef


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A torch zip file that is planned: its layout, its pickle, and the item of each storage."""

    plan: write.Layout
    pickle: bytes
    storages: tuple[Item, ...]
    record: bytes | None

    def fill(self, elements: Elements, sink: Callable[[Buffer], object]) -> None:
        """Write the file front to back."""
        write.fill(self.plan, self._payloads(elements), sink)

    def _payloads(self, elements: Elements) -> Iterator[write.Payload]:
        yield self.pickle
        yield from members.headers(alignment=write.ALIGNMENT).values()
        for item in self.storages:
            yield elements.of(item)
        if self.record is not None:
            yield self.record
        yield members.VERSION
        yield members.serialization_id


class Storages:
    """The storages of a new file, numbered as they are first met."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._refs: dict[str, TensorRef] = {}

    def add(self, item: Item) -> TensorRef:
        """The reference in the new file: contiguous, in a storage of its own, without gradient."""
        kept = item.tied_to or item.name
        found = self._refs.get(kept)
        if found is None:
            found = self._refs[kept] = self._new(item)
        return found

    def _new(self, item: Item) -> TensorRef:
        numel = item.nbytes // item.dtype.itemsize
        storage = StorageRef(str(len(self.items)), item.dtype, numel)
        self.items.append(item)
        ref = TensorRef(item.dtype, item.shape, contiguous(item.shape), storage)
        if item.cast is None and isinstance(item.node, TensorRef):
            ref.quantizer = self._quantizer(item, item.node.quantizer)
        return ref

    def _quantizer(self, item: Item, quantizer: Quantizer | None) -> Quantizer | None:
        if quantizer is None or quantizer.axis is None:
            return quantizer
        scale, zero_point = (
            self._numbers(f"{item.name} ({what})", part)
            for what, part in (("scale", quantizer.scale), ("zero point", quantizer.zero_point))
        )
        return Quantizer(quantizer.scheme, scale, zero_point, quantizer.axis)

    def _numbers(self, name: str, part: Any) -> Any:
        if not isinstance(part, TensorRef):
            return part
        return self.add(Item(name, name, part, tuple(part.shape), part.dtype, part.dtype))


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides (elements) of a tensor whose elements lie one behind the other in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(1, size)
    return tuple(reversed(strides))


def weights(
    items: Sequence[Item], *, is_plain: bool, aside: Mapping[str, Any] | None
) -> tuple[Any, Storages]:
    """The tree of a file of weights: an OrderedDict as ``state_dict()`` gives, or a plain dict."""
    storages = Storages()
    tree: dict[str, Any] = {} if is_plain else StateDict()
    for item in items:
        tree[item.name] = storages.add(item)
    if isinstance(tree, StateDict):
        tree.aside = aside
    return tree, storages


def plan(tree: Any, storages: Storages, *, root: str, record: bytes | None) -> TorchFile:
    """Place everything in the file."""
    pickle = writer.write(tree)
    headers = members.headers(alignment=write.ALIGNMENT)
    nbytes = {position: item.nbytes for position, item in enumerate(storages.items)}
    sizes = members.sizes(pickle, nbytes, headers=headers, record=record)
    return TorchFile(write.layout(root, sizes), pickle, tuple(storages.items), record)
