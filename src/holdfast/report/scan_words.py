"""What is said of a symbol that a pickle names; the closed table alone decides."""

from __future__ import annotations

from collections.abc import Collection

from holdfast.pickles.table import is_harmful, is_known

#: What torch.distributed.checkpoint writes into ``.metadata``; read there as plain records.
_METADATA = frozenset(
    {
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        *(
            (module, name)
            for module in ("pathlib", "pathlib._local")
            for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
        ),
    }
)

HARMFUL = "can run commands or code on this machine"
UNKNOWN = "outside the closed table: nothing is known of it"
_KNOWN = "part of ordinary torch files"
_METADATA_PART = "part of every torch.distributed.checkpoint folder"
_PATCHED = "a class that the file would change for the whole process"
_NAMELESS = "its name is made only when the pickle runs: nothing is known of it"
_EXTENSION = "a number that stands for any class: nothing is known of it"
_INNER_FILE = "outside the closed table: it loads a file inside this one, which is scanned as well"
PROGRAM_CLASS = "a class of the program in this file"
PROGRAM_PART = "part of every TorchScript program"


def is_allowed(module: str, name: str, ways: Collection[str], *, is_metadata: bool) -> bool:
    """Whether a symbol is in the closed table, and not itself changed by the pickle.

    ``is_metadata`` adds the records that the ``.metadata`` of a checkpoint folder consists of.
    """
    if "patched" in ways:
        return False
    if is_metadata:  # no arrays: numbers in them would say where things lie, unseen
        is_array = module.startswith("numpy")
        return (module, name) in _METADATA or (is_known(module, name) and not is_array)
    return is_known(module, name)


def words(
    module: str, name: str, ways: Collection[str], *, is_program: bool, is_metadata: bool = False
) -> str:
    """A plain sentence on a symbol; it decides nothing."""
    symbol = f"{module}.{name}"
    if "patched" in ways:
        return _PATCHED
    if is_known(module, name):
        return _KNOWN
    if is_metadata and (module, name) in _METADATA:
        return _METADATA_PART
    if not module and name == "unknown":
        return _NAMELESS
    if module == "copyreg" and name.startswith("extension code "):
        return _EXTENSION
    if is_program and symbol.startswith("__torch__."):
        return PROGRAM_CLASS
    if is_program and module == "torch.jit._pickle":
        return PROGRAM_PART
    if symbol == "torch.storage._load_from_bytes":
        return _INNER_FILE
    # Named without being called, getattr is how older pickles reach a nested class.
    is_step = symbol == "builtins.getattr" and not ways
    return HARMFUL if is_harmful(f"{module}.{name}") and not is_step else UNKNOWN
