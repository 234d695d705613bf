from __future__ import annotations

import dataclasses

import pytest
from benchmark_samples import a_workload

from holdfast.benchmark import names
from holdfast.benchmark.figures import RULES, Bound, figures, ratio
from holdfast.benchmark.report import WorkloadResult

#: What the numbers of the fixture come to.
REACHED = {
    "durable save: share of the plain direct write": (0.36 / 0.4, True),
    "durable save: as fast as torch.save + fsync": (3.0, True),
    "CPU time of a save: part of torch.save's": (0.25, True),
    "time Run.save() blocks: in memory copies": (0.1 / 0.08, True),
    "time Run.save() blocks: less than dcp.async_save": (3.0, False),
    "time Run.save() blocks with overlap": (None, None),
    "training step while a save runs: times as long": (1.2, False),
    "load_state in place, warm: as fast as torch.load + load_state_dict": (7.5, True),
    "load_state in place, cold: share of the plain read": (None, None),
    "load into fresh memory, warm: as fast as torch.load": (None, None),
    "extra memory of a save": (32.0, True),
    "extra memory of a verified load in place": (80.0, False),
}


def test_each_figure_is_reached_missed_or_not_measured(result) -> None:
    found = {figure.what: (figure.reached, figure.is_met) for figure in figures(result)}
    assert list(found) == list(REACHED)
    for what, (reached, is_met) in REACHED.items():
        assert found[what] == (None if reached is None else pytest.approx(reached), is_met), what


def test_workloads_that_were_not_measured_have_no_figures(result) -> None:
    assert {figure.workload for figure in figures(result)} == {names.LARGE}
    assert figures(dataclasses.replace(result, workloads=())) == []


def test_every_rule_is_about_known_workloads_and_lives_without_numbers() -> None:
    for rule in RULES:
        for name in rule.workloads:
            assert name in names.WORKLOADS
            assert rule.judge(WorkloadResult(name, 1, 1)).is_met is None


def test_torch_on_iris_is_the_careful_script() -> None:
    iris = dataclasses.replace(a_workload(names.IRIS), saves=())
    [rule] = [rule for rule in RULES if names.IRIS in rule.workloads]
    assert rule.judge(iris).reached is None


@pytest.mark.parametrize(
    ("bound", "reached", "holds"),
    [
        (Bound("at least", 2.0), 2.0, True),
        (Bound("at least", 2.0), 1.99, False),
        (Bound("at most", 2.0), 2.0, True),
        (Bound("at most", 2.0), 2.01, False),
        (Bound("under", 2.0), 2.0, False),
        (Bound("under", 2.0), 1.99, True),
    ],
)
def test_bounds(bound, reached, holds) -> None:
    assert bound.holds(reached) is holds


def test_a_bound_in_words() -> None:
    assert str(Bound("under", 64.0, "MiB")) == "under 64 MiB"
    assert str(Bound("at least", 0.85)) == "at least 0.85 x"


def test_a_ratio_of_what_is_not_there() -> None:
    assert ratio(1.0, None) is None
    assert ratio(None, 1.0) is None
    assert ratio(1.0, 0.0) is None
    assert ratio(3.0, 2.0) == 1.5


def test_figures_as_json(result) -> None:
    assert figures(result)[0].to_json() == {
        "what": "durable save: share of the plain direct write",
        "workload": "large",
        "wanted": "at least 0.85 x",
        "reached": pytest.approx(0.9),
        "unit": "x",
        "is_met": True,
    }
