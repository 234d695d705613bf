"""Objects of trusted classes, built the way pickle builds them; others stay opaque."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdfast.errors import FormatError, HoldfastError, RefusedError
from holdfast.spec.index import Opaque

if TYPE_CHECKING:
    from holdfast.tensors.materialise import Materialiser

_MISSING = object()


def build_opaque(m: Materialiser, node: Opaque) -> Any:
    """The object that an opaque node describes, or the node with its parts built."""
    if node.is_global:
        return m.trust.find(node.symbol) if m.trust.has(node.symbol) else node
    if node.symbol in CLOSED and node.called is None:
        return CLOSED[node.symbol](m, node)
    if node.called is None and not m.trust.has(node.symbol):
        return _kept(m, node)
    made = _created(m, node)
    if made is _MISSING:
        return _kept(m, node)
    if isinstance(made, Opaque):  # something trusted gave back what it was given
        return made
    return _filled(m, node, m.remember(node, made))


def _created(m: Materialiser, node: Opaque) -> Any:
    function = m.trust.find(node.symbol) if node.called is None else m.build(node.called)
    if isinstance(function, Opaque):
        return _MISSING
    args = tuple(m.build(item) for item in node.args)
    kwargs = {name: m.build(item) for name, item in node.kwargs.items()}
    earlier = m.recall(node)
    if earlier is not None:  # its own arguments led back to it
        return earlier
    with _Letter(m, node):
        if node.how == "newobj":
            return function.__new__(function, *args, **kwargs)
        return function(*args, **kwargs)


def _filled(m: Materialiser, node: Opaque, made: Any) -> Any:
    items = [m.build(item) for item in node.items]
    pairs = [(m.build(key), m.build(value)) for key, value in node.pairs]
    state = m.build(node.state)
    with _Letter(m, node):
        if items:
            made.extend(items) if hasattr(made, "extend") else [made.append(i) for i in items]
        for key, value in pairs:
            made[key] = value
        if node.has_state:
            set_state(made, state)
    return made


def set_state(made: Any, state: Any) -> None:
    """What the opcode BUILD does (Lib/pickle.py): ``__setstate__``, or attributes."""
    setstate = getattr(made, "__setstate__", None)
    if setstate is not None:
        setstate(state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state:
        attributes = made.__dict__
        for name, value in state.items():
            attributes[sys.intern(name) if type(name) is str else name] = value
    for name, value in (slots or {}).items():
        setattr(made, name, value)


def _kept(m: Materialiser, node: Opaque) -> Opaque:
    kept = Opaque(node.module, node.name, node.how, source=node.source)
    m.remember(node, kept)
    kept.args = tuple(m.build(item) for item in node.args)
    kept.kwargs = {name: m.build(item) for name, item in node.kwargs.items()}
    kept.called = None if node.called is None else m.build(node.called)
    kept.items = [m.build(item) for item in node.items]
    kept.pairs = [(m.build(key), m.build(value)) for key, value in node.pairs]
    kept.state, kept.has_state = m.build(node.state), node.has_state
    return kept


class _Letter:
    """Turns what a trusted class raises into a letter that names it."""

    def __init__(self, m: Materialiser, node: Opaque) -> None:
        self._m, self._node = m, node

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, HoldfastError):
            raise FormatError(
                f"{self._node.symbol} could not be built: {type(error).__name__}: {error}",
                file=self._m.file,
                cure='Load the rest with opaque="keep", or use the version of the class that '
                "was saved.",
            ) from error


# ---- calls of the closed table that involve opaque objects


def _from_type(m: Materialiser, node: Opaque) -> Any:
    inner, cls, state = node.args
    made, kind = m.build(inner), m.build(cls)
    if isinstance(made, Opaque) or isinstance(kind, Opaque):
        return _kept(m, node)
    with _Letter(m, node):
        made = m.remember(node, made if type(made) is kind else made.as_subclass(kind))
    set_attributes(m, made, m.build(state))
    return made


def _wrapper(m: Materialiser, node: Opaque) -> Any:
    cls, dtype, size, stride, offset, layout, device, grad = (m.build(arg) for arg in node.args)
    if isinstance(cls, Opaque):
        return _kept(m, node)
    with _Letter(m, node):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            size,
            strides=stride,
            dtype=dtype,
            storage_offset=offset,
            layout=layout,
            device=m.device_for(device),
            requires_grad=grad,
        )
    return m.remember(node, made)


def _converted(m: Materialiser, node: Opaque) -> Any:
    data, dtype, device, grad = (m.build(arg) for arg in node.args)
    if isinstance(data, Opaque):
        return _kept(m, node)
    with _Letter(m, node):
        tensor = torch.from_numpy(data) if isinstance(data, np.ndarray) else data
        made = tensor.to(dtype=dtype, device=m.device_for(device))
        made.requires_grad = grad
    return m.remember(node, made)


def _parameter(m: Materialiser, node: Opaque) -> Any:
    data, grad = m.build(node.args[0]), m.build(node.args[1])
    if isinstance(data, Opaque):
        return _kept(m, node)
    with _Letter(m, node):
        made = m.remember(node, torch.nn.Parameter(data, grad))
    if len(node.args) == 4:
        set_attributes(m, made, m.build(node.args[3]))
    return made


def _array_subclass(m: Materialiser, node: Opaque) -> Any:
    cls, shape, code = (m.build(arg) for arg in node.args)
    if isinstance(cls, Opaque):
        return _kept(m, node)
    with _Letter(m, node):
        made = m.remember(node, np.ndarray.__new__(cls, shape, code))
    return _filled(m, node, made)


#: Only the reader makes these nodes; their names in a pickle always mean the table's own calls.
CLOSED = {
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_wrapper_subclass": _wrapper,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _converted,
    "torch._utils._rebuild_device_tensor_from_numpy": _converted,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "numpy.core.multiarray._reconstruct": _array_subclass,
}


def set_attributes(m: Materialiser, made: torch.Tensor, state: Any) -> None:
    """Give a tensor the attributes it was saved with (torch/_utils.py, ``_set_obj_state``).

    Raises:
        RefusedError: one would shadow a method or property of tensors.
    """
    setstate = getattr(type(made), "__setstate__", torch.Tensor.__setstate__)
    if setstate is not torch.Tensor.__setstate__:
        made.__setstate__(state)
        return
    for attributes in state if isinstance(state, tuple) else (state,):
        if attributes is None:
            continue
        if not isinstance(attributes, Mapping) or not all(type(name) is str for name in attributes):
            raise _bad_attributes(m, f"a {type(attributes).__name__}")
        for name, value in attributes.items():
            if hasattr(torch.Tensor, name) or name.startswith("__"):
                raise _bad_attributes(m, name)
            setattr(made, name, value)


def _bad_attributes(m: Materialiser, found: str) -> RefusedError:
    return RefusedError(
        "refused: attributes of a stored tensor shadow nothing that tensors have",
        file=m.file,
        found=found[:100],
        cure="The file is broken, or made to do harm: do not load it with anything else.",
    )
