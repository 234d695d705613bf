"""Copying while training goes on: what is saved is the state at the call, or nothing is."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import CaptureError, SaveFailedError, UsageError
from holdfast.saving import image

N = 400  # N * N floats are copied later, N floats at the call


@pytest.fixture
def saving():
    """Each test says how it saves."""


@pytest.fixture(params=["overlap", "overlap-checked"])
def mode(request):
    return request.param


@pytest.fixture
def gate(monkeypatch):
    """The thread begins to copy when it is let go."""
    gate, fill = threading.Event(), image.Image.fill

    def wait_then_fill(self, sink):
        assert gate.wait(timeout=60)
        fill(self, sink)

    monkeypatch.setattr(image.Image, "fill", wait_then_fill)
    yield gate
    gate.set()


class Work:
    def __init__(self, folder, mode):
        self.model = nn.Sequential(nn.Linear(N, N), nn.BatchNorm1d(N))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.step()
        parts = {"model": self.model, "optimizer": self.optimizer}
        self.run = holdfast.Run(folder, keep=None, background=mode, **parts)
        self.run.resume()

    def step(self):
        self.optimizer.zero_grad()
        self.model(torch.randn(4, N)).square().mean().backward()
        self.optimizer.step()

    def state(self):
        momenta = [s["momentum_buffer"] for s in self.optimizer.state_dict()["state"].values()]
        return [v.clone() for v in [*self.model.state_dict().values(), *momenta]]


def saved(run, step):
    tree = holdfast.load(f"{run.folder}@{step}")
    momenta = [s["momentum_buffer"] for s in tree["optimizer"]["state"].values()]
    return [*tree["model"].values(), *momenta]


def equal(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def test_a_step_of_the_optimizer_waits_for_the_copies(tmp_path, mode, gate):
    work = Work(tmp_path, mode)
    wanted = work.state()
    work.run.save(0)
    work.step()  # nothing was copied yet
    assert not equal(work.state(), wanted)
    gate.set()
    work.run.close()
    assert equal(saved(work.run, 0), wanted)
    assert holdfast.verify(tmp_path).ok


def test_every_checkpoint_is_the_state_at_its_call(tmp_path, mode):
    work, wanted = Work(tmp_path, mode), {}
    for step in work.run.steps(30):
        work.step()
        work.run.save()
        wanted[step] = work.state()
    work.run.close()
    assert all(equal(saved(work.run, step), state) for step, state in wanted.items())


def test_buffers_are_copied_at_the_call(tmp_path, mode, gate):
    work = Work(tmp_path, mode)
    wanted = work.state()
    work.run.save(0)
    work.model(torch.randn(4, N))  # a forward pass changes the averages of BatchNorm
    gate.set()
    work.run.close()
    assert equal(saved(work.run, 0), wanted)


@pytest.mark.parametrize("when", ["before its copy", "after its copy"])
def test_a_change_before_the_step_makes_the_save_fail(tmp_path, mode, gate, when):
    work = Work(tmp_path, mode)
    work.run.save(0)
    if when == "after its copy":
        image_of_it = work.run._writer._background._image
        image_of_it._copies.make(0, image_of_it._copy)
    with torch.no_grad():
        work.model[0].weight.mul_(0.5)
    work.step()
    gate.set()
    with pytest.raises(SaveFailedError) as caught:
        work.run.wait()
    assert str(caught.value) == (
        "the save of step 0 has failed: the state changed between the save and the next step of "
        "the optimizer\n  found other values in model.0.weight\n"
        '  Change it before run.save(), or leave background="overlap" out of the Run: then '
        "everything is copied at the call."
    )
    assert isinstance(caught.value.__cause__, CaptureError)
    assert work.run.checkpoints() == []
    wanted = work.state()
    work.run.save(0)
    work.run.close()
    assert equal(saved(work.run, 0), wanted)


def test_a_write_that_is_not_counted_is_found_by_checksums(tmp_path, gate):
    for mode in ("overlap", "overlap-checked"):
        work = Work(tmp_path / mode, mode)
        wanted = work.state()
        work.run.save(0)
        np.asarray(work.model[0].weight.detach())[0, 0] += 1  # past PyTorch's count
        gate.set()
        if mode == "overlap":  # the price of this mode
            work.run.close()
            assert not equal(saved(work.run, 0), wanted)
        else:
            with pytest.raises(SaveFailedError, match="state changed between the save"):
                work.run.close()
        gate.clear()


def test_parameters_that_no_optimizer_has_are_copied_at_the_call(tmp_path, mode, gate):
    work = Work(tmp_path, mode)
    other = nn.Linear(N, N)
    run = holdfast.Run(
        tmp_path / "two", background=mode, model=work.model, optimizer=work.optimizer, ema=other
    )
    wanted = other.weight.detach().clone()
    run.save(0)
    with torch.no_grad():
        other.weight.lerp_(work.model[0].weight, 0.5)
    gate.set()
    run.close()
    assert torch.equal(holdfast.load(f"{run.folder}@0")["ema"]["weight"], wanted)


def test_without_an_optimizer_everything_is_copied_at_the_call(tmp_path, mode, gate):
    model = nn.Linear(N, N)
    run = holdfast.Run(tmp_path, background=mode, model=model)
    wanted = model.weight.detach().clone()
    run.save(0)
    model.weight.data.zero_()
    gate.set()
    run.close()
    assert torch.equal(holdfast.load(f"{tmp_path}@0")["model"]["weight"], wanted)


def test_optimizers_have_their_hooks_only_while_the_run_is_open(tmp_path, mode):
    work = Work(tmp_path, mode)
    assert not work.optimizer._optimizer_step_pre_hooks
    work.run.save(0)
    work.run.save(1)
    assert len(work.optimizer._optimizer_step_pre_hooks) == 1
    work.run.close()
    assert not work.optimizer._optimizer_step_pre_hooks
    work.run.save(2)
    del work.run
    work.step()


class Interruption(BaseException):
    """Ctrl-C, at a moment that a test can choose."""


def test_an_interruption_while_the_step_waits_loses_no_copy(tmp_path, mode, gate, monkeypatch):
    work = Work(tmp_path, mode)
    wanted = work.state()
    work.run.save(0)
    copy = image.Image._copy

    def broken_off(self, key, storage):
        monkeypatch.setattr(image.Image, "_copy", copy)
        raise Interruption

    monkeypatch.setattr(image.Image, "_copy", broken_off)
    with pytest.raises(Interruption):
        work.step()  # not done: the hook is called before anything changes
    work.step()
    gate.set()
    work.run.close()
    assert equal(saved(work.run, 0), wanted)


@pytest.mark.parametrize("error", [MemoryError("no page"), RuntimeError("no page")])
def test_a_copy_that_fails_while_the_step_waits_fails_that_save_and_not_the_step(
    tmp_path, mode, gate, monkeypatch, error
):
    work = Work(tmp_path, mode)
    work.run.save(0)

    def fail(self, key, storage):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(image.Image, "_copy", fail)
        work.step()
    gate.set()
    with pytest.raises(SaveFailedError) as caught:
        work.run.wait()
    assert str(caught.value) == (
        "the save of step 0 has failed: a part of the state could not be copied before the "
        f"optimizer's step\n  found {type(error).__name__}: no page\n"
        "  The checkpoints before it are still there. Save again."
    )
    assert work.run.checkpoints() == []
    wanted = work.state()
    work.run.save(0)
    work.run.close()
    assert equal(saved(work.run, 0), wanted)


def test_a_storage_that_is_gone_when_the_step_comes_fails_that_save(tmp_path, gate):
    work = Work(tmp_path, "overlap")
    work.run.save(0)
    weight = work.model[0].weight
    kept = weight.detach().clone()
    weight.untyped_storage().resize_(0)
    work.optimizer.zero_grad()
    work.optimizer.step()
    weight.untyped_storage().resize_(kept.nbytes)
    with torch.no_grad():
        weight.copy_(kept)
    gate.set()
    with pytest.raises(SaveFailedError, match="a storage changed its size"):
        work.run.close()
    assert work.run.checkpoints() == []


def test_hooks_that_were_there_first_come_behind_the_copy(tmp_path, gate):
    work = Work(tmp_path, "overlap")

    def clamp(*_):
        work.model[0].weight.data.clamp_(-1e-3, 1e-3)  # past PyTorch's count

    handle = work.optimizer.register_step_pre_hook(clamp)
    wanted = work.state()
    work.run.save(0)
    work.step()
    gate.set()
    work.run.close()
    assert equal(saved(work.run, 0), wanted)
    assert list(work.optimizer._optimizer_step_pre_hooks) == [handle.id]


def test_the_call_copies_nothing_large(tmp_path, gate):
    model = nn.Linear(4000, 4000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = holdfast.Run(tmp_path, background="overlap", model=model, optimizer=optimizer)
    gate.set()
    run.save(0, wait=True)
    gate.clear()
    model.weight.data.fill_(3)
    run.save(1)
    time.sleep(0.05)
    copy = run._writer._background._image._memory
    assert bytes(copy[1 << 20 : (1 << 20) + 4]) != np.float32(3).tobytes()
    gate.set()
    run.close()
    assert torch.equal(holdfast.load(f"{tmp_path}@1")["model"]["weight"], model.weight)


@pytest.mark.parametrize("value", [1, None, "over", "checked"])
def test_another_word_is_an_error(tmp_path, value):
    with pytest.raises(UsageError) as caught:
        holdfast.Run(tmp_path, background=value, model=nn.Linear(1, 1))
    assert str(caught.value) == (
        f"background= is True, False, 'overlap' or 'overlap-checked'\n  found {value!r}"
    )


def test_what_lies_beside_a_parameter_in_one_memory_is_copied_at_the_call(tmp_path, gate) -> None:
    """A buffer that the forward pass changes: nobody counts its changes for the parameter."""
    flat = torch.zeros(80_000)
    model = nn.Module()
    model.weight = nn.Parameter(flat[:40_000])
    model.register_buffer("average", flat[40_000:])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = holdfast.Run(tmp_path, model=model, optimizer=optimizer, background="overlap")
    run.save(0)
    model.average.add_(1)
    gate.set()
    run.wait()
    assert holdfast.load(tmp_path)["model"]["average"].eq(0).all()
    run.close()


def test_parameters_that_share_one_memory_are_copied_later(tmp_path, gate) -> None:
    """A flat one, of which every parameter is a part."""
    flat = torch.zeros(80_000)
    model = nn.Module()
    model.one, model.other = nn.Parameter(flat[:40_000]), nn.Parameter(flat[40_000:].view(200, 200))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = holdfast.Run(tmp_path, model=model, optimizer=optimizer, background="overlap")
    run.save(0)
    assert len(run._writer._background._image._copies._left) == 1
    gate.set()
    run.close()


@pytest.mark.parametrize("mode", [True, "overlap", "overlap-checked"])
def test_saving_in_inference_mode(mode, tmp_path) -> None:
    """As a function that evaluates and then saves is decorated."""
    model = nn.Linear(300, 300)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with holdfast.Run(tmp_path, model=model, optimizer=optimizer, background=mode) as run:
        for step in range(3):
            with torch.inference_mode():
                pending = run.save(step)
            optimizer.step()
            pending.wait()
    assert holdfast.verify(tmp_path).ok
