from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DamagedError
from holdfast.runs import keep
from holdfast.runs.entry import Entry
from holdfast.runs.prune import plan
from holdfast.spec.record import Record


def entry(step, *, is_pinned=False, name=None, provenance=None, sequence=..., **metrics):
    record = Record(
        id=f"id{step}",
        step=step,
        sequence=step if sequence is ... else sequence,
        metrics=metrics,
        provenance=provenance or {},
    )
    path = Path("run") / (name or f"step-{step:08d}.pt")
    return Entry(path, record, is_pinned=is_pinned, nbytes=10, step=step)


def gone(decided):
    return [one.name for one in decided.doomed]


def test_a_plan_says_what_goes_and_why():
    entries = [
        entry(0, loss=0.1),
        entry(1, loss=0.3, is_pinned=True),
        entry(2, loss=0.5),
        entry(3, loss=0.4),
        entry(4, loss=0.2),
        Entry(Path("run/step-00000005.pt"), problem=DamagedError("bytes changed")),
        Entry(Path("run/model.ckpt")),
    ]
    decided = plan(
        entries, keep.latest(1) | keep.best("loss"), protected={"id3": "resumed from here"}
    )
    assert str(decided) == (
        "step-00000000.pt  stays: best('loss')\n"
        "step-00000001.pt  stays: pinned\n"
        "step-00000002.pt  goes: none of latest(1) | best('loss') keeps it\n"
        "step-00000003.pt  stays: resumed from here\n"
        "step-00000004.pt  stays: the newest checkpoint, latest(1)\n"
        "step-00000005.pt  stays: it cannot be read\n"
        "model.ckpt  stays: holdfast did not write it"
    )
    assert gone(decided) == ["step-00000002.pt"]
    assert decided.nbytes == 10
    assert decided.to_json()["decisions"][2] == {
        "name": "step-00000002.pt",
        "path": "run/step-00000002.pt",
        "step": 2,
        "nbytes": 10,
        "is_kept": False,
        "why": "none of latest(1) | best('loss') keeps it",
    }
    assert decided.to_json()["doomed"] == ["step-00000002.pt"]


def test_one_policy_alone_is_named_alone():
    decided = plan([entry(0), entry(1)], keep.latest(1))
    assert str(decided.decisions[0]) == "step-00000000.pt  goes: latest(1) does not keep it"


def test_without_a_policy_all_stays():
    decided = plan([entry(0), entry(1)], None)
    assert gone(decided) == []
    assert decided.decisions[0].why == "nothing says what to keep"


def test_the_newest_stays_though_a_policy_does_not_keep_it():
    decided = plan([entry(0, loss=0.1), entry(1, loss=0.9)], keep.best("loss"))
    assert gone(decided) == []
    assert decided.decisions[1].why == "the newest checkpoint"


def test_a_copy_made_by_hand_stays_and_takes_no_ones_place():
    saved_as = {"file": "step-00000001.pt"}
    entries = [
        entry(0, provenance={"file": "step-00000000.pt"}),
        entry(1, provenance=saved_as),
        entry(1, provenance=saved_as, name="submission.pt"),
        entry(2, provenance={"file": "step-00000002.pt"}),
    ]
    decided = plan(entries, keep.latest(2))
    assert gone(decided) == ["step-00000000.pt"]
    assert decided.decisions[2].why == "renamed or copied by hand: it was saved as step-00000001.pt"


def test_what_no_run_saved_stays():
    decided = plan([entry(0, sequence=None), entry(1), entry(2)], keep.latest(1))
    assert gone(decided) == ["step-00000001.pt"]
    assert decided.decisions[0].why == "no run saved it"


def test_nothing_gives_an_empty_plan():
    assert plan([], keep.latest(1)).to_json() == {"decisions": [], "doomed": [], "nbytes": 0}


@st.composite
def any_entry(draw, number):
    kind = draw(st.sampled_from(["ours", "ours", "ours", "foreign", "broken", "loose"]))
    path = Path("run") / f"{number}.pt"
    is_pinned = draw(st.booleans())
    if kind == "foreign":
        return Entry(path, is_pinned=is_pinned)
    if kind == "broken":
        return Entry(path, problem=DamagedError("bytes changed"), is_pinned=is_pinned)
    record = Record(
        id=f"id{number}",
        step=draw(st.integers(0, 9)),
        sequence=None if kind == "loose" else number,
        metrics=draw(st.dictionaries(st.just("loss"), st.floats(width=16))),
    )
    return Entry(path, record, is_pinned=is_pinned, step=record.step)


@st.composite
def runs(draw):
    return [draw(any_entry(number)) for number in range(draw(st.integers(0, 10)))]


policies = st.sampled_from(
    [
        keep.latest(1),
        keep.latest(3),
        keep.best("loss"),
        keep.best("nothing"),
        keep.every(steps=4),
        keep.latest(2) | keep.best("loss", 2, "max"),
    ]
)


@given(runs(), policies, st.sets(st.integers(0, 9)))
def test_pruning_never_removes_what_is_protected(entries, policy, numbers):
    protected = {f"id{number}": "for a reason" for number in numbers}
    doomed = plan(entries, policy, protected=protected).doomed
    ours = [one for one in entries if one.sequence is not None]
    assert all(one in ours for one in doomed)
    assert not any(one.is_pinned or one.id in protected for one in doomed)
    assert ours[-1:] == [] or ours[-1] not in doomed


@given(runs(), policies)
def test_all_that_can_go_goes_and_a_second_pruning_finds_nothing(entries, policy):
    first = plan(entries, policy)
    ours = [one for one in entries if one.sequence is not None]
    kept = {ours[place].path for place in policy.keeps([one.record for one in ours])}
    for decision in first.decisions:
        if not decision.is_kept:
            assert decision.entry.path not in kept
    left = [one for one in entries if one not in first.doomed]
    assert plan(left, policy).doomed == ()
