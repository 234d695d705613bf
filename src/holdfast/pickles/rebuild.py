"""Calls of the closed table that give tensors: torch/_utils.py, as references."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.pickles import checks
from holdfast.pickles.quantized import quantizer
from holdfast.pickles.sparse import sparse
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import ArrayRef, Opaque, SparseRef, StorageRef, TensorRef

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

    Args = tuple[Any, ...]

_UTILS = "torch._utils"


def tensor_v1(m: Machine, args: Args) -> TensorRef:
    """``_rebuild_tensor(storage, offset, size, stride)``."""
    storage, offset, size, stride = _arguments(m, "_rebuild_tensor", args, 4, 4)
    return _plain_view(m, storage, offset, size, stride)


def tensor_v2(m: Machine, args: Args) -> TensorRef:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``."""
    if len(args) == 6:  # nearly every tensor of every file
        storage, offset, size, stride, grad, hooks = args
        return _finished(m, _plain_view(m, storage, offset, size, stride), grad, hooks, None)
    storage, offset, size, stride, grad, hooks, bits = _arguments(
        m, "_rebuild_tensor_v2", args, 6, 7
    )
    ref = _plain_view(m, storage, offset, size, stride)
    return _finished(m, ref, grad, hooks, bits)


def tensor_v3(m: Machine, args: Args) -> TensorRef:
    """``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, …])``."""
    storage, offset, size, stride, grad, hooks, dtype, bits = _arguments(
        m, "_rebuild_tensor_v3", args, 7, 8
    )
    kind = checks.dtype(m, dtype)
    if kind.is_quantized:
        raise m.refused("a quantized tensor says how it is scaled", found=kind.torch_name)
    ref = checks.view(m, kind, storage, offset, size, stride)
    return _finished(m, ref, grad, hooks, bits)


def meta_tensor(m: Machine, args: Args) -> TensorRef:
    """``_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)``."""
    dtype, size, stride, grad = _arguments(m, "_rebuild_meta_tensor_no_storage", args, 4, 4)
    kind = checks.dtype(m, dtype)
    # A meta tensor's elements lie nowhere; they still have to be countable.
    room = StorageRef("meta", BY_NAME["uint8"], (1 << 63) - 1)
    ref = checks.view(m, kind, room, 0, size, stride)
    ref.storage = None
    ref.requires_grad = checks.gradient(m, grad, kind)
    return ref


def device_tensor(m: Machine, args: Args) -> Any:
    """``_rebuild_device_tensor_from_cpu_tensor(tensor, dtype, device, requires_grad)``."""
    name = "_rebuild_device_tensor_from_cpu_tensor"
    data, dtype, _, grad = _arguments(m, name, args, 4, 4)
    kind = checks.dtype(m, dtype)
    if type(data) is not TensorRef:
        raise m.refused("a tensor is made of a tensor", found=m.shown(data))
    checks.within_reach(m, data, "a tensor to be converted")
    if data.dtype is not kind or data.is_parameter or data.subclass is not None:
        return m.table_call(_UTILS, name, args)
    ref = TensorRef(kind, data.shape, data.stride, data.storage, data.offset)
    ref.is_conj, ref.is_neg = data.is_conj, data.is_neg
    ref.requires_grad = checks.gradient(m, grad, kind)
    return ref


def device_tensor_from_numpy(m: Machine, args: Args) -> Opaque:
    """``_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)``: kept as is."""
    name = "_rebuild_device_tensor_from_numpy"
    data, dtype, _, grad = _arguments(m, name, args, 4, 4)
    if not isinstance(data, ArrayRef):
        raise m.bad_call(f"{_UTILS}.{name}", args)
    checks.gradient(m, grad, checks.dtype(m, dtype))
    return m.table_call(_UTILS, name, args)


def wrapper_subclass(m: Machine, args: Args) -> Opaque:
    """``_rebuild_wrapper_subclass(class, dtype, size, …)``: a tensor without bytes of its own."""
    name = "_rebuild_wrapper_subclass"
    cls, dtype, size, stride, *_ = _arguments(m, name, args, 8, 8)
    if not checks.is_function(cls):
        raise m.bad_call(f"{_UTILS}.{name}", args)
    checks.dtype(m, dtype)
    checks.geometry(m, size, stride)
    return m.table_call(_UTILS, name, args)


def quantized_tensor(m: Machine, args: Args) -> TensorRef:
    """``_rebuild_qtensor(storage, offset, size, stride, quantizer, requires_grad, hooks)``."""
    storage, offset, size, stride, params, grad, hooks = _arguments(
        m, "_rebuild_qtensor", args, 7, 7
    )
    if type(storage) is not StorageRef or not storage.dtype.is_quantized:
        raise m.refused("a quantized tensor has a quantized storage", found=m.shown(storage))
    ref = checks.view(m, storage.dtype, storage, offset, size, stride)
    checks.within_reach(m, ref, "a quantized tensor")
    ref.quantizer = quantizer(m, params, ref)
    return _finished(m, ref, grad, hooks, None)


def sparse_tensor(m: Machine, args: Args) -> SparseRef:
    """``_rebuild_sparse_tensor(layout, components)``."""
    layout, data = _arguments(m, "_rebuild_sparse_tensor", args, 2, 2)
    return sparse(m, layout, data)


def parameter(m: Machine, args: Args) -> Any:
    """``_rebuild_parameter(tensor, requires_grad, hooks)``."""
    data, grad, hooks = _arguments(m, "_rebuild_parameter", args, 3, 3)
    return _parameter(m, "_rebuild_parameter", args, data, grad, hooks, None)


def parameter_with_state(m: Machine, args: Args) -> Any:
    """``_rebuild_parameter_with_state(tensor, requires_grad, hooks, state)``."""
    name = "_rebuild_parameter_with_state"
    data, grad, hooks, state = _arguments(m, name, args, 4, 4)
    return _parameter(m, name, args, data, grad, hooks, state)


def parameter_class(m: Machine, args: Args) -> Any:
    """``torch.nn.Parameter(tensor[, requires_grad])``."""
    if not 1 <= len(args) <= 2:
        raise m.bad_call("torch.nn.parameter.Parameter", args)
    grad = args[1] if len(args) == 2 else True
    return _parameter(m, "_rebuild_parameter", (args[0], grad, None), args[0], grad, None, None)


def _parameter(
    m: Machine, name: str, args: Args, data: Any, grad: Any, hooks: Any, state: Any
) -> Any:
    checks.hooks(m, hooks)
    if isinstance(data, Opaque) and not data.is_global:
        checks.flag(m, grad, "requires_grad")
        return m.table_call(_UTILS, name, args)
    if isinstance(data, SparseRef):
        ref: Any = SparseRef(data.layout, data.shape, data.components, data.is_coalesced)
    elif isinstance(data, TensorRef):
        ref = TensorRef(data.dtype, data.shape, data.stride, data.storage, data.offset)
        ref.is_conj, ref.is_neg, ref.quantizer = data.is_conj, data.is_neg, data.quantizer
    else:
        raise m.refused("a parameter is made of a tensor", found=m.shown(data))
    ref.is_parameter, ref.subclass = True, data.subclass
    ref.requires_grad = checks.gradient(m, grad, data.dtype)
    ref.attributes = data.attributes if data.subclass is not None and state is None else state
    return ref


def from_type(m: Machine, args: Args) -> Any:
    """``_rebuild_from_type_v2(function, class, arguments, state)``: a subclass, or attributes."""
    if len(args) != 4 or not checks.is_function(args[0]) or not checks.is_function(args[1]):
        raise m.bad_call("torch._tensor._rebuild_from_type_v2", args)
    function, cls, arguments, state = args
    made = m.call(function, arguments)
    if not isinstance(made, TensorRef | SparseRef):
        return m.table_call("torch._tensor", "_rebuild_from_type_v2", (made, cls, state))
    made.attributes = state
    if cls.symbol == "torch.nn.parameter.Parameter":
        made.is_parameter = True
    elif cls.symbol != "torch.Tensor":
        made.subclass = cls
    return made


def bare_tensor(m: Machine, args: Args) -> TensorRef:
    """``torch.Tensor()``, filled by BUILD as torch before 0.2 wrote it; never with a length."""
    if args:
        raise m.refused("torch.Tensor(…) would return memory nobody wrote", found=m.shown(args))
    ref = TensorRef(BY_NAME["float32"], (0,), (1,), None)
    m.drafts[id(ref)] = ref
    return ref


def build_bare_tensor(m: Machine, ref: TensorRef, state: Any) -> None:
    """BUILD on ``torch.Tensor()``: storage, offset, size, stride."""
    if not isinstance(state, tuple) or len(state) != 4:
        raise m.refused("a tensor is built of storage, offset, size, stride", found=m.shown(state))
    seen = _plain_view(m, *state)
    ref.dtype, ref.storage, ref.offset = seen.dtype, seen.storage, seen.offset
    ref.shape, ref.stride = seen.shape, seen.stride


def variable(m: Machine, args: Args) -> TensorRef:
    """``torch.autograd.Variable(tensor)``, whose state BUILD sets (torch before 0.4)."""
    if len(args) != 1 or type(args[0]) is not TensorRef:
        raise m.bad_call("torch.autograd.variable.Variable", args)
    data = args[0]
    return TensorRef(data.dtype, data.shape, data.stride, data.storage, data.offset)


def build_variable(m: Machine, ref: TensorRef, state: Any) -> None:
    """BUILD on a variable or parameter: requires_grad, volatile, hooks (torch before 0.4)."""
    if not isinstance(state, tuple) or len(state) != 3:
        raise m.refused("no attribute is set on plain values", found=m.shown(ref))
    grad, volatile, hooks = state
    checks.flag(m, volatile, "volatile")
    checks.hooks(m, hooks)
    ref.requires_grad = checks.gradient(m, grad, ref.dtype)


def _plain_view(m: Machine, storage: Any, offset: Any, size: Any, stride: Any) -> TensorRef:
    if type(storage) is not StorageRef:
        raise m.refused("a tensor is a view of a storage", found=m.shown(storage))
    if storage.dtype.is_quantized:
        raise m.refused("a quantized tensor says how it is scaled", found=storage.dtype.torch_name)
    return checks.view(m, storage.dtype, storage, offset, size, stride)


def _finished(m: Machine, ref: TensorRef, grad: Any, hooks: Any, bits: Any) -> TensorRef:
    ref.requires_grad = grad is not False and checks.gradient(m, grad, ref.dtype)
    checks.hooks(m, hooks)
    if bits:
        if not isinstance(bits, dict) or not bits.keys() <= {"conj", "neg"}:
            raise m.refused("a tensor's bits are conj and neg", found=m.shown(bits))
        ref.is_conj = checks.flag(m, bits.get("conj", False), "conj")
        ref.is_neg = checks.flag(m, bits.get("neg", False), "neg")
        if ref.is_conj and not ref.dtype.is_complex:
            raise m.refused("only complex tensors are conjugated", found=ref.dtype.torch_name)
    return ref


def _arguments(m: Machine, name: str, args: Args, least: int, most: int) -> Args:
    if not least <= len(args) <= most:
        raise m.bad_call(f"{_UTILS}.{name}", args)
    return args + (None,) * (most - len(args))
