"""Whatever call fails, in whatever way: the save says so, and nothing before it is lost."""

from __future__ import annotations

import pytest
from tests.faults.asking import check, outcome_of
from tests.faults.test_kills import CALLS


@pytest.mark.parametrize("saver", CALLS)
def test_small(saver: str) -> None:
    """Each call, in one of its ways at least; all ways are tried by ``make faults``."""
    check(outcome_of("error", saver, "small", "--share", "20"), at_least=4)


@pytest.mark.parametrize("call", ["pwrite64", "fallocate", "fsync", "rename"])
def test_large(call: str) -> None:
    """Past the page cache, by several threads: what makes the file."""
    options = ("--only", call, "--share", "3")
    check(outcome_of("error", "Run, background", "large", *options), at_least=2)
