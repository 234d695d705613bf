"""What people report of other tools (the numbers of the list), shown not to happen here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from holdfast.runs import keep
from holdfast.runs.entry import Entry
from holdfast.runs.finding import find
from holdfast.runs.listing import Found, next_sequence, order
from holdfast.runs.naming import free_name
from holdfast.runs.prune import plan
from holdfast.spec.record import Record

POLICIES = [
    keep.latest(1),
    keep.best("loss"),
    keep.best("never saved"),
    keep.every(steps=1000),
    keep.every(minutes=60),
    keep.latest(1) | keep.best("loss") | keep.every(steps=1000),
]


def saved(step, sequence, *, mtime=None, **metrics):
    record = Record(id=f"id{sequence}", step=step, sequence=sequence, metrics=metrics)
    path = Path("run") / f"step-{step:08d}.pt"
    return Entry(path, record, step=step, mtime=sequence if mtime is None else mtime)


def listed(*entries):
    return order([Found(entry) for entry in entries])


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_pain_07_retention_never_deletes_the_newest(policy):
    run = listed(*(saved(step, step, loss=float(step)) for step in range(5)))
    for length in range(1, 6):
        doomed = plan(run[:length], policy).doomed
        assert run[length - 1] not in doomed
        assert len(doomed) < length


def test_pain_08_a_folder_used_again_does_not_lose_its_new_checkpoint():
    old = [saved(step, sequence) for sequence, step in enumerate([300, 400, 500])]
    again = saved(100, next_sequence(old), mtime=-1)
    decided = plan(listed(again, *old), keep.latest(2))
    assert [entry.step for entry in decided.doomed] == [300, 400]
    assert find(listed(again, *old), "latest") == listed(again)[0]


def test_pain_09_the_count_goes_on_where_the_folder_left_it():
    run = [saved(0, 0), saved(1, 1)]
    assert next_sequence(run) == 2
    assert free_name("step-00000001.pt", {entry.name for entry in run}) == "step-00000001.2.pt"


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_pain_11_the_checkpoint_resumed_from_stays(policy):
    run = listed(*(saved(step, step, loss=float(-step)) for step in range(9)))
    decided = plan(run, policy, protected={"id3": "resumed from here"})
    assert decided.decisions[3].is_kept
    assert "resumed from here" in decided.decisions[3].why


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_pain_12_nothing_goes_before_the_next_one_is_there(policy):
    only = listed(saved(7, 7, loss=1.0))
    assert plan(only, policy).doomed == ()
    verified_then_damaged = listed(saved(7, 7, loss=1.0), saved(8, 8, loss=2.0))
    decided = plan(verified_then_damaged, policy, protected={"id7": "the newest that verified"})
    assert decided.doomed == ()


def test_pain_13_best_does_not_evict_the_latest():
    run = listed(saved(0, 0, loss=0.1), saved(1, 1, loss=0.2), saved(2, 2, loss=0.9))
    assert [entry.step for entry in plan(run, keep.best("loss")).doomed] == [1]
    both = plan(run, keep.best("loss") | keep.latest(2))
    assert both.doomed == ()


def test_pain_23_nan_does_not_block_best():
    run = listed(
        saved(0, 0, loss=math.nan), saved(1, 1, loss=0.5), saved(2, 2, loss=0.4), saved(3, 3)
    )
    assert [entry.step for entry in plan(run, keep.best("loss")).doomed] == [0, 1]
    assert find(run, "best:loss:min").step == 2
    assert find(run, "best:loss:max").step == 1
