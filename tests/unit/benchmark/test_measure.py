from __future__ import annotations

import gc
import mmap

import pytest

from holdfast.benchmark.measure import alternating, reason, row
from holdfast.benchmark.meters import Meter, Sample, cpu_seconds, measured
from holdfast.benchmark.report import Spread
from holdfast.errors import UsageError


def test_each_has_its_turn_in_every_round() -> None:
    turns = []

    def contender(name):
        def once(number):
            turns.append(f"{name}{number}")
            return Sample(float(number), 0.0)

        return once

    samples = alternating({name: contender(name) for name in "ABC"}, 2)
    assert turns == ["A0", "B0", "C0", "A1", "B1", "C1", "A2", "B2", "C2"]
    assert [sample.seconds for sample in samples.taken["B"]] == [0.0, 1.0, 2.0]


def test_one_that_fails_is_left_out_and_said() -> None:
    turns = []

    def fails(number):
        turns.append(number)
        raise OSError("no\nmore")

    samples = alternating({"bad": fails, "good": lambda number: Sample(1.0, 1.0)}, 3)
    assert turns == [0]
    assert samples.failed == {"bad": "OSError: no"}
    assert (list(samples.taken), len(samples.taken["good"])) == (["good"], 4)


def test_an_error_of_holdfast_itself_is_raised() -> None:
    def fails(number):
        raise UsageError("wrong")

    with pytest.raises(UsageError, match="wrong"):
        alternating({"ours": fails}, 1)


def test_it_is_said_before_each_sample() -> None:
    said = []
    alternating({"a": lambda number: Sample(1.0, 1.0)}, 1, on_sample=said.append)
    assert said == ["a", "a"]


def test_the_first_round_counts_for_memory_only() -> None:
    samples = [Sample(9.0, 9.0, 500, 9.0), Sample(2.0, 1.0, 7, 0.5), Sample(4.0, 3.0, None, 0.7)]
    found = row("way", samples, into="there")
    assert found.seconds == Spread(3.0, 2.0, 4.0, 2)
    assert found.cpu_seconds == Spread(2.0, 1.0, 3.0, 2)
    assert found.blocked is not None
    assert (found.blocked.low, found.blocked.high) == (0.5, 0.7)
    assert (found.peak_nbytes, found.into) == (500, "there")


def test_what_never_blocked_and_has_no_peak() -> None:
    found = row("way", [Sample(1.0, 1.0), Sample(1.0, 1.0)])
    assert (found.peak_nbytes, found.blocked) == (None, None)


def test_a_meter_sees_memory_that_is_gone_again() -> None:
    def take() -> None:
        # Not from malloc: after other tests its heap may hold as much, resident and free.
        with mmap.mmap(-1, 64 << 20) as memory:
            memory[:: mmap.PAGESIZE] = b"\1" * (len(memory) // mmap.PAGESIZE)

    # What goes meanwhile (threads of other tests end) is taken off: as reports do, the largest of
    # several rounds counts.
    gc.collect()
    samples = [measured(take) for _ in range(5)]
    assert all(sample.seconds > 0 for sample in samples)
    peaks = [sample.peak_nbytes for sample in samples if sample.peak_nbytes is not None]
    assert not peaks or max(peaks) > 48 << 20


def test_a_lap_is_part_of_the_whole() -> None:
    meter = Meter()
    meter.lap()
    sample = meter.stop()
    assert sample.blocked is not None
    assert 0 <= sample.blocked <= sample.seconds


def test_cpu_seconds_count_processes_that_were_started() -> None:
    import subprocess
    import sys

    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert cpu_seconds() - before > 0.01


def test_a_reason_is_one_line() -> None:
    assert reason(ValueError("a\nb")) == "ValueError: a"
    assert reason(KeyError()) == "KeyError"
