"""One table of element types: the name in every format, bits, and torch's name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    ``name`` is torch's name without ``torch.``; ``bits`` the size of one element as torch stores it
    in memory (``int1`` takes a whole byte there); ``storage_class`` the class that torch's pickles
    name for storages of it (None: torch writes it through ``UntypedStorage``, or not at all);
    ``safetensors`` its name there; ``numpy_name`` a NumPy or ml_dtypes name (None: NumPy has none).
    """

    name: str
    bits: int
    storage_class: str | None = None
    safetensors: str | None = None
    numpy_name: str | None = None
    is_quantized: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory, at least 1."""
        return max(1, self.bits // 8)

    def nbytes_of(self, numel: int) -> int:
        """Bytes of so many elements, packed as the file holds them."""
        return (numel * self.bits + 7) // 8

    @property
    def torch_name(self) -> str:
        """The name as torch prints it: ``torch.float32``."""
        return f"torch.{self.name}"

    @property
    def is_complex(self) -> bool:
        """Whether an element is two numbers (byte swaps go by component)."""
        return self.name.startswith("complex")

    def numpy(self) -> np.dtype:
        """The NumPy dtype (from ml_dtypes for bf16 and fp8).

        Raises:
            TypeError: NumPy has no such type.
        """
        if self.numpy_name is None:
            raise TypeError(f"NumPy has no type for {self.torch_name}")
        return _numpy_dtype(self.numpy_name)


@cache
def _numpy_dtype(name: str) -> np.dtype:
    import ml_dtypes
    import numpy as np

    return np.dtype(getattr(ml_dtypes, name, name))


_TABLE = (
    DType("float64", 64, "DoubleStorage", "F64", "float64"),
    DType("float32", 32, "FloatStorage", "F32", "float32"),
    DType("float16", 16, "HalfStorage", "F16", "float16"),
    DType("bfloat16", 16, "BFloat16Storage", "BF16", "bfloat16"),
    DType("int64", 64, "LongStorage", "I64", "int64"),
    DType("int32", 32, "IntStorage", "I32", "int32"),
    DType("int16", 16, "ShortStorage", "I16", "int16"),
    DType("int8", 8, "CharStorage", "I8", "int8"),
    DType("uint8", 8, "ByteStorage", "U8", "uint8"),
    DType("uint16", 16, None, "U16", "uint16"),
    DType("uint32", 32, None, "U32", "uint32"),
    DType("uint64", 64, None, "U64", "uint64"),
    DType("bool", 8, "BoolStorage", "BOOL", "bool"),
    DType("complex32", 32, None, None, None),
    DType("complex64", 64, "ComplexFloatStorage", "C64", "complex64"),
    DType("complex128", 128, "ComplexDoubleStorage", None, "complex128"),
    DType("float8_e4m3fn", 8, None, "F8_E4M3", "float8_e4m3fn"),
    DType("float8_e4m3fnuz", 8, None, "F8_E4M3FNUZ", "float8_e4m3fnuz"),
    DType("float8_e5m2", 8, None, "F8_E5M2", "float8_e5m2"),
    DType("float8_e5m2fnuz", 8, None, "F8_E5M2FNUZ", "float8_e5m2fnuz"),
    DType("float8_e8m0fnu", 8, None, "F8_E8M0", "float8_e8m0fnu"),
    DType("float4_e2m1fn_x2", 8, None, "F4", None),
    DType("quint8", 8, "QUInt8Storage", is_quantized=True),
    DType("qint8", 8, "QInt8Storage", is_quantized=True),
    DType("qint32", 32, "QInt32Storage", is_quantized=True),
    DType("quint4x2", 8, "QUInt4x2Storage", is_quantized=True),
    DType("quint2x4", 8, "QUInt2x4Storage", is_quantized=True),
    DType("bits1x8", 8),
    DType("bits2x4", 8),
    DType("bits4x2", 8),
    DType("bits8", 8),
    DType("bits16", 16),
    *(DType(f"int{n}", 8) for n in range(1, 8)),
    *(DType(f"uint{n}", 8) for n in range(1, 8)),
)

#: Every element type, by torch's name without the prefix.
BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in _TABLE}

#: The typed storages of torch's pickles, by class name (``UntypedStorage`` counts bytes).
BY_STORAGE_CLASS: dict[str, DType] = {
    **{dtype.storage_class: dtype for dtype in _TABLE if dtype.storage_class is not None},
    "UntypedStorage": BY_NAME["uint8"],
}

#: Types that safetensors has and torch has not: four elements in three bytes.
_SIX_BITS = (
    DType("float6_e2m3fn", 6, None, "F6_E2M3", "float6_e2m3fn"),
    DType("float6_e3m2fn", 6, None, "F6_E3M2", "float6_e3m2fn"),
)

#: The types safetensors knows, by its name (``F4`` stands for two elements in one byte).
BY_SAFETENSORS: dict[str, DType] = {
    dtype.safetensors: dtype for dtype in (*_TABLE, *_SIX_BITS) if dtype.safetensors is not None
}
