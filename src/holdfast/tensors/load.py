"""Load a file: sniff, read its headers, build what it holds."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from holdfast.errors import UsageError
from holdfast.formats import read_index
from holdfast.io.progress import Bar
from holdfast.io.source import open_source
from holdfast.spec.index import Index
from holdfast.tensors.materialise import materialise
from holdfast.tensors.trust import Trust, untrusted
from holdfast.tensors.whole import has_modules, needed


def load_file(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    map_location: Any = "cpu",
    mmap: bool = False,
    verify: bool | None = None,
    trust: Iterable[Any] | Mapping[str, Any] = (),
    opaque: str = "error",
    encoding: str = "utf-8",
) -> Any:
    """What torch.load gives for a file, nothing in it being run; see ``holdfast.load``.

    Raises:
        UntrustedError: the file names classes that are not trusted, used or not; all are named.
        FormatError: it is no checkpoint, or is damaged.
        FileError: it may not be read.
        UsageError: an option is none.
    """
    _check_encoding(encoding)
    with open_source(file) as source:
        index = read_index(source, encoding=encoding)
        if opaque == "error":
            _check_symbols(index, Trust(trust))
        with Bar(sum(extent.nbytes for extent in index.extents.values())) as bar:
            return materialise(
                index,
                source,
                map_location=map_location,
                mmap=mmap,
                verify=verify,
                trust=trust,
                opaque=opaque,
                on_progress=bar.advance,
            )


def _check_symbols(index: Index, trust: Trust) -> None:
    """Also objects that the pickle makes and drops again would have run elsewhere."""
    missing = {
        symbol: symbol.rpartition(".")[0] for symbol in index.symbols if not trust.has(symbol)
    }
    missing.update(needed(index.tree, trust))
    if missing:
        raise untrusted(index.file, missing, has_modules=has_modules(index.tree))


def _check_encoding(encoding: str) -> None:
    try:
        if encoding != "bytes":
            codecs.lookup(encoding)
    except (LookupError, TypeError) as error:
        raise UsageError(
            "this encoding is none that Python knows",
            found=repr(encoding)[:100],
            cure='The default is "utf-8"; files of Python 2 may need "latin1" or "bytes".',
        ) from error
