"""diff and stats to the letter, and their exit codes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``a.pt`` and ``b.pt`` with every kind of change, below the current folder."""
    monkeypatch.chdir(tmp_path)
    steps = torch.arange(12.0).reshape(3, 4)
    a = {
        "model": {
            **{"fc.weight": steps, "fc.bias": torch.ones(3), "fc.same": torch.ones(2)},
            **{"head.weight": steps + 1, "old.name": steps * 3, "gone": torch.ones(5)},
        },
        "epoch": 1,
    }
    b = {
        "model": {
            **{"fc.weight": steps * 1.5, "fc.bias": torch.ones(3).half()},
            **{"fc.same": torch.ones(2), "head.weight": torch.ones(4, 4)},
            **{"new.name": steps * 3, "fresh": torch.tensor([math.nan, 1.0])},
        },
        "epoch": 2,
        "note": "second",
    }
    torch.save(a, "a.pt")
    torch.save(b, "b.pt")


DIFFS = {
    "diff": ["a.pt", "b.pt"],
    "diff-layers": ["a.pt", "b.pt", "--layers", "--top", "1"],
    "diff-part": ["a.pt", "b.pt", "--part", "model"],
}


@pytest.mark.parametrize("name", DIFFS)
def test_diff(name, pair, holdfast, golden) -> None:
    result = holdfast("diff", *DIFFS[name])
    assert (result.exit_code, result.stderr) == (1, "")
    golden(name, result.stdout)


def test_diff_of_two_saves_of_a_run(run, holdfast, golden) -> None:
    result = holdfast("diff", "runs/a@10", "runs/a")
    assert result.exit_code == 1
    golden("diff-run", result.stdout)


def test_where_names_differ_by_a_part_alone_it_says_so(pair, holdfast) -> None:
    model = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.zeros(3)}
    torch.save(model, "plain.pt")
    said = "Note: some names differ by 'model.' alone: --part model puts them together."
    for two in (("a.pt", "plain.pt"), ("plain.pt", "a.pt")):
        assert said in holdfast("diff", *two).stdout
        told = holdfast("diff", *two, "--part", "model").stdout
        assert said not in told
        assert "tensors: 2 changed" in told
    assert "Note" not in holdfast("diff", "a.pt", "b.pt").stdout


def test_a_few_changed_elements_are_not_none(tmp_path, monkeypatch, holdfast) -> None:
    monkeypatch.chdir(tmp_path)
    tensor = torch.ones(4096)
    torch.save({"x": tensor}, "a.pt")
    tensor[7] = 2
    torch.save({"x": tensor}, "b.pt")
    assert holdfast("diff", "a.pt", "b.pt").stdout.splitlines()[-1].split()[-1] == "<0.1%"


def test_diff_of_equal_ones_exits_with_0(pair, holdfast) -> None:
    result = holdfast("diff", "a.pt", "a.pt")
    assert result.exit_code == 0
    assert "none changed, 6 the same; values: none changed, 1 the same" in result.stdout


def test_diff_as_json_has_the_keys_that_help_names(pair, holdfast) -> None:
    result = holdfast("diff", "a.pt", "b.pt", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    keys = "a b equal same changes layers added removed values record same_values is_complete"
    assert sorted(found) == sorted(keys.split())
    weight = next(each for each in found["changes"] if each["name"] == "model.fc.weight")
    assert weight["sums"]["relative"] == pytest.approx(0.5)


def test_diff_of_what_is_not_there(pair, holdfast) -> None:
    result = holdfast("diff", "a.pt", "gone.pt")
    assert result.exit_code == 1
    assert "there is no such file" in result.stderr


STATS = {
    "stats": ["b.pt"],
    "stats-flagged": ["b.pt", "--flagged"],
    "stats-sorted": ["b.pt", "model.fc", "--sort", "norm"],
    "stats-run": ["runs/a", "--grep", "fc"],
}


@pytest.mark.parametrize("name", STATS)
def test_stats(name, pair, run, holdfast, golden) -> None:
    result = holdfast("stats", *STATS[name])
    assert (result.exit_code, result.stderr) == (0, "")
    golden(name, result.stdout)


def test_check_exits_with_1_on_nan_alone(pair, holdfast) -> None:
    assert holdfast("stats", "b.pt", "--check").exit_code == 1
    assert holdfast("stats", "b.pt").exit_code == 0
    result = holdfast("stats", "a.pt", "--check")
    assert (result.exit_code, "flagged" in result.stdout) == (0, True), "constant is no NaN"


def test_check_exits_with_1_on_damage(pair, holdfast) -> None:
    from holdfast import looking

    data = bytearray(Path("a.pt").read_bytes())
    with looking.open("a.pt") as checkpoint:
        data[checkpoint.index.extents["0"].offset] ^= 1
    Path("a.pt").write_bytes(data)
    result = holdfast("stats", "a.pt", "--check")
    assert result.exit_code == 1
    assert "not those that were saved" in result.stdout


def test_stats_as_json(pair, holdfast) -> None:
    found = json.loads(holdfast("stats", "b.pt", "--json", "--flagged").stdout)
    assert sorted(found) == ["file", "is_complete", "ok", "tensors"]
    assert found["ok"] is False
    nan = next(each for each in found["tensors"] if each["name"] == "model.fresh")
    assert nan["flags"] == [{"kind": "nan", "text": "1 NaN of 2"}]
