"""One reader per container; which one it is, bytes say, never the suffix."""

from __future__ import annotations

import importlib
from typing import Any

from holdfast.formats import sniff, torch_zip
from holdfast.formats.at_rest import collector_at_rest
from holdfast.io.source import Source
from holdfast.spec.index import Index

__all__ = ["read_index", "sniff", "torch_zip"]

#: The modules that read what is no zip archive, by format; each is loaded when a file needs it.
_READERS = {
    "torch_legacy": "torch_legacy",
    "torch_tar": "torch_tar",
    "safetensors": "safetensors",
    "onnx": "onnx",
}
#: Those of zip archives: they get the members that sniffing has read.
_ZIP_READERS = {
    "torch_zip": "torch_zip.read",
    "torchscript": "torchscript",
    "exported": "exported",
}
#: Those that may hold files of other formats: they get this module's reader.
_HOLDERS = {
    "gzip": "gzipped",
    "pickle": "plain_pickle",
    "safetensors_sharded": "sharded",
    "torch_sharded": "sharded",
    "model_folder": "model_folder",
}

#: Those that several processes open together: they get the share of this one.
_SHARED = {"dcp": "dcp"}


def read_index(
    source: Source, *, encoding: str = "utf-8", share: tuple[int, int] = (0, 1)
) -> Index:
    """What a file or folder holds, from its headers: tree, extents and record; no tensor is read.

    ``encoding`` decodes the text of files that Python 2 wrote (``bytes`` leaves it as bytes). Of
    several processes that open one folder together each may say which ``share`` (number, count) it
    looks at; what all of them find good is.

    Raises:
        NotACheckpointError: another kind of file; the message says which, and what to do.
        TruncatedError: the file ends too early.
        DamagedError: its headers are not those that were saved.
        RefusedError: a rule for hostile files is broken.
        FormatError: it is not laid out as its format asks.
    """
    with collector_at_rest():
        kind, members = sniff.kind_of(source)
        if kind in _ZIP_READERS:
            return _read(_ZIP_READERS[kind], source, encoding=encoding, members=members)
        if kind in _SHARED:
            return _read(_SHARED[kind], source, encoding=encoding, share=share)
        if kind in _HOLDERS:
            return _read(_HOLDERS[kind], source, encoding=encoding, read=read_index)
        return _read(_READERS[kind], source, encoding=encoding)


def _read(module: str, source: Source, **options: Any) -> Index:
    found = importlib.import_module(f"holdfast.formats.{module}").read_index(source, **options)
    assert isinstance(found, Index)
    return found
