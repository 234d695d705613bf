"""The leaves of any tree, opaque objects included, in bounded time.

``spec.tree.walk`` is for trees of our own; this walk is for what strangers' files hold. A container
met inside itself ends there, and one that refers to itself over and over (a pickle of a hundred
bytes can describe 2**40 leaves) ends when the budget is spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from holdfast.pickles.module_walk import module_state, own_tensors, pairs_of
from holdfast.spec.index import (
    ArrayRef,
    ChunkedRef,
    DeviceRef,
    DTypeRef,
    Opaque,
    SizeRef,
    SparseRef,
    TensorRef,
)
from holdfast.spec.tree import children_of

#: Leaves and containers that one walk may meet; a name of 64 characters counts as one more.
BUDGET = 1_000_000

_SCALARS = (int, float, complex, str, bytes, type(None))

#: Plain values, as a module's attributes.
_ATTRIBUTES = (*_SCALARS, SizeRef, DTypeRef, DeviceRef)

#: Most leaves are of these types; asking that first makes the walk twice as fast.
_LEAVES = frozenset({TensorRef, SparseRef, ChunkedRef, ArrayRef, bool, *_SCALARS})


class Leaf(NamedTuple):
    """One leaf: its dotted name, the part it belongs to, and its value.

    ``part`` is the root's key above it; None where the root is no dict, or holds the leaf itself.
    """

    name: str
    part: str | None
    value: Any


class TooManyLeavesError(Exception):
    """The budget is spent; what was yielded before is right but not all."""


def leaves(tree: Any, budget: int = BUDGET) -> Iterator[Leaf]:
    """Yield every leaf in order, depth first; a sequence of plain numbers and text is one leaf.

    An opaque object is yielded, and after it what it holds: of an ``nn.Module`` its parameters,
    buffers and submodules under the names its state dict gives them, and its plain attributes such
    as ``stride``; buffers that the state dict leaves out too, as the file has their bytes.

    Raises:
        TooManyLeavesError: the tree describes more than ``budget`` nodes.
    """
    open_ids: set[int] = set()
    stack: list[tuple[str, str | None, Any, bool]] = [("", None, tree, False)]
    while stack:
        name, part, node, is_closing = stack.pop()
        if is_closing:
            open_ids.discard(id(node))
            continue
        budget -= 1 + len(name) // 64
        if budget < 0:
            raise TooManyLeavesError
        children = [] if id(node) in open_ids else inside(node)
        if not children or isinstance(node, Opaque):
            yield Leaf(name, part, node)
        if children:
            open_ids.add(id(node))
            stack.append((name, part, node, True))
            has_parts = node is tree and isinstance(node, Mapping)
            for step, child in reversed(children):
                text = _text(step)
                below = text if has_parts and _is_part(child) else part
                stack.append((f"{name}.{text}" if name else text, below, child, False))


def inside(node: Any) -> list[tuple[Any, Any]]:
    """The steps and values below a node; empty for what counts as one leaf."""
    if type(node) in _LEAVES:
        return []
    if isinstance(node, Opaque):
        return _inside_opaque(node)
    if isinstance(node, SizeRef) or is_plain_sequence(node):
        return []
    return children_of(node)


def is_plain_sequence(node: Any) -> bool:
    """Whether a node is a list, tuple or set of numbers and text only."""
    return isinstance(node, list | tuple | set | frozenset) and all(
        isinstance(item, _SCALARS) for item in node
    )


def _inside_opaque(node: Opaque) -> list[tuple[Any, Any]]:
    state = module_state(node)
    if state is not None:
        return [
            *((name, value) for name, value, _ in own_tensors(state)),
            *(pair for pair in state.items() if _is_attribute(*pair)),
            *(pair for pair in pairs_of(state["_modules"]) if pair[1] is not None),
        ]
    return [
        *(pair for pair in children_of(node.state) if not _is_empty(pair[1])),
        *enumerate(node.items),
        *((key, value) for key, value in node.pairs),
        *((f"({position})", value) for position, value in enumerate(node.args)),
        *node.kwargs.items(),
    ]


def _is_attribute(name: Any, value: Any) -> bool:
    """Whether an entry of a module's ``__dict__`` says how it was made, and is no bookkeeping."""
    if type(name) is not str or name.startswith("_") or (_is_empty(value) and value is not None):
        return False
    values = list(value.values()) if type(value) is dict else [value]
    return all(isinstance(each, _ATTRIBUTES) or is_plain_sequence(each) for each in values)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping | list | tuple | set) and not value)


def _text(step: Any) -> str:
    if isinstance(step, int) and step.bit_length() > 4096:
        return f"<integer of {step.bit_length()} bits>"  # str() of it is an error, or takes hours
    return str(step)


def _is_part(child: Any) -> bool:
    if type(child) in _LEAVES:
        return False
    return isinstance(child, Mapping | Opaque) or bool(inside(child))
