"""Learning rates go on as if training had never stopped, also across other param groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler, swa_utils

import holdfast
from holdfast.errors import MismatchError
from holdfast.state.equal import same
from holdfast.state.scheduler_match import lists_of_groups

#: Every scheduler of torch, none of which steps alike for two groups of other learning rates.
MAKES = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [_Power(0.5 + g["lr"]) for g in _groups(o)]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.5),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 7),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 7),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, [g["lr"] / 2 for g in _groups(o)], 1, 3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [g["lr"] for g in _groups(o)], 9),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.05),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.LambdaLR(o, _Power(0.5))], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(
        o, patience=0, min_lr=[g["lr"] * 0.3 for g in _groups(o)], factor=0.5
    ),
}


class _Power:
    """A callable with a state of its own, which is saved with ``LambdaLR``."""

    def __init__(self, base: float) -> None:
        self.base = base

    def __call__(self, step: int) -> float:
        return self.base**step


def _groups(optimizer: torch.optim.Optimizer) -> list[dict]:
    return optimizer.param_groups


def model_of() -> nn.ModuleDict:
    return nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})


def optimizer_of(model: nn.ModuleDict, *groups: str, **rates: float) -> SGD:
    """One group per text, whose letters are the layers in it; ``rates`` are those of layers."""
    rates = {"a": 0.1, "b": 0.01, "c": 0.01} | rates
    made = [
        {"params": [p for layer in group for p in model[layer].parameters()], "lr": rates[group[0]]}
        for group in groups
    ]
    return SGD(made, momentum=0.9)


def step(scheduler, times: int = 1) -> None:
    for _ in range(times):
        scheduler.optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()


def rates(model: nn.ModuleDict, optimizer: SGD) -> dict[str, float]:
    """The learning rate of every layer."""
    return {
        name: group["lr"]
        for name, layer in model.items()
        for group in optimizer.param_groups
        if any(p is layer.weight for p in group["params"])
    }


def saved(path, make, *groups: str):
    model = model_of()
    optimizer = optimizer_of(model, *groups)
    scheduler = make(optimizer)
    step(scheduler, 2)
    holdfast.save_state(path, model=model, optimizer=optimizer, scheduler=scheduler)
    return model, optimizer, scheduler


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("groups", [("b", "a"), ("ca", "b"), ("b", "c", "a")])
def test_27_learning_rates_follow_their_parameters_into_other_groups(
    kind, groups, tmp_path
) -> None:
    """pytorch #60265: rates of two groups were each other's from the next step on."""
    was = {("b", "a"): ("a", "b"), ("ca", "b"): ("b", "ac")}.get(groups, ("a", "bc"))
    model, optimizer, scheduler = saved(tmp_path / "a.pt", MAKES[kind], *was)
    live = model_of()
    other = optimizer_of(live, *groups, a=0.5, b=0.6, c=0.7)
    second = MAKES[kind](other)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other, scheduler=second)
    for _ in range(5):
        assert rates(live, other) == rates(model, optimizer)
        assert sorted({*other.param_groups[0]} - {"params"}) == sorted(
            {*optimizer.param_groups[0]} - {"params"}
        )
        step(scheduler)
        step(second)


@pytest.mark.parametrize("kind", MAKES)
def test_which_lists_have_an_entry_per_group(kind) -> None:
    """Those that are longer where there are more groups, and no others."""
    model = model_of()
    two, three = (
        MAKES[kind](optimizer_of(model, *groups)).state_dict() for groups in ("ab", "abc")
    )
    longer = {
        name
        for name, value in two.items()
        if isinstance(value, list | tuple) and len(value) != len(three[name])
    }
    assert {*lists_of_groups(two, 2)} == longer


def test_a_report_says_which_lists_went_with_their_groups(tmp_path) -> None:
    saved(tmp_path / "a.pt", MAKES["StepLR"], "a", "b")
    live = model_of()
    other = optimizer_of(live, "b", "a")
    second = MAKES["StepLR"](other)
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other, scheduler=second,
                                 strict=False)  # fmt: skip
    assert report["scheduler"].notes == (
        "base_lrs, _last_lr follow the param groups here, which were 1, 0",
    )
    assert second.base_lrs == [0.01, 0.1]


def test_a_new_group_keeps_the_rates_it_has(tmp_path) -> None:
    saved(tmp_path / "a.pt", MAKES["LambdaLR"], "a", "b")
    live = model_of()
    other = optimizer_of(live, "c", "b", "a", c=0.7)
    second = MAKES["LambdaLR"](other)
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other, scheduler=second)
    assert second.base_lrs == [0.7, 0.01, 0.1]
    assert report["scheduler"].notes == (
        "base_lrs, _last_lr, lr_lambdas follow the param groups here, which were new, 1, 0",
    )


def test_groups_of_other_rates_cannot_become_one(tmp_path) -> None:
    saved(tmp_path / "a.pt", MAKES["LambdaLR"], "a", "bc")
    live = model_of()
    other = optimizer_of(live, "abc", a=0.5)
    second = MAKES["LambdaLR"](other)
    before = second.state_dict()
    parts = {"model": live, "optimizer": other, "scheduler": second}
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state(tmp_path / "a.pt", **parts)
    assert str(caught.value) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {tmp_path / 'a.pt'}\n"
        "  scheduler: param group 0 has parameters of groups 0, 1, whose base_lrs, _last_lr, "
        "lr_lambdas differ: make the optimizer with the groups that were saved, or take those of "
        "group 1 with strict=False"
    )
    assert same(second.state_dict(), before)
    report = holdfast.load_state(tmp_path / "a.pt", strict=False, **parts)
    assert report["scheduler"].skipped == (
        ("base_lrs, _last_lr, lr_lambdas of group 0", "those of group 1 count"),
    )
    assert second.base_lrs == [0.01]
    assert second.last_epoch == 2
    step(second)


def test_groups_of_equal_rates_may_become_one(tmp_path) -> None:
    saved(tmp_path / "a.pt", MAKES["StepLR"], "b", "c", "a")
    live = model_of()
    other = optimizer_of(live, "cb", "a")
    second = MAKES["StepLR"](other)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other, scheduler=second)
    assert second.base_lrs == [0.01, 0.1]


def test_without_its_optimizer_lists_of_another_length_are_refused(tmp_path) -> None:
    saved(tmp_path / "a.pt", MAKES["LambdaLR"], "a", "b")
    second = MAKES["LambdaLR"](optimizer_of(model_of(), "abc", a=0.5))
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state(tmp_path / "a.pt", scheduler=second)
    assert str(caught.value).splitlines()[2:] == [
        "  scheduler: base_lrs, _last_lr, lr_lambdas are those of 2 param groups, and here are 1: "
        "give its optimizer and model in this call too, or keep the live ones with strict=False"
    ]
    report = holdfast.load_state(tmp_path / "a.pt", strict=False, scheduler=second)
    assert report["scheduler"].skipped == (
        ("base_lrs, _last_lr, lr_lambdas", "the live optimizer has another number of groups"),
    )
    assert second.base_lrs == [0.5]
    assert second.last_epoch == 2
    step(second)


def refusal(state, live) -> list[str]:
    before = live.state_dict()
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state({"scheduler": state}, scheduler=live)
    assert same(live.state_dict(), before)
    return str(caught.value).splitlines()[2:]


def test_the_state_of_a_class_that_has_more_options_is_refused() -> None:
    """pytorch-lightning #15462: gamma per 30 epochs became gamma per epoch."""
    state = lr_scheduler.StepLR(optimizer_of(model_of(), "abc"), 30, gamma=0.1).state_dict()
    live = MAKES["ExponentialLR"](optimizer_of(model_of(), "abc"))
    assert refusal(state, live) == [
        "  scheduler: the state of another class: only the checkpoint has step_size; "
        "strict=False takes it all the same"
    ]
    report = holdfast.load_state({"scheduler": state}, strict=False, scheduler=live)
    assert report["scheduler"].notes == ("only in the checkpoint, and taken: step_size",)
    assert live.gamma == 0.1


def test_what_only_the_live_scheduler_has_is_named() -> None:
    state = MAKES["ExponentialLR"](optimizer_of(model_of(), "abc")).state_dict()
    live = lr_scheduler.StepLR(optimizer_of(model_of(), "abc"), 30)
    report = holdfast.load_state({"scheduler": state}, scheduler=live)
    assert report["scheduler"].notes == ("not in the checkpoint, stays as it is: step_size",)
    assert live.step_size == 30


def test_each_has_keys_the_other_has_not() -> None:
    state = MAKES["CosineAnnealingLR"](optimizer_of(model_of(), "abc")).state_dict()
    live = MAKES["StepLR"](optimizer_of(model_of(), "abc"))
    assert refusal(state, live) == [
        "  scheduler: the state of another class: only the checkpoint has T_max, eta_min; "
        "only the live one gamma, step_size"
    ]
    with pytest.raises(MismatchError, match="the state of another class"):
        holdfast.load_state({"scheduler": state}, strict=False, scheduler=live)


def test_schedulers_inside_others_are_compared_too() -> None:
    optimizer = optimizer_of(model_of(), "abc")
    inside = [lr_scheduler.StepLR(optimizer, 3), MAKES["LambdaLR"](optimizer)]
    state = lr_scheduler.SequentialLR(optimizer, inside, [4]).state_dict()
    other = optimizer_of(model_of(), "abc")
    inside = [MAKES["ExponentialLR"](other), MAKES["LambdaLR"](other)]
    assert (
        "only the checkpoint has step_size;"
        in refusal(state, lr_scheduler.SequentialLR(other, inside, [4]))[0]
    )
    assert refusal(state, lr_scheduler.SequentialLR(other, [inside[0]], [])) == [
        "  scheduler: the state of 2 schedulers in one, and here are 1"
    ]


@pytest.mark.parametrize(
    ("kind", "more", "less"),
    [
        ("StepLR", {"verbose": False}, ("_get_lr_called_within_step", "_is_initial", "_last_lr")),
        ("OneCycleLR", {"verbose": False, "anneal_func": None}, ("_anneal_func_type", "use_beta1")),
        ("SWALR", {"anneal_func": None}, ("_anneal_strategy", "_is_initial")),
        ("CyclicLR", {"_scale_fn_ref": None, "scale_fn": None}, ("use_beta1", "_is_initial")),
        ("ReduceLROnPlateau", {"verbose": True}, ("default_min_lr", "_last_lr")),
    ],
)
def test_files_of_older_torch_have_other_keys(kind, more, less) -> None:
    scheduler = MAKES[kind](optimizer_of(model_of(), "abc"))
    step(scheduler, 2)
    state = {name: value for name, value in scheduler.state_dict().items() if name not in less}
    live = MAKES[kind](optimizer_of(model_of(), "abc"))
    report = holdfast.load_state({"scheduler": state | more}, scheduler=live)
    assert report["scheduler"].notes == ()
    assert live.last_epoch == 2


def test_a_class_of_ones_own_may_have_keys_that_come_with_a_step() -> None:
    class Counting(lr_scheduler.StepLR):
        def step(self, epoch=None) -> None:
            super().step(epoch)
            if self.last_epoch > 0:
                self.steps = getattr(self, "steps", 0) + 1

    scheduler = Counting(optimizer_of(model_of(), "abc"), 3)
    step(scheduler, 2)
    live = Counting(optimizer_of(model_of(), "abc"), 3)
    report = holdfast.load_state({"scheduler": scheduler.state_dict()}, scheduler=live)
    assert live.steps == 2
    assert report["scheduler"].notes == ("only in the checkpoint, and taken: steps",)


def test_a_disabled_scaler_has_no_keys_to_compare() -> None:
    state = torch.amp.GradScaler("cpu").state_dict()
    live = torch.amp.GradScaler("cpu", enabled=False)
    holdfast.load_state({"scaler": state}, scaler=live)
    assert holdfast.snapshot(scaler=live)


class Bounded(lr_scheduler.StepLR):
    """Somebody's own schedule, with lists of which one is as long as there are groups."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.bounds, self.history = [0.25, 0.75], []
        super().__init__(optimizer, 1, 0.5)

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self.history.append(self.last_epoch)


def test_a_list_that_need_not_be_of_groups_stays_as_it_was_saved_and_is_named(tmp_path) -> None:
    saved(tmp_path / "a.pt", Bounded, "a", "b")
    live = model_of()
    other = optimizer_of(live, "b", "a")
    second = Bounded(other)
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other, scheduler=second,
                                 strict=False)  # fmt: skip
    assert second.bounds == [0.25, 0.75]
    assert second.base_lrs == [0.01, 0.1]
    assert report["scheduler"].notes == (
        "base_lrs, _last_lr follow the param groups here, which were 1, 0",
        "as they were saved, though they may be of param groups: bounds",
    )


@pytest.mark.parametrize("alone", [True, False])
def test_a_list_that_grows_is_no_list_of_groups(alone, tmp_path) -> None:
    _, _, scheduler = saved(tmp_path / "a.pt", Bounded, "a", "bc")
    live = model_of()
    other = optimizer_of(live, "a", "bc")
    second = Bounded(other)
    step(second)  # its history is as long as there are groups
    parts = {"scheduler": second} if alone else {"model": live, "optimizer": other, "s": second}
    holdfast.load_state(tmp_path / "a.pt", **parts)
    assert second.history == scheduler.history


class Timms:
    """A scheduler as timm's are: of no class of torch's, with the rates of groups by position."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.count = optimizer, 0
        self.base_values = [group["lr"] for group in optimizer.param_groups]

    def state_dict(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state: dict) -> None:
        self.__dict__.update(state)

    def step(self) -> None:
        self.count += 1
        for group, base in zip(self.optimizer.param_groups, self.base_values, strict=True):
            group["lr"] = base * 0.5**self.count


def test_schedulers_that_are_not_torchs_follow_their_groups_too(tmp_path) -> None:
    model, optimizer, scheduler = saved(tmp_path / "a.pt", Timms, "a", "bc")
    live = model_of()
    other = optimizer_of(live, "bc", "a", a=0.5, b=0.6)
    second = Timms(other)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other, scheduler=second)
    step(scheduler)
    step(second)
    assert rates(live, other) == rates(model, optimizer)


class Wrapped(torch.optim.Optimizer):
    """An optimizer around the one that a scheduler has, as Accelerate's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.defaults = optimizer, optimizer.defaults
        self.state_dict, self.state = optimizer.state_dict, optimizer.state

    @property
    def param_groups(self) -> list[dict]:
        return self.optimizer.param_groups

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)


def test_the_optimizer_of_a_scheduler_may_be_wrapped(tmp_path) -> None:
    model, optimizer, scheduler = saved(tmp_path / "a.pt", MAKES["LambdaLR"], "a", "bc")
    live = model_of()
    other = optimizer_of(live, "bc", "a")
    second = MAKES["LambdaLR"](other)
    holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=Wrapped(other), scheduler=second)
    step(scheduler)
    step(second)
    assert rates(live, other) == rates(model, optimizer)
