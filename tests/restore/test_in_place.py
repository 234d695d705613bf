"""All or nothing, and straight from the file into live memory."""

from __future__ import annotations

import copy
import gc
import gzip
import os
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_model
from torch import nn

import holdfast
from holdfast.errors import DamagedError, MismatchError, RestoreInterrupted
from holdfast.state.equal import same
from holdfast.tensors import into


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64)
        self.out = nn.Linear(64, 64)
        self.out.weight = self.fc.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.fc(x)))


def trained() -> tuple[Net, torch.optim.Optimizer]:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(4, 64)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path) -> tuple[Path, Net, torch.optim.Optimizer]:
    model, optimizer = trained()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    return tmp_path / "a.pt", model, optimizer


def test_tensors_stay_where_they_are_and_get_the_saved_numbers(saved) -> None:
    path, model, optimizer = saved
    live, other = trained()
    places = [tensor.data_ptr() for tensor in live.state_dict().values()]
    places += [other.state[p]["exp_avg"].data_ptr() for p in live.parameters()]
    holdfast.load_state(path, model=live, optimizer=other)
    assert same(live.state_dict(), model.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())
    now = [tensor.data_ptr() for tensor in live.state_dict().values()]
    now += [other.state[p]["exp_avg"].data_ptr() for p in live.parameters()]
    assert now == places
    assert live.out.weight is live.fc.weight


def test_a_state_dict_taken_before_keeps_its_values(saved) -> None:
    """As with PyTorch's own loading: it is how people go back."""
    path, _, _ = saved
    live, optimizer = trained()
    before = optimizer.state_dict()
    kept = copy.deepcopy(before)
    holdfast.load_state(path, model=live, optimizer=optimizer)
    assert same(before, kept)
    assert not same(optimizer.state_dict()["state"], kept["state"])
    optimizer.load_state_dict(before)
    assert same(optimizer.state_dict(), kept)


def test_optimizers_that_share_their_state_get_their_own(tmp_path) -> None:
    (a, first), (b, second) = trained(), trained()
    parts = {"a": a, "first": first, "b": b, "second": second}
    holdfast.save_state(tmp_path / "a.pt", **parts)
    wanted = copy.deepcopy(first.state_dict()), copy.deepcopy(second.state_dict())
    second.load_state_dict(first.state_dict())  # they have the same tensors now
    holdfast.load_state(tmp_path / "a.pt", **parts)
    assert same(first.state_dict(), wanted[0])
    assert same(second.state_dict(), wanted[1])


def test_state_tensors_over_one_memory_get_their_own(tmp_path) -> None:
    """As after ``load_state_dict`` of a state that was detached."""
    (a, first), (b, second) = trained(), trained()
    parts = {"a": a, "first": first, "b": b, "second": second}
    holdfast.save_state(tmp_path / "a.pt", **parts)
    wanted = copy.deepcopy(first.state_dict()), copy.deepcopy(second.state_dict())
    for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
        second.state[theirs]["exp_avg"] = first.state[mine]["exp_avg"].detach()
        first.state[mine]["exp_avg_sq"] = first.state[mine]["exp_avg"].detach()
    holdfast.load_state(tmp_path / "a.pt", **parts)
    assert same(first.state_dict(), wanted[0])
    assert same(second.state_dict(), wanted[1])


def test_backward_through_weights_that_were_loaded_over_is_an_error(saved) -> None:
    """Without its version counter autograd would take the new numbers for the old ones."""
    path, _, _ = saved
    live = Net()
    loss = (live.fc(torch.ones(1, 64)) @ live.fc.weight).sum()
    holdfast.load_state(path, model=live)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "every second": lambda x: torch.empty(128, 64)[::2].copy_(x),
    "a row of a larger one": lambda x: torch.empty(3, 64, 64)[1].copy_(x),
    "another type": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
}


@pytest.mark.parametrize("live_layout", LAYOUTS)
@pytest.mark.parametrize("saved_layout", LAYOUTS)
def test_every_layout_goes_into_every_other(saved_layout, live_layout, tmp_path) -> None:
    value = torch.randn(64, 64)
    torch.save({"w": LAYOUTS[saved_layout](value), "x": value[3:9]}, tmp_path / "a.pt")
    live = nn.Module()
    live.w = nn.Parameter(LAYOUTS[live_layout](torch.zeros(64, 64)).detach())
    live.register_buffer("x", torch.zeros(6, 64))
    holdfast.load_state(tmp_path / "a.pt", cast=True, model=live)
    wanted = LAYOUTS[saved_layout](value).to(live.w.dtype)
    assert torch.equal(live.w, wanted)
    assert torch.equal(live.x, value[3:9])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("format", ["legacy", "safetensors", "dcp", "big"])
def test_other_formats(format, tmp_path) -> None:
    model, live = Net(), Net()
    if format == "legacy":
        path = tmp_path / "a.pth"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    elif format == "safetensors":
        path = tmp_path / "a.safetensors"
        save_model(model, str(path))
    elif format == "dcp":
        path = tmp_path / "dcp"
        writer = dcp.FileSystemWriter(path)
        dcp.save({"model": model.state_dict()}, storage_writer=writer, no_dist=True)
    else:
        path = tmp_path / "big.pt"
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for value in state.values():
            value.untyped_storage()._byteswap(value.element_size())
        torch.save(state, path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, b"big" if name.endswith("byteorder") else data)
    holdfast.load_state(path, model=live)
    assert same(live.state_dict(), model.state_dict())


def test_modules_with_code_of_their_own_go_through_it(tmp_path) -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))
            self.register_load_state_dict_pre_hook(self._double)

        @staticmethod
        def _double(module, state, prefix, *_):
            state[f"{prefix}w"] = state[f"{prefix}w"] * 2

    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    live = Doubling()
    holdfast.load_state(tmp_path / "a.pt", model=live)
    assert live.w.tolist() == [2, 2, 2]


class Refusing:
    """A part that takes nothing, and comes after the optimizer."""

    def state_dict(self):
        return {"n": 1}

    def load_state_dict(self, state):
        raise ValueError("no")


def test_when_another_part_refuses_not_one_tensor_has_changed(tmp_path) -> None:
    model, optimizer = trained()
    other = Refusing()
    holdfast.save_state(tmp_path / "a.pt", optimizer=optimizer, model=model, other=other)
    live, live_optimizer = trained()
    before = copy.deepcopy((live.state_dict(), live_optimizer.state_dict()))
    with pytest.raises(MismatchError, match="'other' did not take the state"):
        holdfast.load_state(
            tmp_path / "a.pt", optimizer=live_optimizer, model=live, other=Refusing()
        )
    assert same((live.state_dict(), live_optimizer.state_dict()), before)


def test_a_damaged_tensor_changes_nothing(saved) -> None:
    path, _, _ = saved
    data = bytearray(path.read_bytes())
    with holdfast.open(path) as checkpoint:
        extent = checkpoint.index.extents[checkpoint.tree["model"]["out.bias"].storage.key]
    data[extent.offset] ^= 1
    path.write_bytes(data)
    live, optimizer = trained()
    before = copy.deepcopy((live.state_dict(), optimizer.state_dict()))
    with pytest.raises(DamagedError, match="nothing was restored"):
        holdfast.load_state(path, model=live, optimizer=optimizer)
    assert same((live.state_dict(), optimizer.state_dict()), before)


@pytest.mark.parametrize("how", ["changed", "cut"])
def test_a_file_that_changes_between_verifying_and_reading_is_noticed(
    saved, how, monkeypatch
) -> None:
    path, _, _ = saved
    with holdfast.open(path) as checkpoint:
        extent = checkpoint.index.extents[checkpoint.tree["model"]["fc.weight"].storage.key]
    whole = into._fill_all

    def meddle(*args):
        if how == "cut":
            os.truncate(path, extent.offset + 10)
        else:
            with path.open("r+b") as file:
                file.seek(extent.offset)
                file.write(b"\xff" * 8)
        return whole(*args)

    monkeypatch.setattr(into, "_fill_all", meddle)
    with pytest.raises(RestoreInterrupted) as caught:
        holdfast.load_state(path, model=Net())
    assert str(caught.value).startswith(
        "the file could no longer be read while live tensors were written\n"
    )
    assert "Load the state again before using it" in str(caught.value)


def test_a_parameter_that_overlaps_itself_is_refused_before_anything_is_written(tmp_path) -> None:
    live = nn.Module()
    live.a = nn.Linear(3, 3)
    live.w = nn.Parameter(torch.zeros(1, 3).expand(4, 3))
    before = copy.deepcopy(live.a.state_dict())
    state = {"a.weight": torch.ones(3, 3), "a.bias": torch.ones(3), "w": torch.ones(4, 3)}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(MismatchError, match="did not take the state that was saved"):
        holdfast.load_state(tmp_path / "a.pt", model=live)
    assert same(live.a.state_dict(), before)


def test_whatever_fails_while_live_tensors_are_written_says_so(saved, monkeypatch) -> None:
    path, _, _ = saved

    def no_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(into, "copy_windows", no_memory)
    with pytest.raises(RestoreInterrupted, match="while live tensors were written"):
        holdfast.load_state(path, cast=True, model=Net().double())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, AssertionError])
def test_whatever_stops_it_while_live_tensors_are_written_leaves_word(
    kind, saved, monkeypatch, caplog
) -> None:
    """A cell of a notebook that is interrupted goes on with some tensors old, others new."""
    path, _, _ = saved

    def stop(*args):
        raise kind

    monkeypatch.setattr(into, "_fill_all", stop)
    with pytest.raises(kind) as caught:
        holdfast.load_state(path, model=Net())
    word = (
        f"loading {path} was interrupted while live tensors were written: some are new, others "
        "are not. Load the state again before using it."
    )
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("WARNING", word)]
    assert getattr(caught.value, "__notes__", [word]) == [word]


_MEASURE = """
import resource, sys
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
import holdfast

def model_of():
    return nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(16))  # 256 MiB

path, kind = sys.argv[1:]
live = model_of()
live = {"cast": live.double, "mixed": live.bfloat16}.get(kind, lambda: live)()
options = {"cast": True} if kind == "cast" else {}
parts = {"model": live}
if kind in ("optimizer", "mixed"):
    parts["optimizer"] = optimizer = torch.optim.Adam(live.parameters())
    for parameter in live.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in live.parameters():
        parameter.grad = None
        if kind == "mixed":
            state = optimizer.state[parameter]
            state.update({name: state[name].float() for name in ("exp_avg", "exp_avg_sq")})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = holdfast.load_state(path, **options, **parts)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["model", "optimizer", "cast", "mixed"])
def test_no_second_copy_is_ever_in_memory(kind, tmp_path) -> None:
    """At most 64 MiB more; where elements are cast, at most one tensor (16 MiB here) with it."""
    model = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(16))
    parts = {"model": model}
    if kind == "mixed":
        model.bfloat16()
    if kind in ("optimizer", "mixed"):
        parts["optimizer"] = optimizer = torch.optim.Adam(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for state in optimizer.state.values():
            state.update({name: state[name].float() for name in ("exp_avg", "exp_avg_sq")})
    holdfast.save_state(tmp_path / "a.pt", **parts)
    del parts, model
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "a.pt"), kind],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 64 << 10  # KiB


def test_nothing_that_was_loaded_hangs_about_in_cycles(tmp_path) -> None:
    """A second copy of a model would stay until Python's collector of cycles comes by."""
    torch.save({"w": torch.zeros(3), "n": [1]}, tmp_path / "a.pt")
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(holdfast.load(tmp_path / "a.pt")["w"])
        assert gone() is None
    finally:
        gc.enable()


def test_a_window_of_a_file_is_read_from_where_it_is(tmp_path) -> None:
    """A checkpoint inside a gzip or another archive is a source below the first one."""
    model, live = Net(), Net()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    (tmp_path / "a.pt.gz").write_bytes(gzip.compress((tmp_path / "a.pt").read_bytes()))
    holdfast.load_state(tmp_path / "a.pt.gz", model=live)
    assert same(live.state_dict(), model.state_dict())
