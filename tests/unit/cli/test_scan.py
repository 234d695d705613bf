from __future__ import annotations

import json
from pathlib import Path

#: It would call what no module has.
EVIL = b"\x80\x02cposix\nabort_\n)R."


def test_scan(run, holdfast, golden) -> None:
    Path("evil.bin").write_bytes(EVIL)
    result = holdfast("scan", "runs/a", "evil.bin", "nowhere.pt")
    assert (result.exit_code, result.stderr) == (1, "")
    golden("scan", result.stdout)


def test_scan_of_what_is_clean(run, holdfast) -> None:
    assert holdfast("scan", "runs/a/step-00000010.pt", "runs/a@best:loss").exit_code == 0


def test_scan_as_json(run, holdfast) -> None:
    Path("evil.bin").write_bytes(EVIL)
    result = holdfast("scan", "runs/a", "evil.bin", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert not answer["ok"]
    assert [(file["path"], file["ok"]) for file in answer["files"]] == [
        ("runs/a", True),
        ("evil.bin", False),
    ]
    assert answer["files"][1]["report"]["places"][0]["symbols"][0]["name"] == "abort_"


def test_names_in_a_scan_cannot_write_to_the_terminal(tmp_path, monkeypatch, holdfast) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(b"\x80\x02ca\x1b[2J\nb\n)R.")
    result = holdfast("scan", "x")
    assert "\x1b" not in result.stdout
    assert r"NOT a\x1b[2J.b, called" in result.stdout
