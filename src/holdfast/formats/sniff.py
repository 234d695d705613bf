"""Which kind of file it is, by its bytes, and what to do with the kinds not read here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast.errors import NotACheckpointError
from holdfast.io.source import Source

_HEAD = 512
_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_UNPACK = "Unpack it first: {}"

#: What a file begins with, what that is, and what to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (
        _LEGACY,
        "a legacy torch file (from before torch 1.6)",
        "Save it anew with the torch that made it: torch.save(torch.load(path), new_path).",
    ),
    (b"\x1f\x8b", "a gzip file", _UNPACK.format("gzip -d FILE")),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK.format("zstd -d FILE")),
    (b"\xfd7zXZ\x00", "an xz file", _UNPACK.format("xz -d FILE")),
    (b"BZh", "a bzip2 file", _UNPACK.format("bzip2 -d FILE")),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it first."),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "Fetch the file: git lfs pull",
    ),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras and others)", "Read it with h5py."),
    (b"GGUF", "a GGUF file (llama.cpp)", "Read it with the gguf package."),
    (b"\x93NUMPY", "a NumPy array (.npy)", "Read it with numpy.load."),
    (b"PK\x05\x06", "an empty zip archive", "Get the file again."),
)

_HTML = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def require_zip(source: Source) -> None:
    """Go on only with a zip archive.

    Raises:
        NotACheckpointError: the file is empty or of another kind; the message says which.
    """
    head = source.read_at(0, min(source.size, _HEAD))
    if head.startswith(_ZIP):
        return
    if not head:
        raise _other(source, "an empty file", "Whatever was to write it did not: look there.")
    what, cure = _kind_of(head)
    raise _other(source, what, cure)


def _kind_of(head: bytes) -> tuple[str, str]:
    for beginning, what, cure in _BEGINNINGS:
        if head.startswith(beginning):
            return what, cure
    if _is_safetensors(head):
        return "a safetensors file", "Read it with the safetensors package."
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK.format("tar -xf FILE")
    if _HTML.match(head):
        return (
            "a web page, not the file that was to be downloaded",
            "Open the address in a browser: the page says what is wrong.",
        )
    if _PICKLE.match(head):
        return (
            "a plain pickle, without tensors as torch.save writes them",
            "Save what it holds with torch.save. Unpickling a stranger's file runs its code.",
        )
    if not head.strip(b"\0"):
        return (
            "a file of zero bytes: a write or a download that never came to its end",
            "Get it again, or use an earlier one.",
        )
    return "no kind of file that holdfast knows", "Holdfast reads what torch.save writes."


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def require_torch_zip(source: Source, names: Iterable[str]) -> None:
    """Go on only with an archive that torch.save wrote, by the names of its members.

    Raises:
        NotACheckpointError: the archive is of another kind; the message says which.
    """
    full = list(names)
    inner = {name.partition("/")[2] for name in full}
    if "constants.pkl" in inner:
        raise _other(
            source,
            "a TorchScript program, not a checkpoint",
            "Load it with torch.jit.load, and only if you trust it: it is code.",
        )
    if "archive_format" in inner or "models/model.json" in inner:
        raise _other(
            source,
            "a program of torch.export (.pt2), not a checkpoint",
            "Load it with torch.export.load, and only if you trust it: it is code.",
        )
    if "data.pkl" in inner and full[0].partition("/")[0] + "/data.pkl" in full:
        return
    if full and all(name.endswith(".npy") for name in full):
        raise _other(source, "a NumPy archive (.npz)", "Read it with numpy.load.")
    raise _other(
        source,
        "a zip archive without a checkpoint",
        "Holdfast reads what torch.save writes; if the checkpoint lies in it: unzip FILE",
    )


def _other(source: Source, what: str, cure: str) -> NotACheckpointError:
    return NotACheckpointError(f"this is {what}", file=source.name, cure=cure)
