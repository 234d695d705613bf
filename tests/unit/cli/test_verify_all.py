from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from holdfast.io import progress
from holdfast.io.progress import Bar


def paths(result) -> list[str]:
    return [Path(file["path"]).name for file in json.loads(result.stdout)["files"]]


def test_a_run_is_its_latest_and_with_all_every_checkpoint_of_it(run, holdfast) -> None:
    names = [f"step-{step:08d}.pt" for step in (10, 20, 30)]
    (run / "step-00000020.pt").write_bytes(b"PK\x03\x04 broken")
    assert holdfast("verify", "runs/a").exit_code == 0
    result = holdfast("verify", "runs/a", "--all", "--json")
    assert result.exit_code == 1
    assert sorted(paths(result)) == names
    oks = {Path(f["path"]).name: f["ok"] for f in json.loads(result.stdout)["files"]}
    assert oks == {names[0]: True, names[1]: False, names[2]: True}


def test_a_newer_one_that_cannot_be_read_is_not_passed_over_in_silence(run, holdfast) -> None:
    newest = run / "step-00000030.pt"
    newest.write_bytes(newest.read_bytes()[:500])
    result = holdfast("verify", "runs/a", "--json")
    assert result.exit_code == 1
    assert paths(result) == ["step-00000030.pt", "step-00000020.pt"]
    assert [file["ok"] for file in json.loads(result.stdout)["files"]] == [False, True]


def test_where_nothing_can_be_read_all_of_it_is_named(run, holdfast) -> None:
    for path in run.glob("*.pt"):
        path.write_bytes(b"PK\x03\x04 broken")
    result = holdfast("verify", "runs/a", "--json")
    assert result.exit_code == 1
    assert len(paths(result)) == 3


def test_where_names_bear_no_step_the_times_decide(run, holdfast) -> None:
    (run / "final.pt").write_bytes(b"PK\x03\x04 broken")
    assert paths(holdfast("verify", "runs/a", "--json"))[0] == "final.pt"
    os.utime(run / "final.pt", (1, 1))
    assert holdfast("verify", "runs/a").exit_code == 0


def test_all_of_a_file_and_of_one_checkpoint_is_itself(run, holdfast) -> None:
    arguments = ["runs/a/step-00000010.pt", "runs/a@best:loss"]
    assert paths(holdfast("verify", *arguments, "--all", "--json")) == [
        "step-00000010.pt",
        "a@best:loss",
    ]


def test_all_of_an_empty_run_is_an_error(run, holdfast) -> None:
    Path("empty").mkdir()
    result = holdfast("verify", "empty", "runs/a/step-00000010.pt", "--all", "--json")
    assert result.exit_code == 1
    assert [file["ok"] for file in json.loads(result.stdout)["files"]] == [False, True]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("nbytes", [3000, None])
def test_the_bar_shows_bytes_where_a_person_watches(monkeypatch, nbytes) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", 0)
    with Bar(nbytes) as bar:
        bar.advance(1500)
    assert "1.5/" in sys.stderr.getvalue()


@pytest.mark.parametrize("patience", [0, 1000])
def test_no_bar_in_a_pipe_nor_for_what_is_short(monkeypatch, patience) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if patience else io.StringIO())
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with Bar(3000) as bar:
        bar.advance(1500)
    assert sys.stderr.getvalue() == ""
