"""What a checkpoint of these parts would hold, and what it would not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.spec.tree import dotted, walk
from holdfast.state import names
from holdfast.state.capture import capture, stray_tensors
from holdfast.state.parts import LoaderPart, ModulePart, Part
from holdfast.state.plain import to_plain


@dataclass(frozen=True, slots=True)
class Item:
    """One value that would be saved: its path, its role, and what it is in words.

    ``role`` is ``parameter``, ``buffer``, ``tied`` (a name of a tensor that another name before it
    already has) or ``state``; ``nbytes`` counts a tensor's elements, 0 for plain values and ties.
    """

    path: str
    role: str
    value: str
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """What would be saved (``items``), and what would not (``not_saved``, with the mend)."""

    items: tuple[Item, ...]
    not_saved: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors that would be saved."""
        return sum(item.nbytes for item in self.items)

    def __str__(self) -> str:
        width = max((len(item.path) for item in self.items), default=0)
        lines = [f"{item.path:<{width}}  {item.role:<9}  {item.value}" for item in self.items]
        lines.append(f"{len(self.items)} values, {self.nbytes:,} bytes in tensors")
        lines += [f"not saved: {name}   {mend}" for name, mend in self.not_saved.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "items": [
                {"path": i.path, "role": i.role, "value": i.value, "nbytes": i.nbytes}
                for i in self.items
            ],
            "nbytes": self.nbytes,
            "not_saved": dict(self.not_saved),
        }


def describe_parts(parts: Mapping[str, Part]) -> Description:
    """Describe without changing anything: a loader, which would start, is named only."""
    loaders = {name for name, part in parts.items() if isinstance(part, LoaderPart)}
    captured = capture({n: p for n, p in parts.items() if n not in loaders}, {}, rng=False)
    seen: set[Any] = set()
    items: list[Item] = []
    for name, part in parts.items():
        if name in loaders:
            items.append(Item(name, "state", "the position of a StatefulDataLoader"))
            continue
        roles = _roles(part) if isinstance(part, ModulePart) else {}
        for path, leaf in walk(captured.tree[name], (name,)):
            items.append(_item(dotted(path), leaf, roles.get(dotted(path[1:]), "state"), seen))
    items.append(Item("rng", "state", "the generators of Python, NumPy and torch"))
    return Description(tuple(items), _not_saved(parts))


def _roles(part: ModulePart) -> dict[str, str]:
    module = names.unwrap(part.live)
    wrappers = names.wrapper_prefixes(module)
    parameters = (name for name, _ in module.named_parameters(remove_duplicate=False))
    buffers = (name for name, _ in module.named_buffers(remove_duplicate=False))
    roles = {names.plain_name(name, wrappers): "parameter" for name in parameters}
    roles.update({names.plain_name(name, wrappers): "buffer" for name in buffers})
    return roles


def _item(path: str, leaf: Any, role: str, seen: set[Any]) -> Item:
    if not isinstance(leaf, torch.Tensor):
        return Item(path, role, _short(repr(leaf)))
    text = f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)} {_preview(leaf)}".rstrip()
    place = _place(leaf)
    if place is not None and place in seen:
        return Item(path, "tied", text)
    seen.add(place)
    return Item(path, role, text, leaf.numel() * leaf.element_size())


def _place(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """What two names of one tensor have in common; None where nothing can be told."""
    if tensor.layout != torch.strided or not tensor.numel() or not tensor.data_ptr():
        return None
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _preview(tensor: torch.Tensor) -> str:
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.layout != torch.strided:
        return ""
    first = tensor.detach().reshape(-1)[:3].tolist()
    numbers = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in first)
    return numbers + (", …" if tensor.numel() > len(first) else "")


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _not_saved(parts: Mapping[str, Part]) -> dict[str, str]:
    found = dict(stray_tensors(parts))
    for part in parts.values():
        if isinstance(part, ModulePart):
            module = names.unwrap(part.live)
            saved = set(to_plain(part.capture(), (), {}))
            wrappers = names.wrapper_prefixes(module)
            for name, _ in module.named_buffers():
                plain = names.plain_name(name, wrappers)
                if plain not in saved:
                    found[f"{part.name}.{plain}"] = "a buffer registered with persistent=False"
    return found
