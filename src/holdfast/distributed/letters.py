"""What is said of other ranks: gone, late, elsewhere, failed, or with something else in hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.errors import HoldfastError, RanksError


def _of(ranks: Sequence[int], what: str, **pieces: Any) -> RanksError:
    error = RanksError(what, **pieces)
    error.ranks = tuple(ranks)
    return error


def named(ranks: Sequence[int]) -> str:
    """``rank 3``, or ``ranks 1, 2 and 5``."""
    few = [str(rank) for rank in ranks[:8]]
    more = len(ranks) - len(few)
    if len(ranks) == 1:
        return f"rank {few[0]}"
    last = f"{more} more" if more else few.pop()
    return f"ranks {', '.join(few)} and {last}"


def lost(ranks: Sequence[int]) -> RanksError:
    """Ranks that are not alive any more."""
    return _of(
        ranks,
        f"{named(ranks)} of this training {'has' if len(ranks) == 1 else 'have'} ended",
        cure="Start the job again: it goes on from the last checkpoint.",
    )


def late(ranks: Sequence[int], call: str, size: int, seconds: float) -> RanksError:
    """Ranks that have not come to a call after so many seconds."""
    return _of(
        ranks,
        f"{named(ranks)} did not call {call} within {seconds:g} seconds",
        wanted=f"the same call on all {size} ranks",
        found=None if tuple(ranks) == (0,) else f"{size - len(ranks)} of them are there",
        cure="Call it on every rank, without `if rank == 0:`. holdfast writes once.",
    )


def silent(ranks: Sequence[int], seconds: float) -> RanksError:
    """Ranks that are alive, and do not come to the end of a step."""
    return _of(
        ranks,
        f"{named(ranks)} was not heard of for {seconds / 60:g} minutes",
        wanted="the same loop over run.steps() on every rank",
        cure="Leave the loop on all ranks, or on none; ask run.should_stop on all of them.",
    )


def left() -> RanksError:
    """Rank 0, which has left its loop before the end of it."""
    return _of(
        [0],
        "rank 0 has left the loop over run.steps()",
        wanted="the same loop on every rank",
        cure="Leave it on all ranks, or on none.",
    )


def elsewhere(rank: int, theirs: str, ours: str) -> RanksError:
    """A rank that makes another call than rank 0."""
    return _of(
        [rank],
        "the ranks of this training do not make the same calls in the same order",
        wanted=f"{ours}, as on rank 0",
        found=f"{theirs} on rank {rank}",
        cure="Call the same things of the run on every rank, without `if rank == 0:`.",
    )


def sees_other(rank: int, what: str, wanted: object, found: object) -> RanksError:
    """A rank for which the folder is another than for rank 0."""
    return _of(
        [rank],
        f"{named([rank])} sees {what}",
        wanted=wanted,
        found=found,
        cure="Is it the same folder on every machine? A network file system may need a moment: "
        "start again.",
    )


def check_same(said: list[Any]) -> None:
    """Find a rank that has something else than rank 0 in its hands; raises RanksError."""
    for rank, what in enumerate(said):
        if what != said[0]:
            other = "another checkpoint than rank 0 under the same name"
            raise sees_other(rank, other, said[0], what)


def failed_on(rank: int, error: BaseException) -> RanksError:
    """The error that the other ranks raise when something went wrong on one."""
    return failed(rank, as_letter(error))


def failed(rank: int, error: HoldfastError) -> RanksError:
    """The same of an error that is a letter."""
    made = _of(
        [rank],
        f"rank {rank}: {error.what}",
        file=error.file,
        member=error.member,
        tensor=error.tensor,
        wanted=error.wanted,
        found=error.found,
        cure=error.cure,
    )
    made.error = error
    return made


def as_letter(error: BaseException) -> HoldfastError:
    """An error of somebody else's code as one that can be told."""
    if isinstance(error, HoldfastError):
        return error
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    return HoldfastError(f"an error ended the call there: {said}"[:500])


def has_other(rank: int, wanted: object, found: object) -> RanksError:
    """A rank whose state has other tensors than rank 0's."""
    return _of(
        [rank],
        f"{named([rank])} has other tensors than rank 0 to be saved",
        wanted=wanted,
        found=found,
        cure="Give the run the same parts on every rank. Stages of a pipeline are runs of their "
        "own, each in its own folder.",
    )


def wrote_other(rank: int, wanted: int, found: int) -> RanksError:
    """A rank that has not written what it was to write: nothing is committed."""
    return _of(
        [rank],
        f"{named([rank])} has written something else than its share",
        wanted=f"{wanted:,} pieces",
        found=f"{found:,}",
        cure="This is an error of holdfast's: please report it. The checkpoints before are there.",
    )
