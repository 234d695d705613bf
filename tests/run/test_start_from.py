"""start_from: a warm start, used only while the run has no checkpoint of its own."""

from __future__ import annotations

import copy

import pytest
import torch

import holdfast
from holdfast.errors import DamagedError, MismatchError, UsageError


@pytest.fixture
def source(begun, tmp_path):
    """Another run, of steps 0 to 4."""
    return begun(folder=tmp_path / "source", seed=1)


def test_a_new_run_goes_on_behind_the_step_it_finds(tmp_path, source, at, log):
    training = at.Training(seed=2)
    run = training.run(tmp_path / "new", start_from=f"{source}@3")
    log.clear()
    assert next(iter(run.steps(9))) == 4
    weights = torch.load(at.file(source, 3), weights_only=True)["model"]["weight"]
    assert torch.equal(training.weights(), weights)
    assert log.lines() == []
    assert log.infos() == [f"started from {at.file(source, 3)} at step 4"]


def test_it_is_recorded_as_parent(tmp_path, source, at):
    run = at.Training().run(tmp_path / "new", start_from=source)
    run.resume()
    run.save(5)
    assert at.record(at.file(run.folder, 5))["parent"] == at.record(at.file(source, 4))["id"]
    assert at.record(at.file(run.folder, 5))["sequence"] == 0


def test_it_is_used_only_while_the_run_is_empty(tmp_path, source, at):
    training = at.Training(seed=2)
    run = training.run(tmp_path / "new", start_from=source, start_step=0)
    for _ in run.steps(2):
        training.step()
        run.save()
    weights = training.weights()
    run.close()
    for way in (source, tmp_path / "gone"):
        again = at.Training(seed=3)
        assert again.run(tmp_path / "new", start_from=way).resume() == 2
        assert torch.equal(again.weights(), weights)


def test_the_generators_and_extra_stay_as_they_are(tmp_path, source, at):
    """It is a beginning, not a going on: load_state's rules."""
    training = at.Training()
    run = training.run(tmp_path / "new", start_from=source)
    run.extra["mine"] = 1
    before = torch.get_rng_state()
    run.resume()
    assert torch.equal(torch.get_rng_state(), before)
    assert run.extra == {"mine": 1}


def test_other_codes_epoch_is_taken(tmp_path, training, at):
    tree = {name: part.state_dict() for name, part in training.parts.items()}
    torch.save({**tree, "epoch": 11}, tmp_path / "theirs.pt")
    run = at.Training().run(tmp_path / "new", start_from=tmp_path / "theirs.pt")
    assert run.resume() == 12
    run.save(12)
    assert at.record(at.file(run.folder, 12))["parent"] is None


def test_without_a_step_start_step_is_required(tmp_path, training, at):
    holdfast.save_state(tmp_path / "weights.pt", **training.parts)
    other = at.Training(seed=1)
    before = other.weights()
    run = other.run(tmp_path / "new", start_from=tmp_path / "weights.pt")
    with pytest.raises(UsageError) as caught:
        run.resume()
    assert str(caught.value) == (
        "start_from= holds no step, so where to start is not known\n"
        f"  in {tmp_path / 'weights.pt'}\n"
        "  wanted a whole number at its top, under 'step', 'global_step', 'iteration', 'epoch'\n"
        "  Say it: start_step=0."
    )
    assert torch.equal(other.weights(), before)
    run = other.run(tmp_path / "new", start_from=tmp_path / "weights.pt", start_step=7)
    assert list(run.steps(9)) == [7, 8]
    assert torch.equal(other.weights(), training.weights())


def test_start_step_0_begins_at_0(tmp_path, source, at):
    run = at.Training().run(tmp_path / "new", start_from=source, start_step=0)
    assert run.resume() == 0
    assert run.save(0).step == 0


@pytest.mark.parametrize("step", [-1, "0", 1.0, True], ids=repr)
def test_start_step_is_a_whole_number(tmp_path, training, step):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path / "new", start_from="x.pt", start_step=step)
    assert str(caught.value) == f"start_step is a whole number from 0 on\n  found {step!r}"


def test_what_does_not_fit_is_an_error_and_changes_nothing(tmp_path, source, at):
    training = at.Training()
    head = torch.nn.Linear(1, 1)
    run = training.run(tmp_path / "new", start_from=source, head=head)
    before = copy.deepcopy([training.model.state_dict(), head.state_dict()])
    with pytest.raises(MismatchError, match="the checkpoint has no part 'head'"):
        run.resume()
    after = [training.model.state_dict(), head.state_dict()]
    assert repr(before) == repr(after)


def test_a_damaged_one_is_an_error_and_changes_nothing(tmp_path, source, at):
    at.damage(at.file(source, 4))
    training = at.Training()
    before = training.weights()
    with pytest.raises(DamagedError, match="the bytes are not those that were saved"):
        training.run(tmp_path / "new", start_from=at.file(source, 4)).resume()
    assert torch.equal(training.weights(), before)
    assert at.names(tmp_path / "new") == []


def test_the_source_is_only_read(tmp_path, source, at):
    (source / ".lock").unlink()
    before = {name: (source / name).read_bytes() for name in at.names(source)}
    with at.Training().run(tmp_path / "new", start_from=source) as run:
        for _ in run.steps(8):
            run.save()
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
