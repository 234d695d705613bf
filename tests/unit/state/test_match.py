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
    path = saved(tmp_path, model=Model())
    live = Model(width=4)
    live.fc.bias.data = live.fc.bias.data.double()
    error = refused(path, model=live)
    assert str(error) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  model: 2 of another shape or dtype\n"
        "    fc.weight: saved (3, 2) float32, here (4, 2) float32\n"
        "    fc.bias: saved (3,) float32, here (4,) float64"
    )
    assert error.report.parts[0].differing[0] == (
        "fc.weight",
        "(3, 2) float32",
        "(4, 2) float32",
    )


def test_names_on_one_side_only_are_listed(tmp_path):
    path = saved(tmp_path, model=Model(names=("fc", "old")))
    error = refused(path, model=Model(names=("fc", "new")))
    assert str(error) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  model: 2 missing, 2 unexpected\n"
        "    missing in the checkpoint: new.weight\n"
        "    missing in the checkpoint: new.bias\n"
        "    only in the checkpoint: old.weight\n"
        "    only in the checkpoint: old.bias"
    )


def test_twenty_lines_say_enough(tmp_path):
    path = saved(tmp_path, model=Model(names=()))
    error = refused(path, model=Model(names=[f"l{i}" for i in range(30)]))
    lines = str(error).splitlines()
    assert lines[2] == "  model: 60 missing"
    assert lines[-1] == "    and 40 more"
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


def test_optimizer_state_is_matched_by_name(tmp_path):
    """pytorch #1489: by position, the momentum of one parameter went to another."""
    model = Model(names=("a", "b"))
    path = saved(tmp_path, model=model, optimizer=SGD(model.parameters(), lr=1))
    live = Model(names=("a", "b"))
    optimizer = SGD([*live.b.parameters(), *live.a.parameters()], lr=2)
    assert str(refused(path, model=live, optimizer=optimizer)) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  optimizer: the same parameters in another order or in other groups"
    )


def test_other_parameters_of_an_optimizer_are_named(tmp_path):
    model = Model(names=("a", "b"))
    path = saved(tmp_path, model=model, optimizer=SGD(model.a.parameters(), lr=1))
    live = Model(names=("a", "b"))
    assert str(refused(path, model=live, optimizer=SGD(live.b.parameters(), lr=1))) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  optimizer: 2 missing, 2 unexpected\n"
        "    missing in the checkpoint: model.b.bias\n"
        "    missing in the checkpoint: model.b.weight\n"
        "    only in the checkpoint: model.a.bias\n"
        "    only in the checkpoint: model.a.weight"
    )


def test_another_count_of_parameters_is_said_per_group(tmp_path):
    model = Model(names=("a", "b"))
    path = saved(tmp_path, model=model, optimizer=SGD(model.parameters(), lr=1))
    groups = [{"params": model.a.parameters()}, {"params": [model.b.weight]}]
    assert str(refused(path, model=model, optimizer=SGD(groups, lr=1))) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {path}\n"
        "  optimizer: parameters per group: saved [4], here [2, 1]"
    )


def test_a_module_and_an_optimizer_are_not_taken_for_each_other(tmp_path):
    model = Model()
    path = saved(tmp_path, model=model, optimizer=SGD(model.parameters(), lr=1))
    swapped = tmp_path / "swapped.pt"
    tree = torch.load(path, weights_only=True)
    torch.save({"model": [1], "optimizer": tree["model"]}, swapped)
    assert str(refused(swapped, model=model, optimizer=SGD(model.parameters(), lr=1))) == (
        "the checkpoint does not fit the live parts; nothing was changed\n"
        f"  in {swapped}\n"
        "  model: no state dict, but a list\n"
        "  optimizer: not the state of an optimizer"
    )


def test_other_codes_files_are_matched_too(tmp_path):
    model = Model()
    optimizer = SGD(model.parameters(), lr=1, momentum=0.9)
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4}
    torch.save(tree, tmp_path / "theirs.pt")
    live = Model()
    report = holdfast.load_state(
        tmp_path / "theirs.pt", model=live, optimizer=SGD(live.parameters(), lr=2)
    )
    assert (report.step, report.id, report.not_asked) == (4, None, ("epoch",))
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
    assert report.extra == {}
    assert report.not_asked == ("args", "extra", "rng")
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
                "name": "model",
                "kind": "module",
                "loaded": 2,
                "missing": [],
                "unexpected": [],
                "differing": [],
                "problem": None,
            }
        ],
        "not_asked": [],
        "not_restored": [],
        "metrics": {"loss": 0.5},
    }
