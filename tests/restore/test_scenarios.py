"""Each row of PEERS.md section 1 that is about restoring: what people do, without its trap."""

from __future__ import annotations

import copy
import os
import time

import torch
from relocating import relocate
from torch import nn

import holdfast
from holdfast.state.equal import same

Adam = torch.optim.Adam


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def trained() -> tuple[nn.Sequential, Adam]:
    model = net()
    optimizer = Adam(model.parameters(), lr=0.01)
    step(model, optimizer)
    return model, optimizer


def test_state_dict_of_model_and_optimizer_holds_no_references(tmp_path) -> None:
    """The trap: the "best" one that is kept in memory goes on training."""
    model, optimizer = trained()
    best = holdfast.snapshot(model=model, optimizer=optimizer)
    holdfast.save_state(tmp_path / "best.pt", model=model, optimizer=optimizer)
    wanted = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    step(model, optimizer)
    best.restore()
    assert same((model.state_dict(), optimizer.state_dict()), wanted)
    step(model, optimizer)
    holdfast.load_state(tmp_path / "best.pt", model=model, optimizer=optimizer)
    assert same((model.state_dict(), optimizer.state_dict()), wanted)


def test_save_and_load_for_inference_ends_in_eval_mode(tmp_path) -> None:
    """The trap: forgetting ``eval()``, so that dropout and batch norm stay in training mode."""
    model, _ = trained()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    live = net()
    holdfast.load_model(tmp_path / "weights.pth", live)
    x = torch.randn(4, 3)
    assert torch.equal(live(x), live(x))
    assert torch.equal(live(x), model.eval()(x))


def test_a_whole_model_pickle_outlives_its_class(tmp_path) -> None:
    """The trap: bound to class, module path and folder layout."""
    scope: dict[str, type] = {}
    exec("import torch\nclass Gone(torch.nn.Sequential): pass", scope)
    scope["Gone"].__module__ = __name__
    globals()["Gone"] = scope["Gone"]
    model = scope["Gone"](nn.Linear(3, 2))
    torch.save(model, tmp_path / "whole.pt")
    del globals()["Gone"]
    live = nn.Sequential(nn.Linear(3, 2))
    holdfast.load_model(tmp_path / "whole.pt", live)
    assert same(live.state_dict(), model.state_dict())


def test_a_general_checkpoint_forgets_nothing(tmp_path) -> None:
    """The trap: momentum, learning rate or loss scale restart."""
    model, optimizer = trained()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    step(model, optimizer)
    scheduler.step()
    torch.save(
        {
            **{"epoch": 7, "loss": 0.25, "extra_info": {"note": "x"}},
            **{"model_state_dict": model.state_dict(), "scaler_state_dict": scaler.state_dict()},
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler_state_dict": scheduler.state_dict(),
        },
        tmp_path / "general.tar",
    )
    live = net()
    other = Adam(live.parameters(), lr=9)
    second = torch.optim.lr_scheduler.StepLR(other, 1, gamma=0.5)
    third = torch.amp.GradScaler("cpu")
    report = holdfast.load_state(
        tmp_path / "general.tar", model=live, optimizer=other, scheduler=second, scaler=third
    )
    assert same(other.state_dict(), optimizer.state_dict())
    assert same(second.state_dict(), scheduler.state_dict())
    assert third.get_scale() == 4.0
    assert report.extra == {"epoch": 7, "loss": 0.25, "extra_info": {"note": "x"}}


def test_several_models_and_optimizers_in_one_file(tmp_path) -> None:
    """The trap: bookkeeping by hand."""
    (g, g_opt), (d, d_opt) = trained(), trained()
    holdfast.save_state(tmp_path / "gan.pt", G=g, D=d, g_opt=g_opt, d_opt=d_opt)
    (a, a_opt), (b, b_opt) = trained(), trained()
    holdfast.load_state(tmp_path / "gan.pt", D=b, d_opt=b_opt, g_opt=a_opt, G=a)
    assert same((a.state_dict(), a_opt.state_dict()), (g.state_dict(), g_opt.state_dict()))
    assert same((b.state_dict(), b_opt.state_dict()), (d.state_dict(), d_opt.state_dict()))


def test_a_warm_start_says_what_was_taken(tmp_path) -> None:
    """The trap: nothing matched and nobody noticed."""
    model, _ = trained()
    torch.save(model.state_dict(), tmp_path / "old.pt")
    live = nn.ModuleDict(
        {"body": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "head": nn.Linear(4, 7)}
    )
    report = holdfast.load_state(
        tmp_path / "old.pt", model=live, strict="shapes",
        rename={"0": "body", "1": "norm", "3": "head"},
    )  # fmt: skip
    assert torch.equal(live["body"].weight, model[0].weight)
    assert [row[0] for row in report["model"].differing] == ["head.weight", "head.bias"]


def test_across_devices_in_every_order(tmp_path) -> None:
    """The trap: a crash where there is no GPU; state on another device than its parameter."""
    model, optimizer = trained()
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(tree, tmp_path / "gpu.pt")
    relocate(tmp_path / "gpu.pt", "cuda:1")
    live = net()
    other = Adam(live.parameters())
    holdfast.load_state(tmp_path / "gpu.pt", model=live, optimizer=other)
    assert same(live.state_dict(), model.state_dict())
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_data_parallel_and_compile_prefix_every_key(tmp_path) -> None:
    model, _ = trained()
    torch.save(nn.DataParallel(torch.compile(model)).state_dict(), tmp_path / "ddp.pt")
    live = net()
    holdfast.load_state(tmp_path / "ddp.pt", model=live)
    assert same(live.state_dict(), model.state_dict())


def test_the_latest_is_the_one_saved_last_whatever_the_file_times_say(tmp_path) -> None:
    """The trap: "latest" by file time is wrong after a copy."""
    model, optimizer = trained()
    with holdfast.Run(tmp_path / "run", model=model, optimizer=optimizer) as run:
        for number in range(3):
            run.save(number)
    files = sorted((tmp_path / "run").glob("*.pt"))
    for age, path in enumerate(files):
        os.utime(path, (time.time() - age * 1000, time.time() - age * 1000))
    report = holdfast.load_state(tmp_path / "run", model=net())
    assert report.step == 2


def test_old_file_formats_are_files_like_others(tmp_path) -> None:
    """The trap: newer tools cannot read them."""
    model, _ = trained()
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    live = net()
    holdfast.load_state(tmp_path / "old.pth", model=live)
    assert same(live.state_dict(), model.state_dict())


class Evil:
    """Runs when it is unpickled by anything that runs pickles."""

    def __reduce__(self):
        return os._exit, (3,)


def test_files_from_others_run_nothing(tmp_path) -> None:
    """The trap: ``weights_only=False`` runs whatever is in them."""
    model, _ = trained()
    torch.save({"model": model.state_dict(), "args": Evil()}, tmp_path / "theirs.pt")
    live = net()
    report = holdfast.load_state(tmp_path / "theirs.pt", model=live)
    assert same(live.state_dict(), model.state_dict())
    assert report.opaque == ("args (posix._exit)",)
