"""The facts behind each page, which are those that the library gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
import torch
from damaging import flip_first_byte
from viewing import EVIL

import holdfast
from holdfast import looking
from holdfast.errors import NoCheckpointError
from holdfast.viewer import headers
from holdfast.viewer.shown import shown


def get(address: str) -> Any:
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


def refused(address: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address)
    with caught.value as error:
        return error.code, json.load(error)["error"]


def test_a_run(link: str, run_folder: Path) -> None:
    facts = get(f"{link}/run.json")
    steps = [each["step"] for each in facts["checkpoints"]]
    assert steps[-3:] == [5, 6, 7]
    assert facts["latest"] == "step-00000007.pt"
    assert facts["checkpoints"][-1]["marks"][0] == "latest"
    assert facts["checkpoints"][-1]["is_pinned"]
    gone = sum(each["pruned"] for each in facts["checkpoints"])
    assert gone + len(steps) == 8
    assert facts["lines"]["commands"][0] == f"holdfast list {run_folder}"
    assert facts["checkpoints"][-1]["seconds"] > 0
    assert all(0 <= each["written"] < 60 for each in facts["checkpoints"])


def test_a_checkpoint(link: str, run_folder: Path) -> None:
    facts = get(f"{link}/checkpoint/step-00000007.pt.json")
    with holdfast.open(run_folder / "step-00000007.pt") as checkpoint:
        summary = checkpoint.summary()
    assert facts["total"]["nbytes"] == summary.total.nbytes
    assert facts["record"] == summary.record
    areas = get(f"{link}/areas/step-00000007.pt.json")["areas"]
    whole = next(area for area in areas if area["parent"] is None)
    assert whole["nbytes"] == sum(each.nbytes for each in summary.tensors)
    assert whole["tensors"] == len(summary.tensors)


def test_rows_are_filtered_sorted_and_windowed(link: str) -> None:
    def rows(**asked: Any) -> Any:
        return get(f"{link}/rows/step-00000007.pt.json?{urlencode(asked)}")

    everything = rows(sort="file")
    assert everything["total"] == everything["tensors"] == len(everything["rows"])
    weights = rows(filter="WEIGHT", sort="size")
    sizes = [row["nbytes"] for row in weights["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert all("weight" in row["name"] for row in weights["rows"])
    assert rows(sort="file", start=2, count=3)["rows"] == everything["rows"][2:5]
    assert rows(start=10**9)["rows"] == []
    assert sum(row["share"] for row in everything["rows"]) == pytest.approx(1)
    code, text = refused(f"{link}/rows/step-00000007.pt.json?sort=colour")
    assert (code, text.startswith("rows are not sorted by that")) == (400, True)
    assert refused(f"{link}/rows/step-00000007.pt.json?start=-1")[0] == 400


def test_rows_as_a_tree(link: str) -> None:
    def rows(**asked: Any) -> Any:
        address = f"{link}/rows/step-00000007.pt.json?{urlencode(asked, doseq=True)}"
        return get(address)

    flat, tree = rows(sort="file"), rows()
    names = [row["name"] for row in tree["rows"]]
    assert names[:4] == ["model", "model.0", "model.0.weight", "model.0.bias"]
    assert [row["level"] for row in tree["rows"]][:4] == [0, 1, 2, 2]
    model = tree["rows"][0]
    own = [row for row in flat["rows"] if row["name"].startswith("model.")]
    assert (model["tensors"], model["nbytes"]) == (len(own), sum(row["nbytes"] for row in own))
    closed = rows(closed=["model.0", "optimizer"])
    shut = [row["name"] for row in closed["rows"] if not row.get("is_open", True)]
    assert shut == ["model.0", "optimizer"]
    assert not any(row["name"].startswith("model.0.") for row in closed["rows"])
    assert closed["tensors"] == tree["tensors"] == flat["tensors"]
    found = rows(filter="0.weight")["rows"]
    assert [row["name"] for row in found] == ["model", "model.0", "model.0.weight"]


def test_a_tensor(link: str, run_folder: Path) -> None:
    address = f"{link}/tensor/step-00000007.pt.json?name=model.0.weight"
    stats = get(address)["stats"]
    with holdfast.open(run_folder / "step-00000007.pt") as checkpoint:
        array = checkpoint.array("model.0.weight").astype(np.float64)
    assert stats["mean"] == pytest.approx(array.mean())
    assert stats["norm"] == pytest.approx(np.linalg.norm(array))
    assert sum(stats["histogram"]["counts"]) == array.size
    evil = get(f"{link}/tensor/step-00000007.pt.json?name={quote('extra.odd.' + EVIL)}")
    assert evil["stats"]["mean"] == 1.0
    code, text = refused(f"{link}/tensor/step-00000007.pt.json?name=model.0.wieght")
    assert (code, "model.0.weight" in text) == (404, True)
    assert refused(f"{link}/tensor/step-00000007.pt.json")[0] == 400


@pytest.mark.parametrize(
    ("tensor", "index", "expected"),
    [
        (torch.arange(6.0).reshape(2, 3), "", [[0, 1, 2], [3, 4, 5]]),
        (torch.arange(3.0), "", [[0, 1, 2]]),
        (torch.tensor(4.0), "", [[4]]),
        (torch.arange(12.0).reshape(2, 3, 2), "1", [[6, 7], [8, 9], [10, 11]]),
        (torch.arange(6.0).reshape(2, 3).t(), "", [[0, 3], [1, 4], [2, 5]]),
        (torch.tensor([1.0, float("inf")]), "", [[1, None]]),
        (torch.tensor([[0.0, 2.0]]).to_sparse(), "", [[0, 2]]),
        (torch.tensor([1.0, 2.0]).bfloat16(), "", [[1, 2]]),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_slice(
    tensor: Any, index: str, expected: Any, tmp_path: Path, serve: Callable[..., str]
) -> None:
    torch.save({"x": tensor}, tmp_path / "a.pt")
    facts = get(f"{serve(tmp_path / 'a.pt')}/slice/a.pt.json?name=x&index={index}")
    assert facts["values"] == expected


def test_a_large_slice_is_thinned_out(tmp_path: Path, serve: Callable[..., str]) -> None:
    tensor = torch.arange(1000.0 * 500).reshape(1000, 500)
    torch.save({"x": tensor, "cube": tensor.reshape(2, 500, 500)}, tmp_path / "a.pt")
    link = serve(tmp_path / "a.pt")
    facts = get(f"{link}/slice/a.pt.json?name=x")
    assert facts["steps"] == [7, 4]
    assert facts["values"] == tensor[::7, ::4].tolist()
    for index, why in (("5", "no such slice"), ("0,1", "no such slice"), ("x", "by numbers")):
        assert why in refused(f"{link}/slice/a.pt.json?name=cube&index={index}")[1]


def test_the_history_of_a_tensor(link: str, run_folder: Path) -> None:
    """Every number beside NumPy's, and the change by the steps between two that are there."""
    facts = get(f"{link}/history.json?name=model.0.weight")
    points, before = facts["points"], None
    assert [point["step"] for point in points] == [0, 3, 5, 6, 7]
    for point in points:
        with holdfast.open(run_folder / point["key"]) as checkpoint:
            array = checkpoint.array("model.0.weight").astype(np.float64)
        for what, wanted in (("norm", np.linalg.norm(array)), ("mean", array.mean())):
            assert point[what] == pytest.approx(wanted), what
        assert point["std"] == pytest.approx(array.std())
        if before is None:
            assert point["change"] is point["change_per_step"] is point["since"] is None
        else:
            step, other = before
            change = np.linalg.norm(array - other) / np.linalg.norm(other)
            assert point["change"] == pytest.approx(change)
            assert point["change_per_step"] == pytest.approx(change / (point["step"] - step))
        before = point["step"], array


def test_the_lines_of_a_history_give_the_same(link: str, run_folder: Path) -> None:
    facts = get(f"{link}/history.json?name=model.0.weight")
    done = subprocess.run(
        [sys.executable, "-c", facts["lines"]["python"]], check=True, capture_output=True, text=True
    )
    for line, point in zip(done.stdout.splitlines(), facts["points"], strict=True):
        step, *numbers = line.split()
        assert int(step) == point["step"]
        for text, what in zip(numbers, ("norm", "mean", "std", "change"), strict=True):
            assert (None if text == "None" else pytest.approx(float(text))) == point[what], what
    (command,) = facts["lines"]["commands"]
    ours = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", command], check=True, capture_output=True, text=True, env=ours
    )
    assert done.stdout.count("model.0.weight") == 5


def test_a_change_is_one_from_what_training_went_on_from(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    model, folder = torch.nn.Linear(1, 1), tmp_path / "run"
    with holdfast.Run(folder, background=False, keep=holdfast.keep.latest(9), model=model) as run:
        for step, value in ((1, 1.0), (2, 10.0), (3, 100.0)):
            torch.nn.init.constant_(model.weight, value)
            run.save(step)
        run.resume(1)
        torch.nn.init.constant_(model.weight, 3.0)
        run.save(3)
    points = get(f"{serve(folder)}/history.json?name=model.weight")["points"]
    assert [(each["branch"], each["change"]) for each in points] == [
        (0, None),
        (0, 9.0),
        (0, 9.0),
        (1, 2.0),
    ]
    assert points[-1]["since"] == "step-00000001.pt"
    assert points[-1]["change_per_step"] == 1.0


def test_the_lines_of_a_tensor_need_none_of_its_bytes(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    holdfast.save({"x": torch.ones(1000)}, tmp_path / "a.pt")
    flip_first_byte(tmp_path / "a.pt")
    link = serve(tmp_path / "a.pt")
    row = get(f"{link}/rows/a.pt.json?name=x")
    assert row["lines"]["commands"][1] == f"holdfast stats {tmp_path / 'a.pt'} x"
    assert get(f"{link}/tensor/a.pt.json?name=x")["stats"]["why"] is not None


def test_two_are_compared_once_until_one_is_another(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        holdfast.save({"x": torch.full((10,), value)}, tmp_path / f"{name}.pt")
    link, asked, diff = serve(tmp_path / "a.pt", tmp_path / "b.pt"), [], looking.diff
    monkeypatch.setattr(looking, "diff", lambda *two: asked.append(two) or diff(*two))
    first = get(f"{link}/diff.json")
    assert get(f"{link}/diff.json") == first
    assert len(asked) == 1
    holdfast.save({"x": torch.full((10,), 1.0)}, tmp_path / "b.pt")
    assert get(f"{link}/diff.json")["equal"]
    assert len(asked) == 2


def test_headers_are_read_of_new_files_alone(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        torch.save({"step": step, "epoch": True, "x": torch.ones(3)}, tmp_path / f"{step}.pt")
    asked, read = [], headers.read_briefly
    monkeypatch.setattr(headers, "read_briefly", lambda path: asked.append(path.name) or read(path))
    link = serve(tmp_path)
    assert [each["step"] for each in get(f"{link}/run.json")["checkpoints"]] == [1, 2, 3]
    assert sorted(asked) == ["1.pt", "2.pt", "3.pt"]
    torch.save({"step": 4}, tmp_path / "4.pt")
    torch.save({"step": 7}, tmp_path / "2.pt")
    assert [each["step"] for each in get(f"{link}/run.json")["checkpoints"]] == [1, 3, 4, 7]
    assert sorted(asked[3:]) == ["2.pt", "4.pt"]
    (tmp_path / "3.pt").write_bytes(b"PK\x03\x04 and no more")
    assert get(f"{link}/run.json")["checkpoints"][-1]["problem"] is not None


def test_few_large_checkpoints_stay_open(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor takes about four kilobytes: eight checkpoints of many are too much."""
    asked, open_ = [], looking.open
    monkeypatch.setattr(looking, "open", lambda path: asked.append(path.name) or open_(path))
    names = ["step-00000006.pt", "step-00000007.pt", "step-00000006.pt"]
    for most, opened in ((100, names[:2]), (1, names)):
        monkeypatch.setattr("holdfast.viewer.shown._MOST_TENSORS", most)
        what = shown(run_folder)
        asked.clear()
        for name in names:
            what.open(name)
        assert asked == opened


def test_numbers_that_json_has_not(tmp_path: Path, serve: Callable[..., str]) -> None:
    folder = tmp_path / "run"
    weights = torch.nn.Linear(1, 1).double()
    with holdfast.Run(folder, background=False, model=weights) as run:
        for step, value in enumerate((1.0, 1.7e308, float("nan"))):
            torch.nn.init.constant_(weights.weight, value)
            run.save(step, metrics={"loss": value})
    link = serve(folder)
    assert get(f"{link}/run.json")["checkpoints"][-1]["metrics"]["loss"] == "NaN"
    points = get(f"{link}/history.json?name=model.weight")["points"]
    assert [point["mean"] for point in points] == [1.0, 1.7e308, None]
    assert get(f"{link}/tensor/step-00000002.pt.json?name=model.weight")["stats"]["nans"] == 1
    assert get(f"{link}/slice/step-00000002.pt.json?name=model.weight")["values"] == [[None]]
    diff = get(f"{link}/diff.json?a=step-00000000.pt&b=step-00000002.pt")
    assert diff["changes"][0]["sums"]["strange"] == 1


def test_a_run_is_listed_anew_when_its_folder_changes(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    model = torch.nn.Linear(1, 1)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        run.save(0)
        link = serve(tmp_path / "run")
        assert len(get(f"{link}/run.json")["checkpoints"]) == 1
        run.save(1)
        assert len(get(f"{link}/run.json")["checkpoints"]) == 2
        run.pin(0)
        assert get(f"{link}/run.json")["checkpoints"][0]["is_pinned"]


def test_the_history_of_odd_tensors(tmp_path: Path, serve: Callable[..., str]) -> None:
    """One that is damaged is said to be, and not of those behind it; none takes for ever."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2, 3):
        tree = {"step": step, "x": torch.full((1000,), float(step)), "n": np.arange(3.0) + step}
        tree["huge"] = torch.zeros(1).expand(10**6, 10**6)
        torch.save(tree, folder / f"{step}.pt")
    flip_first_byte(folder / "2.pt")
    link = serve(folder)
    first, broken, last = get(f"{link}/history.json?name=x")["points"]
    assert "not those that were saved" in broken["problem"]
    assert (first["mean"], last["mean"], last["change"]) == (1.0, 3.0, 2.0)
    assert [each["change"] for each in get(f"{link}/history.json?name=huge")["points"]][-1] == 0
    assert get(f"{link}/history.json?name=n")["points"][-1]["change"] > 0


def test_two_checkpoints(run_folder: Path, serve: Callable[..., str]) -> None:
    paths = f"{run_folder}@6", f"{run_folder}@7"
    facts = get(f"{serve(*paths)}/diff.json")
    report = holdfast.diff(*paths)
    assert facts["words"] == report.in_words()
    assert facts["layers"] == report.to_json()["layers"]


def test_two_of_a_run(link: str) -> None:
    facts = get(f"{link}/diff.json?a=step-00000006.pt&b=step-00000007.pt")
    assert not facts["equal"]
    code, text = refused(f"{link}/diff.json?a=step-00000006.pt")
    assert (code, text.splitlines()[0]) == (400, "which two checkpoints?")


def test_scan_and_verify(link: str) -> None:
    for what in ("scan", "verify"):
        facts = get(f"{link}/{what}/step-00000007.pt.json")
        assert facts["ok"], facts["text"]


def test_a_damaged_file_is_an_answer(tmp_path: Path, serve: Callable[..., str]) -> None:
    torch.save({"x": torch.ones(100)}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    link = serve(tmp_path / "a.pt")
    assert get(f"{link}/checkpoint/a.pt.json")["total"]["tensors"] == 1
    (tmp_path / "a.pt").write_bytes(data[: len(data) // 2])
    code, text = refused(f"{link}/checkpoint/a.pt.json")
    assert code == 422
    assert str(tmp_path / "a.pt") in text


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, serve: Callable[..., str]) -> None:
    holdfast.save({"x": torch.ones(100)}, tmp_path / "a.pt")
    link = serve(tmp_path / "a.pt")
    assert get(f"{link}/tensor/a.pt.json?name=x")["stats"]["mean"] == 1
    holdfast.save({"x": torch.ones(100) * 2}, tmp_path / "a.pt")
    assert get(f"{link}/tensor/a.pt.json?name=x")["stats"]["mean"] == 2


def test_a_damaged_checkpoint_of_a_run(tmp_path: Path, serve: Callable[..., str]) -> None:
    model = torch.nn.Linear(1, 1)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        for step in (1, 2):
            run.save(step)
    (tmp_path / "run" / "step-00000002.pt").write_bytes(b"PK\x03\x04 and no more")
    last = get(f"{serve(tmp_path / 'run')}/run.json")["checkpoints"][-1]
    assert (last["step"], last["named_step"]) == (None, 2)
    assert last["problem"] is not None


def test_what_verify_found_damaged_is_marked(tmp_path: Path, serve: Callable[..., str]) -> None:
    model = torch.nn.Linear(1, 1)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        for step in (1, 2):
            run.save(step)
    file = tmp_path / "run" / "step-00000001.pt"
    whole = file.read_bytes()
    link = serve(tmp_path / "run")

    def seen() -> list[tuple[Any, bool]]:
        made = get(f"{link}/run.json")["checkpoints"]
        for name in ("step-00000001.pt", "step-00000002.pt"):
            get(f"{link}/verify/{name}.json")
        found = get(f"{link}/run.json")["checkpoints"]
        return [
            *((each["is_whole"], "damaged" in each["marks"]) for each in made),
            *((each["is_whole"], "damaged" in each["marks"]) for each in found),
        ]

    assert seen() == [(None, False), (None, False), (True, False), (True, False)]
    flip_first_byte(file)
    assert seen() == [(None, False), (True, False), (False, True), (True, False)]
    file.write_bytes(whole)
    assert seen() == [(None, False), (True, False), (True, False), (True, False)]


def test_how_long_a_save_took_is_not_said_of_a_copy(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    model = torch.nn.Linear(1, 1)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        run.save(1)
    file = tmp_path / "run" / "step-00000001.pt"
    os.utime(file, (file.stat().st_mtime + 86_400,) * 2)
    assert get(f"{serve(tmp_path / 'run')}/run.json")["checkpoints"][0]["written"] is None


def test_copied_at_once_none_says_how_long_it_took(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    """The copies are a few seconds younger than their records, and younger than the next save."""
    model = torch.nn.Linear(1, 1)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        for step in (1, 2):
            run.save(step)
            time.sleep(0.2)
    link = serve(tmp_path / "run")
    assert all(0 <= each["written"] < 60 for each in get(f"{link}/run.json")["checkpoints"])
    for file in (tmp_path / "run").glob("*.pt"):
        os.utime(file)
    assert [each["written"] for each in get(f"{link}/run.json")["checkpoints"]] == [None, None]


def test_branches_after_going_back(tmp_path: Path, serve: Callable[..., str]) -> None:
    model = torch.nn.Linear(1, 1)
    folder = tmp_path / "run"
    with holdfast.Run(folder, background=False, keep=holdfast.keep.latest(9), model=model) as run:
        for step in (1, 2, 3):
            run.save(step, metrics={"loss": 1.0})
        run.resume(1)
        run.save(2, metrics={"loss": 0.5})
    facts = get(f"{serve(folder)}/run.json")
    assert facts["branches"] == 2
    last = facts["checkpoints"][-1]
    assert (last["branch"], last["parent_name"]) == (1, "step-00000001.pt")


ODD = ["\udcff.pt", "a.json", "# %?.pt", "new\nline.pt", "cr\r.pt"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_files(name: str, tmp_path: Path, serve: Callable[..., str]) -> None:
    torch.save({"x": torch.ones(3), "\ud800": torch.ones(2)}, tmp_path / "plain.pt")
    (tmp_path / "plain.pt").rename(tmp_path / name)
    link = serve(tmp_path / name)
    with urllib.request.urlopen(f"{link}/") as answer:
        assert answer.headers["content-type"].startswith("text/html")
    key = quote(name.encode("utf-8", "backslashreplace"), safe="")
    assert get(f"{link}/rows/{key}.json")["tensors"] == 2
    assert get(f"{link}/checkpoint/{key}.json")["total"]["tensors"] == 2
    with urllib.request.urlopen(f"{link}/tensor/{key}?name=x") as answer:
        assert answer.headers["content-type"].startswith("text/html")
    assert get(f"{link}/tensor/{key}.json?name=x")["stats"]["mean"] == 1


@pytest.mark.parametrize("name", ODD)
def test_odd_names_in_a_run_and_of_tensors(
    name: str, tmp_path: Path, serve: Callable[..., str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"x": torch.ones(3), "\ud800": torch.full((2,), 5.0)}, tmp_path / "plain.pt")
    (tmp_path / "plain.pt").rename(folder / name)
    torch.save({"x": torch.ones(3)}, folder / "another.pt")
    link = serve(folder)
    assert len(get(f"{link}/run.json")["checkpoints"]) == 2
    key = quote(name.encode("utf-8", "backslashreplace"), safe="")
    assert get(f"{link}/tensor/{key}.json?name=x")["stats"]["mean"] == 1
    odd = quote("\ud800".encode("utf-8", "backslashreplace"))
    assert get(f"{link}/tensor/{key}.json?name={odd}")["stats"]["mean"] == 5


PASTED = "v\x1b[201~\x03\ntouch here\n'\\\u202e\ud800"


@pytest.mark.parametrize(
    "name",
    [PASTED, PASTED.removesuffix("\ud800"), "--check", "-x", "it's", "$HOME", "a b"],
    ids=ascii,
)
def test_lines_are_safe_to_paste_and_name_the_tensor(
    name: str, tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({name: torch.tensor([0.5, 1.5]), "other": torch.ones(3)}, "-f.pt")
    asked = quote(name.encode("utf-8", "backslashreplace"))
    lines = get(f"{serve('./-f.pt')}/rows/-f.pt.json?name={asked}")["lines"]
    command = lines["commands"][1]
    assert command.isprintable()
    assert lines["python"].replace("\n", "").isprintable()
    ours = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if "\ud800" not in name:  # no argument of a program can be that
        options = {"check": True, "capture_output": True, "text": True, "env": ours}
        done: Any = subprocess.run(["bash", "-c", command], **options)
        assert "\n1 tensor, 0 flagged\n" in done.stdout
        assert not (tmp_path / "here").exists()
    exec(lines["python"], values := {})  # what the page gives to be run
    assert values["tensor"].name == name
    assert values["array"].sum() == 2


def test_no_other_page_is_led_to(link: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{link}/run.json/")
    with caught.value as error:
        assert error.code == 404
        assert b"there is no such page" in error.read()


def test_a_signalling_nan_is_no_warning(tmp_path: Path, serve: Callable[..., str]) -> None:
    signalling = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)
    torch.save({"x": signalling}, tmp_path / "a.pt")
    assert get(f"{serve(tmp_path / 'a.pt')}/slice/a.pt.json?name=x")["values"] == [[None]]


def test_the_folder_one_is_in(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]
) -> None:
    monkeypatch.chdir(run_folder)
    with urllib.request.urlopen(f"{serve('.')}/run") as answer:
        assert 'data-run="iris"' in answer.read().decode()


def test_a_shard_that_is_replaced_is_read_anew(tmp_path: Path, serve: Callable[..., str]) -> None:
    for name, value in (("one", 1.0), ("two", 2.0)):
        torch.save({"x": torch.full((100,), value)}, tmp_path / f"{name}.pt")
        holdfast.convert(tmp_path / f"{name}.pt", tmp_path / name, shard_size="1MB")
    link = serve(tmp_path / "one")
    assert get(f"{link}/tensor/one.json?name=x")["stats"]["mean"] == 1
    for file in (tmp_path / "two").iterdir():
        (tmp_path / "one" / file.name).write_bytes(file.read_bytes())
    assert get(f"{link}/tensor/one.json?name=x")["stats"]["mean"] == 2


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoCheckpointError, match="this run has no checkpoint"):
        shown(tmp_path / "empty")
    with pytest.raises(NoCheckpointError):
        shown(tmp_path / "gone.pt").open("gone.pt")
