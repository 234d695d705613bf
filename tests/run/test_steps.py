"""What a step means: counting, saving its end once, and the loop around it."""

from __future__ import annotations

import logging
import os
import signal

import numpy as np
import pytest
import torch

import holdfast
from holdfast.errors import UsageError


def test_steps_count_from_0_and_a_checkpoints_step_is_the_one_just_done(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    assert run.resume() == 0
    seen = []
    for step in run.steps(3):
        seen.append(step)
        run.save()
    assert seen == [0, 1, 2]
    assert at.steps(tmp_path) == [0, 1, 2]
    assert run.resume() == 3
    assert training.run(tmp_path).resume() == 3


def test_inside_steps_the_step_is_known(tmp_path, training):
    run = training.run(tmp_path)
    for step in run.steps(2):
        pending = run.save()
        assert pending.step == step
        assert run.save(step) is None


def test_another_step_inside_steps_is_an_error(tmp_path, training, at):
    run = training.run(tmp_path)
    for _ in run.steps(1):
        with pytest.raises(UsageError) as caught:
            run.save(7)
        assert str(caught.value) == (
            "inside steps() the step is known, and this is another one\n"
            "  wanted step 0, found step 7\n"
            "  Leave it out: run.save()."
        )
        assert at.names(tmp_path) == []


def test_outside_of_steps_the_step_is_required(tmp_path, training):
    run = training.run(tmp_path)
    with pytest.raises(UsageError) as caught:
        run.save()
    assert str(caught.value) == (
        "save() outside of steps() must be told the step\n"
        "  run.save(step), or loop with: for step in run.steps(stop):"
    )
    for _ in run.steps(1):
        pass
    with pytest.raises(UsageError, match="must be told the step"):
        run.save()
    assert run.save(1).step == 1


@pytest.mark.parametrize("step", [-1, 1.0, "1", True, np.float64(1)], ids=repr)
def test_a_step_is_a_whole_number(tmp_path, training, step):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path).save(step)
    assert str(caught.value) == f"a step is a whole number from 0 on\n  found {step!r}"
    assert not tmp_path.joinpath(".lock").exists()


def test_numpys_whole_numbers_are_steps(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    run.save(np.int64(3))
    assert at.steps(tmp_path) == [3]
    assert [type(step) for step in run.steps(np.int32(5))] == [int]


@pytest.mark.parametrize("stop", [2.0, "2", True], ids=repr)
def test_steps_counts_whole_steps(tmp_path, training, stop):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path).steps(stop)
    assert str(caught.value) == f"steps() counts whole steps\n  found {stop!r}"


def test_steps_saves_the_last_step_whatever_every_says(tmp_path, training, at):
    run = training.run(tmp_path, keep=None, every=holdfast.every(steps=4))
    saved = []
    for step in run.steps(7):
        loss = training.step()
        if run.save(metrics={"loss": loss}) is not None:
            saved.append(step)
    assert saved == [3, 6]
    assert at.steps(tmp_path) == [3, 6]
    assert at.record(at.file(tmp_path, 6))["metrics"] == {"loss": loss}


def test_steps_saves_the_last_step_when_the_body_does_not(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    for _ in run.steps(3):
        training.step()
    assert at.steps(tmp_path) == [2]
    weights = torch.load(at.file(tmp_path, 2), weights_only=True)["model"]["weight"]
    assert torch.equal(weights, training.model.weight)


def test_metrics_of_another_step_are_not_the_last_ones(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    for step in run.steps(3):
        if step == 0:
            run.save(metrics={"loss": 0.5})
    assert at.steps(tmp_path) == [0, 2]
    assert at.record(at.file(tmp_path, 2))["metrics"] == {}


def test_the_last_step_is_not_saved_twice(tmp_path, training, at, log):
    run = training.run(tmp_path, keep=None)
    for _ in run.steps(2):
        run.save()
    assert at.names(tmp_path) == ["step-00000000.pt", "step-00000001.pt"]
    assert log.lines() == [f"No checkpoint in {tmp_path}, starting at 0"]


@pytest.mark.parametrize("saves_before", [True, False])
def test_steps_saves_the_one_it_stops_at_whatever_every_says(tmp_path, training, at, saves_before):
    """The signal may come before the body's save, or after it."""
    run = training.run(tmp_path, keep=None, every=holdfast.every(steps=100))

    def train():
        for step in run.steps(1000):
            if saves_before:
                run.save(metrics={"loss": 0.5})
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            if not saves_before:
                run.save(metrics={"loss": 0.5})

    with pytest.raises(SystemExit) as caught:
        train()
    assert caught.value.code == 75
    assert at.steps(tmp_path) == [5]
    assert at.record(at.file(tmp_path, 5))["metrics"] == {"loss": 0.5}


def test_a_loop_left_by_break_saves_nothing_more(tmp_path, training, at):
    run = training.run(tmp_path, every=holdfast.every(steps=100))
    for step in run.steps(1000):
        if step == 2:
            break
    assert at.names(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_steps_resumes_when_it_is_called_not_when_the_loop_begins(begun, at):
    folder = begun()
    training = at.Training(seed=1)
    run = training.run(folder)
    before = training.weights()
    steps = run.steps(9)
    assert not torch.equal(training.weights(), before)
    assert list(steps) == [5, 6, 7, 8]


def test_steps_after_a_resume_does_not_resume_again(begun, at):
    training = at.Training()
    run = training.run(begun())
    assert run.resume(2) == 3
    training.model.weight.data.fill_(7)
    steps = run.steps(5)
    assert torch.equal(training.weights(), torch.full((2, 3), 7.0))
    assert list(steps) == [3, 4]


@pytest.mark.parametrize("saves", [True, False])
def test_a_loop_begun_again_resumes_again(begun, at, saves):
    """A cell that was interrupted and is run again: what half a step did is undone."""
    folder = begun()
    training = at.Training()
    run = training.run(folder)
    assert run.resume() == 5
    kept = training.weights()
    for _ in run.steps(9):
        if saves:
            training.step()
            run.save()
            kept = training.weights()
        training.model.weight.data.fill_(7)
        break
    steps = run.steps(9)
    assert torch.equal(training.weights(), kept)
    assert next(iter(steps)) == 5 + saves


def test_steps_after_a_save_of_ones_own_resumes_from_that(begun, at):
    training = at.Training()
    run = training.run(begun(), keep=None)
    run.resume()
    kept = training.weights()
    run.save(5)
    training.model.weight.data.fill_(7)
    steps = run.steps(9)
    assert torch.equal(training.weights(), kept)
    assert list(steps) == [6, 7, 8]


def test_going_back_and_finding_nothing_left_stays_back(begun, at):
    run = at.Training().run(begun())
    run.resume(2)
    assert list(run.steps(2)) == []
    assert list(run.steps(4)) == [3]


def test_nothing_left_to_do_is_said(begun, at, log):
    run = at.Training().run(begun(stop=4))
    assert list(run.steps(4)) == []
    assert log.infos()[-1] == "Nothing left to do: 4 of 4"
    assert list(run.steps(2)) == []
    assert log.infos()[-1] == "Nothing left to do: 2 of 2"


def test_saving_the_current_step_again_is_a_logged_no_op(tmp_path, training, at, log):
    run = training.run(tmp_path, keep=None)
    for _ in run.steps(1):
        assert run.save(metrics={"loss": 0.5}) is not None
        before = at.file(tmp_path, 0).read_bytes()
        log.clear()
        assert run.save(metrics={"loss": 0.5}) is None
        assert run.save() is None
        assert log.infos() == ["step 0 is saved already"] * 2
    assert at.names(tmp_path) == ["step-00000000.pt"]
    assert at.file(tmp_path, 0).read_bytes() == before


def test_saving_it_again_with_nan_is_the_same_metric(tmp_path, training):
    run = training.run(tmp_path)
    run.save(0, metrics={"loss": float("nan")})
    assert run.save(0, metrics={"loss": float("nan")}) is None


def test_saving_the_current_step_again_with_other_metrics_is_an_error(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    for _ in run.steps(1):
        run.save(metrics={"loss": 0.5})
        before = at.file(tmp_path, 0).read_bytes()
        with pytest.raises(UsageError) as caught:
            run.save(metrics={"loss": 0.25})
    assert str(caught.value) == (
        "step 0 is saved already, with other metrics\n"
        f"  in {tmp_path}\n"
        "  wanted {'loss': 0.5}, found {'loss': 0.25}\n"
        "  Save each step once, with all its metrics."
    )
    assert at.names(tmp_path) == ["step-00000000.pt"]
    assert at.file(tmp_path, 0).read_bytes() == before


def test_a_step_behind_the_one_reached_is_an_error(begun, at):
    folder = begun()
    run = at.Training().run(folder)
    run.resume()
    before = at.names(folder)
    with pytest.raises(UsageError) as caught:
        run.save(2)
    assert str(caught.value) == (
        "this step is behind the one that training has reached\n"
        f"  in {folder}\n"
        "  wanted a step after 4, found step 2\n"
        "  Count steps through all epochs; to go back call run.resume(step) first."
    )
    assert at.names(folder) == before


def test_no_checkpoint_is_a_warning(tmp_path, training, log):
    training.run(tmp_path / "new").resume()
    assert log.lines() == [f"No checkpoint in {tmp_path / 'new'}, starting at 0"]


def test_a_required_checkpoint_that_is_not_there_is_an_error(tmp_path, training):
    with pytest.raises(holdfast.errors.NoCheckpointError) as caught:
        training.run(tmp_path).resume(required=True)
    assert str(caught.value) == (
        "there is no checkpoint to resume from\n"
        f"  in {tmp_path}\n"
        "  Leave required=True out to start at step 0."
    )


def test_saving_without_a_resume_is_warned_of(begun, at, log):
    folder = begun()
    log.clear()
    run = at.Training().run(folder, keep=None)
    run.save(3)
    assert log.lines() == [
        f"{folder} already holds checkpoints and was not resumed: what is saved now is a new "
        "beginning beside them. To go on with them call run.resume(), or run.steps()."
    ]
    assert at.record(folder / "step-00000003.2.pt")["parent"] is None
    assert at.steps(folder) == [0, 1, 2, 3, 4, 3]


def test_a_run_resumed_step_by_step_equals_one_that_was_not_interrupted(tmp_path, at):
    def losses(folder, stops):
        seen = []
        for stop in stops:
            training = at.Training(seed=3)
            with training.run(folder) as run:
                for _ in run.steps(stop):
                    seen.append(training.step())
                    run.save(metrics={"loss": seen[-1]})
        return seen, training.weights()

    straight, weights = losses(tmp_path / "a", [9])
    pieces, final = losses(tmp_path / "b", [2, 3, 7, 9])
    assert pieces == straight
    assert torch.equal(weights, final)


def test_every_minutes_saves_by_the_clock(tmp_path, training, at, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("holdfast.saving.writing.time.monotonic", lambda: clock[0])
    run = training.run(tmp_path, keep=None, every=holdfast.every(minutes=10))
    for _ in run.steps(12):
        clock[0] += 250
        run.save()
    assert at.steps(tmp_path) == [2, 5, 8, 11]


def test_wait_makes_it_durable_and_pending_says_what_was_written(tmp_path, training, at):
    run = training.run(tmp_path)
    pending = run.save(0, wait=True)
    assert pending.done
    assert pending.progress == 1.0
    info = pending.result()
    assert info.path == str(at.file(tmp_path, 0))
    assert info.nbytes == at.file(tmp_path, 0).stat().st_size
    assert logging.getLogger("holdfast").name == "holdfast"
