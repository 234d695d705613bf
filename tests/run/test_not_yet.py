"""Options of the settled signatures that are not there yet say so; their defaults are taken."""

from __future__ import annotations

import pytest
from torch import nn

import holdfast
from holdfast.errors import UsageError


def test_the_defaults_are_taken(tmp_path):
    model = nn.Linear(1, 1)
    holdfast.Run(tmp_path / "run", model=model, strict=True, rename=None, background=False)
    holdfast.save_state(tmp_path / "a.pt", model=model)
    report = holdfast.load_state(
        tmp_path / "a.pt", model=model, strict=True, rename=None, select=None, cast=False
    )
    assert [part.name for part in report.parts] == ["model"]


@pytest.mark.parametrize(
    "option", [{"strict": False}, {"rename": {"a": "b"}}, {"select": {}}, {"cast": True}]
)
def test_other_values_are_an_error_that_shows_the_way(tmp_path, option):
    [(name, value)] = option.items()
    with pytest.raises(UsageError) as caught:
        holdfast.load_state(tmp_path / "a.pt", model=nn.Linear(1, 1), **option)
    assert caught.value.what == (
        f"{name}={value!r} is not there yet: so far names, shapes and dtypes must agree"
    )
    assert caught.value.cure == (
        "Rename or select in plain Python: holdfast.load(path) gives the dict."
    )
    if name in ("strict", "rename"):
        with pytest.raises(UsageError, match="is not there yet"):
            holdfast.Run(tmp_path / "run", model=nn.Linear(1, 1), **option)


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
