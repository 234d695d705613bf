"""The closed table: every symbol of a pickle that holdfast knows; nothing can be added to it.

Symbols outside it stay data (``Opaque``). Sources: torch/_utils.py, torch/_tensor.py,
torch/storage.py and the ``__reduce__`` methods of Python's and NumPy's own types.
"""

from __future__ import annotations

import _compat_pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.pickles import arrays, plain, rebuild
from holdfast.spec.dtypes import BY_NAME, BY_STORAGE_CLASS
from holdfast.spec.index import Opaque

if TYPE_CHECKING:
    from holdfast.pickles.machine import Machine

Symbol: TypeAlias = tuple[str, str]
Call: TypeAlias = "Callable[[Machine, tuple[Any, ...]], Any]"

#: What calling a known symbol gives: a function of the machine and the arguments.
CALLS: dict[Symbol, Call] = {
    ("collections", "OrderedDict"): plain.ordered_dict,
    ("collections", "Counter"): plain.counter,
    ("builtins", "set"): plain.set_,
    ("builtins", "complex"): plain.complex_,
    ("builtins", "bytearray"): plain.bytearray_,
    ("builtins", "bytes"): plain.bytes_,
    ("_codecs", "encode"): plain.encode,
    ("copyreg", "_reconstructor"): plain.reconstructor,
    ("copyreg", "__newobj__"): plain.newobj,
    ("torch", "Size"): plain.size,
    ("torch", "device"): plain.device,
    ("torch.serialization", "_get_layout"): plain.layout,
    ("torch", "Tensor"): rebuild.bare_tensor,
    **{  # torch before 0.2 has a class of tensors for each element type
        (module, name.replace("Storage", "Tensor")): rebuild.bare_tensor
        for module in ("torch", "torch.cuda")
        for name, dtype in BY_STORAGE_CLASS.items()
        if name != "UntypedStorage" and not dtype.is_quantized
    },
    ("torch.autograd.variable", "Variable"): rebuild.variable,
    ("torch.nn.parameter", "Parameter"): rebuild.parameter_class,
    ("torch._utils", "_rebuild_tensor"): rebuild.tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild.tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): rebuild.tensor_v3,
    ("torch._utils", "_rebuild_parameter"): rebuild.parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): rebuild.parameter_with_state,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): rebuild.meta_tensor,
    ("torch._utils", "_rebuild_qtensor"): rebuild.quantized_tensor,
    ("torch._utils", "_rebuild_sparse_tensor"): rebuild.sparse_tensor,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): rebuild.device_tensor,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): rebuild.device_tensor_from_numpy,
    ("torch._utils", "_rebuild_xla_tensor"): rebuild.device_tensor_from_numpy,
    ("torch._utils", "_rebuild_wrapper_subclass"): rebuild.wrapper_subclass,
    ("torch._tensor", "_rebuild_from_type_v2"): rebuild.from_type,
    ("numpy", "dtype"): arrays.dtype,
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", arrays.reconstruct),
            ("multiarray", "scalar", arrays.scalar),
            ("numeric", "_frombuffer", arrays.from_buffer),
        )
    },
}

#: Element types of torch's storage classes, by their symbols (older files: with an underscore).
STORAGES = {
    **{("torch", name): dtype for name, dtype in BY_STORAGE_CLASS.items()},
    **{("torch.cuda", name): dtype for name, dtype in BY_STORAGE_CLASS.items()},
    ("torch.storage", "UntypedStorage"): BY_NAME["uint8"],
    ("torch.storage", "_UntypedStorage"): BY_NAME["uint8"],
    ("torch", "_UntypedStorage"): BY_NAME["uint8"],
}

#: How quantized numbers are scaled, as ``torch.<name>``.
QSCHEMES = frozenset(
    f"per_{part}" for part in (
        "tensor_affine",
        "tensor_symmetric",
        "channel_affine",
        "channel_symmetric",
        "channel_affine_float_qparams",
    )
)  # fmt: skip

#: Known symbols that a tree may hold as they are: classes and constants, no functions.
VALUES: frozenset[Symbol] = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "Counter"),
        *(("builtins", name) for name in ("set", "complex", "bytearray", "bytes", "object")),
        *(("torch", name) for name in ("Size", "device", "Tensor", *QSCHEMES)),
        ("torch.nn.parameter", "Parameter"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *STORAGES,
    }
)

_KNOWN = frozenset(CALLS) | VALUES

#: Modules whose functions reach beyond the process; no checkpoint has a reason to name them.
HARMFUL_MODULES = frozenset(
    {
        *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "runpy", "ctypes"),
        *("importlib", "code", "codeop", "pickle", "_pickle", "marshal", "pip", "webbrowser"),
        *("multiprocessing", "threading", "asyncio", "urllib", "http", "requests", "pdb", "bdb"),
        *("timeit", "cProfile", "profile", "tempfile", "platform", "commands", "dill"),
    }
)

#: Single symbols: with these code objects and functions are made.
_HARMFUL = frozenset(
    f"types.{name}" for name in ("CodeType", "FunctionType", "LambdaType", "MethodType")
)

#: The same of ``builtins``.
HARMFUL_BUILTINS = frozenset(
    {
        *("eval", "exec", "compile", "open", "__import__", "getattr", "setattr", "delattr"),
        *("globals", "locals", "vars", "breakpoint", "input", "execfile", "apply", "map"),
    }
)


def is_known(module: str, name: str) -> bool:
    """Whether a symbol is in the closed table (dtypes included)."""
    return (module, name) in _KNOWN or (module == "torch" and name in BY_NAME)


def is_harmful(symbol: str) -> bool:
    """Whether a symbol can run commands or code; used to warn, never to allow what is left."""
    module, _, name = symbol.rpartition(".")
    if module == "builtins":
        return name in HARMFUL_BUILTINS
    return module.partition(".")[0] in HARMFUL_MODULES or symbol in _HARMFUL


def python3_name(module: str, name: str) -> Symbol:
    """The name that a Python 2 symbol has today: ``__builtin__.set`` is ``builtins.set``."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        found: Symbol = _compat_pickle.NAME_MAPPING[module, name]
        return found
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def nested_name(function: Any, args: tuple[Any, ...]) -> str | None:
    """The name of a nested class, which protocols before 4 write as ``getattr(Outer, "Inner")``.

    It is a name like any other and needs trust like any other; nothing is looked up.
    """
    if type(function) is not Opaque or function.symbol != "builtins.getattr" or len(args) != 2:
        return None
    outer, inner = args
    if type(outer) is not Opaque or not outer.is_global or type(inner) is not str:
        return None
    is_plain = inner.isidentifier() and not inner.startswith("__") and len(inner) < 200
    if not is_plain or is_known(outer.module, outer.name) or len(outer.name) > 1000:
        return None
    return f"{outer.name}.{inner}"
