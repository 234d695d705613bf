"""What does not fit is said before anything is changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import MismatchError, MissingPartError, UntrustedError
from holdfast.state.equal import same

SGD = torch.optim.SGD


def saved(tmp_path, **parts):
    holdfast.save_state(tmp_path / "a.pt", **parts)
    return tmp_path / "a.pt"


def refused(path, **live):
    """The error's text; nothing live has changed."""
    before = {name: copy.deepcopy(part.state_dict()) for name, part in live.items()}
    with pytest.raises(MismatchError) as caught:
        holdfast.load_state(path, **live)
    assert same(before, {name: part.state_dict() for name, part in live.items()})
    return caught.value


class Model(nn.Module):
    def __init__(self, width=3, *, names=("fc",)):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(2, width))


def test_shapes_and_dtypes_that_differ_are_listed(tmp_path):
    path = saved(tmp_path, model=Model(names=("fc", "out")))
    live = Model(width=4, names=("fc", "out"))
    live.fc.bias.data = live.fc.bias.data.double()
    live.out = nn.Linear(2, 3, dtype=torch.float64)
    error = refused(path, model=live)
    assert str(error) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  model: 2 of another shape, 2 of another dtype\n"
        "    fc.weight: saved (3, 2) float32, here (4, 2) float32\n"
        "    fc.bias: saved (3,) float32, here (4,) float64\n"
        "    not cast: out.weight from float32 to float64\n"
        "    not cast: out.bias from float32 to float64"
    )
    assert error.report["model"].differing[0] == (
        "fc.weight",
        "(3, 2) float32",
        "(4, 2) float32",
    )


def test_names_on_one_side_only_are_listed_with_the_rule_that_joins_them(tmp_path):
    path = saved(tmp_path, model=Model(names=("fc", "old")))
    error = refused(path, model=Model(names=("fc", "new")))
    assert str(error) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  model: 2 missing, 2 unexpected\n"
        "    missing in the checkpoint: new.weight\n"
        "    missing in the checkpoint: new.bias\n"
        "    only in the checkpoint: old.weight\n"
        "    only in the checkpoint: old.bias\n"
        "    try rename={'old.': 'new.'}  # names that begin otherwise: 2 more would match"
    )
    holdfast.load_state(path, model=Model(names=("fc", "new")), rename={"old.": "new."})


def test_twenty_lines_say_enough(tmp_path):
    path = saved(tmp_path, model=Model(names=["l0"]))
    error = refused(path, model=Model(names=[f"l{i}" for i in range(30)]))
    lines = str(error).splitlines()
    assert lines[2] == "  model: 58 missing"
    assert lines[-1] == "    and 38 more"
    assert len(lines) == 24


def test_every_part_that_does_not_fit_is_named_and_those_that_do_are_not(tmp_path):
    path = saved(tmp_path, a=Model(), b=Model(), c=Model())
    error = refused(path, a=Model(4), b=Model(), c=Model(5))
    assert "a: 2 of another" in str(error)
    assert "c: 2 of another" in str(error)
    assert "b:" not in str(error)


def test_a_part_the_checkpoint_lacks_is_named_with_those_it_has(tmp_path):
    model = Model()
    path = saved(tmp_path, model=model, optimizer=SGD(model.parameters(), lr=1))
    live = Model()
    before = copy.deepcopy(live.state_dict())
    with pytest.raises(MissingPartError) as caught:
        holdfast.load_state(path, model=live, ema=Model(), scaler=torch.amp.GradScaler("cpu"))
    assert str(caught.value) == (
        "the checkpoint has no part 'ema' or 'scaler'\n"
        f"  in {path}\n"
        "  wanted 'ema', 'scaler', found 'model', 'optimizer', 'rng'\n"
        "  Leave that part out of this call, or load a checkpoint that was saved with it."
    )
    assert same(before, live.state_dict())


def test_parts_nobody_asked_for_are_no_error_and_are_reported(tmp_path):
    model = Model()
    path = saved(tmp_path, model=model, optimizer=SGD(model.parameters(), lr=1))
    report = holdfast.load_state(path, model=Model())
    assert report.not_asked == ("optimizer",)
    assert str(report) == f"{path}\n  model: 2 loaded\n  not asked for: optimizer"


def momenta(model, optimizer):
    """The momentum of every parameter by name, after a step that gives each its own."""
    return {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters()}


def stepped(model, parameters, **options):
    optimizer = SGD(parameters, lr=1, momentum=0.9, **options)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number)
    optimizer.step()
    return optimizer


def test_optimizer_state_is_matched_by_name(tmp_path):
    """pytorch #1489: by position, the momentum of one parameter went to another."""
    model = Model(names=("a", "b"))
    optimizer = stepped(model, model.parameters())
    path = saved(tmp_path, model=model, optimizer=optimizer)
    live = Model(names=("a", "b"))
    other = SGD([*live.b.parameters(), *live.a.parameters()], lr=2, momentum=0.5)
    report = holdfast.load_state(path, model=live, optimizer=other)
    assert same(momenta(live, other), momenta(model, optimizer))
    assert (other.param_groups[0]["lr"], other.param_groups[0]["momentum"]) == (1, 0.9)
    assert str(report["optimizer"].lines()) == "['optimizer: 4 loaded']"


def test_parameters_that_are_new_and_those_that_are_gone_are_named(tmp_path):
    model = Model(names=("a", "b", "c"))
    optimizer = stepped(model, [*model.a.parameters(), *model.b.parameters()])
    path = saved(tmp_path, model=model, optimizer=optimizer)
    live = Model(names=("a", "b", "c"))
    other = SGD([*live.c.parameters(), *live.b.parameters()], lr=1)
    report = holdfast.load_state(path, model=live, optimizer=other)
    assert report["optimizer"].lines() == [
        "optimizer: 2 loaded, 2 skipped, 2 fresh",
        "  skipped: model.a.weight (the live optimizer has no such parameter)",
        "  skipped: model.a.bias (the live optimizer has no such parameter)",
        "  starts fresh: model.c.weight",
        "  starts fresh: model.c.bias",
    ]
    assert live.c.weight not in other.state
    assert same(other.state[live.b.bias], optimizer.state[model.b.bias])


def test_an_optimizer_of_which_nothing_matches_is_refused(tmp_path):
    model = Model(names=("a", "b"))
    path = saved(tmp_path, model=model, optimizer=stepped(model, model.a.parameters()))
    live = Model(names=("a", "b"))
    assert str(refused(path, model=live, optimizer=SGD(live.b.parameters(), lr=1))) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  optimizer: 2 skipped, 2 fresh; nothing of it matches\n"
        "    skipped: model.a.weight (the live optimizer has no such parameter)\n"
        "    skipped: model.a.bias (the live optimizer has no such parameter)\n"
        "    starts fresh: model.b.weight\n"
        "    starts fresh: model.b.bias"
    )


def test_groups_may_be_others_and_keep_the_options_that_most_of_theirs_had(tmp_path):
    model = Model(names=("a", "b"))
    groups = [{"params": [*model.a.parameters()], "lr": 3}, {"params": [*model.b.parameters()]}]
    optimizer = stepped(model, groups)
    path = saved(tmp_path, model=model, optimizer=optimizer)
    live = Model(names=("a", "b"))
    other = SGD(
        [{"params": [live.b.bias]}, {"params": [*live.a.parameters(), live.b.weight]}], lr=9
    )
    holdfast.load_state(path, model=live, optimizer=other)
    assert same(momenta(live, other), momenta(model, optimizer))
    assert [group["lr"] for group in other.param_groups] == [1, 3]


def test_by_position_only_where_counts_and_shapes_allow_it(tmp_path):
    model = Model(names=("a", "b"))
    optimizer = stepped(model, model.parameters())
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "theirs.pt")
    live = Model(names=("a", "b"))
    other = SGD(live.parameters(), lr=2)
    report = holdfast.load_state(tmp_path / "theirs.pt", optimizer=other)
    assert same(momenta(live, other), momenta(model, optimizer))
    assert report["optimizer"].notes == (
        "matched by position: the checkpoint has no names of its parameters",
    )
    groups = [{"params": [*model.a.parameters()]}, {"params": [model.b.weight]}]
    assert "parameters per group: saved [4], here [2, 1], and no names to go by" in str(
        refused(tmp_path / "theirs.pt", optimizer=SGD(groups, lr=1))
    )
    turned = SGD(reversed([*live.parameters()]), lr=1)
    assert "parameter 0 is (3,) here, its saved state (3, 2)" not in str(turned)
    assert "parameter 1 is (3, 2) here" not in str(turned)


def test_a_module_and_an_optimizer_are_told_apart_whatever_they_are_called(tmp_path):
    model = Model()
    optimizer = stepped(model, model.parameters())
    path = saved(tmp_path, model=model, optimizer=optimizer)
    swapped = tmp_path / "swapped.pt"
    tree = torch.load(path, weights_only=True)
    torch.save({"model": tree["optimizer"], "optimizer": tree["model"]}, swapped)
    live = Model()
    other = SGD(live.parameters(), lr=3, momentum=0.1)
    report = holdfast.load_state(swapped, model=live, optimizer=other)
    assert same(live.state_dict(), model.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())
    assert report["model"].why == "2 of its 2 names and shapes are there"
    assert report["optimizer"].why == "it is the only one for a part of kind 'optimizer'"
    torch.save({"model": [1], "optimizer": tree["model"]}, swapped)
    with pytest.raises(MissingPartError, match="has no part 'optimizer'"):
        holdfast.load_state(swapped, optimizer=other)


def test_other_codes_files_are_matched_too(tmp_path):
    model = Model()
    optimizer = SGD(model.parameters(), lr=1, momentum=0.9)
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4}
    torch.save(tree, tmp_path / "theirs.pt")
    live = Model()
    report = holdfast.load_state(
        tmp_path / "theirs.pt", model=live, optimizer=SGD(live.parameters(), lr=2)
    )
    assert (report.step, report.id, report.not_asked) == (4, None, ())
    assert report.extra == {"epoch": 4}
    assert same(model.state_dict(), live.state_dict())


class Settings:
    """A class of somebody's script, as `args` in many files."""


def test_what_nobody_asked_for_is_not_even_built(tmp_path):
    """Untrusted objects beside the part, and other things under the names that are ours."""
    model = Model()
    tree = {"model": model.state_dict(), "args": Settings(), "extra": Settings(), "rng": 5}
    torch.save(tree, tmp_path / "theirs.pt")
    live = Model()
    report = holdfast.load_state(tmp_path / "theirs.pt", model=live)
    assert report.extra == {"rng": 5}
    name = f"{__name__}.Settings"
    assert (report.not_asked, report.opaque) == ((), (f"args ({name})", f"extra ({name})"))
    assert same(model.state_dict(), live.state_dict())


def test_what_is_asked_for_needs_trust(tmp_path):
    class Anything:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            self.state = state

    torch.save({"args": {"settings": Settings()}}, tmp_path / "theirs.pt")
    live = Anything()
    with pytest.raises(UntrustedError, match="Settings"):
        holdfast.load_state(tmp_path / "theirs.pt", args=live)
    holdfast.load_state(tmp_path / "theirs.pt", args=live, trust=[Settings])
    assert type(live.state["settings"]) is Settings


def test_a_file_that_is_no_dict_has_no_parts(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(MissingPartError) as caught:
        holdfast.load_state(tmp_path / "list.pt", model=Model())
    assert str(caught.value) == (
        "the checkpoint has no part 'model'\n"
        f"  in {tmp_path / 'list.pt'}\n"
        "  wanted 'model', found no parts at all\n"
        "  Leave that part out of this call, or load a checkpoint that was saved with it."
    )


LISTS = (
    *("missing", "unexpected", "differing", "cast", "renamed", "tied", "skipped", "fresh"),
    *("suggestions", "notes"),
)


def test_the_report_is_json_and_text(tmp_path):
    import json

    model = Model()
    path = saved(tmp_path, model=model, metrics={"loss": 0.5}, extra={"n": 1})
    report = holdfast.load_state(path, model=model)
    assert report.extra == {"n": 1}
    assert json.loads(json.dumps(report.to_json())) == {
        "source": str(path),
        "step": None,
        "id": report.id,
        "parts": [
            {
                **{"name": "model", "kind": "module", "found": "model", "why": None},
                **{"fits": True, "loaded": 2, "problem": None},
                **{key: [] for key in LISTS},
            }
        ],
        "not_asked": [],
        "opaque": [],
        "not_restored": [],
        "extra": ["n"],
        "metrics": {"loss": 0.5},
    }
