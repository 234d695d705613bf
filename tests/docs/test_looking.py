"""Every block of docs/looking.md is run, and its commands are; its pictures are there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "looking.md").read_text(encoding="utf-8")

GIVEN = """
import torch

import holdfast

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
with holdfast.Run("runs/net", background=False, keep=holdfast.keep.latest(9), model=model) as run:
    for step in (3, 9):
        with torch.no_grad():
            model[1].weight += step
        run.save(step)
holdfast.convert("runs/net@3", "weights.safetensors", part="model")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looking")
    subprocess.run([sys.executable, "-c", GIVEN], cwd=folder, check=True)
    return folder


def test_the_blocks_of_python(place: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    script = "\n".join(
        ["import sys", "import holdfast", *blocks, "assert 'torch' not in sys.modules"]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, check=True, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1 "), "of two layers one moved"
    assert len(lines) == 1 + 4


COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.replace("$ ", "").splitlines()
]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[0] in ("diff", "stats")])
def test_its_commands(command: list[str], place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *command],
        cwd=place,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.returncode == (1 if command[0] == "diff" else 0)


def test_one_file(place: Path) -> None:
    (command,) = [each for each in COMMANDS if "--static" in each]
    subprocess.run([sys.executable, "-m", "holdfast", *command], cwd=place, check=True)
    assert (place / "net.html").stat().st_size > 1_000_000, "the charts' library is in it"


def test_pictures_are_there_and_ask_nobody() -> None:
    names = {path.name for path in (DOCS / "pictures").iterdir()}
    pages = {
        f"{kind}-{scheme}.png" for kind in ("run", "checkpoint") for scheme in ("light", "dark")
    }
    assert names == pages | {"list.svg", "show.svg", "diff.svg"}
    for path in (DOCS / "pictures").glob("*.svg"):
        assert "@font-face" not in path.read_text(encoding="utf-8")
