"""What fits is loaded, what does not is explained, and nothing is half done."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import MismatchError, UsageError
from holdfast.state.equal import same


def net(*names: str, width: int = 2) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(2, width) for name in names})


def saved(tmp_path, model: nn.Module):
    holdfast.save_state(tmp_path / "a.pt", model=model)
    return tmp_path / "a.pt"


def refused(path, model: nn.Module, error: type[Exception] = MismatchError, **options):
    """The error; no tensor of the live model has changed."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error) as caught:
        holdfast.load_state(path, model=model, **options)
    assert same(model.state_dict(), before)
    return caught.value


def test_28_nothing_matched_is_an_error_however_lenient(tmp_path) -> None:
    """pytorch #9530: ``strict=False`` loads nothing, silently."""
    path = saved(tmp_path, net("a", "b"))
    for strict in (True, False, "shapes"):
        error = refused(path, net("x", "y"), strict=strict)
        assert "nothing in the checkpoint matches it" in str(error)
    assert "try rename={'a.': 'x.', 'b.': 'y.'}" in str(error)


def test_19_orig_mod_keys_never_leave_a_model_with_random_weights(tmp_path) -> None:
    """pytorch #101107, pytorch-lightning #20233."""
    model = net("a")
    torch.save(torch.compile(model).state_dict(), tmp_path / "compiled.pt")
    live = net("a")
    report = holdfast.load_state(tmp_path / "compiled.pt", model=live)
    assert same(live.state_dict(), model.state_dict())
    assert report["model"].lines() == [
        "model: 2 loaded, 2 renamed",
        "  from the whole file: 2 of its 2 names and shapes are there",
        "  renamed by _orig_mod. left out: _orig_mod.a.weight is a.weight and 1 more",
    ]


@pytest.mark.parametrize("live_wrap", [nn.Identity, nn.DataParallel, torch.compile])
@pytest.mark.parametrize("saved_wrap", [nn.Identity, nn.DataParallel, torch.compile])
def test_wrappers_on_either_side(saved_wrap, live_wrap, tmp_path) -> None:
    plain, live = net("a"), net("a")
    wrapped = plain if saved_wrap is nn.Identity else saved_wrap(plain)
    torch.save({"model": wrapped.state_dict()}, tmp_path / "theirs.pt")
    holdfast.load_state(
        tmp_path / "theirs.pt", model=live if live_wrap is nn.Identity else live_wrap(live)
    )
    assert same(live.state_dict(), plain.state_dict())


def test_a_new_head_is_skipped_by_shape_and_by_nothing_else(tmp_path) -> None:
    old = net("body")
    old["head"] = nn.Linear(2, 10)
    path = saved(tmp_path, old)
    live = net("body")
    live["head"] = nn.Linear(2, 3)
    before = copy.deepcopy(live["head"].state_dict())
    assert "2 of another shape" in str(refused(path, live, strict=False))
    report = holdfast.load_state(path, strict="shapes", model=live)
    assert same(live["body"].state_dict(), old["body"].state_dict())
    assert same(live["head"].state_dict(), before)
    assert report["model"].lines()[:2] == [
        "model: 2 loaded, 2 of another shape",
        "  head.weight: saved (10, 2) float32, here (3, 2) float32",
    ]


def test_names_on_one_side_only_are_taken_where_that_is_allowed(tmp_path) -> None:
    old = net("a", "gone")
    path = saved(tmp_path, old)
    live = net("a", "new")
    report = holdfast.load_state(path, strict=False, model=live)
    assert same(live["a"].state_dict(), old["a"].state_dict())
    assert report["model"].missing == ("new.weight", "new.bias")
    assert report["model"].unexpected == ("gone.weight", "gone.bias")


def test_another_element_type_is_taken_only_when_it_is_asked_for(tmp_path) -> None:
    old = net("a").bfloat16()
    path = saved(tmp_path, old)
    for strict in (True, False, "shapes"):
        error = refused(path, net("a"), strict=strict)
        assert "not cast: a.weight from bfloat16 to float32" in str(error)
    live = net("a")
    report = holdfast.load_state(path, cast=True, model=live)
    assert same(live.state_dict(), net_of(old.float()))
    assert report["model"].cast[0] == ("a.weight", "bfloat16", "float32")


def net_of(model: nn.Module):
    return model.state_dict()


RULES = {
    "an exact name": {"old.weight": "new.weight", "old.bias": "new.bias"},
    "a prefix": {"old": "new"},
    "a prefix with its dot": {"old.": "new."},
    "a pattern": {"old.*": "new.*"},
    "a function": lambda name: name.replace("old", "new"),
}


@pytest.mark.parametrize("kind", RULES)
def test_rules_rename_what_is_saved(kind, tmp_path) -> None:
    old = net("same", "old")
    live = net("same", "new")
    report = holdfast.load_state(saved(tmp_path, old), rename=RULES[kind], model=live)
    assert same(live["new"].state_dict(), old["old"].state_dict())
    assert sum(len(rule.names) for rule in report["model"].renamed) == 2


def test_a_rule_that_matches_nothing_is_probably_mistyped(tmp_path) -> None:
    error = refused(
        saved(tmp_path, net("encoder")), net("enc"), UsageError, rename={"encoda": "enc"}
    )
    assert str(error).startswith(
        "a rule renames nothing: no name fits it\n  wanted 'encoda', found encoder.weight\n"
    )


def test_a_rule_needs_to_fit_in_one_of_the_parts_only(tmp_path) -> None:
    a, b = net("x"), net("y")
    holdfast.save_state(tmp_path / "ab.pt", a=a, b=b)
    c, d = net("x"), net("z")
    holdfast.load_state(tmp_path / "ab.pt", rename={"y": "z"}, a=c, b=d)
    assert same(d["z"].state_dict(), b["y"].state_dict())


def test_rules_that_give_two_names_one_are_refused(tmp_path) -> None:
    error = refused(saved(tmp_path, net("a", "b")), net("a", "b"), UsageError, rename={"a": "b"})
    assert error.what == "two tensors would have one name"


def test_a_file_of_another_model_altogether(tmp_path) -> None:
    path = saved(tmp_path, nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    error = refused(path, net("a", "b"), strict=False)
    assert str(error).splitlines()[2] == (
        "  model: 4 missing, 7 unexpected; nothing in the checkpoint matches it"
    )


def test_tied_weights_that_are_saved_once_are_all_there(tmp_path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(4, 3)
            self.head = nn.Linear(3, 4, bias=False)
            self.head.weight = self.embed.weight

    model, live = Tied(), Tied()
    torch.save({"embed.weight": model.embed.weight}, tmp_path / "tied.pt")
    report = holdfast.load_state(tmp_path / "tied.pt", model=live)
    assert same(live.state_dict(), model.state_dict())
    assert live.head.weight is live.embed.weight
    assert report["model"].tied == (("head.weight", "embed.weight"),)


def test_files_from_before_batch_counts(tmp_path) -> None:
    """torch before 1.0 had no ``num_batches_tracked``; BatchNorm leaves it as it is."""
    model = nn.BatchNorm1d(2)
    state = {k: v for k, v in model.state_dict().items() if k != "num_batches_tracked"}
    torch.save(state, tmp_path / "old.pt")
    live = nn.BatchNorm1d(2)
    live.num_batches_tracked += 5
    report = holdfast.load_state(tmp_path / "old.pt", model=live)
    assert report["model"].notes == (
        "num_batches_tracked stays as it is: files from before torch 1.0 have none",
    )
    assert live.num_batches_tracked == 5
    assert report["model"].missing == ()


def test_load_model_is_for_inference(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    live = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    holdfast.load_state(tmp_path / "a.pt", model=live)
    assert live[1].training
    report = holdfast.load_model(tmp_path / "a.pt", live)
    assert not any(module.training for module in live.modules())
    assert same(live.state_dict(), model.state_dict())
    assert report.not_asked == ("optimizer",)
    with pytest.raises(MismatchError):
        holdfast.load_model(tmp_path / "a.pt", net("a").train())


def test_a_disabled_scaler_has_no_state_and_hands_on_what_it_was_given(tmp_path) -> None:
    on, off = (
        torch.amp.GradScaler("cpu", init_scale=8.0),
        torch.amp.GradScaler("cpu", enabled=False),
    )
    holdfast.save_state(tmp_path / "on.pt", scaler=on)
    holdfast.save_state(tmp_path / "off.pt", scaler=off)
    live = torch.amp.GradScaler("cpu", init_scale=2.0)
    report = holdfast.load_state(tmp_path / "off.pt", scaler=live)
    assert report["scaler"].fresh == ("its scale (the saved scaler was disabled)",)
    assert report["scaler"].has_lost
    assert live.get_scale() == 2.0
    report = holdfast.load_state(tmp_path / "off.pt", scaler=off)
    assert report["scaler"].skipped == (("its state", "the saved scaler was disabled"),)
    assert not report["scaler"].has_lost
    report = holdfast.load_state(tmp_path / "on.pt", scaler=off)
    assert report["scaler"].notes == (
        "the live scaler is disabled: the state is kept, and saved again",
    )
    holdfast.save_state(tmp_path / "again.pt", scaler=off)
    holdfast.load_state(tmp_path / "again.pt", scaler=live)
    assert live.get_scale() == 8.0


def test_names_that_a_modules_own_code_knows_are_taken(tmp_path) -> None:
    """Parametrized weight normalisation takes ``weight_g`` and ``weight_v`` of the older kind."""
    from torch.nn.utils import parametrizations

    with pytest.warns(FutureWarning):
        old = torch.nn.utils.weight_norm(nn.Linear(3, 2))
    torch.save({"model": old.state_dict()}, tmp_path / "old.pt")
    live = parametrizations.weight_norm(nn.Linear(3, 2))
    report = holdfast.load_state(tmp_path / "old.pt", model=live)
    assert torch.equal(live.parametrizations.weight.original0, old.weight_g)
    assert torch.equal(live.parametrizations.weight.original1, old.weight_v)
    assert (report["model"].missing, report["model"].unexpected) == ((), ())


class Renaming(nn.Module):
    """A module that was saved under another name once, and knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.new = nn.Linear(2, 2)

    def _load_from_state_dict(self, state, prefix, *args):
        for name in list(state):
            if name.startswith(f"{prefix}old."):
                state[name.replace("old.", "new.")] = state.pop(name)
        super()._load_from_state_dict(state, prefix, *args)


def test_what_own_code_misses_even_so_is_an_error(tmp_path) -> None:
    state = {"old.weight": torch.ones(2, 2), "old.bias": torch.ones(2)}
    torch.save(state, tmp_path / "old.pt")
    live = Renaming()
    holdfast.load_state(tmp_path / "old.pt", model=live)
    assert same([*live.state_dict().values()], [*state.values()])
    torch.save({**state, "other.weight": torch.ones(1)}, tmp_path / "more.pt")
    error = refused(tmp_path / "more.pt", Renaming())
    assert "only in the checkpoint: other.weight" in str(error)
    torch.save({"old.weight": torch.ones(2, 2)}, tmp_path / "less.pt")
    error = refused(tmp_path / "less.pt", Renaming())
    assert error.report["model"].missing == ("new.bias",)


class Resizing(nn.Module):
    """A module that takes what it was saved as before it had a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, 4))

    def _load_from_state_dict(self, state, prefix, *args):
        state[f"{prefix}pos"] = state[f"{prefix}pos"].reshape(1, 4)
        super()._load_from_state_dict(state, prefix, *args)


def test_shapes_that_a_modules_own_code_takes_are_taken(tmp_path) -> None:
    torch.save({"pos": torch.arange(4.0)}, tmp_path / "a.pt")
    live = Resizing()
    holdfast.load_state(tmp_path / "a.pt", model=live)
    assert live.pos.tolist() == [[0, 1, 2, 3]]
    torch.save({"pos": torch.arange(5.0)}, tmp_path / "b.pt")
    assert "1 of another shape" in str(refused(tmp_path / "b.pt", Resizing()))
