"""Save belongs at the end of the body: what changes behind it is warned of, once."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

WARNING = (
    "{} changed after run.save() in the same step, so the checkpoint holds an older state and a "
    "resumed run would differ. Make run.save() the last line of the body."
)


def changed_after_saving(tmp_path, training, log, change, **options):
    run = training.run(tmp_path, **options)
    log.clear()
    for _ in run.steps(3):
        training.step()
        run.save()
        change(run)
    return [line for line in log.lines() if "changed after" in line]


@pytest.mark.parametrize(
    "draw",
    [
        lambda run: torch.rand(1),
        lambda run: random.random(),
        lambda run: np.random.rand(),
    ],
    ids=["torch", "python", "numpy"],
)
def test_the_generators_are_compared(tmp_path, training, log, draw):
    warned = changed_after_saving(tmp_path, training, log, draw)
    assert warned == [WARNING.format("the random generators (rng)")]


def test_the_scheduler_is_compared(tmp_path, training, log):
    def change(run):
        training.scheduler.step()

    warned = changed_after_saving(tmp_path, training, log, change)
    assert warned == [WARNING.format("'scheduler'")]


def test_the_scaler_is_compared(tmp_path, training, log):
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))

    def change(run):
        scaler.update(scaler.get_scale() * 2)

    warned = changed_after_saving(tmp_path, training, log, change, scaler=scaler)
    assert warned == [WARNING.format("'scaler'")]


def test_the_loader_is_compared(tmp_path, training, log):
    loader = StatefulDataLoader(list(range(10)))
    batches = iter(loader)
    warned = changed_after_saving(tmp_path, training, log, lambda run: next(batches), loader=loader)
    assert warned == [WARNING.format("'loader'")]


def test_extra_is_compared(tmp_path, training, log):
    def change(run):
        run.extra["seen"] = run.extra.get("seen", 0) + 1

    warned = changed_after_saving(tmp_path, training, log, change)
    assert warned == [WARNING.format("run.extra")]


def test_extra_changed_in_place_is_noticed(tmp_path, training, log):
    seen = torch.zeros(3)

    def change(run):
        run.extra["seen"] = seen
        seen.add_(1)

    assert changed_after_saving(tmp_path, training, log, change) == [WARNING.format("run.extra")]


def test_all_that_changed_is_named_in_one_warning(tmp_path, training, log):
    def change(run):
        training.scheduler.step()
        torch.rand(1)

    warned = changed_after_saving(tmp_path, training, log, change)
    assert warned == [WARNING.format("'scheduler' and the random generators (rng)")]


def test_a_save_at_the_end_is_not_warned_of(tmp_path, training, log):
    extra = {"tensor": torch.zeros(2), "sparse": torch.eye(2).to_sparse(), "nan": float("nan")}
    assert changed_after_saving(tmp_path, training, log, lambda run: run.extra.update(extra)) == [
        WARNING.format("run.extra")
    ]
    run = training.run(tmp_path)
    log.clear()
    for _ in run.steps(6):
        training.step()
        run.extra.update(extra)
        run.save()
    assert log.lines() == []


def test_a_body_that_did_not_save_is_not_compared(tmp_path, training, log):
    import holdfast

    run = training.run(tmp_path, every=holdfast.every(steps=100))
    for _ in run.steps(3):
        training.step()
        run.save()
        torch.rand(1)
        training.scheduler.step()
    # The last step is always saved, and its body goes on behind it.
    assert [line for line in log.lines() if "changed after" in line] == [
        WARNING.format("'scheduler' and the random generators (rng)")
    ]
    assert len(log.lines()) == 2


def test_what_is_drawn_between_two_bodies_is_not_the_bodys(tmp_path, training, log):
    run = training.run(tmp_path)
    log.clear()
    steps = iter(run.steps(3))
    for _ in range(3):
        next(steps)
        run.save()
    assert next(steps, None) is None
    assert [line for line in log.lines() if "changed after" in line] == []
