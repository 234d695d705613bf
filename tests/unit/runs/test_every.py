from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.runs.every import every


def saved_steps(schedule, steps, last=None):
    saved = []
    for step in steps:
        if schedule.is_due(step, last, 0.0):
            saved.append(step)
            last = step
    return saved


def test_every_hundred_steps_counts_steps_done():
    assert saved_steps(every(steps=100), range(350)) == [99, 199, 299]
    assert saved_steps(every(steps=1), range(3)) == [0, 1, 2]


def test_it_goes_on_in_the_same_rhythm_after_a_resume():
    assert saved_steps(every(steps=100), range(151, 350), last=150) == [199, 299]


def test_steps_left_out_are_made_up_for():
    assert saved_steps(every(steps=100), range(0, 350, 7)) == [105, 203, 301]


def test_minutes_count_from_the_last_save():
    schedule = every(minutes=10)
    assert not schedule.is_due(5, 4, 599.9)
    assert schedule.is_due(5, 4, 600.0)
    assert schedule.is_due(5, None, 600.0)


def test_with_both_whichever_comes_first():
    schedule = every(steps=100, minutes=10)
    assert schedule.is_due(99, None, 0.0)
    assert schedule.is_due(3, None, 600.0)
    assert not schedule.is_due(3, None, 599.0)
    assert str(schedule) == "every(steps=100, minutes=10)"


def test_going_back_to_an_older_step_is_not_due_at_once():
    assert not every(steps=100).is_due(50, 350, 0.0)


@pytest.mark.parametrize(
    ("given_options", "letter"),
    [
        (
            {},
            "every() takes steps= or minutes=\n  found neither\n"
            "  Leave every= out to save at each call of save().",
        ),
        ({"steps": 0}, "every() takes steps as a whole number from 1 on\n  found steps=0"),
        ({"steps": "9"}, "every() takes steps as a whole number from 1 on\n  found steps='9'"),
        ({"minutes": -1}, "every() takes minutes as a positive number\n  found minutes=-1"),
        ({"minutes": True}, "every() takes minutes as a positive number\n  found minutes=True"),
        (
            {"minutes": None, "steps": None},
            "every() takes steps= or minutes=\n  found neither\n"
            "  Leave every= out to save at each call of save().",
        ),
    ],
)
def test_a_schedule_that_makes_no_sense_is_a_letter(given_options, letter):
    with pytest.raises(UsageError) as caught:
        every(**given_options)
    assert str(caught.value) == letter


def test_numbers_of_numpy_are_numbers():
    assert every(steps=np.int64(5)) == every(steps=5)
    assert every(minutes=np.float32(0.5)) == every(minutes=0.5)


@given(st.integers(1, 50), st.integers(0, 500), st.integers(1, 200))
def test_in_a_loop_without_gaps_it_is_each_multiple(steps, start, count):
    loop = range(start, start + count)
    expected = [step for step in loop if (step + 1) % steps == 0]
    assert saved_steps(every(steps=steps), loop, last=start - 1) == expected
