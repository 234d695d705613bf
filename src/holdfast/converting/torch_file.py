"""A torch zip file of weights, or of a whole tree: planned first, then streamed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.converting.items import Elements, Item
from holdfast.converting.sharing import Run, kept_runs, place_of
from holdfast.formats.torch_zip import members, write
from holdfast.io.sink import Sink
from holdfast.pickles import writer
from holdfast.spec.identity import identity
from holdfast.spec.index import Quantizer, StateDict, StorageRef, TensorRef
from holdfast.spec.strides import contiguous


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A torch zip file that is planned: its layout, its pickle, and the item of each storage."""

    plan: write.Layout
    pickle: bytes
    storages: tuple[Item, ...]
    record: bytes | None

    def fill(self, elements: Elements, sink: Sink) -> None:
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
    """The storages of a new file, numbered as they are first met.

    ``nodes`` are the tensors of the source that go into it as they are: what they share, they share
    in the new file too. ``items`` has one item for each storage.
    """

    def __init__(self, nodes: Iterable[Any] = ()) -> None:
        self.items: list[Item] = []
        self._kept = kept_runs(nodes)
        self._made: dict[Hashable, StorageRef] = {}

    def add(self, item: Item) -> TensorRef:
        """The reference in the new file: a view as in the source, or contiguous."""
        node = item.node
        is_as_it_was = item.cast is None and isinstance(node, TensorRef)
        run = self._kept.get(place_of(node)) if is_as_it_was and node.numel else None
        if run is not None:
            storage, offset = self._run(item, node.storage, run), node.offset - run[0]
            ref = TensorRef(item.dtype, item.shape, node.stride, storage, offset)
        else:
            ref = TensorRef(item.dtype, item.shape, contiguous(item.shape), self._own(item))
        if is_as_it_was:
            ref.quantizer = self._quantizer(item, node.quantizer)
        return ref

    def _run(self, item: Item, found: StorageRef, run: Run) -> StorageRef:
        key = ("run", found.key, run)
        if key not in self._made:
            shape = (run[1] - run[0],)
            everything = TensorRef(item.dtype, shape, (1,), found, run[0])
            self._made[key] = self._new(replace(item, node=everything, shape=shape))
        return self._made[key]

    def _own(self, item: Item) -> StorageRef:
        key = ("elements", identity(item.node), item.dtype.name)
        if key not in self._made:
            self._made[key] = self._new(item)
        return self._made[key]

    def _new(self, item: Item) -> StorageRef:
        self.items.append(item)
        numel = item.nbytes // item.dtype.itemsize
        return StorageRef(str(len(self.items) - 1), item.dtype, numel)

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


def weights(
    items: Sequence[Item], *, is_plain: bool, aside: Mapping[str, Any] | None
) -> tuple[Any, Storages]:
    """The tree of a file of weights: an OrderedDict as ``state_dict()`` gives, or a plain dict."""
    storages = Storages(item.node for item in items if item.cast is None)
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
