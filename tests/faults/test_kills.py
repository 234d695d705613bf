"""Killed at each system call, a save loses nothing that was acknowledged, and leaves nothing."""

from __future__ import annotations

import pytest
from tests.faults.asking import check, outcome_of

#: Of each saver at least so many calls that touch the folder.
CALLS = {
    "Run": 45,
    "Run, background": 45,
    "Run, overlap": 45,
    "Run, pruning": 45,
    "Run, closed": 150,
    "Run, next call": 45,
    "Run, pin": 100,
    "Run, unpin": 100,
    "Run, prune": 250,
    "Run, resume": 150,
    "save": 15,
    "save_state": 15,
    "convert": 20,
    "convert, shards": 25,
}


@pytest.mark.parametrize("saver", ["Run, background", "save"])
def test_each_call(saver: str) -> None:
    check(outcome_of("kill", saver, "small"), at_least=CALLS[saver])


@pytest.mark.parametrize(
    "saver",
    [
        *("Run", "Run, overlap", "Run, next call", "Run, pruning"),
        *("save_state", "convert", "convert, shards"),
    ],
)
def test_some_calls(saver: str) -> None:
    """The rest of their calls are the same; all of them are tried by ``make faults``."""
    check(outcome_of("kill", saver, "small", "--share", "5"), at_least=CALLS[saver] // 6)


@pytest.mark.parametrize(
    "saver", ["Run, closed", "Run, pin", "Run, unpin", "Run, prune", "Run, resume"]
)
def test_what_comes_before_and_after_a_save(saver: str) -> None:
    check(outcome_of("kill", saver, "small", "--share", "20"), at_least=CALLS[saver] // 25)


@pytest.mark.parametrize("saver", ["Run, background", "save"])
def test_large(saver: str) -> None:
    """Past the page cache, by several threads."""
    check(outcome_of("kill", saver, "large", "--share", "6"), at_least=CALLS[saver] // 8)
