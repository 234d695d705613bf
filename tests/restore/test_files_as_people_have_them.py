"""Old checkpoints as people have them load into live parts by one line each.

The conventions are those of PyTorch's tutorial "Saving and Loading Models", of its examples, of
Lightning and of DeepSpeed.
"""

from __future__ import annotations

import copy
from argparse import Namespace

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import MissingPartError, UsageError
from holdfast.state.equal import same


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, width, 3)
        self.norm = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).mean(-1))


def trained(width: int = 4):
    """A model and an optimizer after two steps."""
    model = Net(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.randn(3, 1, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def fresh(width: int = 4):
    model = Net(width)
    return model, torch.optim.AdamW(model.parameters(), lr=1)


MODEL, OPTIMIZER = trained()
STATE = MODEL.state_dict()

#: Where the weights stand in files that hold one model.
WEIGHTS = {
    "a bare state dict": lambda: STATE,
    "model": lambda: {"model": STATE, "epoch": 3},
    "model_state_dict": lambda: {"model_state_dict": STATE, "epoch": 3},
    "state_dict": lambda: {"state_dict": STATE, "arch": "net", "best_acc1": torch.tensor(0.5)},
    "module, of DeepSpeed": lambda: {"module": STATE, "global_steps": 7, "ds_version": "0.14"},
    "net, that is customary nowhere": lambda: {"net": STATE, "acc": 91.2},
    "two steps down": lambda: {"checkpoint": {"weights": STATE}, "epoch": 3},
    "DataParallel": lambda: nn.DataParallel(MODEL).state_dict(),
    "state_dict of DataParallel": lambda: {
        "arch": "net",
        "state_dict": nn.DataParallel(MODEL).state_dict(),
    },
    "torch.compile": lambda: torch.compile(MODEL).state_dict(),
    "both": lambda: {"model": nn.DataParallel(torch.compile(MODEL)).state_dict()},
    "Lightning": lambda: {
        **{"pytorch-lightning_version": "2.5.0", "epoch": 3, "global_step": 30},
        "state_dict": {
            **{f"model.{name}": value for name, value in STATE.items()},
            "loss.weight": torch.ones(2),
        },
        "callbacks": {"best_model_score": torch.tensor(0.5)},
        "optimizer_states": [OPTIMIZER.state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.01},
    },
    "settings under the name of the model": lambda: {
        "model": {"name": "net", "depth": 3},
        "state_dict": STATE,
    },
    "a whole model": lambda: MODEL,
    "a whole model in a dict": lambda: {"model": MODEL, "epoch": 3},
}


@pytest.mark.parametrize("convention", WEIGHTS)
def test_the_weights_of_one_model(convention, tmp_path) -> None:
    torch.save(WEIGHTS[convention](), tmp_path / "theirs.pt")
    model, _ = fresh()
    report = holdfast.load_state(tmp_path / "theirs.pt", model=model)
    assert same(model.state_dict(), STATE)
    assert report["model"].loaded == len(STATE)


@pytest.mark.parametrize(
    "prefix",
    [
        *("model._orig_mod.", "model.module.", "_orig_mod.model.", "module.model."),
        *("_forward_module.model.", "_forward_module._orig_mod.model._orig_mod."),
    ],
)
@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile])
def test_pain_19_a_lightning_module_that_was_compiled_or_wrapped(prefix, wrap, tmp_path) -> None:
    """pytorch-lightning #20233."""
    state = {f"{prefix}{name}": value for name, value in STATE.items()}
    state[f"{prefix.partition('model.')[0]}loss.weight"] = torch.ones(2)
    torch.save({"pytorch-lightning_version": "2.5", "state_dict": state}, tmp_path / "a.ckpt")
    model, _ = fresh()
    report = holdfast.load_state(tmp_path / "a.ckpt", model=wrap(model))
    assert same(model.state_dict(), STATE)
    assert report["model"].loaded == len(STATE)


def test_of_two_models_in_a_compiled_lightning_module_the_one_called_so(tmp_path) -> None:
    state = {f"_orig_mod.student.{name}": value for name, value in STATE.items()}
    teacher = Net().state_dict()
    state |= {f"_orig_mod.teacher.{name}": value for name, value in teacher.items()}
    torch.save({"pytorch-lightning_version": "2.5", "state_dict": state}, tmp_path / "a.ckpt")
    live = Net()
    holdfast.load_state(tmp_path / "a.ckpt", teacher=live)
    assert same(live.state_dict(), teacher)
    with pytest.raises(MissingPartError) as caught:
        holdfast.load_state(tmp_path / "a.ckpt", model=live)
    place = "state_dict._orig_mod.student"
    assert caught.value.cure == f"Say which: select={{'model': {place!r}}}"
    holdfast.load_state(tmp_path / "a.ckpt", model=live, select={"model": place})
    assert same(live.state_dict(), STATE)


def test_26_a_whole_model_needs_no_class(tmp_path, monkeypatch) -> None:
    """pytorch #2762, #7812: "Can't get attribute"."""
    torch.save({"model": MODEL}, tmp_path / "whole.pt")
    monkeypatch.delitem(globals(), "Net")
    model = copy.deepcopy(MODEL)
    nn.init.zeros_(model.fc.weight)
    holdfast.load_state(tmp_path / "whole.pt", model=model)
    assert same(model.state_dict(), STATE)


def test_weights_alone_from_safetensors(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "model.safetensors")
    model, _ = fresh()
    holdfast.load_state(tmp_path / "model.safetensors", model=model)
    assert same(model.state_dict(), STATE)


GENERAL = {
    "the tutorial's": ("model_state_dict", "optimizer_state_dict"),
    "the examples'": ("state_dict", "optimizer"),
    "by the parts' names": ("model", "optimizer"),
    "Lightning's": ("state_dict", "optimizer_states"),
}


@pytest.mark.parametrize("convention", GENERAL)
def test_a_general_checkpoint(convention, tmp_path) -> None:
    """``{"epoch", "model_state_dict", "optimizer_state_dict", "loss", "extra_info"}``."""
    weights, states = GENERAL[convention]
    state = OPTIMIZER.state_dict()
    torch.save(
        {
            **{"epoch": 5, "loss": torch.tensor(0.25), "extra_info": {"classes": ["a", "b"]}},
            **{weights: STATE, states: [state] if convention == "Lightning's" else state},
        },
        tmp_path / "theirs.tar",
    )
    model, optimizer = fresh()
    report = holdfast.load_state(tmp_path / "theirs.tar", model=model, optimizer=optimizer)
    assert same(model.state_dict(), STATE)
    assert same(optimizer.state_dict(), OPTIMIZER.state_dict())
    assert report.step == 5
    assert report.extra == {
        "epoch": 5,
        "loss": torch.tensor(0.25),
        "extra_info": {"classes": ["a", "b"]},
    }


def test_a_gan_with_two_models_and_two_optimizers(tmp_path) -> None:
    (g, g_opt), (d, d_opt) = trained(), trained()
    torch.save(
        {
            **{"modelA_state_dict": g.state_dict(), "modelB_state_dict": d.state_dict()},
            **{"optimizerA_state_dict": g_opt.state_dict()},
            **{"optimizerB_state_dict": d_opt.state_dict()},
        },
        tmp_path / "gan.pt",
    )
    (a, a_opt), (b, b_opt) = fresh(), fresh()
    parts = {"modelA": a, "modelB": b, "optimizerA": a_opt, "optimizerB": b_opt}
    holdfast.load_state(tmp_path / "gan.pt", **parts)
    assert same(a.state_dict(), g.state_dict())
    assert same(b.state_dict(), d.state_dict())
    assert same(a_opt.state_dict(), g_opt.state_dict())
    assert same(b_opt.state_dict(), d_opt.state_dict())


GANS = {
    "of torch's examples": lambda g, d, og, od: {
        **{"netG": g, "netD": d, "optimizerG": og, "optimizerD": od}
    },
    "lists": lambda g, d, og, od: {"models": [g, d], "optimizers": [od, og]},
    "a dict for each": lambda g, d, og, od: {
        "model": {"G": g, "D": d},
        "optim": {"D": od, "G": og},
    },
}


@pytest.mark.parametrize("kind", GANS)
@pytest.mark.parametrize("is_named", [False, True])
def test_the_optimizers_of_a_gan_are_told_apart_by_their_shapes(kind, is_named, tmp_path) -> None:
    (g, g_opt), (d, d_opt) = trained(4), trained(3)
    if is_named:
        for model, optimizer in ((g, g_opt), (d, d_opt)):
            names = [name for name, _ in model.named_parameters()]
            optimizer.param_groups[0]["param_names"] = names
    states = [each.state_dict() for each in (g, d, g_opt, d_opt)]
    torch.save(GANS[kind](*states), tmp_path / "gan.pt")
    (a, a_opt), (b, b_opt) = fresh(4), fresh(3)
    report = holdfast.load_state(tmp_path / "gan.pt", G=a, D=b, og=a_opt, od=b_opt)
    assert same(a_opt.state_dict()["state"], states[2]["state"])
    assert same(b_opt.state_dict()["state"], states[3]["state"])
    assert report["og"].why == "6 of its 6 parameters fit it"


@pytest.mark.parametrize(("part", "select"), [("A", {}), ("model", {"model": "A"})])
def test_of_two_optimizers_of_equal_shapes_the_one_of_the_given_model(part, select, tmp_path):
    (a, a_opt), (b, b_opt) = trained(), trained()
    both = torch.optim.AdamW([*b.parameters(), *a.parameters()])
    holdfast.save_state(tmp_path / "a.pt", A=a, B=b, both=both, ob=b_opt, oa=a_opt)
    model, optimizer = fresh()
    report = holdfast.load_state(
        tmp_path / "a.pt", select=select, **{part: model, "optimizer": optimizer}
    )
    assert report["optimizer"].found == "oa"
    assert same(optimizer.state_dict()["state"], a_opt.state_dict()["state"])
    with pytest.raises(MissingPartError, match="several states in this checkpoint may be that of"):
        holdfast.load_state(tmp_path / "a.pt", optimizer=fresh()[1])


def schedulers(optimizer):
    lr = torch.optim.lr_scheduler
    return {
        "StepLR": lambda: lr.StepLR(optimizer, 3),
        "ReduceLROnPlateau": lambda: lr.ReduceLROnPlateau(optimizer),
        "ChainedScheduler": lambda: lr.ChainedScheduler([lr.StepLR(optimizer, 3)]),
        "SequentialLR": lambda: lr.SequentialLR(
            optimizer, [lr.StepLR(optimizer, 3), lr.ConstantLR(optimizer)], [2]
        ),
    }


@pytest.mark.filterwarnings("ignore:.*optimizer.step:UserWarning")
@pytest.mark.parametrize("kind", schedulers(None))
@pytest.mark.parametrize("place", [None, "sched"])
def test_a_scheduler_in_a_file_of_its_own_or_under_another_name(kind, place, tmp_path) -> None:
    """``scheduler.pt``, as the Trainer of Hugging Face and Accelerate write it."""
    scheduler = schedulers(OPTIMIZER)[kind]()
    scheduler.step(*([1.0] if kind == "ReduceLROnPlateau" else []))
    state = scheduler.state_dict()
    torch.save({place: state, "epoch": 3} if place else state, tmp_path / "scheduler.pt")
    live = schedulers(fresh()[1])[kind]()
    holdfast.load_state(tmp_path / "scheduler.pt", scheduler=live)
    assert same(live.state_dict(), state)


def test_a_scaler_in_a_file_of_its_own(tmp_path) -> None:
    scaler, live = torch.amp.GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu")
    torch.save(scaler.state_dict(), tmp_path / "scaler.pt")
    holdfast.load_state(tmp_path / "scaler.pt", scaler=live)
    assert live.state_dict() == scaler.state_dict()


def test_a_checkpoint_is_no_scheduler_and_of_two_none_is_guessed(tmp_path) -> None:
    _, optimizer = fresh()
    scheduler = schedulers(optimizer)["StepLR"]()
    torch.save({"model": STATE, "last_epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(MissingPartError, match="has no part 'scheduler'"):
        holdfast.load_state(tmp_path / "a.pt", scheduler=scheduler)
    torch.save(dict.fromkeys(("g", "d"), scheduler.state_dict()), tmp_path / "b.pt")
    with pytest.raises(MissingPartError, match="several states in this checkpoint"):
        holdfast.load_state(tmp_path / "b.pt", scheduler=scheduler)
    torch.save({"scheduler": schedulers(optimizer)["SequentialLR"]().state_dict()}, tmp_path / "c")
    with pytest.raises(MissingPartError, match="has no part 'warm'"):
        holdfast.load_state(tmp_path / "c", scheduler=scheduler, warm=scheduler)


def test_what_two_states_fit_is_asked_and_not_guessed(tmp_path) -> None:
    g, d = Net(), Net()
    torch.save(
        {"modelA_state_dict": g.state_dict(), "modelB_state_dict": d.state_dict()},
        tmp_path / "gan.pt",
    )
    live = Net()
    before = copy.deepcopy(live.state_dict())
    with pytest.raises(MissingPartError) as caught:
        holdfast.load_state(tmp_path / "gan.pt", G=live)
    assert str(caught.value) == (
        "several states in this checkpoint may be that of 'G'\n"
        f"  in {tmp_path / 'gan.pt'}\n"
        "  found modelA_state_dict; modelB_state_dict\n"
        "  Say which: select={'G': 'modelA_state_dict'}"
    )
    assert same(live.state_dict(), before)
    report = holdfast.load_state(tmp_path / "gan.pt", G=live, select={"G": "modelB_state_dict"})
    assert same(live.state_dict(), d.state_dict())
    assert (report["G"].found, report["G"].why) == ("modelB_state_dict", "selected")
    assert report.not_asked == ("modelA_state_dict",)


@pytest.mark.parametrize(
    ("select", "words", "found"),
    [
        (
            {"G": "modelC_state_dict"},
            "select= names no state in this checkpoint",
            "'modelC_state_dict'; there are modelA_state_dict",
        ),
        ({"D": "modelA_state_dict"}, "select= names a part that is not given", "'D'"),
    ],
)
def test_a_selection_of_what_is_not_there_gets_a_letter(tmp_path, select, words, found) -> None:
    torch.save({"modelA_state_dict": STATE}, tmp_path / "a.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.load_state(tmp_path / "a.pt", G=Net(), select=select)
    assert (caught.value.what, caught.value.found) == (words, found)


def test_a_state_that_another_part_took_is_not_taken_again(tmp_path) -> None:
    ema = Net()
    torch.save({"model": STATE, "model_ema": ema.state_dict()}, tmp_path / "a.pt")
    model, teacher = Net(), Net()
    report = holdfast.load_state(tmp_path / "a.pt", model=model, teacher=teacher)
    assert same(teacher.state_dict(), ema.state_dict())
    assert report["teacher"].found == "model_ema"


def test_objects_outside_the_parts_never_block_and_are_listed(tmp_path) -> None:
    torch.save({"model": STATE, "args": Namespace(lr=1), "epoch": 2}, tmp_path / "a.pt")
    report = holdfast.load_state(tmp_path / "a.pt", model=Net())
    assert report.opaque == ("args (argparse.Namespace)",)
    assert report.extra == {"epoch": 2}
    report = holdfast.load_state(tmp_path / "a.pt", model=Net(), trust=[Namespace])
    assert report.extra == {"epoch": 2, "args": Namespace(lr=1)}
    assert report.opaque == ()


def test_a_part_the_file_lacks_starts_fresh_where_that_is_allowed(tmp_path) -> None:
    torch.save({"model": STATE}, tmp_path / "a.pt")
    model, optimizer = fresh()
    with pytest.raises(MissingPartError, match="has no part 'optimizer'"):
        holdfast.load_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    report = holdfast.load_state(tmp_path / "a.pt", model=model, optimizer=optimizer, strict=False)
    assert report["optimizer"].notes == ("the checkpoint has none: it stays as it is",)
    assert same(model.state_dict(), STATE)


def test_an_open_checkpoint_and_a_dict_are_sources_too(tmp_path) -> None:
    tree = {"model": STATE, "optimizer": OPTIMIZER.state_dict(), "epoch": 4}
    torch.save(tree, tmp_path / "a.pt")
    with holdfast.open(tmp_path / "a.pt") as checkpoint:
        for source in (checkpoint, torch.load(tmp_path / "a.pt", weights_only=True)):
            model, optimizer = fresh()
            report = holdfast.load_state(source, model=model, optimizer=optimizer)
            assert same(model.state_dict(), STATE)
            assert same(optimizer.state_dict(), OPTIMIZER.state_dict())
            assert report.extra == {"epoch": 4}


def test_what_is_loaded_from_a_dict_shares_nothing_with_it() -> None:
    tree = {"model": STATE, "optimizer": OPTIMIZER.state_dict()}
    before = copy.deepcopy(tree)
    model, optimizer = fresh()
    holdfast.load_state(tree, model=model, optimizer=optimizer)
    model(torch.randn(3, 1, 8)).sum().backward()
    optimizer.step()
    assert same(tree, before)


@pytest.mark.parametrize(("part", "found"), [("ema", "model_ema"), ("model", "model")])
def test_a_state_that_is_called_after_the_part_is_its(part, found, tmp_path) -> None:
    torch.save({"model": STATE, "model_ema": Net().state_dict()}, tmp_path / "a.pt")
    report = holdfast.load_state(tmp_path / "a.pt", **{part: Net()})
    assert report[part].found == found


def test_what_is_customary_is_not_guessed_for_a_part_of_another_name(tmp_path) -> None:
    tree = {"state_dict": STATE, "ema_state_dict": Net().state_dict()}
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(MissingPartError, match="several states in this checkpoint may be"):
        holdfast.load_state(tmp_path / "a.pt", teacher=Net())
    assert holdfast.load_state(tmp_path / "a.pt", net=Net())["net"].found == "state_dict"


def test_values_beside_a_bare_state_dict_are_extra(tmp_path) -> None:
    torch.save({**STATE, "epoch": 3, "arch": "net"}, tmp_path / "a.pt")
    model = Net()
    report = holdfast.load_state(tmp_path / "a.pt", model=model)
    assert same(model.state_dict(), STATE)
    assert report.extra == {"epoch": 3, "arch": "net"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_values_with_tensors_in_them_are_extra_and_states_are_not(tmp_path) -> None:
    values = {
        "extra_info": {"best_acc": torch.tensor(0.9), "classes": ["a"]},
        "callbacks": {"best_model_score": torch.tensor(0.5)},
        "history": [{"epoch": 0, "confusion": torch.ones(2, 2)}],
        "losses": [torch.ones(2)],
    }
    states = {
        "model_ema": STATE,
        "ema": {"decay": 0.9, "module": STATE},
        "nets": [STATE],
        "optim": {"inner": OPTIMIZER.state_dict(), "n": 3},
    }
    torch.save({"model": STATE, **values, **states}, tmp_path / "a.pt")
    report = holdfast.load_state(tmp_path / "a.pt", model=Net())
    assert same(report.extra, values)
    assert report.not_asked == tuple(states)


def test_a_scripted_model_gives_its_weights(tmp_path) -> None:
    script = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    torch.jit.save(script, tmp_path / "a.pt")
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    holdfast.load_state(tmp_path / "a.pt", model=model)
    wanted = script.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
