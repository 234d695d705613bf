"""Which kind of file it is, by its bytes and never by its suffix."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from holdfast.errors import FormatError, HoldfastError, NotACheckpointError, RefusedError
from holdfast.formats import sharded, strangers
from holdfast.formats.zip_archive import Member, read_members
from holdfast.io.source import Folder, Source

#: Bytes at the beginning by which kinds are told apart.
HEAD = 512
#: The beginning of five pickles in a row: the number 0x1950A86A20F9469CFC6C, alone in a pickle.
_NUMBER = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#: By any protocol; newer ones have a frame around it.
_LEGACY = re.compile(rb"\x80[\x02-\x05](\x95.{8})?" + re.escape(_NUMBER), re.DOTALL)
#: safetensors: at most this many bytes of JSON.
LONGEST_JSON = 100_000_000

_PICKLE = re.compile(rb"\x80[\x02-\x05]")
#: Protocols 0 and 1 say nothing of themselves: an empty container, a mark or a global begins them.
_OLD_PICKLE = re.compile(rb"(\(d|\(l|\(t|[\]})]q|c[a-zA-Z_][\w.]*\n[a-zA-Z_][\w.]*\n|\(c[a-zA-Z_])")
#: ModelProto: field 1 (ir_version, a small number), then the tag of another known field.
_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca]")

#: The length of a safetensors header may look like the beginning of another file: one header in
#: 2000 has a length of 0x..0280 to 0x..0580. As bytes 4 to 7 are zero, and zero is no opcode of a
#: pickle and no field of ONNX, only what skips them with its first opcode or field can be both.
_SKIPS_ZEROS = re.compile(
    rb"(\x80[\x02-\x05]|\([dlt])([cgiFGILPSV\x8d\x8e\x95\x96]|[BTX\x8b][\x02-\x05]|[CU\x8a\x8c]\x05)"
)
_SKIPS_ZEROS_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x32\x3a\x42\x72]\x05")

#: A program of torch.export before 2.8 has no root folder.
_OLDER_EXPORT = "serialized_exported_program.json"
#: The files with all the weights of a model.
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
#: What files beside them are called; one of them that is no checkpoint is worth a word.
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_legacy(head: bytes) -> bool:
    """Whether a file begins as torch's did before 1.6."""
    return bool(_LEGACY.match(head))


def kind_of(source: Source) -> tuple[str, Mapping[str, Member]]:
    """The name of the format (as in ``Index.format``), and the members if it is a zip archive.

    One of ``torch_zip``, ``torchscript``, ``exported``, ``torch_legacy``, ``torch_tar``,
    ``safetensors``, ``onnx``, ``pickle``, ``gzip``; of a folder ``dcp``, ``safetensors_sharded``,
    ``torch_sharded`` or ``model_folder``.

    Raises:
        NotACheckpointError: another kind of file; the message says which, and what to do.
        RefusedError: the bytes fit two formats.
    """
    if isinstance(source, Folder):
        return _kind_of_folder(source), {}
    head = source.read_at(0, min(source.size, HEAD))
    if head.lstrip().startswith(b"{") and sharded.is_listing(source):
        return ("safetensors_sharded" if b".safetensors" in head else "torch_sharded"), {}
    kind = kind_by_head(source, head)
    if kind != "zip":
        return kind, {}
    members = read_members(source)
    return _kind_of_zip(source, members), members


def kind_by_head(source: Source, head: bytes) -> str:
    """What the first bytes of a file say: a name as in ``kind_of``, or ``zip``; raises like it."""
    kinds = _kinds_of(head[:HEAD])
    if len(kinds) > 1:
        raise RefusedError(
            "refused: a file is of one format",
            file=source.name,
            found=" and ".join(kinds),
            cure="It was made so that two programs see two different files in it.",
        )
    if not kinds:
        raise strangers.letter(source, head[:HEAD])
    return kinds[0]


def _kinds_of(head: bytes) -> list[str]:
    is_safe = head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_JSON
    fits = {
        "zip": head.startswith(b"PK\x03\x04"),
        "safetensors": is_safe,
        "torch_tar": head[257:262] == b"ustar",
        "torch_legacy": is_legacy(head),
        "pickle": bool(_PICKLE.match(head) or _OLD_PICKLE.match(head)) and not is_legacy(head),
        "gzip": head.startswith(b"\x1f\x8b\x08"),
        "onnx": bool(_ONNX.match(head)),
    }
    if is_safe:
        fits["pickle"] = fits["pickle"] and bool(_SKIPS_ZEROS.match(head))
        fits["onnx"] = fits["onnx"] and bool(_SKIPS_ZEROS_ONNX.match(head))
    return [kind for kind, is_it in fits.items() if is_it]


def _kind_of_zip(source: Source, names: Iterable[str]) -> str:
    full = list(names)
    inner = {name.partition("/")[2] for name in full}
    if "constants.pkl" in inner:
        return "torchscript"
    if "archive_format" in inner or "models/model.json" in inner or _OLDER_EXPORT in full:
        return "exported"
    if "data.pkl" in inner and full[0].partition("/")[0] + "/data.pkl" in full:
        return "torch_zip"
    raise strangers.letter_of_zip(source, full)


def _kind_of_folder(folder: Folder) -> str:
    if folder.has(".metadata"):
        return "dcp"
    names = folder.names()
    if any(name.endswith(".distcp") for name in names):
        return "dcp"  # of which the reader says that it was never finished
    listings = sharded.listings_in(folder)
    if len(listings) > 1 and listings[0].name not in sharded.KNOWN:
        raise NotACheckpointError(
            "this folder holds several checkpoints",
            file=folder.name,
            found=", ".join(listing.name for listing in listings[:5]),
            cure="Name the one that you mean.",
        )
    if any(name in names for name in MODEL_FILES) or len(listings) > 1:
        return "model_folder"
    if listings:
        files = {*listings[0].files.values()}
        if companions(folder, files):
            return "model_folder"
        is_safe = all(name.endswith(".safetensors") for name in files)
        return "safetensors_sharded" if is_safe else "torch_sharded"
    shards = sorted(fnmatch.filter(names, f"{sharded.SHARDS}.*"))
    if shards:
        raise FormatError(
            "the listing of these shards is not there",
            file=folder.name,
            wanted=" or ".join(sharded.KNOWN),
            found=_some(shards),
            cure="Get it from where the folder came from; or name one shard, to read that alone.",
        )
    raise NotACheckpointError(
        "this folder is no checkpoint",
        file=folder.name,
        wanted=", ".join((".metadata", *sharded.KNOWN, *MODEL_FILES)),
        found=_some(names) or "nothing",
        cure="Name a file in it, or the folder of a run.",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def companions(folder: Folder, known: Iterable[str]) -> list[str]:
    """The files of a folder, other than ``known``, that are to be read as checkpoints, by name.

    Those that begin like one, and those that should: an ``optimizer.pt`` that is none is told of.
    """
    others = sorted({*folder.names()} - {*known})
    return [name for name in others if folder.has(name) and _is_companion(folder, name)]


def _is_companion(folder: Folder, name: str) -> bool:
    if name.endswith(_SUFFIXES):
        return True
    try:
        source = folder.open(name)
    except HoldfastError:
        return False  # a link that leads out, or no permission: nothing names it
    return bool(_kinds_of(source.read_at(0, min(source.size, HEAD))))
