"""Every kind of part, saved, opened by torch alone, and restored to the last bit."""

from __future__ import annotations

import copy
import inspect
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import holdfast
from holdfast.errors import CaptureError
from holdfast.state.capture import capture
from holdfast.state.equal import same
from holdfast.state.parts import as_parts


def model():
    return nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))


OPTIMIZERS = {
    name: cls
    for name, cls in inspect.getmembers(torch.optim, inspect.isclass)
    if issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}


def optimizer_for(net, name, **options):
    if name in ("SGD", "RMSprop"):
        options = {"momentum": 0.9, **options}
    return OPTIMIZERS[name](net.parameters(), **options)


def step(net, optimizer):
    def loss():
        optimizer.zero_grad()
        value = net(torch.ones(3, 4)).square().mean()
        value.backward()
        if isinstance(optimizer, torch.optim.SparseAdam):
            for parameter in net.parameters():
                parameter.grad = parameter.grad.to_sparse()
        return value

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(loss)
    else:
        loss()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch_goes_on_to_the_last_bit(tmp_path, name):
    net = model()
    optimizer = optimizer_for(net, name)
    for _ in range(2):
        step(net, optimizer)
    holdfast.save_state(tmp_path / "a.pt", model=net, optimizer=optimizer)

    others = []
    for _ in range(2):
        others.append((other := model(), optimizer_for(other, name)))
    holdfast.load_state(tmp_path / "a.pt", model=others[0][0], optimizer=others[0][1])
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    others[1][0].load_state_dict(saved["model"])
    others[1][1].load_state_dict(saved["optimizer"])

    for other, of_other in others:
        assert same(state(net, optimizer), state(other, of_other))
    for each in [(net, optimizer), *others]:
        step(*each)
    for other, of_other in others:
        assert same(state(net, optimizer), state(other, of_other))


def state(net, optimizer):
    captured = capture(as_parts({"model": net, "optimizer": optimizer}), {}, rng=False)
    return copy.deepcopy(captured.tree)


SCHEDULERS = {
    "LambdaLR": {"lr_lambda": lambda n: 0.9**n},
    "MultiplicativeLR": {"lr_lambda": lambda n: 0.9},
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 3]},
    "CosineAnnealingLR": {"T_max": 5},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 9},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
}


def scheduler_for(optimizer, name):
    if name == "SequentialLR":
        inner = [scheduler_for(optimizer, "ConstantLR"), scheduler_for(optimizer, "StepLR")]
        return lr_scheduler.SequentialLR(optimizer, inner, milestones=[2])
    if name == "ChainedScheduler":
        inner = [scheduler_for(optimizer, "ConstantLR"), scheduler_for(optimizer, "StepLR")]
        return lr_scheduler.ChainedScheduler(inner)
    return getattr(lr_scheduler, name)(optimizer, **SCHEDULERS.get(name, {}))


ALL_SCHEDULERS = [
    name
    for name, cls in inspect.getmembers(lr_scheduler, inspect.isclass)
    if issubclass(cls, lr_scheduler.LRScheduler) and name not in ("LRScheduler", "_LRScheduler")
]


# SequentialLR of torch before 2.7 warns of its own way of stepping.
@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", [*ALL_SCHEDULERS, "SWALR"])
@pytest.mark.parametrize("lr", ["float", "tensor"])
def test_pain_27_every_scheduler_goes_on_with_the_same_rates(tmp_path, name, lr):
    """pytorch #60265, pytorch-lightning #15462: the learning rate was wrong after a resume."""

    def begun():
        net = model()
        rate = torch.tensor(0.05) if lr == "tensor" else 0.05
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
        if name == "SWALR":
            scheduler = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.01)
        else:
            scheduler = scheduler_for(optimizer, name)
        return {"model": net, "optimizer": optimizer, "scheduler": scheduler}

    def rates(parts, steps):
        seen = []
        for _ in range(steps):
            parts["optimizer"].step()
            if name == "ReduceLROnPlateau":
                parts["scheduler"].step(1.0)
            else:
                parts["scheduler"].step()
            seen.append([float(group["lr"]) for group in parts["optimizer"].param_groups])
        return seen

    parts = begun()
    rates(parts, 3)
    if callable(parts["scheduler"].state_dict().get("anneal_func")):
        # SWALR of torch before 2.7 keeps a function in its state, which no plain file can hold.
        with pytest.raises(CaptureError, match=r"at 'scheduler\.anneal_func'"):
            holdfast.save_state(tmp_path / "a.pt", **parts)
        return
    holdfast.save_state(tmp_path / "a.pt", **parts)
    other = begun()
    holdfast.load_state(tmp_path / "a.pt", **other)
    torch.load(tmp_path / "a.pt", weights_only=True)
    assert [type(group["lr"]) for group in other["optimizer"].param_groups] == [
        torch.Tensor if lr == "tensor" else float
    ]
    assert rates(other, 4) == rates(parts, 4)


def test_a_grad_scaler_goes_on_with_its_scale(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for value in (1.0, 1.0, float("inf")):
        parameter.grad = None
        scaler.scale(parameter.sum() * value).backward()
        scaler.step(optimizer)
        scaler.update()
    holdfast.save_state(tmp_path / "a.pt", scaler=scaler)
    other = torch.amp.GradScaler("cpu", growth_interval=2)
    holdfast.load_state(tmp_path / "a.pt", scaler=other)
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == 8.0


def test_a_scaler_that_is_switched_off_is_a_part_like_any(tmp_path):
    off = torch.amp.GradScaler("cpu", enabled=False)
    holdfast.save_state(tmp_path / "a.pt", scaler=off)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["scaler"] == {}
    holdfast.load_state(tmp_path / "a.pt", scaler=torch.amp.GradScaler("cpu", enabled=False))


def test_an_averaged_model_keeps_count(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    for _ in range(3):
        net[0].weight.data += 1
        ema.update_parameters(net)
    holdfast.save_state(tmp_path / "a.pt", model=net, ema=ema)
    other = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    holdfast.load_state(tmp_path / "a.pt", ema=other)
    assert int(other.n_averaged) == 3
    assert same(ema.state_dict(), other.state_dict())


def test_generators_go_on_where_they_were(tmp_path):
    def three():
        return {
            "dice": torch.Generator().manual_seed(1),
            "numbers": np.random.default_rng(2),
            "shuffler": random.Random(3),
        }

    def draw(parts):
        return (
            torch.randn(3, generator=parts["dice"]).tolist(),
            parts["numbers"].standard_normal(3).tolist(),
            [parts["shuffler"].gauss(0, 1) for _ in range(3)],
        )

    parts = three()
    draw(parts)
    holdfast.save_state(tmp_path / "a.pt", **parts)
    torch.load(tmp_path / "a.pt", weights_only=True)
    other = three()
    holdfast.load_state(tmp_path / "a.pt", **other)
    assert draw(other) == draw(parts)


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"])
def test_every_bit_generator_of_numpy_is_taken(tmp_path, kind):
    generator = np.random.Generator(getattr(np.random, kind)(1))
    generator.random(3, dtype=np.float32)
    holdfast.save_state(tmp_path / "a.pt", numbers=generator)
    torch.load(tmp_path / "a.pt", weights_only=True)
    other = np.random.Generator(getattr(np.random, kind)(2))
    holdfast.load_state(tmp_path / "a.pt", numbers=other)
    assert other.random(5, dtype=np.float32).tolist() == generator.random(5, np.float32).tolist()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(500, 3)
        self.out = nn.Linear(3, 500, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("fresh", torch.zeros(2), persistent=False)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    net = Tied()
    info = holdfast.save_state(tmp_path / "tied.pt", model=net)
    saved = torch.load(tmp_path / "tied.pt", weights_only=True)["model"]
    assert list(saved) == ["embed.weight", "out.weight"]
    assert saved["embed.weight"].data_ptr() == saved["out.weight"].data_ptr()
    other = Tied()
    holdfast.load_state(tmp_path / "tied.pt", model=other)
    assert other.out.weight is other.embed.weight
    assert torch.equal(other.embed.weight, net.embed.weight)
    untied = Tied()
    untied.out.weight = nn.Parameter(net.embed.weight.detach().clone())
    assert (
        holdfast.save_state(tmp_path / "free.pt", model=untied).nbytes - info.nbytes >= 500 * 3 * 4
    )


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.float8_e4m3fn]
)
def test_weights_of_every_dtype_come_back(tmp_path, dtype):
    net = nn.Linear(3, 2).to(torch.float64)
    for parameter in net.parameters():
        parameter.data = parameter.data.to(dtype)
    holdfast.save_state(tmp_path / "a.pt", model=net)
    other = nn.Linear(3, 2)
    for parameter in other.parameters():
        parameter.data = torch.zeros_like(parameter.data, dtype=torch.float32).to(dtype)
    holdfast.load_state(tmp_path / "a.pt", model=other)
    assert same(net.state_dict(), other.state_dict())


class WithExtra(nn.Linear):
    """Keeps more than tensors in its state dict, as transformer_engine does."""

    def get_extra_state(self):
        return {"scale": np.float32(0.5), "history": np.arange(3), "name": "fp8"}

    def set_extra_state(self, state):
        self.extra = state


def test_a_modules_extra_state_comes_back_as_it_was(tmp_path):
    holdfast.save_state(tmp_path / "a.pt", model=WithExtra(2, 2))
    saved = torch.load(tmp_path / "a.pt", weights_only=True)["model"]
    assert saved["_extra_state"]["scale"] == 0.5
    other = WithExtra(2, 2)
    holdfast.load_state(tmp_path / "a.pt", model=other)
    assert type(other.extra["scale"]) is np.float32
    assert other.extra["history"].tolist() == [0, 1, 2]
    assert other.extra["name"] == "fp8"


def test_pain_24_a_slice_does_not_drag_its_storage_along(tmp_path):
    """pytorch #1995, #40157."""
    big = torch.zeros(1_000_000)
    net = nn.Linear(10, 10, bias=False)
    net.weight.data = big[5:105].view(10, 10)
    square = torch.zeros(1000, 1000)
    extra = {"columns": [square[:, 1], square[:, 7]]}
    info = holdfast.save_state(tmp_path / "a.pt", model=net, extra=extra)
    assert info.nbytes < 40_000
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert saved["model"]["weight"].untyped_storage().nbytes() == 400
    assert saved["extra"]["columns"][0].untyped_storage().nbytes() == 4000


class Anything:
    """Not torch's, but it has the two methods."""

    def __init__(self, value=None):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_anything_with_the_two_methods_is_a_part(tmp_path):
    value = {"steps": (1, 2), "mean": np.float64(0.5), "seen": {1, 2}, "raw": b"", "t": np.ones(2)}
    holdfast.save_state(tmp_path / "a.pt", thing=Anything(value))
    torch.load(tmp_path / "a.pt", weights_only=True)
    other = Anything()
    holdfast.load_state(tmp_path / "a.pt", thing=other)
    assert repr(other.value) == repr(value)
