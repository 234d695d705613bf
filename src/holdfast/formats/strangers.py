"""What a file is that is no checkpoint, and what to do with it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.errors import NotACheckpointError
from holdfast.io.source import Source

_NUMPY = "Read it with numpy.load(FILE, allow_pickle=False): an array of objects would run code."
_UNPACK = "Unpack it first: {}"

#: What a file begins with, what that is, and what to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
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
    (b"\x93NUMPY", "a NumPy array (.npy)", _NUMPY),
    (b"PK\x05\x06", "an empty zip archive", "Get the file again."),
)

_HTML = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)


def letter(source: Source, head: bytes) -> NotACheckpointError:
    """The error for a file that begins with ``head`` and is of no format read here."""
    if not head:
        return other(source, "an empty file", "Whatever was to write it did not: look there.")
    return other(source, *_kind_of(head))


def letter_of_zip(source: Source, names: Sequence[str]) -> NotACheckpointError:
    """The error for a zip archive with members of these names that is no checkpoint."""
    if names and all(name.endswith(".npy") for name in names):
        return other(source, "a NumPy archive (.npz)", _NUMPY)
    if any(name.partition("/")[2] == "model.json" for name in names):
        return other(
            source,
            "a TorchScript program of torch before 1.4",
            "Any torch writes it as they are today: torch.jit.save(torch.jit.load(old), new).",
        )
    return other(
        source,
        "a zip archive without a checkpoint",
        "Holdfast reads what torch.save writes; if the checkpoint lies in it: unzip FILE",
    )


def other(source: Source, what: str, cure: str) -> NotACheckpointError:
    """The error that says what a file is instead of a checkpoint."""
    return NotACheckpointError(f"this is {what}", file=source.name, cure=cure)


def _kind_of(head: bytes) -> tuple[str, str]:
    for beginning, what, cure in _BEGINNINGS:
        if head.startswith(beginning):
            return what, cure
    if _HTML.match(head):
        return (
            "a web page, not the file that was to be downloaded",
            "Open the address in a browser: the page says what is wrong.",
        )
    if not head.strip(b"\0"):
        return (
            "a file of zero bytes: a write or a download that never came to its end",
            "Get it again, or use an earlier one.",
        )
    return (
        "no kind of file that holdfast knows",
        "Holdfast reads what torch.save, torch.jit.save, torch.export.save, safetensors, ONNX and "
        "torch.distributed.checkpoint write.",
    )
