from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import NoCheckpointError, TruncatedError, UsageError
from holdfast.runs.entry import Entry
from holdfast.runs.finding import find
from holdfast.spec.record import Record


def entry(name, sequence, step=None, problem=None, best=None, **metrics):
    record = Record(
        id=f"id{sequence}", step=step, sequence=sequence, metrics=metrics, best=best or {}
    )
    return Entry(Path("run") / name, None if problem else record, problem, step=step)


BROKEN = TruncatedError("the file ends too early", file="run/step-3.pt")
RUN = [
    entry("step-0.pt", 0, 0, loss=0.5, acc=0.1),
    entry("step-1.pt", 1, 1, loss=0.2, acc=0.2, best={"loss": "min"}),
    entry("step-2.pt", 2, 2, loss=math.nan, acc=0.3),
    entry("step-1.2.pt", 3, 1, loss=0.4, acc=0.3),
    entry("step-3.pt", 9, problem=BROKEN),
]


@pytest.mark.parametrize(
    ("which", "name"),
    [
        ("latest", "step-1.2.pt"),
        ("best:loss", "step-1.pt"),
        ("best:loss:max", "step-0.pt"),
        ("best:acc:max", "step-1.2.pt"),
        ("best:acc:min", "step-0.pt"),
        (1, "step-1.2.pt"),
        ("1", "step-1.2.pt"),
        ("0", "step-0.pt"),
        ("step-1.pt", "step-1.pt"),
        ("step-1", "step-1.pt"),
        ("step-3.pt", "step-3.pt"),
        ("step-3", "step-3.pt"),
    ],
)
def test_one_checkpoint_is_found(which, name):
    assert find(RUN, which).name == name


@pytest.mark.parametrize(
    ("which", "kind", "letter"),
    [
        (
            7,
            NoCheckpointError,
            "there is no checkpoint of step 7\n  in run\n  found steps 0, 1, 2\n"
            "  List them all: holdfast list run",
        ),
        (
            "best:f1",
            UsageError,
            "no checkpoint here has the metric 'f1'\n  in run\n"
            "  wanted one of 'acc', 'loss', found 'f1'\n"
            "  Metrics are saved with run.save(metrics={...}).",
        ),
        (
            "best:acc",
            UsageError,
            "whether small or large is best is not known of 'acc'\n"
            "  wanted best:acc:min or best:acc:max, found best:acc\n"
            "  A run that keeps by it records it: keep=holdfast.keep.best('acc').",
        ),
        (
            "newest",
            NoCheckpointError,
            "no checkpoint here is called 'newest'\n  in run\n"
            "  found step-2.pt, step-1.2.pt, step-3.pt (and 2 more)\n"
            "  Ask for latest, best:METRIC, best:METRIC:max, a step, or a file name.",
        ),
        (
            True,
            UsageError,
            "this picks no checkpoint of a run\n  found True\n"
            "  Ask for latest, best:METRIC, best:METRIC:max, a step, or a file name.",
        ),
        (
            None,
            UsageError,
            "this picks no checkpoint of a run\n  found None\n"
            "  Ask for latest, best:METRIC, best:METRIC:max, a step, or a file name.",
        ),
    ],
)
def test_what_is_not_there_is_a_letter(which, kind, letter):
    with pytest.raises(kind) as caught:
        find(RUN, which, folder="run")
    assert str(caught.value) == letter


def test_only_the_nearest_steps_are_named():
    run = [entry(f"step-{step}.pt", step, step) for step in range(0, 1000, 100)]
    with pytest.raises(NoCheckpointError) as caught:
        find(run, 480)
    assert caught.value.found == "steps 300, 400, 500, 600 (and 6 more)"


def test_what_cannot_be_read_is_said_where_a_step_is_missing():
    with pytest.raises(NoCheckpointError) as caught:
        find(RUN, 3)
    assert caught.value.found.endswith(
        ", and 1 that cannot be read, such as step-3.pt: the file ends too early"
    )


def test_steps_of_any_length_are_numbers_or_names():
    with pytest.raises(NoCheckpointError, match="no checkpoint here is called '999999"):
        find(RUN, "9" * 5000)


@pytest.mark.parametrize("which", ["latest", "best:loss", 3, "3", "other.pt"])
def test_an_empty_run_has_nothing(which):
    with pytest.raises(NoCheckpointError) as caught:
        find([], which, folder="run")
    assert str(caught.value) == (
        "there is no checkpoint in this folder\n  in run\n"
        "  Is it the right folder? A run saves its first checkpoint with run.save()."
    )


@pytest.mark.parametrize("which", ["latest", "best:loss", 3])
def test_a_run_of_which_nothing_can_be_read_has_nothing(which):
    with pytest.raises(NoCheckpointError) as caught:
        find(RUN[4:], which, folder="run")
    assert str(caught.value) == (
        "no checkpoint in this folder can be read\n  in run\n"
        "  found 1 that cannot, such as step-3.pt: the file ends too early\n"
        "  holdfast list shows what is wrong with each."
    )


def test_all_nan_is_never_best():
    with pytest.raises(NoCheckpointError) as caught:
        find([RUN[2]], "best:loss:min", folder="run")
    assert str(caught.value) == (
        "no checkpoint is best: 'loss' is NaN in each that has it\n  in run"
    )


def test_without_any_metric_it_says_so():
    with pytest.raises(UsageError) as caught:
        find([entry("a.pt", 0, 0)], "best:loss")
    assert str(caught.value) == (
        "no checkpoint here has the metric 'loss'\n"
        "  found no metrics in any checkpoint\n"
        "  Metrics are saved with run.save(metrics={...})."
    )


def test_a_metric_may_hold_a_colon():
    run = [entry("a.pt", 0, 0, **{"val:loss": 1.0}), entry("b.pt", 1, 1, **{"val:loss": 0.5})]
    assert find(run, "best:val:loss:max").name == "a.pt"


def test_the_newest_recorded_mode_counts():
    run = [
        entry("a.pt", 0, 0, best={"score": "min"}, score=1.0),
        entry("b.pt", 1, 1, best={"score": "max"}, score=2.0),
        entry("c.pt", 2, 2, score=0.5),
    ]
    assert find(run, "best:score").name == "b.pt"


def test_a_file_that_bears_a_number_is_meant_by_its_whole_name_first():
    run = [entry("5", 0, 1), entry("6.pt", 1, 5), entry("7.pt", 2, 6)]
    assert find(run, "5").name == "5"
    assert find(run, 5).name == "6.pt"
    assert find(run, "6").name == "7.pt"  # the step, not the name without its suffix
    assert find(run, "7").name == "7.pt"


names = st.sampled_from(["a.pt", "b.pt", "5", "latest", "latest.pt", "best:x", "6.pth"])
entries = st.lists(
    st.builds(
        lambda name, sequence, step, x, broken: entry(
            name, sequence, step, BROKEN if broken else None, x=x
        ),
        names,
        st.integers(0, 9),
        st.integers(0, 9),
        st.floats(width=16),
        st.booleans(),
    ),
    max_size=6,
)
whiches = st.one_of(
    names, st.integers(-1, 9), st.text(max_size=5), st.sampled_from(["best:x:min", "best:", "5"])
)


@given(entries, whiches)
def test_a_search_ends_in_a_checkpoint_or_a_letter(run, which):
    try:
        found = find(run, which)
    except (NoCheckpointError, UsageError):
        return
    if which == "latest":
        assert found is [one for one in run if one.problem is None][-1]
    if isinstance(which, int):
        assert found.step == which
    if str(which).startswith("best:"):
        assert not math.isnan(found.metrics["x"])
