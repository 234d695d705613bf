"""Element types for ``--dtype``, and which tensors they are for."""

from __future__ import annotations

from typing import Any

from holdfast.errors import UsageError
from holdfast.spec.dtypes import BY_NAME, DType
from holdfast.spec.index import ArrayRef, TensorRef

_SHORT = {
    "bf16": "bfloat16",
    "fp64": "float64",
    "double": "float64",
    "fp32": "float32",
    "float": "float32",
    "fp16": "float16",
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "half": "float16",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "float8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}

#: NumPy's letters and bytes to torch's names.
_NUMPY = {
    "b1": "bool",
    "c8": "complex64",
    "c16": "complex128",
    **{f"f{n // 8}": f"float{n}" for n in (16, 32, 64)},
    **{f"i{n // 8}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"u{n // 8}": f"uint{n}" for n in (8, 16, 32, 64)},
}


def parse(text: str | None) -> DType | None:
    """The floating-point type of a name: ``bf16``, ``fp8``, ``float32``, ``torch.float16``.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    name = str(text).removeprefix("torch.")
    dtype = BY_NAME.get(_SHORT.get(name, name))
    if dtype is None or not is_floating(dtype):
        raise UsageError(
            "this is no floating-point type that tensors can be converted to",
            wanted="fp64, fp32, fp16, bf16, fp8_e4m3 or fp8_e5m2 (or torch's names)",
            found=repr(text),
        )
    return dtype


def is_floating(dtype: DType) -> bool:
    """Whether elements are floating-point numbers that NumPy has a type for."""
    return "float" in dtype.name and dtype.numpy_name is not None


def dtype_of(node: Any) -> DType | None:
    """The element type of a tensor or array; None for an array whose type torch lacks."""
    if isinstance(node, ArrayRef):
        return BY_NAME.get(_NUMPY.get(node.dtype_str[1:], ""))
    dtype: DType = node.dtype
    return dtype


def target_of(node: Any, wanted: DType | None) -> DType | None:
    """The type a tensor is converted to; None where it stays as it is.

    Floating-point tensors are converted; of quantized ones the numbers they stand for.
    """
    found = dtype_of(node)
    if wanted is None or found is None:
        return None
    is_quantized = isinstance(node, TensorRef) and node.quantizer is not None
    if not is_quantized and (not is_floating(found) or found is wanted):
        return None
    return wanted
