"""Weights in several files, and a listing beside them that says which tensor is in which.

The ``*.index.json`` of Hugging Face's libraries:
``{"metadata": {...}, "weight_map": {"name": "model-00001-of-00002.safetensors", ...}}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import FormatError, NoCheckpointError, RefusedError
from holdfast.formats import strict_json
from holdfast.formats.joined import Joined
from holdfast.io.source import Folder, Source
from holdfast.spec.index import Index

#: The listings that transformers writes, the better one first.
KNOWN = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SUFFIX = ".index.json"
#: How the shards of such a listing are called, before the suffix; a pattern of ``fnmatch``.
SHARDS = f"*-{'[0-9]' * 5}-of-{'[0-9]' * 5}"
_LONGEST = 100_000_000
_MOST_TENSORS = 500_000
#: More files than any folder of weights has; each stays open.
_MOST_FILES = 10_000
_FIRST = 1 << 16


@dataclass(frozen=True, slots=True)
class Listing:
    """What a listing says: the file of each tensor, and text beside it."""

    file: str
    nbytes: int
    files: Mapping[str, str]
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return Path(self.file).name


def is_listing(source: Source) -> bool:
    """Whether a file is such a listing, by its first bytes."""
    head = source.read_at(0, min(source.size, _FIRST)).lstrip()
    return head.startswith(b"{") and b'"weight_map"' in head


def listings_in(folder: Folder) -> list[Listing]:
    """The listings in a folder, known names first; of several those whose files are there.

    Whoever downloads the files of one kind often has the listings of all.
    """
    names = folder.names()
    found = [name for name in names if name.endswith(SUFFIX) and folder.has(name)]
    opened = [folder.open(name) for name in sorted(found, key=_rank)]
    listings = [read_listing(each) for each in opened if _name(each) in KNOWN or is_listing(each)]
    tops = {*names}
    there = [each for each in listings if any(_top(file) in tops for file in each.files.values())]
    return there or listings[:1]


def _rank(name: str) -> int:
    return KNOWN.index(name) if name in KNOWN else len(KNOWN)


def _top(file: str) -> str:
    return file.partition("/")[0]


def _name(source: Source) -> str:
    return Path(source.name).name


def read_index(source: Source, *, encoding: str = "utf-8", read: Callable[..., Index]) -> Index:
    """All tensors of the files that a listing names, by name, in its order.

    ``source`` is the folder, or the listing itself.

    Raises:
        FormatError: a file or a tensor is not where the listing says.
        RefusedError: a rule for hostile files is broken.
    """
    if isinstance(source, Folder):
        return join(source, listings_in(source)[0], encoding=encoding, read=read)
    if source.path is None:
        raise FormatError(
            "this listing names files that lie beside it",
            file=source.name,
            cure="Give its path, or that of its folder, not an open file.",
        )
    folder = Folder(str(Path(source.path).parent))
    source.adopt(folder)
    return join(folder, read_listing(source), encoding=encoding, read=read)


def read_listing(source: Source) -> Listing:
    """Read and check a listing.

    Raises:
        FormatError: it is none.
        RefusedError: it is too large.
    """
    if source.size > _LONGEST:
        raise _too_large(source, f"{_LONGEST:,} bytes", f"{source.size:,}")
    data = source.read_at(0, source.size)
    if data.count(b",") + data.count(b"[") + data.count(b"{") > 2 * _MOST_TENSORS:
        raise _too_large(source, f"{_MOST_TENSORS:,} tensors", "more")
    values = strict_json.decode(data, what="this listing of a checkpoint", file=source.name)
    files = values.get("weight_map") if isinstance(values, dict) else None
    if (
        not isinstance(files, dict)
        or not files
        or not all(type(file) is str for file in files.values())
    ):
        raise FormatError(
            "this is no listing of a checkpoint",
            file=source.name,
            wanted='"weight_map": {"tensor": "file", …}',
            cure="The file is broken: get it again.",
        )
    about = values.get("metadata")
    metadata = _as_text(about) if isinstance(about, dict) else {}
    return Listing(source.name, source.size, files, metadata)


def join(
    folder: Folder, listing: Listing, *, encoding: str = "utf-8", read: Callable[..., Index]
) -> Index:
    """The index of all files that a listing names; raises like ``read_index``."""
    shards = list(dict.fromkeys(listing.files.values()))
    if len(shards) > _MOST_FILES:
        raise RefusedError(
            "refused: a checkpoint has not too many files",
            file=listing.file,
            wanted=f"at most {_MOST_FILES:,}",
            found=f"{len(shards):,}",
        )
    joined, trees, formats = Joined(folder.name), dict[str, Any](), set[str]()
    ties: dict[str, Any] = {}
    for shard in shards:
        index = read(_opened(folder, listing, shard), encoding=encoding)
        ties.update(_set_aside_ties(index, listing))
        _check(folder, listing, shard, index.tree)
        trees[shard] = joined.add(shard, index)
        formats.add(index.format)
    tree = {}
    for name, shard in listing.files.items():
        if name not in trees[shard]:
            raise _missing(folder, listing, shard, name)
        tree[name] = trees[shard][name]
    unlisted = [name for each in trees.values() for name in each if name not in listing.files]
    if unlisted:
        count = f"{len(unlisted)} of the tensors in its files"
        joined.notes.append(f"the listing leaves out {count}, such as {str(unlisted[0])[:200]}")
    joined.metadata.update(listing.metadata)
    kind = "safetensors_sharded" if formats == {"safetensors"} else "torch_sharded"
    tree.update({name: ref for name, ref in ties.items() if name not in tree})
    return joined.index(kind, tree, nbytes=listing.nbytes)


def _set_aside_ties(index: Index, listing: Listing) -> dict[str, Any]:
    """Take other names of tied weights out of a shard's tree: the listing has none of them."""
    if index.format != "safetensors":
        return {}
    names = [name for name, ref in index.tree.items() if ref.storage.key != name]
    ties = {name: index.tree.pop(name) for name in names}
    return {name: ref for name, ref in ties.items() if name not in listing.files}


def _opened(folder: Folder, listing: Listing, shard: str) -> Source:
    try:
        source = folder.open(shard)
    except NoCheckpointError as error:
        raise FormatError(
            "a file of this checkpoint is not there",
            file=folder.name,
            wanted=ascii(shard)[:200],
            cure=f"{listing.name} names it: get the whole folder again.",
        ) from error
    if source.is_folder or is_listing(source):
        raise RefusedError(
            "refused: a listing names files of tensors",
            file=folder.name,
            member=shard[:200],
            cure="It was made to do harm, or by hand.",
        )
    return source


def _check(folder: Folder, listing: Listing, shard: str, tree: Any) -> None:
    """A shard is a flat dict of tensors, each of them in this file alone."""
    if not isinstance(tree, Mapping):
        raise FormatError(
            "a file of this checkpoint is no dict of tensors",
            file=folder.name,
            member=shard[:200],
            cure=f"{listing.name} names it: get the whole folder again.",
        )
    for name in tree:
        place = listing.files.get(name, shard) if isinstance(name, str) else shard
        if place != shard:
            raise RefusedError(
                "refused: each tensor is in one file of a checkpoint, that of the listing",
                file=folder.name,
                member=shard[:200],
                tensor=name[:200],
                wanted=f"in {ascii(place)[:200]} only",
                cure="It was made so that two programs see two different checkpoints in it.",
            )


def _missing(folder: Folder, listing: Listing, shard: str, name: str) -> FormatError:
    return FormatError(
        "a tensor of this checkpoint is not in the file that should have it",
        file=folder.name,
        member=shard[:200],
        tensor=name[:200],
        cure=f"{listing.name} is that of another checkpoint: get both again.",
    )


def _too_large(source: Source, wanted: str, found: str) -> RefusedError:
    return RefusedError(
        "refused: a listing is not too large",
        file=source.name,
        wanted=f"at most {wanted}",
        found=found,
    )


def _as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Values of JSON as text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }
