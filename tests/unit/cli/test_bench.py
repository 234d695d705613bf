"""``holdfast bench`` from end to end, with the smallest workload."""

from __future__ import annotations

import json
from pathlib import Path

from holdfast.benchmark import names
from holdfast.benchmark.report import Result


def test_bench_the_smallest(tmp_path, holdfast, monkeypatch) -> None:
    """In a relative folder: torch takes what comes first in a relative address for a host."""
    monkeypatch.chdir(tmp_path)
    folder = Path("folder with a space")
    folder.mkdir()
    done = holdfast("bench", str(folder), "--quick", "--only", "iris", "--repeat", "1", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert list(answer) == ["machine", "repeat", "is_quick", "workloads", "figures"]
    [iris] = Result.from_json(answer).workloads
    saves = {row.name for row in iris.saves}
    wanted = {names.TORCH_SAVE, names.TORCH_SAVE_RENAME, names.SAVE_STATE, names.RUN_SAVE}
    assert wanted | {names.DCP_SAVE, names.DCP_ASYNC, names.DCP_ASYNC_PROCESS} <= saves
    assert saves.isdisjoint(iris.skipped)
    assert {row.name for row in iris.warm} >= {names.LOAD, names.LOAD_STATE, names.TORCH_LOAD}
    assert [figure["workload"] for figure in answer["figures"]] == ["iris"]
    assert not list(folder.iterdir()), "what it wrote is removed"


def test_bench_prints_tables(tmp_path, holdfast, monkeypatch) -> None:
    from holdfast.benchmark import choosing, savers

    monkeypatch.setattr(choosing, "SAVERS", (savers.TorchSave, savers.SaveState))
    done = holdfast("bench", str(tmp_path), "--quick", "--only", "iris")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[2].startswith("Medians of 2 rounds (least to most)")
    assert "iris: 8 tensors, 2.0 KiB, saving" in lines
    assert any(line.startswith("  holdfast.save_state ") for line in lines)
    assert lines[-1].startswith("  durable save: as fast as torch.save to a temp")


def test_bench_where_there_is_no_folder(tmp_path, holdfast) -> None:
    done = holdfast("bench", str(tmp_path / "nowhere"))
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: the benchmark needs a folder that is there\n")


def test_bench_of_an_unknown_workload(holdfast) -> None:
    done = holdfast("bench", "--only", "huge")
    assert done.exit_code == 2
    assert "'huge' is not one of 'large', 'larger', 'adam', 'many', 'iris'" in done.stderr
