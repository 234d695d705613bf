"""Parts, loaders and generators of a run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast
from holdfast.errors import CaptureError, MissingPartError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def test_a_part_that_is_none_is_absent(tmp_path, training, at):
    run = training.run(tmp_path, scaler=None, ema=None)
    run.save(0)
    tree = torch.load(at.file(tmp_path, 0), weights_only=True)
    assert list(tree) == ["model", "optimizer", "scheduler", "rng"]
    with_scaler = training.run(tmp_path, scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(MissingPartError, match="the checkpoint has no part 'scaler'"):
        with_scaler.resume()
    assert training.run(tmp_path, scaler=None).resume() == 1


def test_a_saved_part_that_is_none_is_absent(tmp_path, training):
    """Code that saves `scaler.state_dict() if scaler else None` writes such files."""
    tree = {"model": training.model.state_dict(), "scaler": None}
    torch.save(tree, tmp_path / "theirs.pt")
    holdfast.load_state(tmp_path / "theirs.pt", model=training.model, scaler=None)
    with pytest.raises(MissingPartError) as caught:
        holdfast.load_state(tmp_path / "theirs.pt", scaler=torch.amp.GradScaler("cpu"))
    assert "wanted 'scaler', found 'model'" in str(caught.value)


def test_parts_nobody_asked_for_are_no_error(begun, at):
    folder = begun()
    model = torch.nn.Linear(3, 2)
    run = holdfast.Run(folder, model=model)
    assert run.resume() == 5
    report = run.load(model=model)
    assert report.not_asked == ("optimizer", "scheduler")


@pytest.mark.parametrize("name", ["rng", "extra", "metrics", "which", "step"])
def test_reserved_names_are_refused(tmp_path, training, name):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path, **{name: training.model})
    assert str(caught.value) == (
        f"a part cannot be called {name!r}: that name has a meaning of its own\n"
        f"  Call it something else, such as '{name}_state'."
    )


def test_a_plain_loader_is_refused_at_construction(tmp_path, training):
    loader = torch.utils.data.DataLoader([1])
    with pytest.raises(CaptureError, match="'train' is a plain DataLoader"):
        training.run(tmp_path / "run", train=loader)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_captured_is_an_error_at_construction(tmp_path, training):
    class Odd(torch.nn.Linear):
        def get_extra_state(self):
            return {"handle": object()}

    with pytest.raises(CaptureError) as caught:
        training.run(tmp_path / "run", head=Odd(1, 1))
    assert str(caught.value).startswith(
        "an object of this class cannot be saved, at 'head._extra_state.handle'\n  wanted "
    )
    assert not (tmp_path / "run").exists()


def test_two_dtypes_over_one_memory_are_an_error_at_construction(tmp_path):
    model = torch.nn.Module()
    model.register_buffer("bits", torch.zeros(4, dtype=torch.int32))
    model.register_buffer("floats", model.bits.view(torch.float32))
    with pytest.raises(CaptureError) as caught:
        holdfast.Run(tmp_path / "run", model=model)
    assert str(caught.value) == (
        "tensors that view one memory as different dtypes cannot be saved together\n"
        "  wanted one dtype (torch.int32), found also torch.float32\n"
        "  Save a clone of one of them: tensor.clone()."
    )


def test_tensors_that_are_no_buffers_are_warned_of_at_construction(tmp_path, training, log):
    training.model.scale = torch.ones(1)
    training.model.inner = torch.nn.Module()
    training.model.inner.mask = torch.zeros(2)
    training.run(tmp_path)
    assert log.lines() == [
        "'model.scale' is neither a parameter nor a buffer, so it is not saved. "
        'To save it, write self.register_buffer("scale", ...) where it is assigned.',
        "'model.inner.mask' is neither a parameter nor a buffer, so it is not saved. "
        'To save it, write self.register_buffer("mask", ...) where it is assigned.',
    ]


def test_construction_touches_nothing(tmp_path, training):
    loader = StatefulDataLoader([1, 2], shuffle=True)
    before = torch.get_rng_state()
    training.run(tmp_path / "run", loader=loader)
    assert not (tmp_path / "run").exists()
    assert torch.equal(torch.get_rng_state(), before)
    assert loader._iterator is None


def test_without_parts_a_run_only_reads(begun):
    run = holdfast.Run(begun())
    assert [entry.step for entry in run.checkpoints()] == [0, 1, 2, 3, 4]
    for act, name in ((run.save, "save"), (run.resume, "resume"), (lambda: run.steps(9), "steps")):
        with pytest.raises(UsageError) as caught:
            act()
        assert str(caught.value) == (
            f"{name}() needs live parts, and this Run has none: it reads\n"
            f"  in {run.folder}\n"
            "  Give them: holdfast.Run(folder, model=model, optimizer=optimizer)"
        )


def samples(loader, count):
    return [int(batch) for _, batch in zip(range(count), loader, strict=False)]


def test_a_stateful_loader_resumes_in_the_middle_of_an_epoch(tmp_path, training, at):
    def loader():
        return StatefulDataLoader(list(range(10)), shuffle=True)

    torch.manual_seed(5)
    first = loader()
    run = training.run(tmp_path, loader=first)
    batches = iter(first)
    seen = [int(next(batches)) for _ in range(4)]
    run.save(0)
    rest, after = [int(batch) for batch in batches], samples(first, 10)

    torch.manual_seed(6)
    other = at.Training()
    second = loader()
    other.run(tmp_path, loader=second).resume()
    assert sorted(seen + rest) == list(range(10))
    assert [int(batch) for batch in second] == rest
    assert samples(second, 10) == after


def test_a_plain_loader_resumes_exactly_at_the_ends_of_epochs(tmp_path, at):
    def epochs(folder, stops):
        seen = []
        for stop in stops:
            training = at.Training(seed=1)
            loader = torch.utils.data.DataLoader(list(range(10)), shuffle=True)
            with training.run(folder) as run:
                for _ in run.steps(stop):
                    seen.append([int(batch) for batch in loader])
                    training.step()
                    run.save()
        return seen

    assert epochs(tmp_path / "a", [1, 3, 4]) == epochs(tmp_path / "b", [4])


def draw():
    return random.random(), np.random.rand(), torch.rand(2).tolist()


def test_resume_restores_the_global_generators(begun, at):
    folder = begun()
    run = at.Training().run(folder)
    run.resume()
    first = draw()
    draw()
    run.resume()
    assert draw() == first


def test_load_and_load_state_leave_the_generators_alone_unless_told(begun, at):
    folder = begun()
    training = at.Training()
    run = training.run(folder)
    run.resume()
    first = draw()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    here = draw()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    run.load(model=training.model)
    holdfast.load_state(folder, model=training.model)
    assert draw() == here
    holdfast.load_state(folder, rng=True, model=training.model)
    assert draw() == first


def test_a_checkpoint_without_generators_is_named(tmp_path, training):
    torch.save({"model": training.model.state_dict()}, tmp_path / "theirs.pt")
    report = holdfast.load_state(tmp_path / "theirs.pt", rng=True, model=training.model)
    assert report.not_restored == ("the random generators: the checkpoint does not have them",)


def test_load_needs_to_know_into_what(begun):
    with pytest.raises(UsageError) as caught:
        holdfast.Run(begun()).load("latest")
    assert str(caught.value) == (
        "load() takes the parts to load into\n"
        '  run.load("best:loss", model=model); to go back with all parts: '
        'run.resume("best:loss")'
    )


def test_load_leaves_the_place_of_the_run_and_its_extra_alone(begun, at):
    folder = begun()
    training = at.Training()
    run = training.run(folder, keep=None)
    run.resume()
    run.extra["n"] = 3
    run.load(1, model=training.model)
    assert run.extra == {"n": 3}
    run.save(5)
    parent = at.record(at.file(folder, 5))["parent"]
    assert parent == at.record(at.file(folder, 4))["id"]


def test_repr_says_what_it_holds(tmp_path, training):
    assert repr(training.run(tmp_path)) == (f"Run({str(tmp_path)!r}, model, optimizer, scheduler)")
    assert repr(holdfast.Run(tmp_path)) == f"Run({str(tmp_path)!r}, reading)"
