"""The demo tells the truth, and ends with an error where it would not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = [sys.executable, "-m", "holdfast", "demo"]


def demo(*arguments: str, source: Path = ROOT / "src") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(
        [*CODE, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("demo") / "new"
    return demo("--folder", str(folder)), folder


def test_the_story_is_told_to_its_end(told) -> None:
    done, folder = told
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line[1:3] == "  " and line[0] != " "] == [
        "1  The loop without holdfast, and nobody disturbs it: iris_plain.py",
        "2  The same loop with holdfast, killed in the middle of training: iris.py",
        "3  Started again, and killed again, now in the middle of a save",
        "4  Started again, and left alone",
        "5  One byte of the newest checkpoint flips, as bad memory or a bad disk does it",
        "6  What it made",
    ]
    assert done.stdout.count("4 of 4 tensors are the same, bit for bit") == 2
    assert "that never became a checkpoint" in done.stdout
    assert "(model.0.weight): CRC" in done.stdout
    assert "step-00000099.2.pt" in done.stdout
    assert f"The files are in {folder}" in done.stdout


def test_what_it_leaves_opens_with_plain_torch(told) -> None:
    import torch

    folder = told[1]
    checkpoint = torch.load(folder / "runs/iris/step-00000099.2.pt", weights_only=True)
    plain = torch.load(folder / "plain.pt", weights_only=True)
    assert all(torch.equal(checkpoint["model"][k], plain["model"][k]) for k in plain["model"])


def test_a_folder_in_use_is_refused(told) -> None:
    done = demo("--folder", str(told[1]))
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: the demo needs a folder of its own\n  in {told[1]}\n  found files in it\n"
    )


def test_a_story_that_is_not_true_ends_with_an_error(tmp_path) -> None:
    """With the scheduler left out of the parts, the learning rate is wrong after the restart."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = tmp_path / "examples" / "iris.py"
    part = "    scheduler=scheduler,\n"
    assert part in script.read_text()
    script.write_text(script.read_text().replace(part, ""))
    done = demo("--folder", str(tmp_path / "demo"), "--json", source=tmp_path / "src")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "Error: the demo found something that should not be\n  wanted the loss of epoch "
    )


def test_as_json(told) -> None:
    """Only the shape: the story itself was told above, and once is a minute's half."""
    from holdfast.cli.story import Story

    story = Story(told[1], acts=[{"title": "t", "facts": ["f"]}])
    answer = json.loads(json.dumps(story.to_json()))
    assert set(answer) == {"folder", "seconds", "acts"}


def test_the_example_is_shorter_than_the_same_by_hand() -> None:
    def lines(name: str) -> int:
        text = (ROOT / "examples" / name).read_text()
        return sum(bool(line.strip()) for line in text.splitlines())

    assert lines("iris.py") < lines("iris_by_hand.py")
    assert lines("iris.py") <= 45, "one screen"


def test_the_three_loops_are_the_same_training() -> None:
    def training(name: str) -> str:
        text = (ROOT / "examples" / name).read_text()
        start = text.index("torch.set_num_threads")
        end = text.index("    return sum(losses)")
        return text[start:end]

    assert training("iris.py") == training("iris_plain.py") == training("iris_by_hand.py")
