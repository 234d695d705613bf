"""One reader per container; which one it is, bytes say, never the suffix."""

from __future__ import annotations

from holdfast.formats import (
    dcp,
    exported,
    gzipped,
    model_folder,
    onnx,
    plain_pickle,
    safetensors,
    sharded,
    sniff,
    torch_legacy,
    torch_tar,
    torch_zip,
    torchscript,
)
from holdfast.formats.torch_zip import read as torch_zip_read
from holdfast.io.source import Source
from holdfast.spec.index import Index

__all__ = ["read_index", "sniff", "torch_zip"]

#: The readers of what is no zip archive, by format.
_READERS = {
    "torch_legacy": torch_legacy.read_index,
    "torch_tar": torch_tar.read_index,
    "safetensors": safetensors.read_index,
    "onnx": onnx.read_index,
}
#: Those of zip archives: they get the members that sniffing has read.
_ZIP_READERS = {
    "torch_zip": torch_zip_read.read_index,
    "torchscript": torchscript.read_index,
    "exported": exported.read_index,
}
#: Those that may hold files of other formats: they get this module's reader.
_HOLDERS = {
    "gzip": gzipped.read_index,
    "pickle": plain_pickle.read_index,
    "dcp": dcp.read_index,
    "safetensors_sharded": sharded.read_index,
    "torch_sharded": sharded.read_index,
    "model_folder": model_folder.read_index,
}


def read_index(source: Source, *, encoding: str = "utf-8") -> Index:
    """What a file or folder holds, from its headers: tree, extents and record; no tensor is read.

    ``encoding`` decodes the text of files that Python 2 wrote (``bytes`` leaves it as bytes).

    Raises:
        NotACheckpointError: another kind of file; the message says which, and what to do.
        TruncatedError: the file ends too early.
        DamagedError: its headers are not those that were saved.
        RefusedError: a rule for hostile files is broken.
        FormatError: it is not laid out as its format asks.
    """
    kind, members = sniff.kind_of(source)
    if kind in _ZIP_READERS:
        return _ZIP_READERS[kind](source, encoding=encoding, members=members)
    if kind in _HOLDERS:
        return _HOLDERS[kind](source, encoding=encoding, read=read_index)
    return _READERS[kind](source, encoding=encoding)
