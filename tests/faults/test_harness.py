"""Commits that are wrong on purpose: the harness finds each of them."""

from __future__ import annotations

import pytest
from tests.faults.asking import Server, outcome_of
from tests.faults.mutants import MUTANTS

#: What finds it, and a part of what is found.
FINDS = {
    "no fsync of the folder": (
        ("power", "Run", "small", "--only", "rename"),
        "step 1 is found where [2] may be",
    ),
    "no fsync of the file": (
        ("power", "Run", "small", "--only", "rename"),
        "step 1 is found where [2] may be",
    ),
    "rename before fsync": (
        ("power", "Run", "small", "--only", "rename", "--how", "flushed"),
        "bear a checkpoint's name and are not whole",
    ),
    "prune before rename": (
        ("kill", "Run, pruning", "small", "--only", "rename"),
        "no checkpoint is found",
    ),
    "swallow an error of fsync": (
        ("error", "Run", "small", "--only", "fsync"),
        "a save is acknowledged that cannot be durable",
    ),
    "swallow an error of write": (
        ("error", "save", "large", "--only", "pwrite64"),
        "a save is acknowledged that cannot be durable",
    ),
    "try fsync again": (
        ("error", "save", "small", "--only", "fsync"),
        "is synced again",
    ),
    "name in spite of a failed fsync": (
        ("error", "Run", "small", "--only", "fsync"),
        "step 2 is found where [1] may be",
    ),
    "swallow an error of opening the folder": (
        ("error", "Run", "small", "--only", "openat"),
        "a save is acknowledged that cannot be durable",
    ),
    "prune too much": (
        ("kill", "Run, pruning", "small", "--only", "rename"),
        "were to be kept",
    ),
    "prune without fsync": (
        ("power", "Run, prune", "small", "--only", "unlink"),
        "were pruned, and are there again",
    ),
    "pin without fsync": (
        ("power", "Run, pin", "small", "--only", "rename"),  # and after all
        "were pinned, and are not any more",
    ),
    "end at a short write": (
        ("error", "save", "small", "--only", "fallocate"),  # short writes are always tried
        "the newest cannot be loaded",
    ),
    "write in place": (
        ("kill", "save", "small", "--only", "lseek"),
        "the newest cannot be loaded",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_it_finds(mutant: str) -> None:
    ask, found = FINDS[mutant]
    outcome = outcome_of(*ask, "--mutant", mutant)
    problems = [problem for several in outcome.wrong.values() for problem in several]
    assert any(found in problem for problem in problems), outcome


@pytest.mark.parametrize("ask", sorted({ask for ask, _ in FINDS.values()}), ids=" ".join)
def test_it_finds_nothing_else(ask: tuple[str, ...]) -> None:
    assert outcome_of(*ask).wrong == {}


def test_a_fault_that_cannot_be_done_or_does_not_end_is_told() -> None:
    server = Server()
    code, said = server.ask("kill", "nobody", "small", seconds=60)
    assert code == 1
    assert "invalid choice: 'nobody'" in said
    with pytest.raises(TimeoutError, match=r"kill save large: no answer in 0\.2 s"):
        server.ask("kill", "save", "large", seconds=0.2)
    with pytest.raises((RuntimeError, ValueError)):  # its pipe is closed
        server.ask("kill", "save", "small", seconds=1)
