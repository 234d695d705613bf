"""What each rank has for itself: its random generators and its place in the data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from holdfast.saving.foreground import save_encoded
from holdfast.spec.index import Index
from holdfast.state.capture import Captured, capture
from holdfast.state.parts import (
    LoaderPart,
    NumpyGeneratorPart,
    Part,
    PythonRandomPart,
    TorchGeneratorPart,
)
from holdfast.tensors.encode import encode
from holdfast.tensors.load import load_file

#: Where in a checkpoint's tree the shares of the ranks above 0 are, by rank.
RANKS = "ranks"

#: Parts that every rank has for itself.
OWN = (LoaderPart, TorchGeneratorPart, NumpyGeneratorPart, PythonRandomPart)


class Share(NamedTuple):
    """What one rank adds to a checkpoint: its tree as the bytes of a file.

    The paths in ``converted`` are those of the share.
    """

    data: bytes
    converted: dict[str, str]


def share_of(parts: Mapping[str, Part]) -> Share:
    """The state that is this rank's own: generators, loaders."""
    captured = capture({n: part for n, part in parts.items() if isinstance(part, OWN)}, {})
    made = io.BytesIO()
    save_encoded(encode(captured.tree), made)
    return Share(made.getvalue(), dict(captured.converted))


def with_shares(captured: Captured, shares: Sequence[Share]) -> Captured:
    """What rank 0 has captured, and the shares of ranks 1, 2, …."""
    converted = dict(captured.converted)
    for rank, share in enumerate(shares, 1):
        converted |= {f"/{RANKS}/{rank}{at}": note for at, note in share.converted.items()}
    ranks = {str(r): load_file(io.BytesIO(each.data)) for r, each in enumerate(shares, 1)}
    return replace(captured, tree={**captured.tree, RANKS: ranks}, converted=converted)


@dataclass(frozen=True, slots=True)
class View:
    """A checkpoint as one rank sees it.

    ``index`` has its own generators and loaders in their places; ``skipped`` are parts whose state
    was another rank's, and ``notes`` say so; ``rng_notes`` are of the global generators.
    """

    index: Index
    skipped: tuple[str, ...] = ()
    has_rng: bool = True
    notes: tuple[str, ...] = ()
    rng_notes: tuple[str, ...] = ()


def view_of(index: Index, rank: int, size: int, parts: Mapping[str, Part]) -> View:
    """What rank ``rank`` of ``size`` takes from a checkpoint that any number of ranks has saved."""
    tree = index.tree if isinstance(index.tree, Mapping) else {}
    shares = tree.get(RANKS)
    if index.record is None or not isinstance(shares, Mapping):
        saved = 1
        own: Any = None
    else:
        saved, own = len(shares) + 1, shares.get(str(rank))
    if saved == 1 and size == 1:
        return View(index)
    seen = index
    if isinstance(own, Mapping):
        assert index.record is not None
        seen = replace(
            index,
            tree={**{k: v for k, v in tree.items() if k != RANKS}, **own},
            record=replace(index.record, converted=_converted(index.record.converted, rank)),
        )
    elif saved > 1:
        seen = replace(index, tree={k: v for k, v in tree.items() if k != RANKS})
    if saved == size:
        return View(seen)
    return _of_another_number(seen, rank, size, saved, parts)


def _of_another_number(
    seen: Index, rank: int, size: int, saved: int, parts: Mapping[str, Part]
) -> View:
    """Places in the data are of a split that is no more; generators are those of their rank."""
    has_rng = rank < saved
    own = [name for name, part in parts.items() if isinstance(part, OWN)]
    skipped = [name for name in own if isinstance(parts[name], LoaderPart) or not has_rng]
    counts = f"the checkpoint is of {_ranks(saved)}, and this is one of {size}"
    notes = tuple(f"{name!r}: {counts}" for name in skipped)
    rng_notes: tuple[str, ...] = ()
    if not has_rng:
        rng_notes = (f"the random generators of rank {rank}: {counts}",)
    elif saved > size:
        rng_notes = (f"the random generators of ranks {size} to {saved - 1}: {counts}",)
    return View(seen, tuple(skipped), has_rng, notes, rng_notes)


def _ranks(count: int) -> str:
    return "one process" if count == 1 else f"{count} ranks"


def _converted(notes: Mapping[str, str], rank: int) -> dict[str, str]:
    """The notes with those of a rank's own share where rank 0 has its own."""
    below = f"/{RANKS}/{rank}/"
    own = {f"/{at[len(below) :]}": note for at, note in notes.items() if at.startswith(below)}
    tops = {at.split("/")[1] for at in own}
    kept = {
        at: note
        for at, note in notes.items()
        if not at.startswith(f"/{RANKS}/") and at.split("/")[1] not in tops
    }
    return {**kept, **own}
