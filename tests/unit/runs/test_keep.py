from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.runs import keep
from holdfast.spec.record import Record


def record(step=None, sequence=0, **values):
    return Record(id=f"id{sequence}", step=step, sequence=sequence, **values)


def with_losses(*losses):
    return [
        record(step, step, metrics={} if loss is None else {"loss": loss})
        for step, loss in enumerate(losses)
    ]


def test_latest_keeps_the_last_ones_saved():
    records = [record(step, n) for n, step in enumerate([5, 6, 7, 2, 3])]
    assert keep.latest(2).keeps(records) == {3: "latest(2)", 4: "latest(2)"}
    assert keep.latest(9).keeps(records[:2]) == {0: "latest(9)", 1: "latest(9)"}


def test_best_keeps_the_smallest_and_with_max_the_largest():
    records = with_losses(0.5, 0.2, 0.9, 0.3)
    assert keep.best("loss").keeps(records) == {1: "best('loss')"}
    assert set(keep.best("loss", 2).keeps(records)) == {1, 3}
    assert keep.best("loss", mode="max").keeps(records) == {2: "best('loss', mode='max')"}


def test_best_never_takes_nan_nor_a_checkpoint_without_the_metric():
    records = with_losses(math.nan, None, math.inf, math.nan)
    assert set(keep.best("loss", 4).keeps(records)) == {2}
    assert set(keep.best("loss", 4, "max").keeps(records)) == {2}
    assert keep.best("other").keeps(records) == {}


def test_of_equal_ones_the_newer_is_best():
    assert set(keep.best("loss").keeps(with_losses(0.5, 0.5, 0.7))) == {1}
    assert set(keep.best("loss", mode="max").keeps(with_losses(0.5, 0.5, 0.2))) == {1}


def test_every_steps_keeps_the_first_behind_each_multiple():
    records = [record(step, n) for n, step in enumerate([99, 199, 999, 1099, 2050, 2150])]
    assert set(keep.every(steps=1000).keeps(records)) == {0, 2, 4}


def test_every_steps_begins_anew_where_training_went_back():
    steps = [999, 1999, 2999, 1099, 1999, 2999]
    records = [record(step, n) for n, step in enumerate(steps)]
    assert set(keep.every(steps=1000).keeps(records)) == {0, 1, 2, 3, 4, 5}


def test_every_minutes_goes_by_the_hours_of_utc():
    times = ["10:59:00+00:00", "11:01:00+00:00", "11:59:00+00:00", "12:00:00Z", "14:30:00+02:00"]
    records = [record(0, n, time=f"2026-01-01T{time}") for n, time in enumerate(times)]
    assert set(keep.every(minutes=60).keeps(records)) == {0, 1, 3}


@pytest.mark.parametrize("time", [None, "", "yesterday", "2026-13-01T00:00:00", "\udcff"])
def test_a_record_without_a_readable_time_is_in_no_minute(time):
    assert keep.every(minutes=1).keeps([record(0, 0, time=time)]) == {}


def test_a_clock_put_back_loses_nothing():
    times = ["2026-01-01T10:00:00", "2026-01-01T11:00:00", "1970-01-01T00:00:00", "0001-01-01"]
    records = [record(0, n, time=time) for n, time in enumerate(times)]
    assert set(keep.every(minutes=60).keeps(records)) == {0, 1, 2, 3}


def test_policies_are_joined_and_say_why():
    policy = keep.latest(2) | keep.best("loss") | keep.every(steps=10)
    assert str(policy) == "latest(2) | best('loss') | every(steps=10)"
    assert policy.metrics() == {"loss": "min"}
    assert policy.keeps(with_losses(0.3, 0.1, 0.2, 0.4)) == {
        0: "every(steps=10)",
        1: "best('loss')",
        2: "latest(2)",
        3: "latest(2)",
    }
    assert policy.keeps(with_losses(0.3)) == {0: "latest(2), best('loss'), every(steps=10)"}


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (lambda: keep.best("acc", 3, "max"), "best('acc', n=3, mode='max')"),
        (lambda: keep.every(minutes=0.5), "every(minutes=0.5)"),
        (lambda: keep.every(steps=2_000_000, minutes=60), "every(steps=2000000, minutes=60)"),
    ],
)
def test_a_policy_reads_as_it_is_written(policy, text):
    assert str(policy()) == text


@pytest.mark.parametrize(
    ("make", "letter"),
    [
        (lambda: keep.latest(0), "latest() takes n as a whole number from 1 on\n  found n=0"),
        (lambda: keep.latest(-3), "latest() takes n as a whole number from 1 on\n  found n=-3"),
        (lambda: keep.latest(True), "latest() takes n as a whole number from 1 on\n  found n=True"),
        (lambda: keep.latest(2.5), "latest() takes n as a whole number from 1 on\n  found n=2.5"),
        (lambda: keep.best("a", 0), "best() takes n as a whole number from 1 on\n  found n=0"),
        (
            lambda: keep.best(3),
            'best() takes the name of a metric\n  wanted text, such as best("loss"), found 3',
        ),
        (
            lambda: keep.best("loss", mode="low"),
            "best() has two modes\n  wanted 'min' or 'max', found 'low'",
        ),
        (lambda: keep.every(), "every() takes steps= or minutes=\n  found neither"),
        (
            lambda: keep.every(steps=0),
            "every() takes steps as a whole number from 1 on\n  found steps=0",
        ),
        (
            lambda: keep.every(minutes=math.inf),
            "every() takes minutes as a positive number\n  found minutes=inf",
        ),
        (
            lambda: keep.every(minutes="5"),
            "every() takes minutes as a positive number\n  found minutes='5'",
        ),
        (
            lambda: keep.latest(1) | 5,
            'policies are joined with policies\n  wanted such as latest(3) | best("loss"), found 5',
        ),
        (
            lambda: keep.best("loss") | (keep.latest(1) | keep.best("loss", mode="max")),
            "the metric 'loss' cannot be best both ways\n"
            "  found best('loss') | latest(1) | best('loss', mode='max')\n"
            "  A metric has one mode: 'min' or 'max'.",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_a_letter(make, letter):
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == letter


metrics = st.dictionaries(st.sampled_from(["loss", "acc"]), st.floats(width=16))
times = st.one_of(st.none(), st.datetimes().map(lambda t: t.isoformat()), st.text(max_size=3))
runs = st.lists(
    st.builds(
        Record,
        id=st.uuids().map(str),
        step=st.one_of(st.none(), st.integers(0, 40)),
        sequence=st.integers(0, 99),
        metrics=metrics,
        time=times,
    ),
    max_size=12,
)
policies = st.one_of(
    st.integers(1, 5).map(keep.latest),
    st.builds(keep.best, st.sampled_from(["loss", "acc"]), st.integers(1, 3)),
    st.integers(1, 20).map(lambda n: keep.every(steps=n)),
    st.floats(1e-300, 1e300).map(lambda m: keep.every(minutes=m)),
)


@given(runs, policies, policies)
def test_joined_policies_keep_what_either_keeps(records, one, other):
    assert set((one | other).keeps(records)) == {*one.keeps(records), *other.keeps(records)}


@given(runs, policies, policies)
def test_what_is_kept_once_is_kept_again(records, one, other):
    policy = one | other
    kept = [records[position] for position in sorted(policy.keeps(records))]
    assert sorted(policy.keeps(kept)) == list(range(len(kept)))


@given(runs, st.integers(1, 5))
def test_best_is_best(records, n):
    kept = keep.best("loss", n).keeps(records)
    values = [r.metrics.get("loss", math.nan) for r in records]
    numbers = sorted(value for value in values if not math.isnan(value))
    assert sorted(values[position] for position in kept) == numbers[:n]
