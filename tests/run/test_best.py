"""The best checkpoint: which it is, and how the mode is known."""

from __future__ import annotations

import math

import pytest
import torch

import holdfast
from holdfast import keep
from holdfast.errors import NoCheckpointError, UsageError


@pytest.fixture
def scored(tmp_path, training):
    """A run of these losses, None where a step has none."""

    def begin(losses, **options):
        run = training.run(tmp_path / "run", **{"keep": None, **options})
        for step, loss in enumerate(losses):
            training.model.weight.data.fill_(step)
            run.save(step, metrics={} if loss is None else {"loss": loss})
        return run

    return begin


def test_keep_best_records_metric_and_mode_and_best_uses_them(scored, at):
    policy = keep.best("loss", n=9, mode="max") | keep.best("error", n=9)
    run = scored([0.5, 0.9, 0.1], keep=policy)
    assert at.record(at.file(run.folder, 2))["best"] == {"loss": "max", "error": "min"}
    assert run.best("loss").step == 1
    assert holdfast.Run(run.folder).best("loss").step == 1


def test_the_mode_may_be_said(scored):
    run = scored([0.5, 0.9, 0.1])
    assert run.best("loss", "max").step == 1
    assert run.best("loss", mode="min").step == 2


def test_a_mode_neither_recorded_nor_said_is_an_error(scored):
    run = scored([0.5, 0.9, 0.1])
    with pytest.raises(UsageError) as caught:
        run.best("loss")
    assert str(caught.value) == (
        "whether small or large is best is not known of 'loss'\n"
        "  wanted best:loss:min or best:loss:max, found best:loss\n"
        "  A run that keeps by it records it: keep=holdfast.keep.best('loss')."
    )


def test_an_unknown_mode_is_an_error(scored):
    with pytest.raises(UsageError) as caught:
        scored([0.5]).best("loss", "lowest")
    assert str(caught.value) == "best() has two modes\n  wanted 'min' or 'max', found 'lowest'"


def test_an_unknown_metric_is_an_error(scored):
    run = scored([0.5])
    with pytest.raises(UsageError) as caught:
        run.best("accuracy", "max")
    assert str(caught.value) == (
        "no checkpoint here has the metric 'accuracy'\n"
        f"  in {run.folder}\n"
        "  wanted one of 'loss', found 'accuracy'\n"
        "  Metrics are saved with run.save(metrics={...})."
    )


def test_nan_and_missing_metrics_are_never_best(scored):
    run = scored([math.nan, 0.7, None, 0.4, math.nan])
    assert run.best("loss", "min").step == 3
    assert run.best("loss", "max").step == 1


def test_a_metric_that_is_nan_everywhere_has_no_best(scored):
    run = scored([math.nan, None])
    with pytest.raises(NoCheckpointError) as caught:
        run.best("loss", "min")
    assert str(caught.value) == (
        "no checkpoint is best: 'loss' is NaN in each that has it\n" + f"  in {run.folder}"
    )


def test_keep_best_by_a_metric_that_no_save_gives_is_warned_of_once(scored, log):
    run = scored([0.5, 0.4, 0.3], keep=keep.best("accuracy", mode="max"))
    assert [line for line in log.lines() if "keep.best" in line] == [
        "keep.best('accuracy') never keeps a checkpoint without that metric, and this one has "
        "'loss'. Give it: run.save(metrics={'accuracy': ...})."
    ]
    assert run.latest().step == 2


def test_going_back_to_the_best_goes_on_from_there(scored, at):
    run = scored([0.5, 0.1, 0.9], keep=keep.latest(9) | keep.best("loss"))
    assert run.resume("best:loss") == 2
    assert torch.equal(run._parts["model"].live.weight, torch.ones(2, 3))
    run.save(2, metrics={"loss": 0.05})
    new = run.folder / "step-00000002.2.pt"
    assert at.record(new)["parent"] == at.record(at.file(run.folder, 1))["id"]
    assert run.best("loss").path == new
