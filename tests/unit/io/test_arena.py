"""Memory made once: whole pages, and not shared with forked children."""

from __future__ import annotations

import os
import resource
import sys

import pytest

from holdfast.io.arena import PAGE, SEGMENT, Arena, Segments


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.parametrize(("asked", "got"), [(0, PAGE), (1, PAGE), (PAGE, PAGE), (5000, 2 * PAGE)])
def test_it_has_whole_pages(asked: int, got: int) -> None:
    arena = Arena(asked)
    assert arena.nbytes == got == len(arena.memory)


def test_only_its_first_use_is_slow() -> None:
    arena, data = Arena(64 << 20), b"x" * (64 << 20)
    arena.memory[:] = data
    before = faults()
    arena.memory[:] = data
    assert faults() - before < 100


@pytest.mark.skipif(sys.platform != "linux", reason="other systems copy on write")
def test_writing_stays_fast_while_a_forked_child_lives() -> None:
    arena, data = Arena(64 << 20), b"x" * (64 << 20)
    arena.memory[:] = data
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(arena.memory[0])  # its own is wiped
    before = faults()
    arena.memory[:] = data
    after = faults()
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(read)
    os.close(write)
    assert after - before < 100


def test_a_child_that_frees_it_goes_on() -> None:
    arena = Arena(16 << 20)
    child = os.fork()
    if child == 0:
        del arena
        os._exit(len(bytearray(16 << 20)) >> 20)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 16
    arena.memory[-1] = 1


def test_segments_are_used_again() -> None:
    segments = Segments()
    first, second = segments.take(), segments.take()
    assert first is not second
    assert len(first) == SEGMENT
    segments.give_back(first)
    assert segments.take() is first
