"""Folders of a model and its training: weights beside ``optimizer.pt`` and the like.

transformers' Trainer and accelerate write them. Each file that is a checkpoint becomes a part named
by its stem; the weights are ``model``, in one file or in several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from holdfast.errors import FormatError, HoldfastError
from holdfast.formats import sharded, strict_json
from holdfast.formats.joined import Joined
from holdfast.formats.sniff import MODEL_FILES, companions
from holdfast.io.source import Folder, Source
from holdfast.spec.index import Index

#: Plain values that the Trainer keeps beside the weights: steps, losses, the best metric.
_STATE = "trainer_state.json"
_LARGEST_STATE = 16 << 20
_DEEPEST = 100


def read_index(source: Source, *, encoding: str = "utf-8", read: Callable[..., Index]) -> Index:
    """All files of a folder that are checkpoints: ``{"model": …, "optimizer": …, …}``.

    A file that cannot be read is a note, unless the weights are in it.

    Raises:
        FormatError: the weights cannot be read.
        RefusedError: a rule for hostile files is broken.
    """
    assert isinstance(source, Folder)
    parts, inside = _Parts(source.name), set[str]()
    for position, listing in enumerate(sharded.listings_in(source)):
        inside.update(listing.files.values())
        stem = "model" if listing.name in sharded.KNOWN else listing.name.partition(".")[0]
        joining = partial(sharded.join, source, listing, encoding=encoding, read=read)
        parts.take(stem, listing.name, joining, must=position == 0, is_joined=True)
    for name in _ordered(companions(source, inside)):
        is_model = name in MODEL_FILES
        stem = "model" if is_model else name.rpartition(".")[0] or name
        reading = partial(_read, source, name, encoding, read)
        parts.take(stem, name, reading, must=is_model and "model" not in parts.tree)
    nbytes = _take_state(source, parts)
    return parts.joined.index("model_folder", parts.tree, nbytes=nbytes)


def _read(folder: Folder, name: str, encoding: str, read: Callable[..., Index]) -> Index:
    return read(folder.open(name), encoding=encoding)


class _Parts:
    """The parts so far: a tree, and what the index of all files needs."""

    def __init__(self, folder: str) -> None:
        self.joined = Joined(folder)
        self.tree: dict[str, Any] = {}

    def take(
        self,
        stem: str,
        name: str,
        read: Callable[[], Index],
        *,
        must: bool,
        is_joined: bool = False,
    ) -> None:
        """Take one file up; what cannot be read is a note, unless it must be."""
        try:
            index = read()
            found = self.joined.add(name, index, is_joined=is_joined)
        except HoldfastError as error:
            if must:
                raise
            self.leave_out(name, error)
            return
        part = self.put(stem, name, found)
        # What is not the model's bears the part's name.
        prefix = "" if part == "model" else f"{part}."
        self.joined.metadata.update({prefix + key: text for key, text in index.metadata.items()})

    def put(self, stem: str, name: str, value: Any) -> str:
        """Put a part into the tree by its stem, or by its whole name where another has that."""
        part = name if stem in self.tree else stem
        self.tree[part] = value
        return part

    def leave_out(self, name: str, error: HoldfastError) -> None:
        """Note that a file could not be read."""
        self.joined.notes.append(f"{name} is left out: {error.what}")


def _ordered(names: list[str]) -> Iterator[str]:
    """The weights first, then the optimizer, then the others by name."""
    first = [name for name in MODEL_FILES if name in names]
    second = [name for name in names if name.startswith("optimizer.")]
    yield from dict.fromkeys((*first, *second, *names))


def _take_state(folder: Folder, parts: _Parts) -> int:
    """Put the trainer's state into the tree, if it is one; the bytes of its file."""
    if not folder.has(_STATE):
        return 0
    try:
        source = folder.open(_STATE)
        if source.size > _LARGEST_STATE:
            raise FormatError(f"it is larger than {_LARGEST_STATE:,} bytes", file=source.name)
        value = strict_json.decode(
            source.read_at(0, source.size), what="the JSON", file=source.name, takes_nan=True
        )
        if _is_deep(value):
            raise FormatError(f"it is more than {_DEEPEST} levels deep", file=source.name)
    except HoldfastError as error:
        parts.leave_out(_STATE, error)
        return 0
    parts.put("trainer_state", _STATE, value)
    return source.size


def _is_deep(value: Any) -> bool:
    """Whether a value of JSON is nested more deeply than whoever walks it should go."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
