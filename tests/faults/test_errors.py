"""Whatever call fails, in whatever way: the save says so, and nothing before it is lost."""

from __future__ import annotations

import pytest
from tests.faults.asking import check, outcome_of
from tests.faults.test_kills import CALLS


@pytest.mark.parametrize("saver", CALLS)
def test_small(saver: str) -> None:
    """Each call, in one of its ways at least; all ways are tried by ``make faults``."""
    share = "20" if CALLS[saver] < 100 else "80"
    check(outcome_of("error", saver, "small", "--share", share), at_least=4)


@pytest.mark.parametrize("call", ["pwrite64", "fallocate", "fsync", "rename"])
def test_large(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the page cache: what makes the file. One thread writes, so that calls are the same."""
    monkeypatch.setenv("HOLDFAST_WRITER_THREADS", "1")
    options = ("--only", call, "--share", "3")
    check(outcome_of("error", "Run, background", "large", *options), at_least=2)


def test_large_by_several_threads() -> None:
    """Which of them writes what differs from run to run: some of the calls never come."""
    options = ("--only", "pwrite64", "--share", "5")
    outcome = outcome_of("error", "Run, background", "large", *options)
    assert outcome.wrong == {}
    assert outcome.happened >= 2


def test_unpin_where_the_disk_does_not_answer() -> None:
    """Whether a file is there is asked by calls that fail, too; that was taken for a no once."""
    options = ("--only", "newfstatat", "--share", "7")
    check(outcome_of("error", "Run, unpin", "small", *options), at_least=15)
