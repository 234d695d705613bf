"""Who writes what, from names, shapes and boxes alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.distributed import planning
from holdfast.distributed.planning import Piece, divide, file_of, places_of
from holdfast.errors import CaptureError, RanksError


def rows(name: str, length: int, number: int, count: int) -> Piece:
    """The rows that one of so many shares has, as torch.chunk cuts them."""
    each = -(-length // count)
    start = min(number * each, length)
    sizes = (min(each, length - start), 8)
    return Piece(name, "float32", (length, 8), (start, 0), sizes, False)


def plain(name: str, length: int) -> Piece:
    return Piece(name, "float32", (length,), (0,), (length,), True)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_everything_is_written_once(lengths: list[int], count: int, copies: int) -> None:
    """Shares over some ranks, in copies of them, and a plain tensor, which is rank 0's."""
    offers = [
        [rows(f"w{n}", length, rank % count, count) for n, length in enumerate(lengths)]
        + [plain("p", 5)]
        for rank in range(count * copies)
    ]
    division = divide(offers)
    written = [piece for rank in range(len(offers)) for piece in division.written(rank)]
    assert len({(piece.name, piece.offsets) for piece in written}) == len(written)
    for n, length in enumerate(lengths):
        own = [piece for piece in written if piece.name == f"w{n}"]
        assert sum(piece.sizes[0] for piece in own) == length
        assert len(division.entries[f"w{n}"].boxes) == len(own)
    assert [piece.name for piece in division.written(0)].count("p") == 1
    assert division.nbytes == sum(piece.slice_nbytes for piece in written)
    places = [places_of(division.written(rank), file_of(rank)) for rank in range(len(offers))]
    for its in places:
        ends = 0
        for place in its.values():
            assert place.offset == ends
            ends += place.nbytes


def test_copies_go_to_whoever_has_least() -> None:
    offers = [[rows(f"w{n}", 64, rank % 2, 2) for n in range(10)] for rank in range(4)]
    division = divide(offers)
    loads = [sum(piece.nbytes for piece in division.written(rank)) for rank in range(4)]
    assert loads == [10 * 64 * 8 * 4 // 4] * 4


def test_shares_with_a_hole_are_refused() -> None:
    offers = [[rows("w", 9, rank, 3)] for rank in (0, 2)]
    with pytest.raises(CaptureError) as caught:
        divide(offers)
    assert str(caught.value).splitlines() == [
        "the shares of all ranks are not the whole tensor 'w'",
        "  wanted pieces tile their tensor without hole or overlap, "
        "found 2 shares of (9, 8): (3, 8) at (0, 0), (3, 8) at (6, 0)",
        "  Are the ranks of its device mesh those of the training?",
    ]


def test_a_rank_with_other_tensors_is_named() -> None:
    with pytest.raises(RanksError) as caught:
        divide([[plain("a", 3)], [plain("a", 4)]])
    assert caught.value.ranks == (1,)
    assert "rank 1 has other tensors than rank 0 to be saved" in str(caught.value)


def test_more_than_can_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    division = divide([[rows("w", 8, rank, 4)] for rank in range(4)])
    planning.check_count(division, 2)
    for name, most in (("MOST_SLICES", 5), ("MOST_ENTRIES", 2)):
        with monkeypatch.context() as patched:
            patched.setattr(planning, name, most)
            planning.check_count(division, 1)
            with pytest.raises(CaptureError) as caught:
                planning.check_count(division, 2)
    assert str(caught.value) == (
        "this state is in too many pieces for one checkpoint\n"
        "  wanted at most 10,000,000 pieces of 2 tensors and values, found 6 of 3\n"
        "  Copies of shards (Replicate in the device mesh) are written once; a container in "
        "`extra` that holds no tensors can be kept as text (json.dumps)."
    )
