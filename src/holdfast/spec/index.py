"""What is known of a checkpoint from its headers alone.

A tree (nested dict, list, tuple of plain values and the nodes below) says what a checkpoint holds;
extents say where the bytes of its storages lie; both together with the record are the index.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.spec.dtypes import DType

if TYPE_CHECKING:
    from holdfast.spec.program import ProgramInfo
    from holdfast.spec.record import Record


@dataclass(slots=True, unsafe_hash=True)  # not frozen: that makes making one four times as slow
class StorageRef:
    """A storage not yet read: one run of bytes that tensors are views of; nobody changes it.

    ``numel`` counts elements of ``dtype``; ``is_untyped`` says that the file named it
    ``UntypedStorage`` (then dtype is uint8). ``location`` is the text the file carries (``cpu``,
    ``cuda:0``): it is reported and never acted on.
    """

    key: str
    dtype: DType
    numel: int
    location: str = "cpu"
    is_untyped: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes this storage holds."""
        return self.dtype.nbytes_of(self.numel)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """How a quantized tensor's integers become numbers.

    ``scale`` and ``zero_point`` are a float and an int per tensor, or tensor references per channel
    along ``axis``.
    """

    scheme: str
    scale: Any
    zero_point: Any
    axis: int | None = None


@dataclass(eq=False, slots=True)
class TensorRef:
    """A tensor not yet read: dtype, shape, stride (elements), storage, offset (elements).

    ``storage`` is None for a meta tensor, which has no bytes. Two references are the same tensor
    only if they are the same object (a pickle names one tensor twice by its memo).
    ``subclass`` names a tensor class that is not torch.Tensor or Parameter, ``attributes`` the
    plain attributes that were set on the tensor.
    """

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: StorageRef | None
    offset: int = 0
    requires_grad: bool = False
    is_parameter: bool = False
    is_conj: bool = False
    is_neg: bool = False
    quantizer: Quantizer | None = None
    subclass: Opaque | None = None
    attributes: Any = None

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its elements (not of its whole storage)."""
        return self.dtype.nbytes_of(self.numel)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor that was saved in pieces: where it begins, and the piece itself.

    ``offsets`` has one number per axis; the box has the shape of ``ref``.
    """

    offsets: tuple[int, ...]
    ref: TensorRef


@dataclass(eq=False, slots=True)
class ChunkedRef:
    """A tensor whose elements lie in several pieces that tile it exactly, without overlap.

    Several processes write one this way, each its own share.
    """

    dtype: DType
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    requires_grad: bool = False

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return self.dtype.nbytes_of(self.numel)


@dataclass(eq=False, slots=True)
class SparseRef:
    """A sparse tensor not yet read; ``layout`` is torch's name without the prefix.

    ``components`` holds the dense references by torch's names: ``indices`` and ``values`` for
    ``sparse_coo``, ``crow_indices``/``ccol_indices``, ``col_indices``/``row_indices`` and
    ``values`` for the compressed layouts.
    """

    layout: str
    shape: tuple[int, ...]
    components: dict[str, TensorRef]
    is_coalesced: bool | None = None
    requires_grad: bool = False
    is_parameter: bool = False
    subclass: Opaque | None = None
    attributes: Any = None

    @property
    def dtype(self) -> DType:
        """The element type of the values."""
        return self.components["values"].dtype

    @property
    def nbytes(self) -> int:
        """The bytes of all components."""
        return sum(part.nbytes for part in self.components.values())


@dataclass(eq=False, slots=True)
class ArrayRef:
    """A NumPy array whose bytes lie in the pickle itself.

    Numbers and fixed-length text; of an array of Python objects (``|O``) only the shape is kept.
    """

    dtype_str: str
    shape: tuple[int, ...]
    fortran_order: bool
    data: bytes

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return len(self.data)


#: What stands for a tensor or an array in a tree.
SIZED = (TensorRef, ChunkedRef, SparseRef, ArrayRef)


@dataclass(frozen=True, slots=True)
class NumpyScalar:
    """A NumPy scalar: the dtype's text (``<f8``) and its bytes."""

    dtype_str: str
    data: bytes


@dataclass(eq=False, slots=True)
class NumpyDTypeRef:
    """A numpy.dtype as a plain value: ``<f8``."""

    text: str


@dataclass(frozen=True, slots=True)
class DTypeRef:
    """A torch.dtype as a plain value."""

    name: str


@dataclass(frozen=True, slots=True)
class DeviceRef:
    """A torch.device as a plain value: ``cpu``, ``cuda:0``."""

    text: str


@dataclass(frozen=True, slots=True)
class LayoutRef:
    """A torch.layout as a plain value: ``strided``, ``sparse_coo``."""

    name: str


class SizeRef(tuple[int, ...]):
    """A torch.Size as a plain value."""

    __slots__ = ()


class StateDict(OrderedDict[Any, Any]):
    """An OrderedDict; ``aside`` keeps what BUILD would have set on it, such as ``_metadata``.

    It is never set as attributes, so that no file can shadow a method of the dict.
    """

    aside: Mapping[str, Any] | None = None


@dataclass(eq=False, slots=True)
class Opaque:
    """An object of a class outside the table: kept as data, never built.

    With ``is_global`` it is the bare symbol ``module.name``; otherwise what calling it with
    ``args`` and ``kwargs`` would give. ``called`` is the opaque that is called when it is no bare
    symbol. ``how`` is the pickle's way: ``reduce``, ``newobj`` or ``global``. ``state`` is what
    BUILD would have set, ``items`` and ``pairs`` what would have been appended or stored.
    """

    module: str
    name: str
    how: str = "global"
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    called: Opaque | None = None
    state: Any = None
    has_state: bool = False
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    source: str | None = None

    def __str__(self) -> str:
        return f"<{self.symbol}>"

    @property
    def is_global(self) -> bool:
        """Whether this is the symbol itself, not an object made by it."""
        return self.how == "global"

    @property
    def symbol(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"


class Extent(NamedTuple):
    """Where a storage's bytes lie: file, offset, length, and the CRC-32 they should have.

    ``file`` is the name of the source that has them: ``source.of(extent.file)``. ``expected_crc``
    is None when the file has none (unknown is not damaged). ``member`` is the archive member's full
    name, or what else a message may call these bytes. Of one ``is_deflated`` (never a storage) the
    CRC is that of what its bytes unpack to.
    """

    file: str
    offset: int
    nbytes: int
    expected_crc: int | None
    member: str
    is_deflated: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """All that is known of a checkpoint from its headers: tree, extents by storage key, record.

    ``format`` is the container's name (``torch_zip``). ``byteorder`` is that of the stored
    elements. ``extents`` covers every storage; ``other`` every further member that has a CRC (the
    pickle, the record), so that verifying leaves nothing out. ``sealed`` are extents with checksums
    that cover all of these and what is between them, where a record has such. ``is_shared`` says
    that several processes opened it together: storages without a CRC are those that others have
    looked at. ``file_nbytes`` is the file's size.
    ``symbols`` are all globals outside the closed table that the pickle names, also those of which
    nothing is left in the tree. ``metadata`` is text that the container carries beside the tree
    (safetensors' ``__metadata__``, a program's extra files); ``programs`` names what in it is code,
    and ``program`` says of a program what it takes, gives and calls.
    """

    file: str
    format: str
    tree: Any
    extents: Mapping[str, Extent]
    record: Record | None = None
    byteorder: str = "little"
    other: tuple[Extent, ...] = ()
    sealed: tuple[Extent, ...] = ()
    is_shared: bool = False
    file_nbytes: int = 0
    notes: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    program: ProgramInfo | None = None
