"""An error is a short letter, whole wherever it goes."""

from __future__ import annotations

import errno
import pickle

import pytest

from holdfast import errors
from holdfast.errors import FileError, HoldfastError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, HoldfastError)]


def test_the_letter_says_what_where_wanted_found_and_the_cure() -> None:
    error = HoldfastError(
        "bytes changed",
        file="a.pt",
        member="a/data/3",
        tensor="model.w",
        wanted="CRC 1",
        found="2",
        cure="Go back.\nOr on.",
    )
    assert str(error) == (
        "bytes changed\n"
        "  in a.pt, member 'a/data/3', tensor 'model.w'\n"
        "  wanted CRC 1, found 2\n"
        "  Go back.\n"
        "  Or on."
    )


def test_missing_pieces_leave_no_gaps() -> None:
    assert str(HoldfastError("no")) == "no"
    assert str(HoldfastError("no", found="x")) == "no\n  found x"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_prints_and_pickles_whole(cls: type[HoldfastError]) -> None:
    error = cls("no", file="a.pt", wanted="1", found="2", cure="Go back.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error) == "no\n  in a.pt\n  wanted 1, found 2\n  Go back."
    assert cls.__name__ in (errors.__doc__ or "")


def test_the_errno_is_kept() -> None:
    error = FileError("no", errno=errno.EACCES, file="a.pt")
    assert isinstance(error, OSError)
    assert error.errno == pickle.loads(pickle.dumps(error)).errno == errno.EACCES
