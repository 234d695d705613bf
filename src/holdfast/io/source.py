"""Reading bytes by position: from a path, a folder, or an open binary file.

Nothing here maps a file into memory: a file truncated underneath a mapping would kill the process.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from holdfast.errors import UsageError
from holdfast.io.files import FileObject, name_of, owned
from holdfast.io.folder import Folder, open_path
from holdfast.io.positional import Memory, Source

__all__ = ["Folder", "Memory", "Source", "open_source", "owned"]


def open_source(file: str | os.PathLike[str] | BinaryIO) -> Source:
    """Open a path, or a binary file object from its current position on, as torch.load does.

    Raises:
        NoCheckpointError: no such file.
        NotACheckpointError: neither a regular file nor a folder.
        FileError: the file system said no.
        UsageError: neither a path nor a binary file that can seek.
    """
    if isinstance(file, str | os.PathLike):
        return open_path(os.fspath(file))
    if isinstance(file, io.TextIOBase) or not callable(getattr(file, "read", None)):
        raise UsageError(
            "a path or a binary file object is needed to read from",
            found=f"{type(file).__module__}.{type(file).__qualname__}",
            cure='Open the file in binary mode: open(path, "rb").',
        )
    return FileObject(file, name_of(file))
