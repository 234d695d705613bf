"""Options of a run that say how it restores, and those that mean nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import MismatchError, UsageError


def test_a_run_restores_with_its_strict_and_its_rename(tmp_path):
    old = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with holdfast.Run(tmp_path, model=old, background=False) as run:
        run.save(0)
    new = nn.ModuleDict({"first": nn.Linear(2, 2), "last": nn.Linear(2, 5)})
    rules = {"0.": "first.", "1.": "last."}
    with pytest.raises(MismatchError, match="2 of another shape"):
        holdfast.Run(tmp_path, model=new, rename=rules).resume()
    assert holdfast.Run(tmp_path, model=new, rename=rules, strict="shapes").resume() == 1
    assert torch.equal(new["first"].weight, old[0].weight)
    other = nn.ModuleDict({"first": nn.Linear(2, 2)})
    report = holdfast.Run(tmp_path, strict=False, rename=rules).load(0, model=other)
    assert report["model"].unexpected == ("1.weight", "1.bias")
    assert torch.equal(other["first"].bias, old[0].bias)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"strict": "all"}, "strict= is True, False or 'shapes'"),
        ({"strict": 1}, "strict= is True, False or 'shapes'"),
        ({"rename": ["a"]}, "rename= takes texts by texts, or a function"),
        ({"select": "model"}, "select= takes places in the checkpoint by parts"),
    ],
)
def test_options_that_mean_nothing_get_a_letter(tmp_path, option, words):
    model = nn.Linear(1, 1)
    holdfast.save_state(tmp_path / "a.pt", model=model)
    with pytest.raises(UsageError) as caught:
        holdfast.load_state(tmp_path / "a.pt", model=model, **option)
    assert caught.value.what == words
    if "select" not in option:
        with pytest.raises(UsageError) as caught:
            holdfast.Run(tmp_path / "run", model=model, **option)
        assert caught.value.what == words


def test_start_step_without_start_from_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"there is no start_from="):
        holdfast.Run(tmp_path, model=nn.Linear(1, 1), start_step=7)


def test_what_it_began_from_is_recorded_also_when_it_has_no_id(tmp_path):
    import torch

    torch.save({"model": nn.Linear(1, 1).state_dict(), "epoch": 4}, tmp_path / "theirs.pt")
    run = holdfast.Run(tmp_path / "r", model=nn.Linear(1, 1), start_from=tmp_path / "theirs.pt")
    assert run.resume() == 5
    run.save(5)
    assert run.latest().record.provenance["start_from"] == str(tmp_path / "theirs.pt")


def test_other_codes_files_in_the_folder_are_named(tmp_path, caplog):
    import torch

    torch.save({"model": nn.Linear(1, 1).state_dict(), "epoch": 4}, tmp_path / "theirs.pt")
    run = holdfast.Run(tmp_path, model=nn.Linear(1, 1))
    assert run.resume() == 0
    assert caplog.messages[-1] == (
        "theirs.pt was not saved by a run; to begin from it: "
        f"Run(..., start_from='{tmp_path}/theirs.pt')"
    )


def test_a_path_that_can_be_none_is_a_letter():
    with pytest.raises(UsageError, match=r"this cannot be the path of a run: .*embedded null"):
        holdfast.Run("a\0b", model=nn.Linear(1, 1))


@pytest.fixture
def grown(tmp_path):
    """A run of a model and its optimizer, and parts that have grown since."""
    model = nn.ModuleDict({"a": nn.Linear(2, 2)})
    optimizer = torch.optim.Adam(model.parameters())
    model["a"](torch.ones(2)).sum().backward()
    optimizer.step()
    with holdfast.Run(tmp_path / "run", model=model, optimizer=optimizer) as run:
        run.save(2)
    larger = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(1, 1)})
    return {
        "model": larger,
        "optimizer": torch.optim.Adam(larger.parameters()),
        "ema": nn.Conv2d(1, 1, 3),
    }


def test_resume_says_what_started_fresh_and_keeps_the_report(tmp_path, grown, caplog):
    run = holdfast.Run(tmp_path / "run", strict=False, **grown)
    assert run.report is None
    assert run.resume() == 3
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [line.splitlines()[0] for line in warned] == [
        "not all was restored: model: 2 loaded, 2 missing",
        "not all was restored: optimizer: 2 loaded, 2 fresh",
        "not all was restored: ema: nothing to load",
    ]
    assert "  note: the checkpoint has none: it stays as it is" in warned[2].splitlines()
    assert "  missing in the checkpoint: b.weight" in warned[0].splitlines()
    assert run.report.step == 2
    assert run.report["optimizer"].fresh == ("model.b.weight", "model.b.bias")


def test_starting_from_elsewhere_says_what_started_fresh(tmp_path, grown, caplog):
    run = holdfast.Run(tmp_path / "new", strict=False, start_from=tmp_path / "run", **grown)
    assert run.resume() == 3
    assert "not all was restored: optimizer: 2 loaded, 2 fresh" in caplog.text
    assert run.report["model"].missing == ("b.weight", "b.bias")


def test_what_fits_whole_is_resumed_without_a_warning(tmp_path, caplog):
    parts = {"model": nn.Linear(2, 2), "scaler": torch.amp.GradScaler("cpu", enabled=False)}
    with holdfast.Run(tmp_path, **parts) as run:
        run.save(0)
    caplog.clear()
    again = holdfast.Run(tmp_path, **parts)
    assert again.resume() == 1
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == []
    assert holdfast.Run(tmp_path / "none", **parts).report is None


def test_a_scale_that_starts_anew_is_warned_of(tmp_path, caplog) -> None:
    """A run goes on on a GPU that began on a CPU, where the scaler was disabled."""
    model, scaler = nn.Linear(2, 2), torch.amp.GradScaler("cpu", enabled=False)
    with holdfast.Run(tmp_path, model=model, scaler=scaler) as run:
        run.save(0)
    caplog.clear()
    again = holdfast.Run(tmp_path, model=model, scaler=torch.amp.GradScaler("cpu"))
    assert again.resume() == 1
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "not all was restored: scaler: 1 fresh\n"
        "  starts fresh: its scale (the saved scaler was disabled)"
    ]


@pytest.mark.parametrize(
    ("old", "rules"),
    [
        ("backbone.", {"backbone.": "body."}),
        ("", {"*": "body.*"}),
        ("backbone.", lambda name: name.replace("backbone.", "body.")),
    ],
)
def test_the_same_script_goes_on_with_its_own_checkpoints_whose_names_need_no_rules(
    tmp_path, old, rules
):
    """A warm start, a crash, and the same command again."""
    first = nn.ModuleDict({"body": nn.Linear(2, 2)})
    state = {name.replace("body.", old): value for name, value in first.state_dict().items()}
    torch.save(state, tmp_path / "pre.pt")

    def script(last: int) -> tuple[list[int], nn.Module]:
        model, done = nn.ModuleDict({"body": nn.Linear(2, 2)}), []
        options = {"start_from": tmp_path / "pre.pt", "start_step": 0, "rename": rules}
        with holdfast.Run(tmp_path / "run", model=model, **options) as run:
            for step in run.steps(last):
                if step == 0:
                    assert torch.equal(model["body"].weight, first["body"].weight)
                with torch.no_grad():
                    model["body"].weight += 1
                run.save()
                done.append(step)
        return done, model

    assert script(2)[0] == [0, 1]
    done, model = script(4)
    assert done == [2, 3]
    assert torch.equal(model["body"].weight, first["body"].weight + 1 + 1 + 1 + 1)


def test_rules_that_fit_no_name_are_an_error_where_a_run_begins_and_none_where_it_goes_on(tmp_path):
    """A part that is new in the script is missing in the run's own checkpoints."""
    model = nn.ModuleDict({"body": nn.Linear(2, 2)})
    torch.save({f"backbone.{k[5:]}": v for k, v in model.state_dict().items()}, tmp_path / "pre.pt")
    options = {"start_from": tmp_path / "pre.pt", "start_step": 0, "strict": False}
    mistyped = holdfast.Run(tmp_path / "run", model=model, rename={"bakbone.": "body."}, **options)
    with pytest.raises(UsageError, match="a rule renames nothing"):
        mistyped.resume()
    rules = {"backbone.": "body."}
    with holdfast.Run(tmp_path / "run", model=model, rename=rules, **options) as run:
        run.resume()
        run.save(0)
    more = nn.Linear(1, 1)
    run = holdfast.Run(tmp_path / "run", model=model, more=more, rename=rules, **options)
    assert run.resume() == 1
    assert run.report["model"].loaded == 2
