"""What the persistent ids of torch's pickles are made of."""

from __future__ import annotations

from typing import Any

from holdfast.pickles.machine import Machine
from holdfast.pickles.table import STORAGES
from holdfast.spec.dtypes import DType
from holdfast.spec.index import Opaque


def text(value: Any) -> str | None:
    """A value as text; None when it is none."""
    if type(value) is str:
        return value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")  # Python 2 text read with encoding="bytes"
    return value if isinstance(value, str) else None


def element_type(cls: Any) -> DType | None:
    """The element type of a storage class; None when it is no such class."""
    if type(cls) is not Opaque or cls.how != "global":
        return None
    return STORAGES.get((cls.module, cls.name))


def none_here(m: Machine, pid: Any) -> Any:
    """The persistent ids of a pickle that has none.

    Raises:
        RefusedError: always.
    """
    raise m.refused("this pickle names nothing outside itself", found=m.shown(pid))


def with_source(m: Machine, cls: Any, source: Any) -> Opaque:
    """A class that comes with its program text, which is kept to show and never compiled.

    Raises:
        RefusedError: it is no class.
    """
    if type(cls) is not Opaque or not cls.is_global:
        raise m.refused("program text belongs to a class", found=m.shown(cls))
    if cls.source is None:
        cls.source = text(source)
    return cls
